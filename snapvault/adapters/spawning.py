# SPDX-License-Identifier: Apache-2.0
"""Starting other programs: the only module that does (python-gnupg runs gpg itself).

Each gets a session and process group of its own, and none of our standard streams or files.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from snapvault.errors import SourceError

Process = subprocess.Popen[bytes]

_PR_SET_PDEATHSIG = 1
_PIECE = 1 << 16  # bytes
_DRAIN_GRACE = 1.0  # seconds that what a program has said may take to be read

_prctl = ctypes.CDLL(None).prctl
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


def spawn(
    argv: Sequence[str],
    variables: Mapping[str, str],
    working_directory: Path | None = None,
    *,
    wants_input: bool = False,
    is_merged: bool = False,
    finishes_within: float | None = None,
) -> Process:
    """Start a program with these variables, its stdout a pipe; the caller ends it.

    `wants_input` makes its stdin a pipe, and `is_merged` its stderr its stdout; otherwise they
    are nothing, and a pipe of its own. It is killed when our process dies, unless it is one that
    `finishes_within` so many seconds: that is awaited if a signal comes while it is started.

    Raises:
        SourceError: it cannot be started.
    """
    require(argv, environment=variables, working_directory=working_directory)
    parent = os.getpid()
    is_tied = finishes_within is None

    def start() -> Process:
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
            restore_signals=is_tied,  # Python ignores SIGPIPE, as one must that outlives its reader
            # SAFETY: two system calls that take no lock of Python's or of ours.
            preexec_fn=(lambda: _die_with(parent, signal.SIGKILL)) if is_tied else None,  # noqa: PLW1509 - see SAFETY above
        )

    return _started(argv[0], start, finishes_within=finishes_within)


def spawn_job(argv: Sequence[str], variables: Mapping[str, str]) -> Process:
    """Start a program of ours with these variables alone, its stdin and stdout pipes.

    It has our stderr, and is asked to end (SIGTERM) when our process dies.

    Raises:
        SourceError: it cannot be started.
    """
    parent = os.getpid()

    def start() -> Process:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables,
            close_fds=True,
            start_new_session=True,
            # SAFETY: two system calls that take no lock of Python's or of ours.
            preexec_fn=lambda: _die_with(parent, signal.SIGTERM),  # noqa: PLW1509 - see SAFETY above
        )

    return _started(argv[0], start)


def send_signal(process: Process, number: signal.Signals) -> None:
    """Send a signal to a process that one thread alone reaps; one that has ended gets none."""
    # A process id that is not its own is impossible as long as `returncode` is unset: Popen looks
    # at that under its own lock.
    with suppress(ProcessLookupError):
        process.send_signal(number)


def spawn_watcher(argv: Sequence[str], variables: Mapping[str, str]) -> Process:
    """Start a program that outlives us, its stdin and stdout pipes; what it complains of is lost.

    Raises:
        SourceError: it cannot be started.
    """
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=variables,
            close_fds=True,
            start_new_session=True,
        )
    except OSError as error:
        raise cannot_start(argv[0], (error.strerror or str(error)).lower()) from error


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
        raise cannot_start(argv[0], "it is not there, or may not be run")


def cannot_start(name: str, reason: str) -> SourceError:
    """Return the error for a program that cannot be started."""
    return SourceError(
        f'could not start program "{name}": {reason}',
        hint="Install it, or correct its name; a bare name is looked up in PATH.",
    )


def let_end(process: Process, seconds: float | None) -> None:
    """Wait for a program that nobody listens to any more, for so long; None: without a limit."""

    def drain(pipe: IO[bytes]) -> None:
        # Somebody else may have begun to, and have closed it.
        with suppress(OSError, ValueError), pipe:
            while pipe.read(_PIECE):
                pass

    pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]
    threads = [threading.Thread(target=drain, args=(pipe,), daemon=True) for pipe in pipes]
    for thread in threads:
        thread.start()
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    for thread in threads:
        thread.join(_DRAIN_GRACE)


def _started(
    name: str, start: Callable[[], Process], *, finishes_within: float | None = None
) -> Process:
    """Start a program on the thread for that."""
    starting = _spawner(os.getpid()).submit(start)
    try:
        return starting.result()
    except OSError as error:
        raise cannot_start(name, (error.strerror or str(error)).lower()) from error
    except BaseException:
        # A signal ended the wait: what is about to run would be nobody's.
        if finishes_within is None:
            starting.add_done_callback(_end)
            starting.cancel()
        else:
            with suppress(OSError):
                let_end(starting.result(), finishes_within)
        raise


@cache
def _spawner(_process: int) -> ThreadPoolExecutor:
    """Return the thread that starts programs, one for each of our own processes.

    QUIRK: Linux sends the parent-death signal when the thread that forked ends, not its
    process (prctl(2), PR_SET_PDEATHSIG); this thread lasts as long as the process.
    """
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


def _end(starting: "Future[Process]") -> None:
    if not starting.cancelled() and starting.exception() is None:
        with starting.result() as process:
            process.kill()


def _die_with(parent: int, number: int) -> None:
    """In the new process: ask the kernel to send us a signal when the parent dies."""
    _prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(127)
