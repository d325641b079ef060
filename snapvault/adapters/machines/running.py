# SPDX-License-Identifier: Apache-2.0
"""A machine that QEMU runs."""

import base64
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from snapvault import clock
from snapvault.adapters.machines import ports, troubles
from snapvault.adapters.machines.console import Console
from snapvault.adapters.machines.fetching import Fetching
from snapvault.adapters.machines.output import Output
from snapvault.adapters.machines.watching import Watch
from snapvault.adapters.qmp import Agent, Qmp
from snapvault.errors import MachineError, QuiesceError, SourceError
from snapvault.ports.machine import CommandResult, Firmware, MachineSpec

_AGENT_ANSWER: Final = 5.0  # seconds
_STEP: Final = 0.5  # seconds between two questions to the guest
_OUTPUT_KEPT: Final = 64 << 10  # bytes of what a program in the guest printed
_ENDING: Final = 5.0  # seconds for QEMU to close overlays that are kept

T = TypeVar("T")


class QemuMachine:
    """A machine that runs, made by `QemuMachines.start`. Safe from several threads."""

    def __init__(
        self,
        spec: MachineSpec,
        firmware: Firmware,
        folder: Path,
        *,
        output: Output,
        console: Console,
        qmp: Qmp,
        changed: threading.Condition,
    ) -> None:
        self._spec = spec
        self._firmware = firmware
        self._folder = folder
        self._output = output
        self._console = console
        self._qmp = qmp
        self._changed = changed
        self._closing = False
        self._closed = threading.Lock()
        self._addresses = ports.addresses(qmp) if spec.forwards else {}
        self._watch = Watch(qmp, output, spec.on_error, self._notify)
        self.fetching = Fetching(qmp, len(spec.disks))
        """Brings into kept overlays what they lie over."""

    @property
    def firmware(self) -> Firmware:
        """What it was started with."""
        return self._firmware

    @property
    def pid(self) -> int:
        """The process of QEMU."""
        return self._output.pid

    @property
    def is_running(self) -> bool:
        """Whether the guest still runs."""
        return not self._closing and self._watch.ended is None and not self._output.has_ended

    @property
    def end(self) -> str | None:
        """Why it runs no more, as it follows "the machine": `powered off`, say."""
        return self._watch.ended

    @property
    def stands_still(self) -> bool:
        """Whether the guest waits for a disk that cannot be read or written."""
        return self._watch.stands_still

    def console(self) -> str:
        """Return what the guest wrote to its serial console."""
        return self._console.text()

    def follow_console(self, listener: Callable[[bytes], None]) -> None:
        """Have a function called with all that the console shows; it must not take long."""
        self._console.follow(listener)

    def leave_console(self, listener: Callable[[bytes], None]) -> None:
        """Call a function no more; safe to repeat."""
        self._console.leave(listener)

    def type(self, data: bytes) -> None:
        """Type something on the serial console."""
        self._console.send(data)

    def wait(self, seconds: float) -> bool:
        """Wait until the guest ends, so long at the most; tell whether it did."""
        deadline = clock.monotonic() + seconds
        while self.is_running and (left := deadline - clock.monotonic()) > 0:
            with self._changed:
                self._changed.wait(min(left, _STEP))
        return not self.is_running

    def wait_for_console(self, pattern: str, limit: timedelta) -> str:
        """Wait until a line of the console matches."""
        wanted = re.compile(pattern)
        seen = -1
        since = 0

        def look() -> str | None:
            nonlocal seen, since
            is_over = not self.is_running
            now = self._console.total
            lines = self._console.lines_since(since)
            found = next((at for at, line in enumerate(lines) if wanted.search(line)), None)
            # The last line may not be whole yet: a prompt is when nothing follows.
            if found == len(lines) - 1 and now != seen and not is_over:
                seen = now
                return None
            seen = since = now
            return None if found is None else lines[found]

        return self._await(look, limit, f'showed no line like "{pattern}"')

    def wait_for_agent(self, limit: timedelta) -> None:
        """Wait until the guest agent answers."""

        def ask() -> bool | None:
            if self._watch.has_agent and self.is_running:
                with suppress(QuiesceError):
                    self._agent().ping()
                    return True
            return None

        self._await(ask, limit, "has no guest agent that answers")

    def wait_for_port(self, port: int, limit: timedelta) -> None:
        """Wait until a port takes a connection and keeps it."""
        address = self.address_of(port)

        def connect() -> bool | None:
            with suppress(SourceError):
                return ports.takes_connection(self._qmp, address, port) or None
            return None

        self._await(connect, limit, f"took no connection at port {port}")

    def run(self, words: Sequence[str], limit: timedelta) -> CommandResult:
        """Run a program in the guest through its agent."""
        deadline = clock.monotonic() + limit.total_seconds()
        self.wait_for_agent(limit)
        request = {"path": words[0], "arg": list(words[1:]), "capture-output": True}
        try:
            pid = self._agent().call("guest-exec", request).get("pid")
        except (QuiesceError, AttributeError) as error:
            raise MachineError(f'could not run "{words[0]}" in the machine: {error}') from error

        def finished() -> dict[str, Any] | None:
            with suppress(QuiesceError):
                state = self._agent().call("guest-exec-status", {"pid": pid})
                if isinstance(state, dict) and state.get("exited"):
                    return state
            return None

        left = timedelta(seconds=max(0.0, deadline - clock.monotonic()))
        state = self._await(finished, left, f'ran "{words[0]}" without an end')
        return result_of(words[0], state)

    def screenshot(self) -> bytes | None:
        """Return the screen as a PNG; None: it has none to show."""
        picture = self._folder / "screen.png"
        try:
            arguments = {"filename": str(picture), "format": "png"}
            self._qmp.execute("screendump", arguments)
            return picture.read_bytes() or None
        except (SourceError, OSError):
            return None
        finally:
            picture.unlink(missing_ok=True)

    def address_of(self, port: int) -> tuple[str, int]:
        """Return where a port of the guest can be reached from here.

        Raises:
            MachineError: it is not one of `forwards`.
        """
        try:
            return self._addresses[port]
        except KeyError:
            raise MachineError(
                f"port {port} of the machine cannot be reached: it is not forwarded"
            ) from None

    def close(self) -> None:
        """End it at once, and remove all that belongs to it."""
        self._closing = True
        self._notify()
        with self._closed:
            keeps = any(disk.overlay is not None for disk in self._spec.disks)
            self._output.end(gently_within=_ENDING if keeps else 0.0)
            self._watch.close()
            self._console.close()
            self._qmp.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _agent(self) -> Agent:
        return Agent(self._folder / "agent", timeout=_AGENT_ANSWER)

    def _await(self, look: Callable[[], T | None], limit: timedelta, failure: str) -> T:
        """Wait until `look` finds something, and tell why it did not."""
        deadline = clock.monotonic() + limit.total_seconds()
        checked = 0
        while True:
            is_over = not self.is_running
            found = look()
            if found is not None:
                return found
            now = self._console.total
            lines = self._console.lines_since(checked)
            # As in `wait_for_console`: what is being written is judged when it is whole.
            whole = lines if is_over or now == checked else lines[:-1]
            self._raise_trouble(whole, is_over=is_over)
            checked = now
            left = deadline - clock.monotonic()
            if left <= 0:
                seconds = f"{limit.total_seconds():g} seconds"
                raise self._failure(f"the machine {failure} within {seconds}")
            with self._changed:
                self._changed.wait(min(left, _STEP))

    def _raise_trouble(self, lines: list[str], *, is_over: bool) -> None:
        trouble = troubles.find(lines)
        if trouble is not None:
            raise MachineError(f'the machine {trouble.what}: "{trouble.line}"', hint=trouble.hint)
        if self._watch.panicked:
            raise self._failure("the machine panicked")
        if self._watch.restarts > troubles.RESTARTS:
            times = self._watch.restarts
            raise self._failure(f"the machine restarts again and again: {times} times so far")
        if is_over:
            raise self._failure(f"the machine {self.end or 'was ended'}")

    def _failure(self, what: str) -> MachineError:
        line = self._console.last_line()
        shown = f'{what}; its last line: "{line}"' if line else f"{what}; it is silent"
        hint = "Some of its disks could not be read or written; see what was told of that before."
        return MachineError(shown, hint=hint if self._watch.io_errors else None)


def result_of(program: str, state: dict[str, Any]) -> CommandResult:
    """Return what a guest agent tells of a program that has ended.

    Raises:
        MachineError: it makes no sense; the guest may say anything.
    """
    try:
        status = int(state.get("exitcode", 128 + int(state.get("signal", 0))))
        return CommandResult(status, _text(state, "out-data"), _text(state, "err-data"))
    except (ValueError, TypeError, OverflowError) as error:
        raise MachineError(
            f'could not run "{program}" in the machine: its agent tells nothing of it that makes'
            " sense"
        ) from error


def _text(state: dict[str, Any], key: str) -> str:
    raw = base64.b64decode(str(state.get(key, "")))[:_OUTPUT_KEPT]
    return raw.decode(errors="replace")
