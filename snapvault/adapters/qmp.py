# SPDX-License-Identifier: Apache-2.0
"""QEMU's control socket (QMP), and the guest agent's.

Both speak JSON, a line a message, and serve one client at a time: a second one is let in by
the kernel and then hears nothing, so everything here has a time limit.
"""

import itertools
import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

from snapvault import clock
from snapvault.errors import QuiesceError, SourceError
from snapvault.ports.source import Consistency

TIMEOUT: Final = 60.0  # seconds for one answer
AGENT_TIMEOUT = 30.0

_GREETING_TIMEOUT = 10.0
_THAW_TIMEOUT = 10.0
_MESSAGE_LIMIT = 64 << 20  # bytes of one message
_SHOWN = 200  # characters of what the other side says of a failure


class QmpError(SourceError):
    """QEMU refused a command; `kind` is its class of error."""

    def __init__(self, summary: str, kind: str, *, hint: str | None = None) -> None:
        super().__init__(summary, hint=hint)
        self.kind = kind


class _Line:
    """A connection over which messages come as lines of JSON."""

    def __init__(self, path: Path, what: str, timeout: float, hint: str) -> None:
        self.what = what
        self._hint = hint
        self._rest = b""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(str(path))
        except OSError as error:
            self.socket.close()
            reason = (error.strerror or str(error)).lower()
            raise SourceError(f"could not connect to {what}: {reason}", hint=hint) from error

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        try:
            sent = socket.send_fds(self.socket, [data], list(descriptors))
            self.socket.sendall(data[sent:])
        except OSError as error:
            raise self._broken(error) from error

    def skip_to(self, mark: bytes, deadline: float) -> None:
        """Forget everything up to a byte, and that."""
        while mark not in self._rest:
            self._rest = b""
            self._more(deadline)
        self._rest = self._rest.partition(mark)[2]

    def take(self, deadline: float) -> dict[str, Any]:
        """Return the next message."""
        while b"\n" not in self._rest:
            self._more(deadline)
            if len(self._rest) > _MESSAGE_LIMIT:
                raise SourceError(f"{self.what} sent a message that does not end")
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{self.what} sent something that is no JSON") from error
        if not isinstance(message, dict):
            raise SourceError(f"{self.what} sent something that is no message")
        return message

    def _more(self, deadline: float) -> None:
        left = deadline - clock.monotonic()
        if left <= 0:
            raise self._broken(TimeoutError())
        self.socket.settimeout(left)
        try:
            data = self.socket.recv(1 << 16)
        except OSError as error:
            raise self._broken(error) from error
        if not data:
            raise SourceError(f"{self.what} closed the connection", hint=self._hint)
        self._rest += data

    def _broken(self, error: OSError) -> SourceError:
        if isinstance(error, TimeoutError):
            return SourceError(f"{self.what} does not answer", hint=self._hint)
        reason = (error.strerror or str(error)).lower()
        return SourceError(f"{self.what} broke: {reason}", hint=self._hint)


class Qmp:
    """A connection to a machine's QMP socket. Safe from several threads."""

    def __init__(self, path: Path, *, timeout: float = TIMEOUT) -> None:
        """Connect, hear the greeting and get ready for commands.

        Raises:
            SourceError: nobody listens, or somebody else is connected.
        """
        self.path = path
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self._timeout = timeout
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._line = _Line(
            path,
            f'QMP socket "{path}"',
            timeout,
            "See that the machine runs and that no other client is connected: QEMU serves one at"
            " a time on each QMP socket.",
        )
        try:
            self.version = self._greeting(clock.monotonic() + min(timeout, _GREETING_TIMEOUT))
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def execute(
        self,
        name: str,
        arguments: Mapping[str, object] | None = None,
        *,
        descriptors: Sequence[int] = (),
    ) -> Any:
        """Run a command and return its answer; what happens meanwhile is added to `events`.

        Raises:
            QmpError: QEMU refused.
            SourceError: it did not answer, or is gone.
        """
        with self._lock:
            return self._ask(name, arguments or {}, descriptors)

    def _ask(self, name: str, arguments: Mapping[str, object], descriptors: Sequence[int]) -> Any:
        number = next(self._numbers)
        request = {"execute": name, "arguments": dict(arguments), "id": number}
        self._line.send(json.dumps(request).encode() + b"\n", descriptors)
        deadline = clock.monotonic() + self._timeout
        while True:
            message = self._line.take(deadline)
            if "event" in message:
                self._note(message)
            elif message.get("id", number) != number:
                continue  # the answer to one that was given up, by a signal or for its time
            elif "error" in message:
                kind, said = _refusal(message["error"])
                raise QmpError(f'QEMU refused "{name}": {said}', kind)
            elif "return" in message:
                return message["return"]
            else:
                raise SourceError(f"{self._line.what} sent something that is no answer")

    def poll(self, is_done: Callable[[], bool], what: str) -> None:
        """Wait until something is so.

        Raises:
            SourceError: it is not, for too long.
        """
        deadline = clock.monotonic() + self._timeout
        while not is_done():
            if clock.monotonic() > deadline:
                raise SourceError(f"QEMU did not {what} within {self._timeout:.0f} seconds")
            clock.sleep(0.02)

    def take_events(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the events so far, by asking QEMU something, and forget them.

        Raises:
            SourceError: it did not answer, or is gone.
        """
        with self._lock:
            self._ask("query-status", {}, ())
            taken, self.events = self.events, []
        return taken

    @property
    def peer(self) -> int:
        """The process that listens, or 0 where the kernel does not tell."""
        raw = self._line.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(raw[:4], "little")

    def close(self) -> None:
        """Disconnect; safe to repeat."""
        self._line.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _greeting(self, deadline: float) -> str:
        """Hear the greeting, and return the version that it names."""
        message = self._line.take(deadline)
        # QUIRK: QEMU 7.2 tells what happens between its taking the connection and its greeting.
        while "event" in message:
            self._note(message)
            message = self._line.take(deadline)
        if not isinstance(message.get("QMP"), dict):
            raise SourceError(f"{self._line.what} is no QMP socket")
        return _version(message["QMP"])

    def _note(self, message: Mapping[str, Any]) -> None:
        data = message.get("data")
        self.events.append((str(message["event"]), data if isinstance(data, dict) else {}))


class Agent:
    """The guest agent in a machine, at its socket. Each call is a connection of its own."""

    def __init__(self, path: Path, *, timeout: float | None = None) -> None:
        """`timeout` is in seconds, for one answer; None: AGENT_TIMEOUT."""
        self._path = path
        self._timeout = AGENT_TIMEOUT if timeout is None else timeout

    def ping(self) -> None:
        """See that it answers.

        Raises:
            QuiesceError: it does not.
        """
        with self._connected() as line:
            self._call(line, "guest-ping")

    def call(self, name: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Run a command of the agent and return its answer.

        Raises:
            QuiesceError: it does not answer, or refuses.
        """
        with self._connected() as line:
            return self._call(line, name, arguments)

    @contextmanager
    def frozen(self) -> Iterator[Consistency]:
        """Freeze the guest's file systems; a `Quiesce`.

        Raises:
            QuiesceError: it does not answer or refuses; thawing is asked for whatever happens.
        """
        with self._connected() as line:
            if self._call(line, "guest-fsfreeze-status") != "thawed":
                raise QuiesceError(
                    "the guest's file systems are frozen already",
                    hint="Wait for the other backup, or send guest-fsfreeze-thaw to its agent.",
                )
            try:
                count = self._call(line, "guest-fsfreeze-freeze")
                if not isinstance(count, int) or count < 1:
                    raise QuiesceError("the guest agent froze no file system")
                yield Consistency.FILE_SYSTEM
                # The agent itself gives up a freeze in some guests; the moment was not still then.
                if self._call(line, "guest-fsfreeze-status") != "frozen":
                    raise QuiesceError("the guest's file systems did not stay frozen")
                self._call(line, "guest-fsfreeze-thaw")
            except BaseException as error:
                # Also if it came while the guest was thawed: one that is going on does not mind.
                self._thaw_after(line, error)
                raise

    def thaw(self) -> None:
        """Thaw the guest, frozen or not."""
        with self._connected() as line:
            self._call(line, "guest-fsfreeze-thaw")

    def _thaw_after(self, line: _Line, error: BaseException) -> None:
        """Thaw, even where the agent was silent: it reads its socket in order, so it will."""
        try:
            try:
                line.send(_message("guest-fsfreeze-thaw"))
                self._synchronize(line, min(self._timeout, _THAW_TIMEOUT))
            except SourceError:
                # It may be this connection alone that is of no use any more.
                line.socket.close()
                with self._connected(min(self._timeout, _THAW_TIMEOUT)) as another:
                    self._call(another, "guest-fsfreeze-thaw")
        except SourceError as failure:
            error.add_note(f"thawing the guest was asked for, but not confirmed: {failure}")

    @contextmanager
    def _connected(self, timeout: float | None = None) -> Iterator[_Line]:
        what = f'guest agent socket "{self._path}"'
        hint = (
            "See that qemu-guest-agent runs in the guest, and that no other client is connected"
            " to its socket."
        )
        try:
            line = _Line(self._path, what, self._timeout, hint)
        except SourceError as error:
            raise QuiesceError(str(error), hint=hint) from error
        try:
            try:
                self._synchronize(line, timeout or self._timeout)
            except SourceError as error:
                raise QuiesceError("the guest agent does not answer", hint=hint) from error
            yield line
        finally:
            line.socket.close()

    def _synchronize(self, line: _Line, timeout: float) -> None:
        """Skip what is left of earlier conversations (QEMU's guest agent reference)."""
        number = secrets.randbelow(1 << 31)
        deadline = clock.monotonic() + timeout
        line.send(b"\xff" + _message("guest-sync-delimited", {"id": number}))
        while True:
            line.skip_to(b"\xff", deadline)
            with suppress(SourceError):
                if line.take(deadline).get("return") == number:
                    return
            if clock.monotonic() > deadline:
                raise SourceError(f"{line.what} does not answer")

    def _call(self, line: _Line, name: str, arguments: Mapping[str, object] | None = None) -> Any:
        try:
            line.send(_message(name, arguments))
            message = line.take(clock.monotonic() + self._timeout)
        except SourceError as error:
            raise QuiesceError(
                f'the guest agent does not answer "{name}"', hint=error.hint
            ) from error
        if "error" in message:
            raise QuiesceError(f'the guest agent refused "{name}": {_refusal(message["error"])[1]}')
        return message.get("return")


def _message(name: str, arguments: Mapping[str, object] | None = None) -> bytes:
    request: dict[str, object] = {"execute": name}
    if arguments:
        request["arguments"] = dict(arguments)
    return json.dumps(request).encode() + b"\n"


def _refusal(error: object) -> tuple[str, str]:
    """Return the class and the one-line text of an error that the other side told."""
    if not isinstance(error, dict):
        return "", "it did not say why"
    text = " ".join(str(error.get("desc", "")).split())[:_SHOWN]
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return str(error.get("class", "")), shown or "it did not say why"


def _version(greeting: Mapping[str, Any]) -> str:
    version = greeting.get("version")
    numbers = version.get("qemu") if isinstance(version, dict) else None
    if not isinstance(numbers, dict):
        return "unknown"
    return ".".join(str(numbers.get(part, "?")) for part in ("major", "minor", "micro"))
