# SPDX-License-Identifier: Apache-2.0
"""What runs may take: rates, and the manners towards other processes."""

import re
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

from snapvault.config.problems import found, quoted
from snapvault.config.strict import Shape
from snapvault.config.values import DayWindow, needs_text
from snapvault.model.policy import Limits, UploadSpan
from snapvault.model.settings import HostLimits
from snapvault.units import parse_size

LEAST_RATE: Final = 1000

_RATE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)/s")
_BITS: Final = {"kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}
_RATE_EXPECTED: Final = 'a rate with its unit per second, such as "50 MB/s" or "100 Mbit/s"'
_UNLIMITED: Final = "unlimited"
_IO_EXPECTED: Final = '"idle", "best-effort" or "best-effort:0" to "best-effort:7"'
_IO: Final = re.compile(r"(idle)|(best-effort)(?::([0-7]))?")


def _rate(value: object) -> int:
    text = needs_text(value, _RATE_EXPECTED).strip()
    match = _RATE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        bits = _BITS.get(match[2])
        rate = int(Decimal(match[1]) * bits / 8) if bits else parse_size(f"{match[1]} {match[2]}")
    except ValueError:
        raise ValueError(f"expected {_RATE_EXPECTED}, found {quoted(text, limit=60)}") from None
    if rate < LEAST_RATE:
        raise ValueError(f"expected a rate of at least 1 kB/s, found {quoted(text, limit=60)}")
    return rate


def _rate_or_unlimited(value: object) -> int | None:
    if value == _UNLIMITED:
        return None
    if value is None:
        raise ValueError(f'expected {_RATE_EXPECTED}, or "{_UNLIMITED}", found nothing')
    return _rate(value)


def _io(value: object) -> str:
    text = needs_text(value, _IO_EXPECTED)
    if not _IO.fullmatch(text):
        raise ValueError(f"expected {_IO_EXPECTED}, found {found(text)}")
    return text


_RATE_SCHEMA: Final = WithJsonSchema({"type": "string", "examples": ["50 MB/s", "100 Mbit/s"]})

Rate = Annotated[int, BeforeValidator(_rate), _RATE_SCHEMA]
RateOrUnlimited = Annotated[
    int | None,
    BeforeValidator(_rate_or_unlimited),
    WithJsonSchema({"type": "string", "examples": ["5 MB/s", _UNLIMITED]}),
]
IoClass = Annotated[
    str,
    BeforeValidator(_io),
    WithJsonSchema({"type": "string", "pattern": f"^({_IO.pattern})$"}),
]
Nice = Annotated[int, Field(ge=0, le=19)]


class LimitsShape(Shape):
    """What each run of a policy may take."""

    upload: Rate | None = None
    """The most that is uploaded in a second; left out: as the host has it."""
    read: Rate | None = None
    """The most that is read in a second; left out: as the host has it."""
    nice: Nice | None = None
    """How far runs stand back for other processes."""
    io: IoClass | None = None
    """How far runs stand back at the disks."""


class UploadSpanShape(Shape):
    """A part of the day with an upload limit of its own."""

    window: DayWindow
    """The part of the day, in the host's own time zone."""
    upload: RateOrUnlimited
    """The most that all runs together upload in a second then."""


class HostLimitsShape(Shape):
    """What all runs of the host together may take."""

    upload: Rate | None = None
    """The most that all runs together upload in a second."""
    uploads: list[UploadSpanShape] = Field(default_factory=list)
    """Parts of the day with another one; the first that fits counts."""
    read: Rate | None = None
    """The most that all runs together read in a second."""
    nice: Nice | None = None
    """How far each run stands back for other processes, unless its policy says it."""
    io: IoClass | None = None
    """How far each run stands back at the disks, unless its policy says it."""


def run_limits(shape: LimitsShape) -> Limits:
    """Make the model value of a policy's limits."""
    return Limits(shape.upload, shape.read, shape.nice, *_io_of(shape.io))


def host_limits(shape: HostLimitsShape) -> HostLimits:
    """Make the model value of a host's limits."""
    io_class, io_level = _io_of(shape.io)
    return HostLimits(
        upload=shape.upload,
        uploads=tuple(UploadSpan(each.window, each.upload) for each in shape.uploads),
        read=shape.read,
        each=Limits(nice=shape.nice, io_class=io_class, io_level=io_level),
    )


def _io_of(text: str | None) -> tuple[str | None, int | None]:
    match = _IO.fullmatch(text or "")
    if match is None:
        return None, None
    return match[1] or match[2], None if match[3] is None else int(match[3])
