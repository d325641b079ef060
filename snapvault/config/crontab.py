# SPDX-License-Identifier: Apache-2.0
"""Cron expressions, as far as an operator can get them wrong; model/cron.py says when they come.

That module is not used here: it takes longer to load than all policies to read.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from snapvault.config.problems import quoted

_MONTHS: Final = (
    *("jan", "feb", "mar", "apr", "may", "jun"),
    *("jul", "aug", "sep", "oct", "nov", "dec"),
)
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# Name, lowest, highest, and the words for numbers from the lowest on.
_FIELDS: Final[tuple[tuple[str, int, int, Sequence[str]], ...]] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _WEEKDAYS),
)
_PART: Final = re.compile(r"(\*|(\w+)(?:-(\w+))?)(?:/([1-9][0-9]?))?", re.ASCII)


def cron(text: str) -> str:
    """Return a cron expression that can come, with single spaces between its fields.

    Raises:
        ValueError: it is none, or there is no such day in any year.
    """
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            "expected five cron fields (minute, hour, day of month, month, day of week),"
            f" found {len(fields)} in {quoted(text, limit=60)}"
        )
    numbers: dict[str, set[int]] = {}
    for field, (name, low, high, words) in zip(fields, _FIELDS, strict=True):
        parts = [_numbers(part, low, high, words) for part in field.split(",")]
        if not all(parts):
            raise ValueError(
                f"expected a cron {name} from {low} to {high}, found {quoted(field, limit=60)}"
            )
        numbers[name] = {number for part in parts for number in part}
    # Where the weekday is restricted too, either of the two matches.
    first, months = min(numbers["day of month"]), numbers["month"]
    if fields[4].startswith("*") and first > max(_LONGEST[month - 1] for month in months):
        raise ValueError(
            f"expected a day that comes, found day {first} of months that are shorter in"
            f" {quoted(text, limit=60)}"
        )
    return " ".join(fields)


def _numbers(part: str, low: int, high: int, words: Sequence[str]) -> Iterable[int]:
    """Return what one part of a field stands for; nothing: it is wrong."""
    match = _PART.fullmatch(part.lower())
    if match is None:
        return ()
    step = int(match[4] or 1)
    if match[1] == "*":
        return range(low, high + 1, step)
    numbers = [
        low + words.index(word) if word in words else int(word) if word.isdigit() else -1
        for word in (match[2], match[3])
        if word is not None
    ]
    # A step after a single number means different things to different crons.
    if match[4] and len(numbers) == 1:
        return ()
    if numbers != sorted(numbers) or numbers[0] < low or numbers[-1] > high:
        return ()
    return range(numbers[0], numbers[-1] + 1, step)
