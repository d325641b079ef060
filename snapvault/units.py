# SPDX-License-Identifier: Apache-2.0
"""Sizes, durations and counts as people write and read them."""

import re
from datetime import timedelta
from decimal import Decimal
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

_SIZE_UNITS: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "PB": 10**15,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": TIB,
    "PiB": 1024 * TIB,
}
_DURATION_UNITS: Final = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}

# The bounds on digits keep a mistyped number from becoming one that takes long to multiply.
_NUMBER: Final = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_SIZE: Final = re.compile(rf"({_NUMBER}) ?([A-Za-z]+)")
_DURATION_PART: Final = re.compile(rf"({_NUMBER}) ?([a-z]+)")
_DURATION: Final = re.compile(rf"{_NUMBER} ?[a-z]+(?: ?{_NUMBER} ?[a-z]+)*")


def parse_size(text: str) -> int:
    """Read a size with its unit, `64 MiB`, `1.5GiB` or `500 MB`, as whole bytes, rounded down.

    Raises:
        ValueError: anything else, a number without a unit included; the message says
            what was expected and found.
    """
    match = _SIZE.fullmatch(text.strip())
    factor = _SIZE_UNITS.get(match[2]) if match else None
    if match is None or factor is None or (factor == 1 and "." in match[1]):
        raise ValueError(
            f'expected a size with its unit, such as "64 MiB" or "500 MB", found "{text}"'
        )
    return int(Decimal(match[1]) * factor)


def parse_duration(text: str) -> timedelta:
    """Read a duration with its units: `10m`, `26h`, `7d`, `1h 30m`, `1.5h`.

    The units are w, d, h, m, s and ms, each at most once, larger ones first.

    Raises:
        ValueError: anything else, a number without a unit included; the message says
            what was expected and found.
    """
    refusal = ValueError(
        f'expected a duration with its unit, such as "90s", "10m", "26h", "7d" or "1h 30m",'
        f' found "{text}"'
    )
    stripped = text.strip()
    if not _DURATION.fullmatch(stripped):
        raise refusal
    order = list(_DURATION_UNITS)
    microseconds = Decimal(0)
    last = -1
    for number, unit in _DURATION_PART.findall(stripped):
        if unit not in _DURATION_UNITS or order.index(unit) <= last:
            raise refusal
        last = order.index(unit)
        microseconds += Decimal(number) * (_DURATION_UNITS[unit] // timedelta(microseconds=1))
    try:
        return timedelta(microseconds=int(microseconds))
    except OverflowError:
        raise ValueError(
            f'expected a duration of less than a million years, found "{text}"'
        ) from None


def format_size(size: int) -> str:
    """Write a number of bytes with a binary unit and one decimal: `512 B`, `1.0 KiB`, `1.2 GiB`."""
    sign, rest = ("-", -size) if size < 0 else ("", size)
    if rest < KIB:
        return f"{sign}{rest} B"
    units = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    for rank, unit in enumerate(units, start=1):
        factor = KIB**rank
        tenths = (rest * 10 + factor // 2) // factor
        # Rounding may carry: 1023.96 KiB is written as 1.0 MiB.
        if tenths < KIB * 10 or unit == units[-1]:
            return f"{sign}{tenths // 10}.{tenths % 10} {unit}"
    raise AssertionError("unreachable")  # pragma: no cover - the last unit always returns


def format_duration(duration: timedelta | float) -> str:
    """Write a duration, or seconds, with its two largest units: `1h 30m`, `2d`, `4.2s`, `0.3s`.

    Rounded; `parse_duration` reads what it writes, unless it is negative.
    """
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if round(seconds, 1) < 10 and round(seconds, 1) != round(seconds):
        return f"{seconds:.1f}s"
    # Rounding to what the second unit can show comes first, so that 59m 59.9s becomes 1h.
    whole = round(seconds)
    if whole >= 86400:
        whole = round(whole / 3600) * 3600
    elif whole >= 3600:
        whole = round(whole / 60) * 60
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, length)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def format_count(count: int, singular: str | None = None, plural: str | None = None) -> str:
    """Write a count with separators and its noun: `16,384`, `1 volume`, `3 volumes`.

    The plural is the singular with an `s` unless it is given.
    """
    if singular is None:
        return f"{count:,}"
    noun = singular if count == 1 else (plural or f"{singular}s")
    return f"{count:,} {noun}"
