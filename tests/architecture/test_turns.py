# SPDX-License-Identifier: Apache-2.0
"""Workers start with the longest files of tests, and nothing long waits behind another."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import turns
from tests.support.guest import REPOSITORY
from tests.support.turns import LongestFirst, seconds_of, unit_of


class Worker:
    """Has been told which tests to run."""

    shutting_down = False

    def __init__(self, tests: list[str]) -> None:
        self.gateway = SimpleNamespace(id="gw", spec="popen")
        self.workerinfo = {"version_info": (3, 11)}
        self.tests = tests
        self.told: list[str] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.told += [self.tests[index] for index in indices]

    def shutdown(self) -> None:
        self.shutting_down = True


def scheduler(workers: list[Worker], tests: list[str]) -> Any:
    config = SimpleNamespace(
        option=SimpleNamespace(loadscopereorder=True),
        getvalue=lambda _: ["popen"] * len(workers),
        hook=None,
    )
    made = LongestFirst(config)  # type: ignore[arg-type] # all of one that is asked
    for worker in workers:
        made.add_node(worker)
        made.add_node_collection(worker, tests)
    return made


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        turns, "_SECONDS", {"a/b/long.py": 300, "a/b/half.py": 150, "a/b/some.py": 40}
    )


@pytest.mark.usefixtures("seconds")
def test_the_longest_start_first_and_only_little_waits_behind_them() -> None:
    tests = ["a/b/tiny.py::t", "a/b/small.py::t", "a/b/some.py::t", "a/b/half.py::t"]
    tests += ["a/b/small.py::u", "a/b/long.py::t"]
    workers = [Worker(tests), Worker(tests)]
    made = scheduler(workers, tests)

    made.schedule()

    assert workers[0].told[0] == "a/b/long.py::t"
    assert workers[1].told[0] == "a/b/half.py::t"
    assert {worker.told[1].rpartition("::")[0] for worker in workers} == {
        "a/b/tiny.py",
        "a/b/small.py",
    }
    made.mark_test_complete(workers[1], tests.index("a/b/half.py::t"))
    assert workers[1].told[-1] == "a/b/some.py::t"


def test_each_file_in_the_guest_is_a_unit_of_its_own() -> None:
    inside = "tests/guest/test_inside.py::test_in_the_guest"

    assert unit_of(f"{inside}[test_lvm.py::test_a]") == "tests/guest/test_inside.py[test_lvm.py]"
    assert unit_of("tests/unit/test_units.py::test_a[x::y]") == "tests/unit/test_units.py"
    assert seconds_of("tests/unit/test_units.py", 10) == pytest.approx(1.0)


def test_what_has_a_time_is_there() -> None:
    for unit in turns._SECONDS:
        file, _, inside = unit.partition("[")
        path = REPOSITORY / file
        if inside:
            path = path.parent / "inside" / inside.removesuffix("]")
        assert path.is_file(), unit
