# SPDX-License-Identifier: Apache-2.0
"""docs/errors.md and snapvault/errors.py say the same."""

import inspect
import re
from pathlib import Path

from snapvault import errors

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
ERROR_ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| (yes|no) \| .+ \|$", re.MULTILINE)
STATUS_ROW = re.compile(r"^\| (\d+) \| .+ \|$", re.MULTILINE)
REMEDY_HEADING = re.compile(r"^### (\d+): ", re.MULTILINE)


def named_errors() -> list[type[errors.SnapVaultError]]:
    return [
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.SnapVaultError) and value is not errors.SnapVaultError
    ]


def test_the_documented_errors_are_those_of_the_code() -> None:
    in_code = {
        (error.__name__, error.exit_status, "yes" if error.retryable else "no")
        for error in named_errors()
    }

    documented = [
        (name, int(status), retry)
        for name, status, retry in ERROR_ROW.findall(DOCUMENT.read_text())
    ]

    assert set(documented) == in_code
    assert len(documented) == len(in_code)


def test_the_documented_exit_statuses_are_those_of_the_code() -> None:
    in_code = {
        value for name, value in inspect.getmembers(errors) if re.fullmatch(r"EXIT_[A-Z]+", name)
    }

    documented = {int(status) for status in STATUS_ROW.findall(DOCUMENT.read_text())}

    assert documented == in_code


def test_every_exit_status_has_its_remedies() -> None:
    in_code = sorted({error.exit_status for error in named_errors()})

    headings = [int(status) for status in REMEDY_HEADING.findall(DOCUMENT.read_text())]

    assert headings == in_code
