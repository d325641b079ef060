# SPDX-License-Identifier: Apache-2.0
"""The kinds of values that settings and policies are made of, as pydantic reads them.

Each refuses with a `ValueError` that says "expected ..., found ...".
"""

import re
from collections.abc import Callable
from datetime import time, timedelta
from difflib import get_close_matches
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    WithJsonSchema,
)

from snapvault.config.crontab import cron
from snapvault.config.problems import HintedValueError, found, quoted
from snapvault.config.zones import is_zone, nearest_zone
from snapvault.model.policy import NAME_LENGTH, Window, is_name
from snapvault.model.prices import ARCHIVES
from snapvault.units import MIB, format_duration, format_size, parse_duration, parse_size

MIN_VOLUME_SIZE: Final = MIB
MAX_VOLUME_SIZE: Final = 1024 * MIB
# Dates end in the year 9999, and what waits does so in 64 bits.
LONGEST_DURATION: Final = timedelta(days=36500)

_WINDOW: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")
# LIMIT: 3 to 63 of these characters (Amazon S3 User Guide, "Bucket naming rules").
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# What is safe in names of objects everywhere; the rest of a name needs the room.
_PREFIX: Final = re.compile(r"[A-Za-z0-9!_.*'()/-]{0,100}")
# LIMIT: what boto3 takes for a region.
_REGION: Final = re.compile(r"(?![0-9]+$)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
# LIMIT: lvm(8), "Valid names": these characters, no hyphen first, neither "." nor "..".
_LVM_NAME: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9+_.][A-Za-z0-9+_.-]{0,126}"
_LOGICAL_VOLUME: Final = re.compile(rf"{_LVM_NAME}/{_LVM_NAME}")
_PERCENTAGE: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%")
_ROLE: Final = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]+", re.ASCII)
_STORAGE_CLASS: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def needs_text(value: object, expected: str) -> str:
    """Refuse what is no text."""
    if not isinstance(value, str):
        # Pydantic reports a ValueError as a problem of the file and lets a TypeError through.
        raise ValueError(f"expected {expected}, found {found(value)}")  # noqa: TRY004 - see above
    return value


def _duration(value: object) -> timedelta:
    text = needs_text(value, 'a duration with its unit, such as "10m" or "26h"')
    return _at_most(parse_duration(text), LONGEST_DURATION, text)


def _at_most(duration: timedelta, most: timedelta, text: object) -> timedelta:
    if duration > most:
        raise ValueError(
            f"expected a duration of at most {format_duration(most)}, found {found(text)}"
        )
    return duration


def _positive_duration(value: object) -> timedelta:
    duration = _duration(value)
    if not duration:
        raise ValueError(f"expected a duration longer than zero, found {found(value)}")
    return duration


def duration_from(least: timedelta, most: timedelta) -> Callable[[object], timedelta]:
    """Return what reads a duration between two others, both included."""

    def check(value: object) -> timedelta:
        duration = _at_most(_duration(value), most, value)
        if duration < least:
            raise ValueError(
                f"expected a duration of at least {format_duration(least)}, found {found(value)}"
            )
        return duration

    return check


def _volume_size(value: object) -> int:
    size = parse_size(needs_text(value, 'a size with its unit, such as "64 MiB"'))
    if not MIN_VOLUME_SIZE <= size <= MAX_VOLUME_SIZE:
        raise ValueError(
            f"expected a size from {format_size(MIN_VOLUME_SIZE)} to"
            f" {format_size(MAX_VOLUME_SIZE)}, found {found(value)}"
        )
    return size


def _room(value: object) -> int:
    return parse_size(needs_text(value, 'a size with its unit, such as "1 GiB"'))


def _window(value: object) -> Window:
    expected = 'a span of the day such as "22:00-06:00"'
    match = _WINDOW.fullmatch(needs_text(value, expected))
    if match is None or match[1] + match[2] == match[3] + match[4]:
        raise ValueError(f"expected {expected}, found {found(value)}")
    hours = [int(group) for group in match.groups()]
    return Window(time(hours[0], hours[1]), time(hours[2], hours[3]))


def _name(text: str) -> str:
    if is_name(text):
        return text
    message = (
        f"expected a name of at most {NAME_LENGTH} of a-z, 0-9, dots, hyphens and underscores"
        f" that starts with a letter or digit, found {quoted(text, limit=80)}"
    )
    other = "-".join(text.lower().split())
    raise _hinted(message, f"Write {quoted(other)}." if is_name(other) else None)


def _some_text(expected: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not text.strip():
            raise ValueError(f"expected {expected}, found {quoted(text)}")
        return text

    return check


def _zone(text: str) -> str:
    if is_zone(text):
        return text
    message = (
        f'expected a time zone such as "Europe/Paris" or "UTC", found {quoted(text, limit=60)}'
    )
    near = nearest_zone(text)
    raise _hinted(message, near and f"Did you mean {quoted(near)}?")


def _store(text: str) -> str:
    message = (
        'expected a store such as "s3://bucket/prefix" or "file:///folder",'
        f" found {quoted(text, limit=60)}"
    )
    kind, separator, rest = text.partition("://")
    rest = rest.rstrip("/")
    if kind == "s3" and separator:
        bucket, _, prefix = rest.partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise HintedValueError(
                message,
                hint="A bucket's name has 3 to 63 of a-z, 0-9, dots and hyphens, the first and the"
                " last a letter or a digit.",
            )
        parts = prefix.split("/") if prefix else []
        if not _PREFIX.fullmatch(prefix) or any(part in ("", ".", "..") for part in parts):
            raise HintedValueError(
                message,
                hint="A prefix has at most 100 letters, digits, dots, dashes and single slashes.",
            )
        return f"s3://{rest}"
    if kind == "file" and rest.startswith("/"):
        if "?" in rest or "#" in rest:
            raise HintedValueError(message, hint='The folder\'s name cannot have "?" or "#".')
        return f"file://{rest}"
    raise _hinted(message, _store_hint(text, kind))


def _store_hint(text: str, kind: str) -> str | None:
    if text.startswith("/"):
        return f"Write {quoted('file://' + text)}."
    if kind == "file":
        return "Write three slashes: file:///folder."
    if kind in ("http", "https"):
        return 'Write the bucket as s3://bucket, and the address as "endpoint_url".'
    return None


def _hinted(message: str, hint: str | None) -> ValueError:
    return ValueError(message) if hint is None else HintedValueError(message, hint=hint)


def _endpoint(text: str) -> str:
    refusal = ValueError(
        f'expected an address such as "https://s3.example.org:9000", found {quoted(text)}'
    )
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        raise refusal from None
    # Addresses are shown in messages and logs, where no password belongs.
    if url.username is not None or url.password is not None:
        raise ValueError("expected an address without user and password, found one with them")
    if not good or any(c.isspace() for c in text) or url.query or url.fragment:
        raise refusal
    return text.rstrip("/")


def _storage_class(text: str) -> str:
    expected = (
        'expected a storage class whose objects can be read at once, such as "STANDARD_IA"'
        f' or "GLACIER_IR", found {quoted(text, limit=60)}'
    )
    if text in ARCHIVES:
        raise HintedValueError(
            expected,
            hint="Manifests, maps and lists are read every night. Volumes alone may lie in an"
            f' archive: "volume_storage_class: {text}".',
        )
    if not _STORAGE_CLASS.fullmatch(text):
        raise ValueError(expected)
    return text


_CLASSES_OF_AWS: Final = (
    "STANDARD",
    "INTELLIGENT_TIERING",
    "STANDARD_IA",
    "ONEZONE_IA",
    "GLACIER_IR",
    "GLACIER",
    "DEEP_ARCHIVE",
    "REDUCED_REDUNDANCY",
)


def _no_typo_of_class(text: str) -> str:
    """Refuse what is nearly a storage class of AWS; other providers have others."""
    near = get_close_matches(text, _CLASSES_OF_AWS, 1, cutoff=0.85)
    if near and text not in _CLASSES_OF_AWS:
        raise HintedValueError(
            f"expected a storage class, found {quoted(text, limit=60)}",
            hint=f"Did you mean {quoted(near[0])}?",
        )
    return text


def _duration_or_never(value: object) -> timedelta | None:
    if value == "never":
        return None
    text = needs_text(value, 'a duration with its unit, such as "30d", or "never"')
    return _positive_duration(text)


def percent(text: str) -> float:
    """Read a percentage, `0.1%`.

    Raises:
        ValueError: the text is anything else.
    """
    match = _PERCENTAGE.fullmatch(text.strip())
    if match is None or not 0 < float(match[1]) <= 100:
        raise ValueError(
            f'expected a percentage above 0% and up to 100%, such as "0.1%",'
            f" found {quoted(text, limit=60)}"
        )
    return float(match[1])


def budget(text: str) -> float:
    """Read a percentage that may be nothing at all, `0%`.

    Raises:
        ValueError: the text is anything else.
    """
    match = _PERCENTAGE.fullmatch(text.strip())
    if match is None or not float(match[1]) <= 100:
        raise ValueError(
            f'expected a percentage from 0% to 100%, such as "15%", found {quoted(text, limit=60)}'
        )
    return float(match[1])


def snapshot_room(text: str) -> tuple[int | None, int | None]:
    """Read the room for a snapshot: bytes, or else a percentage of the volume, one of the two.

    Raises:
        ValueError: the text is anything else.
    """
    stripped = text.strip()
    if stripped.endswith("%"):
        number = stripped[:-1].strip()
        if number.isdecimal() and number.isascii() and 1 <= int(number[:4]) <= 100:
            return None, int(number)
        raise ValueError(
            f"expected a whole percentage from 1% to 100%, found {quoted(text, limit=60)}"
        )
    try:
        size = parse_size(stripped)
    except ValueError:
        raise ValueError(
            'expected a size with its unit, such as "10 GiB", or a percentage of the volume,'
            f' such as "20%", found {quoted(text, limit=60)}'
        ) from None
    if size < MIB:
        raise ValueError(f"expected a size of at least {format_size(MIB)}, found {quoted(text)}")
    return size, None


def least_size(text: str) -> tuple[int | None, float | None]:
    """Read how small is suspicious: bytes, or else a percentage of the point before.

    Raises:
        ValueError: the text is anything else.
    """
    stripped = text.strip()
    if stripped.endswith("%"):
        return None, percent(stripped)
    try:
        size = parse_size(stripped)
    except ValueError:
        raise ValueError(
            'expected a size with its unit, such as "1 GiB", or a percentage of the restore point'
            f' before, such as "50%", found {quoted(text, limit=60)}'
        ) from None
    if not size:
        raise ValueError(f"expected a size above zero, found {quoted(text)}")
    return size, None


def checked(read: Callable[[str], object], expected: str) -> Callable[[object], str]:
    """Return what keeps a text as it is written, when it can be read."""

    def check(value: object) -> str:
        text = needs_text(value, expected)
        read(text)
        return text

    return check


def _logical_volume(text: str) -> str:
    if _LOGICAL_VOLUME.fullmatch(text):
        return text
    message = f'expected a logical volume such as "vg0/root", found {quoted(text, limit=80)}'
    device = text.removeprefix("/dev/")
    if device.startswith("mapper/"):
        raise HintedValueError(
            message, hint="Write the volume group, a slash and the logical volume; lvs lists both."
        )
    if device != text and _LOGICAL_VOLUME.fullmatch(device):
        raise HintedValueError(message, hint=f"Write {quoted(device)}.")
    raise ValueError(message)


def _matching(pattern: re.Pattern[str], expected: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"expected {expected}, found {quoted(text, limit=60)}")
        return text

    return check


def unique(texts: list[str]) -> list[str]:
    """Refuse a list that has something twice."""
    for position, text in enumerate(texts):
        if text in texts[:position]:
            raise ValueError(f"expected each entry once, found {quoted(text, limit=60)} twice")
    return texts


def _program_line(texts: list[str]) -> list[str]:
    if not texts:
        raise ValueError("expected at least one entry, found none")
    if not texts[0].strip():
        raise ValueError("expected the name of a program first, found no name")
    return texts


def _variables(variables: dict[str, str]) -> dict[str, str]:
    if any(not name or "=" in name for name in variables):
        raise ValueError('expected names of variables without "="')
    return variables


DURATION_SCHEMA: Final = WithJsonSchema(
    {"type": "string", "examples": ["90s", "10m", "26h", "7d", "1h 30m"]}
)

PositiveDuration = Annotated[timedelta, BeforeValidator(_positive_duration), DURATION_SCHEMA]
# As often as once a second, and no further off than dates go.
Interval = Annotated[
    timedelta,
    BeforeValidator(duration_from(timedelta(seconds=1), LONGEST_DURATION)),
    DURATION_SCHEMA,
]
UpToAWeek = Annotated[
    timedelta,
    BeforeValidator(duration_from(timedelta(0), timedelta(days=7))),
    DURATION_SCHEMA,
]
VolumeSize = Annotated[
    int,
    BeforeValidator(_volume_size),
    WithJsonSchema({"type": "string", "examples": ["64 MiB", "500 MB"]}),
]
Room = Annotated[
    int,
    BeforeValidator(_room),
    WithJsonSchema({"type": "string", "examples": ["1 GiB", "0 B"]}),
]
DayWindow = Annotated[
    InstanceOf[Window],
    BeforeValidator(_window),
    WithJsonSchema({"type": "string", "pattern": f"^{_WINDOW.pattern}$"}),
]
Name = Annotated[str, AfterValidator(_name)]
PathText = Annotated[str, AfterValidator(_some_text("a path"))]
KeyText = Annotated[str, AfterValidator(_some_text("a fingerprint, key id or e-mail address"))]
ZoneName = Annotated[str, AfterValidator(_zone), WithJsonSchema({"type": "string"})]
Cron = Annotated[str, AfterValidator(cron)]
Region = Annotated[
    str, AfterValidator(_matching(_REGION, 'the name of a region such as "eu-west-1"'))
]
StoreUrl = Annotated[str, AfterValidator(_store)]
EndpointUrl = Annotated[str, AfterValidator(_endpoint)]
StorageClass = Annotated[str, AfterValidator(_storage_class), AfterValidator(_no_typo_of_class)]
AnyStorageClass = Annotated[
    str,
    AfterValidator(_matching(_STORAGE_CLASS, 'a storage class such as "STANDARD_IA"')),
    AfterValidator(_no_typo_of_class),
]
Count = Annotated[int, Field(ge=0, le=100_000)]
Level = Annotated[int, Field(ge=1, le=19)]
PositiveCount = Annotated[int, Field(ge=1, le=100_000)]
JobCount = Annotated[int, Field(ge=1, le=1000)]
TcpPort = Annotated[int, Field(ge=1, le=65535)]
DurationOrNever = Annotated[
    timedelta | None,
    BeforeValidator(_duration_or_never),
    WithJsonSchema({"type": "string", "examples": ["30d", "never"]}),
]
Percentage = Annotated[
    str,
    BeforeValidator(checked(percent, 'a percentage such as "0.1%"')),
    WithJsonSchema({"type": "string", "examples": ["0.1%", "5%"]}),
]
Budget = Annotated[
    str,
    BeforeValidator(checked(budget, 'a percentage such as "15%"')),
    WithJsonSchema({"type": "string", "examples": ["0%", "15%"]}),
]
SnapshotSize = Annotated[
    str,
    BeforeValidator(
        checked(snapshot_room, 'a size such as "10 GiB" or a percentage such as "20%"')
    ),
    WithJsonSchema({"type": "string", "examples": ["10 GiB", "20%"]}),
]
LeastSize = Annotated[
    str,
    BeforeValidator(checked(least_size, 'a size such as "1 GiB" or a percentage such as "50%"')),
    WithJsonSchema({"type": "string", "examples": ["1 GiB", "50%"]}),
]
SomeText = Annotated[str, AfterValidator(_some_text("some text"))]
Texts = Annotated[list[SomeText], AfterValidator(unique)]
Names = Annotated[list[Name], AfterValidator(unique)]
ProgramLine = Annotated[
    list[str], AfterValidator(_program_line), Field(json_schema_extra={"minItems": 1})
]
Variables = Annotated[dict[str, str], AfterValidator(_variables)]
LogicalVolume = Annotated[str, AfterValidator(_logical_volume)]
InstanceId = Annotated[
    str,
    AfterValidator(
        _matching(re.compile("i-[0-9a-f]{8,17}"), 'an instance id such as "i-0123456789abcdef0"')
    ),
]
DiskVolumeId = Annotated[
    str,
    AfterValidator(
        _matching(re.compile("vol-[0-9a-f]{8,17}"), 'a volume id such as "vol-0123456789abcdef0"')
    ),
]
AwsRole = Annotated[
    str,
    AfterValidator(_matching(_ROLE, 'a role such as "arn:aws:iam::123456789012:role/backup"')),
]
