# SPDX-License-Identifier: Apache-2.0
"""Running other programs.

A program gets a session and process group of its own, our standard streams are never its
own, and it does not outlive us: the group is killed when its caller lets go of it, the
program when our process dies. The exceptions are what `guard` starts, which is there for that, and
what `run_whole` does.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from snapvault import clock
from snapvault.adapters.guard import guard as guard
from snapvault.adapters.program import PIPE_SIZE
from snapvault.adapters.program import Program as Program
from snapvault.adapters.spawning import Process, let_end, spawn
from snapvault.adapters.spawning import require as require
from snapvault.errors import SourceError

OUTPUT_LIMIT = 16 << 20  # bytes that `run` takes from a program's stdout


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program left: its exit status, its whole stdout, the end of its stderr."""

    status: int
    stdout: bytes
    stderr: bytes


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
    process = spawn(
        argv,
        _variables(environment, parsed=parsed),
        working_directory,
        wants_input=live_input or stdin is not None,
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
    process = spawn(argv, _variables(environment), None, is_merged=True)
    with _running(process, argv[0], None, deadline) as program:
        yield program


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
    with stream(
        argv,
        stdin=stdin,
        environment=environment,
        working_directory=working_directory,
        timeout=timeout,
        parsed=True,
    ) as program:
        return _finished(program, argv[0], check=check)


def run_whole(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    timeout: float,
    check: bool = True,
) -> Finished:
    """As `run`, for what must not stop half-way: only the end of its time ends it.

    An exception waits for it, and our death leaves it to itself.

    Raises:
        SourceError: as `run`.
    """
    deadline = _deadline(timeout)
    process = spawn(argv, _variables(environment, parsed=True), finishes_within=timeout)
    with _running(process, argv[0], None, deadline, finishes=True) as program:
        return _finished(program, argv[0], check=check)


def _variables(more: Mapping[str, str] | None, *, parsed: bool = False) -> dict[str, str]:
    return {**os.environ, **({"LC_ALL": "C"} if parsed else {}), **(more or {})}


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else clock.monotonic() + timeout


@contextmanager
def _running(
    process: Process,
    name: str,
    stdin: bytes | None,
    deadline: float | None,
    *,
    finishes: bool = False,
) -> Iterator[Program]:
    try:
        program = Program(process, name, stdin, deadline, finishes=finishes)
    except BaseException:
        if finishes:
            let_end(process, None if deadline is None else max(0.0, deadline - clock.monotonic()))
        else:
            process.kill()
            process.wait()
        raise
    try:
        yield program
    finally:
        program.kill()


def _finished(program: Program, name: str, *, check: bool) -> Finished:
    """Read a program to its end."""
    pieces: list[bytes] = []
    taken = 0
    while piece := program.read_unchecked(PIPE_SIZE):
        pieces.append(piece)
        taken += len(piece)
        if taken > OUTPUT_LIMIT:
            raise SourceError(f'program "{name}" wrote more than {OUTPUT_LIMIT >> 20} MiB')
    status = program.status or 0
    if status and check:
        raise program.failure()
    return Finished(status, b"".join(pieces), program.stderr)
