# SPDX-License-Identifier: Apache-2.0
"""Running other programs: the only module that does (python-gnupg runs gpg itself).

A program gets a session and process group of its own, our standard streams are never its
own, and it does not outlive us: the group is killed when its caller lets go of it, the
program when our process dies. The one exception is what `guard` starts, which is there for that.
"""

import ctypes
import fcntl
import os
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from snapvault import clock
from snapvault.errors import SourceError

OUTPUT_LIMIT = 16 << 20  # bytes that `run` takes from a program's stdout
STDERR_KEPT = 8 << 10  # bytes, the last ones

_PIPE_SIZE = 1 << 20  # LIMIT: Linux lets an unprivileged user ask for a megabyte, bytes
_STDERR_SHOWN = 400  # characters
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_DRAIN_GRACE = 2.0  # seconds that a runaway grandchild may hold stderr open
_PR_SET_PDEATHSIG = 1

# A line on stdin is our leave-taking. The end without one is our death: signals stay ignored
# then, because a service manager ends the rest of a service whose main process has died.
_GUARD = """
trap "" HUP INT QUIT TERM
echo ready
if read -r line; then exit 0; fi
exec "$@" </dev/null >/dev/null 2>&1
"""

_prctl = ctypes.CDLL(None).prctl
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_SIGKILL = int(signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program left: its exit status, its whole stdout, the end of its stderr."""

    status: int
    stdout: bytes
    stderr: bytes


class Program:
    """A running program whose stdout is read; made by `stream`. For one thread at a time.

    One that was started with a live stdin is talked to with `feed`. Whoever feeds a program that
    writes much must read what it says: neither goes on while the other's pipe is full.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        name: str,
        stdin: bytes | None,
        deadline: float | None,
    ) -> None:
        self._process = process
        self._name = name
        self._deadline = deadline
        self._pidfd = os.pidfd_open(process.pid)
        self._stderr = _Tail()
        self._threads: list[threading.Thread] = []
        self._merged = process.stderr is None
        if process.stderr is not None:
            stderr = process.stderr
            self._threads.append(_start(lambda: self._stderr.drain(stderr)))
        self._stdout = _pipe(process.stdout)
        with suppress(OSError):  # the user's allowance for pipes may be used up
            fcntl.fcntl(self._stdout, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
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
        data = self._stdout.read(min(size, _PIPE_SIZE))
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
        seconds = None if self._deadline is None else max(0.0, self._deadline - clock.monotonic())
        if not _is_ready(descriptors, event, seconds):
            self.kill()
            raise SourceError(
                f'program "{self._name}" ran out of time and was killed{_told(self._stderr.kept)}',
                hint="Allow it more time, or find out what it waits for.",
            )

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


@contextmanager
def stream(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    live_input: bool = False,
    environment: Mapping[str, str] | None = None,
    working_directory: Path | None = None,
    timeout: float | None = None,
    parsed: bool = False,
) -> Iterator[Program]:
    """Start a program and read its stdout while it runs; leaving the context ends it.

    `stdin` is all of its input; with `live_input` instead, `Program.feed` writes it and
    `end_input` ends it. `environment` is added to ours. `parsed` sets LC_ALL=C, for output that
    we read a meaning from. `timeout` is in seconds, from the start to the end of the program.

    Raises:
        SourceError: the program cannot be started.
    """
    deadline = _deadline(timeout)
    variables = {**os.environ, **({"LC_ALL": "C"} if parsed else {}), **(environment or {})}
    process = _spawn(
        argv, variables, working_directory, wants_input=live_input or stdin is not None
    )
    with _running(process, argv[0], stdin, deadline) as program:
        yield program


@contextmanager
def merged(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Iterator[Program]:
    """As `stream`, but stdout and stderr are read as one, in the order they were written."""
    deadline = _deadline(timeout)
    process = _spawn(argv, {**os.environ, **(environment or {})}, None, is_merged=True)
    with _running(process, argv[0], None, deadline) as program:
        yield program


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else clock.monotonic() + timeout


@contextmanager
def _running(
    process: subprocess.Popen[bytes], name: str, stdin: bytes | None, deadline: float | None
) -> Iterator[Program]:
    try:
        program = Program(process, name, stdin, deadline)
    except BaseException:
        process.kill()
        process.wait()
        raise
    try:
        yield program
    finally:
        program.kill()


def run(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    working_directory: Path | None = None,
    timeout: float | None = None,
    check: bool = True,
) -> Finished:
    """Run a short program to its end, with LC_ALL=C, and return what it said.

    Raises:
        SourceError: it cannot be started, ran out of time, wrote more than OUTPUT_LIMIT
            or, unless `check` is off, ended with anything but status 0.
    """
    pieces: list[bytes] = []
    taken = 0
    with stream(
        argv,
        stdin=stdin,
        environment=environment,
        working_directory=working_directory,
        timeout=timeout,
        parsed=True,
    ) as program:
        while piece := program.read_unchecked(_PIPE_SIZE):
            pieces.append(piece)
            taken += len(piece)
            if taken > OUTPUT_LIMIT:
                raise SourceError(f'program "{argv[0]}" wrote more than {OUTPUT_LIMIT >> 20} MiB')
        status = program.status or 0
        if status and check:
            raise program.failure()
        return Finished(status, b"".join(pieces), program.stderr)


def guard(
    argv: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> AbstractContextManager[None]:
    """Have a program run if our process dies in this context, by SIGKILL too.

    A watcher is up and ready before the context is entered. Leaving the context, with an
    exception or without, ends it and runs nothing: the caller undoes things itself. The program
    runs once, in our working directory, ignores SIGTERM and SIGINT, and what it says is lost.
    It runs too when the context is dropped without being left. `environment` is added to ours.

    Raises:
        SourceError: on entering: the program is not there, or the watcher cannot be started.
    """
    return _Guard(argv, {**os.environ, **(environment or {})})


def require(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    working_directory: Path | None = None,
) -> None:
    """Check, without starting anything, that a program and its working directory are there.

    Raises:
        SourceError: one of them is not.
    """
    if working_directory is not None and not working_directory.is_dir():
        raise SourceError(f'working directory "{working_directory}" is not a folder')
    search = {**os.environ, **(environment or {})}.get("PATH")
    name = argv[0]
    if working_directory is not None and "/" in name:
        name = str(working_directory / name)
    if shutil.which(name, path=search) is None:
        raise _cannot_start(argv[0], "it is not there, or may not be run")


class _Guard:
    """A shell that waits for our death, while the context lasts.

    Not a generator: Python leaves the context of one that is dropped, as if all were well.
    """

    def __init__(self, argv: Sequence[str], variables: Mapping[str, str]) -> None:
        self._argv = argv
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> None:
        require(self._argv, environment=self._variables)
        program = shutil.which(self._argv[0], path=self._variables.get("PATH")) or self._argv[0]
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "guard", Path(program).absolute(), *self._argv[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=self._variables,
                close_fds=True,
                start_new_session=True,
            )
        except OSError as error:
            raise _cannot_start("/bin/sh", (error.strerror or str(error)).lower()) from error
        with _pipe(self._process.stdout) as stdout:
            is_ready = stdout.readline() == b"ready\n"
        if not is_ready:
            self.__exit__()
            raise _cannot_start(self._argv[0], "its guard did not come up")

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(BrokenPipeError), _pipe(process.stdin) as stdin:
            stdin.write(b"leave\n")
        process.wait()


def _spawn(
    argv: Sequence[str],
    variables: Mapping[str, str],
    working_directory: Path | None,
    *,
    wants_input: bool = False,
    is_merged: bool = False,
) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if wants_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if is_merged else subprocess.PIPE,
            bufsize=0,
            env=variables,
            cwd=working_directory,
            close_fds=True,
            start_new_session=True,
            # SAFETY: two system calls that take no lock of Python's or of ours.
            preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509 - see SAFETY above
        )

    require(argv, environment=variables, working_directory=working_directory)
    try:
        return _spawner(parent).submit(start).result()
    except OSError as error:
        raise _cannot_start(argv[0], (error.strerror or str(error)).lower()) from error


@cache
def _spawner(_process: int) -> ThreadPoolExecutor:
    """Return the thread that starts programs, one for each of our own processes.

    QUIRK: Linux sends the parent-death signal when the thread that forked ends, not its
    process (prctl(2), PR_SET_PDEATHSIG); this thread lasts as long as the process.
    """
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


def _die_with(parent: int) -> None:
    """In the new process: ask the kernel to kill us when the parent dies."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(127)


def _cannot_start(name: str, reason: str) -> SourceError:
    return SourceError(
        f'could not start program "{name}": {reason}',
        hint="Install it, or correct its name; a bare name is looked up in PATH.",
    )


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
