# SPDX-License-Identifier: Apache-2.0
"""Waiting for what a program says, without reading it."""

import pytest

from snapvault.adapters.command import stream
from snapvault.errors import SourceError


def test_output_that_is_there_is_told_and_left_to_be_read() -> None:
    with stream(["echo", "word"]) as program:
        told = program.has_output(60)

        assert told
        assert program.read(100) == b"word\n"


def test_a_silent_program_has_no_output_in_time() -> None:
    with stream(["cat"], live_input=True) as program:
        assert not program.has_output(0.01)


def test_the_end_counts_as_output() -> None:
    with stream(["true"]) as program:
        told = program.has_output(60)

        assert told
        assert program.read(100) == b""


def test_a_program_that_ran_out_of_time_is_no_longer_waited_for() -> None:
    with stream(["cat"], live_input=True, timeout=0.01) as program:
        told = program.has_output(60)

        assert told
        with pytest.raises(SourceError, match="ran out of time"):
            program.read(100)
