# SPDX-License-Identifier: Apache-2.0
"""Programs whose two outputs are read as one."""

import os
import select

import pytest

from snapvault.adapters.command import Program, merged
from snapvault.errors import SourceError


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def read_all(program: Program) -> bytes:
    return b"".join(iter(lambda: program.read_until_exit(1 << 16), b""))


def ends(pid: int) -> bool:
    """Wait until a process that is not our child is gone, for a minute at the most."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        return bool(poll.poll(60_000))
    finally:
        os.close(descriptor)


def test_both_outputs_come_in_the_order_they_were_written() -> None:
    with merged(sh("echo one; echo two >&2; echo three")) as program:
        assert read_all(program) == b"one\ntwo\nthree\n"


def test_a_failure_ends_with_what_was_said_on_either() -> None:
    with (
        merged(sh("echo one; echo two >&2; exit 4")) as program,
        pytest.raises(SourceError, match=r"exit status 4: one; two$"),
    ):
        read_all(program)


def test_a_program_ends_when_it_ends_and_takes_what_it_left_running_along() -> None:
    script = "sleep 600 & head -c 300000 /dev/zero; echo $! >&2"

    with merged(sh(script), timeout=60) as program:
        said = read_all(program)

    pid = int(said[300_000:])
    assert said[:300_000] == bytes(300_000)
    assert ends(pid)


def test_a_program_that_closed_its_outputs_is_waited_for() -> None:
    with (
        merged(sh("exec >&- 2>&-; sleep 0.2; exit 3"), timeout=60) as program,
        pytest.raises(SourceError, match=r"exit status 3$"),
    ):
        read_all(program)


def test_time_runs_out_even_if_it_talks_on_and_on() -> None:
    with (
        merged(sh("while :; do echo more; sleep 0.01; done"), timeout=2) as program,
        pytest.raises(SourceError, match=r"ran out of time and was killed: .*more$"),
    ):
        read_all(program)
