# SPDX-License-Identifier: Apache-2.0
"""Runs the tests in tests/guest/inside/ inside the guest; each is a test of its own here.

One pytest runs all that are wanted of one file: Python takes seconds to start in there.
"""

import ast
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.guest import OUTCOMES, REPOSITORY, Guest

_INSIDE = Path(__file__).with_name("inside")
_SECONDS = 1800.0  # for one file


class Run(NamedTuple):
    """How the tests of one file ended: what each part of each test said, by test."""

    outcomes: dict[str, list[tuple[str, str]]]
    status: int | None
    output: str


def _tests() -> list[str]:
    """Return the tests in the folder, as FILE::NAME or FILE::CLASS::NAME, without importing any."""
    return [
        "::".join((path.name, *names))
        for path in sorted(_INSIDE.glob("test_*.py"))
        for names in _named_in(ast.parse(path.read_text()))
    ]


def _named_in(node: ast.Module | ast.ClassDef) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for child in node.body:
        if isinstance(child, ast.ClassDef) and child.name.startswith("Test"):
            found += [(child.name, *names) for names in _named_in(child)]
        elif isinstance(child, ast.FunctionDef) and child.name.startswith("test_"):
            found.append((child.name,))
    return found


@pytest.fixture(scope="session")
def run_of(request: pytest.FixtureRequest, guest: Guest) -> Callable[[str], Run]:
    """What runs the wanted tests of a file, once, and remembers how they ended."""
    wanted = sorted(
        str(item.callspec.params["test"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == test_in_the_guest.__name__
    )
    seed = request.config.getoption("randomly_seed")
    numbers = itertools.count(1)
    runs: dict[str, Run] = {}

    def run(file: str) -> Run:
        if file not in runs:
            outcomes = f"outcomes-{next(numbers)}"
            tests = [str(_INSIDE / test) for test in wanted if test.startswith(f"{file}::")]
            status, out, err = guest.run(
                [
                    *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                    *(f"--randomly-seed={seed}", *tests),
                ],
                env={OUTCOMES: f"/guest/{outcomes}"},
                cwd=str(REPOSITORY),
                timeout=_SECONDS,
            )
            output = (out + err).decode(errors="replace")
            runs[file] = Run(_read(guest.share / outcomes), status, output)
        return runs[file]

    return run


def _read(path: Path) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        outcome = json.loads(line)
        test = outcome["test"].partition("[")[0].rpartition("/")[2]
        found.setdefault(test, []).append((outcome["outcome"], outcome["text"]))
    return found


@pytest.mark.integration
@pytest.mark.parametrize("test", _tests())
def test_in_the_guest(test: str, run_of: Callable[[str], Run]) -> None:
    outcomes, status, output = run_of(test.partition("::")[0])

    parts = outcomes.get(test, [])
    failed = [text for outcome, text in parts if outcome != "passed"]
    if failed:
        pytest.fail("\n".join(failed), pytrace=False)
    if len(parts) < 3:  # setup, call and teardown
        pytest.fail(f"it did not end; status of pytest: {status}\n{output}", pytrace=False)
