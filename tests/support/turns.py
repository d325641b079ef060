# SPDX-License-Identifier: Apache-2.0
"""Which of several workers runs which tests, and when: the longest first, so that all end together.

A file is run by one worker, whose module and session fixtures its tests share. So is each file
that tests/guest/test_inside.py runs in a guest: every worker can boot one.
"""

from collections.abc import Mapping
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

_INSIDE: Final = "tests/guest/test_inside.py"

# About how many seconds of CPU the longest ones take. Only who is longer than whom matters; of
# those that are not here the number of tests says enough.
_SECONDS: Final[Mapping[str, float]] = {
    "tests/guest/test_end_to_end_lvm.py": 250,
    "tests/guest/test_inside.py[test_lvm_source.py]": 140,
    "tests/guest/test_inside.py[test_lvm_between_nights.py]": 135,
    "tests/acceptance/test_disaster.py": 110,
    "tests/acceptance/test_run.py": 110,
    "tests/acceptance/test_prune.py": 45,
    "tests/guest/test_inside.py[test_mysql_lvm.py]": 100,
    "tests/integration/test_engine_law.py": 75,
    "tests/acceptance/test_bad_input.py": 45,
    "tests/integration/test_ebs_source.py": 90,
    "tests/guest/test_inside.py[test_lvm_faults.py]": 80,
    "tests/acceptance/test_daemon_faults.py": 70,
    "tests/acceptance/test_example_policies.py": 40,
    "tests/acceptance/test_main_job.py": 35,
    "tests/acceptance/test_status.py": 35,
    "tests/integration/test_machines.py": 65,
    "tests/acceptance/test_daemon.py": 60,
    "tests/acceptance/test_install.py": 60,
    "tests/acceptance/test_slow_networks.py": 60,
    "tests/guest/test_inside.py[test_lvm_itself.py]": 60,
    "tests/acceptance/test_drill.py": 55,
    "tests/acceptance/test_start_from_s3.py": 55,
    "tests/guest/test_inside.py[test_lvm_restore.py]": 50,
    "tests/acceptance/test_restore_ebs.py": 45,
    "tests/acceptance/test_bad_days.py": 40,
    "tests/guest/test_inside.py[test_lvm_contract.py]": 40,
    "tests/guest/test_qemu_guest.py": 40,
    "tests/acceptance/test_drill_reports.py": 35,
    "tests/acceptance/test_restore_in_place.py": 35,
    "tests/acceptance/test_daemon_drills.py": 30,
    "tests/acceptance/test_files.py": 30,
    "tests/integration/test_postgresql.py": 30,
    "tests/acceptance/test_restore_machine.py": 25,
    "tests/guest/test_qemu_source.py": 25,
    "tests/integration/test_ebs_target.py": 25,
    "tests/integration/test_scratch_databases.py": 25,
    "tests/acceptance/test_serve.py": 20,
    "tests/fault/test_prune_faults.py": 20,
    "tests/integration/test_mysql.py": 20,
    "tests/unit/engine/test_backup.py": 20,
    "tests/integration/test_fortnight.py": 15,
}
_SECONDS_OF_A_TEST: Final = {"acceptance": 1.0, "guest": 10.0, "integration": 0.5}
_OTHERWISE: Final = 0.1

_ENOUGH: Final = 20.0
"""Seconds of work that a worker has ahead, from which on it gets the least there is."""


def unit_of(test: str) -> str:
    """Return what a test is run together with: its file, or the one that it runs in the guest."""
    file, _, name = test.partition("::")
    return f"{file}[{name.partition('[')[2].partition('::')[0]}]" if file == _INSIDE else file


def seconds_of(unit: str, tests: int) -> float:
    """Return about how long so many tests of a unit take."""
    folder = unit.split("/")[1] if unit.count("/") > 1 else ""
    return _SECONDS.get(unit, tests * _SECONDS_OF_A_TEST.get(folder, _OTHERWISE))


class LongestFirst(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """Hands out the unit that takes longest.

    xdist gives a worker its next unit before the last test of the one that it is at. So that a
    long one does not wait behind another, who has enough to do gets the shortest.
    """

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        self._sizes: dict[str, int] = {}

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        for unit, tests in self.workqueue.items():
            self._sizes.setdefault(unit, len(tests))
        busy = sum(
            list(tests.values()).count(False) / self._sizes[unit] * self._seconds(unit)
            for unit, tests in self.assigned_work.get(node, {}).items()
        )
        choose = min if busy > _ENOUGH else max
        self.workqueue.move_to_end(choose(self.workqueue, key=self._seconds), last=False)
        super()._assign_work_unit(node)

    def _seconds(self, unit: str) -> float:
        return seconds_of(unit, self._sizes[unit])
