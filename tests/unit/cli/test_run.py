# SPDX-License-Identifier: Apache-2.0
"""What `run` takes for its machine."""

import pytest
from pydantic import ValidationError

from snapvault.config.drills import BootDrillShape
from snapvault.ports.machine import MOST_CPUS

CHECKS = [{"console": "login:"}]


def test_a_policy_and_the_command_line_have_the_same_limit_of_processors() -> None:
    most = BootDrillShape.model_validate({"checks": CHECKS, "cpus": MOST_CPUS})

    with pytest.raises(ValidationError, match="less than or equal to 64"):
        BootDrillShape.model_validate({"checks": CHECKS, "cpus": MOST_CPUS + 1})

    assert most.cpus == MOST_CPUS
