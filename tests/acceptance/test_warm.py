# SPDX-License-Identifier: Apache-2.0
"""Most tests run the program in a fork of a Python that is warm: it is as if it were started."""

import subprocess

import pytest

from tests.acceptance.program import Host
from tests.support.moved_clock.moving import MovedClock
from tests.support.warm import warm_python

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("words", [("--version",), ("list", "--nonsense"), ("list", "--json")])
def test_a_run_of_a_warm_python_is_what_a_real_start_is(used: Host, words: tuple[str, ...]) -> None:
    warm = used.run(*words)

    real = subprocess.run(
        used.command(*words), env=used.surroundings(), input=b"", capture_output=True, check=False
    )
    assert (warm.status, warm.raw) == (real.returncode, real.stdout)
    assert warm.stderr == real.stderr.decode()


def test_a_run_that_takes_too_long_is_killed(used: Host) -> None:
    used.protect({"slow": {"command": {"run": ["sleep", "1000"]}}})

    with pytest.raises(subprocess.TimeoutExpired):
        warm_python().run(
            used.command("backup", "slow")[3:],
            environment=used.surroundings(),
            data=b"",
            timeout=2,
        )

    assert used.does("list").status == 0  # the next one runs


def test_who_needs_a_real_start_has_one(used: Host) -> None:
    python, ours = warm_python(), used.surroundings()
    moved = MovedClock(used.folder / "clock")
    odd = used.folder / "odd"
    odd.mkdir()
    (odd / "sitecustomize.py").touch()

    assert python.can_run(ours)
    assert python.can_run({**ours, **moved.environment})
    assert not python.can_run({**ours, "PYTHONPATH": str(odd)})
    assert not python.can_run({**ours, "LC_ALL": "C"})
