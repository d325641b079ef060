# SPDX-License-Identifier: Apache-2.0
"""What a machine's own agent tells of programs."""

from typing import Any

import pytest

from snapvault.adapters.machines.running import result_of
from snapvault.errors import MachineError
from snapvault.ports.machine import CommandResult


@pytest.mark.parametrize(
    ("state", "result"),
    [
        ({"exited": True, "exitcode": 3, "out-data": "aGkK"}, CommandResult(3, "hi\n", "")),
        ({"exited": True, "signal": 9, "err-data": "aGkK"}, CommandResult(137, "", "hi\n")),
    ],
)
def test_a_program_that_ended_has_a_status_and_what_it_said(
    state: dict[str, Any], result: CommandResult
) -> None:
    assert result_of("true", state) == result


@pytest.mark.parametrize(
    "state",
    [
        {"exitcode": "no number"},
        {"exitcode": None},
        {"exitcode": float("inf")},
        {"signal": []},
        {"exitcode": 0, "out-data": "a"},
        {"exitcode": 0, "err-data": "\u00e9"},
    ],
    ids=str,
)
def test_an_agent_that_tells_nonsense_fails_the_program(state: dict[str, Any]) -> None:
    with pytest.raises(MachineError, match='could not run "true" in the machine'):
        result_of("true", state)
