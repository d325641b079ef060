# SPDX-License-Identifier: Apache-2.0
"""A running program: what it says is read, and it is ended when its caller lets go of it."""

import fcntl
import os
import select
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

from snapvault import clock
from snapvault.adapters.spawning import Process
from snapvault.errors import SourceError

PIPE_SIZE = 1 << 20  # LIMIT: Linux lets an unprivileged user ask for a megabyte, bytes
STDERR_KEPT = 8 << 10  # bytes, the last ones

_STDERR_SHOWN = 400  # characters
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_DRAIN_GRACE = 2.0  # seconds that a runaway grandchild may hold stderr open


class Program:
    """A running program whose stdout is read; made by `stream`. For one thread at a time.

    One that was started with a live stdin is talked to with `feed`. Whoever feeds a program that
    writes much must read what it says: neither goes on while the other's pipe is full. One that
    `finishes` is ended only when its time is up.
    """

    def __init__(
        self,
        process: Process,
        name: str,
        stdin: bytes | None,
        deadline: float | None,
        *,
        finishes: bool = False,
    ) -> None:
        self._process = process
        self._name = name
        self._deadline = deadline
        self._finishes = finishes
        self._pidfd = os.pidfd_open(process.pid)
        self._stderr = _Tail()
        self._threads: list[threading.Thread] = []
        self._merged = process.stderr is None
        if process.stderr is not None:
            stderr = process.stderr
            self._threads.append(_start(lambda: self._stderr.drain(stderr)))
        self._stdout = _pipe(process.stdout)
        with suppress(OSError):  # the user's allowance for pipes may be used up
            fcntl.fcntl(self._stdout, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self._stdin: int | None = None
        if stdin is not None:
            self._threads.append(_start(lambda: _write(_pipe(process.stdin), stdin)))
        elif process.stdin is not None:
            self._stdin = process.stdin.fileno()
            os.set_blocking(self._stdin, False)
        self._over = False
        self._stopped = False

    @property
    def stderr(self) -> bytes:
        """The last few KiB of stderr so far; of both outputs if they are merged."""
        return self._stderr.kept

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None until the end was read."""
        return self._process.returncode if self._over else None

    def read(self, size: int, /) -> bytes:
        """Return the next bytes of stdout; empty only when the program ended with status 0.

        Raises:
            SourceError: it ended otherwise, or ran out of time.
        """
        data = self.read_unchecked(size)
        if not data and self._process.returncode:
            raise self.failure()
        return data

    def read_unchecked(self, size: int, /) -> bytes:
        """As `read`, but the end is empty whatever the exit status.

        Raises:
            SourceError: it ran out of time, or was killed by `kill`.
        """
        if self._stopped:
            raise SourceError(f'program "{self._name}" was stopped before its end')
        if self._over:
            return b""
        self._wait_for(self._stdout.fileno())
        data = self._stdout.read(min(size, PIPE_SIZE))
        if data:
            if self._merged:
                self._stderr.add(data)
            return data
        self._wait_for(self._pidfd)
        self._reap()
        return b""

    def read_until_exit(self, size: int, /) -> bytes:
        """As `read`, but the end is the program's, even if what it left behind holds its stdout.

        Raises:
            SourceError: it ended with anything but status 0, or ran out of time.
        """
        if not self._over and not self._stopped:
            self._wait_for(self._stdout.fileno(), self._pidfd)
            if not _readable(self._stdout.fileno(), 0):
                self._reap()
        return self.read(size)

    def has_output(self, within: float) -> bool:
        """Wait so many seconds at the most for what makes `read` return at once, or raise."""
        if self._stopped or self._over:
            return True
        if self._deadline is not None:
            within = min(within, max(0.0, self._deadline - clock.monotonic()))
        if _readable(self._stdout.fileno(), within):
            return True
        return self._deadline is not None and clock.monotonic() >= self._deadline

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` to the program's live stdin.

        Raises:
            SourceError: it ended, reads no more, or ran out of time.
        """
        rest = memoryview(data)
        while rest:
            if self._stdin is None:
                raise SourceError(f'program "{self._name}" takes no more input')
            self._wait_for(self._stdin, event=select.POLLOUT)
            try:
                rest = rest[os.write(self._stdin, rest) :]
            except BlockingIOError:  # less room than the write needs at once
                continue
            except BrokenPipeError as error:
                raise self._deaf() from error

    def end_input(self) -> None:
        """Close the live stdin: the program reads its end. Safe to repeat."""
        if self._stdin is not None:
            self._stdin = None
            _pipe(self._process.stdin).close()

    def failure(self) -> SourceError:
        """Return the error for a program that ended with anything but status 0."""
        status = self._process.returncode
        if status < 0:
            how = f"was killed by {_signal_name(-status)}"
        else:
            how = f"failed with exit status {status}"
        return SourceError(f'program "{self._name}" {how}{_told(self._stderr.kept)}')

    def kill(self) -> None:
        """End the program and its group, first by asking; safe to repeat."""
        if self._over:
            return
        if self._finishes:
            _readable(self._pidfd, self._time_left())
        self._stopped = True
        self._signal(signal.SIGTERM)
        if not _readable(self._pidfd, _GRACE):
            self._signal(signal.SIGKILL)
            _readable(self._pidfd, None)
        self._reap()

    def _deaf(self) -> SourceError:
        """Return the error for a program that closed its stdin; most have ended."""
        if _readable(self._pidfd, _GRACE):
            self._reap()
            if self._process.returncode:
                return self.failure()
        return SourceError(
            f'program "{self._name}" stopped reading its input{_told(self._stderr.kept)}'
        )

    def _wait_for(self, *descriptors: int, event: int = select.POLLIN) -> None:
        """Wait for one of some descriptors, until the program's time is up."""
        left = self._time_left()
        if left == 0 or not _is_ready(descriptors, event, left):
            self.kill()
            raise SourceError(
                f'program "{self._name}" ran out of time and was killed{_told(self._stderr.kept)}',
                hint="Allow it more time, or find out what it waits for.",
            )

    def _time_left(self) -> float | None:
        """Return how many seconds the program still has; None: no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - clock.monotonic())

    def _reap(self) -> None:
        """Collect a program that has ended, and end what it left in its group."""
        _readable(self._pidfd, None)
        # ORDER: the group is killed before its leader is reaped; afterwards the number
        # may belong to somebody else.
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._over = True
        self.end_input()
        self._stdout.close()
        os.close(self._pidfd)
        for thread in self._threads:
            thread.join(_DRAIN_GRACE)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class _Tail:
    """The last bytes of what a program said."""

    def __init__(self) -> None:
        self.kept = b""

    def add(self, data: bytes) -> None:
        self.kept = (self.kept + data)[-STDERR_KEPT:]

    def drain(self, pipe: IO[bytes]) -> None:
        """Read a pipe to its end."""
        with pipe:
            while piece := pipe.read(STDERR_KEPT):
                self.add(piece)


def _write(pipe: IO[bytes], data: bytes) -> None:
    """Feed a program its input; one that stops reading shows in its exit status."""
    with pipe, suppress(BrokenPipeError):
        rest = memoryview(data)
        while rest:
            rest = rest[pipe.write(rest) :]


def _start(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def _pipe(end: IO[bytes] | None) -> IO[bytes]:
    if end is None:
        raise ValueError("the program was started without this pipe")
    return end


def _readable(descriptor: int, seconds: float | None) -> bool:
    """Wait until a descriptor can be read (a pidfd: its process has ended); false: time is up."""
    return _is_ready((descriptor,), select.POLLIN, seconds)


def _is_ready(descriptors: Sequence[int], event: int, seconds: float | None) -> bool:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, event)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _told(stderr: bytes) -> str:
    """Return the end of a program's stderr as `: one line`, or nothing."""
    text = stderr.decode(errors="replace")
    lines = (" ".join(line.split()) for line in text.splitlines())
    joined = "; ".join(line for line in lines if line)
    shown = "".join(character if character.isprintable() else "?" for character in joined)
    if len(shown) > _STDERR_SHOWN:
        shown = "…" + shown[-_STDERR_SHOWN:]
    return f": {shown}" if shown else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
