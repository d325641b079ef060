# SPDX-License-Identifier: Apache-2.0
"""Programs that are talked to while they run."""

import pytest

from snapvault.adapters.command import stream
from snapvault.errors import SourceError


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_a_program_is_asked_and_answers_and_is_asked_again() -> None:
    script = 'while read -r word; do echo "<$word>"; done; echo end'

    with stream(sh(script), live_input=True) as program:
        program.feed(b"first\n")
        first = program.read(100)
        program.feed(memoryview(b"second\n"))
        second = program.read(100)
        program.end_input()
        program.end_input()
        rest = program.read(100)

        assert (first, second, rest, program.read(1)) == (
            b"<first>\n",
            b"<second>\n",
            b"end\n",
            b"",
        )
        assert program.status == 0


def test_more_is_fed_than_any_pipe_holds() -> None:
    data = bytes(range(256)) * 32768

    with stream(sh("exec wc -c"), live_input=True, timeout=60) as program:
        program.feed(data)
        program.end_input()
        counted = program.read(100)

    assert int(counted) == len(data)


def test_a_program_that_ended_in_the_middle_of_its_input_is_told_with_its_last_words() -> None:
    script = "head -c 10 >/dev/null; echo no more >&2; exit 3"

    with (
        stream(sh(script), live_input=True) as program,
        pytest.raises(SourceError, match=r'program "sh" failed with exit status 3: no more$'),
    ):
        program.feed(bytes(8 << 20))


def test_a_program_that_is_content_with_half_of_its_input_is_told_too() -> None:
    with (
        stream(sh("exit 0"), live_input=True) as program,
        pytest.raises(SourceError, match=r'program "sh" stopped reading its input$'),
    ):
        program.feed(bytes(8 << 20))


def test_a_program_that_reads_nothing_runs_out_of_time() -> None:
    with (
        stream(sh("exec sleep 600"), live_input=True, timeout=0.5) as program,
        pytest.raises(SourceError, match="ran out of time"),
    ):
        program.feed(bytes(8 << 20))


def test_nothing_is_fed_after_the_end_of_the_input() -> None:
    with stream(["cat"], live_input=True) as program:
        program.end_input()

        with pytest.raises(SourceError, match='program "cat" takes no more input'):
            program.feed(b"more")


def test_a_program_left_in_the_middle_of_its_input_is_ended() -> None:
    with stream(["cat"], live_input=True) as program:
        program.feed(b"some")

    with pytest.raises(SourceError, match="stopped before its end"):
        program.read(1)
