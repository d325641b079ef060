# SPDX-License-Identifier: Apache-2.0
"""Policies: what to protect, when, for how long, and with which objectives."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time, timedelta
from pathlib import Path
from typing import Final

NAME_LENGTH: Final = 64
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]*")

DEFAULT_VOLUME_SIZE: Final = 64 * 1024 * 1024
DEFAULT_COMPRESSION_LEVEL: Final = 3


def is_name(text: str) -> bool:
    """Tell whether a text can name a source, a stream or a vault.

    Names become parts of object names and of file names, hence the narrow alphabet;
    the first character keeps out `.`, `..` and what looks like an option.
    """
    return len(text) <= NAME_LENGTH and _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Window:
    """The half-open span [start, end) of a day; past midnight when `end` is not after `start`."""

    start: time
    end: time


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a policy runs: by a cron expression, or every so often; exactly one of the two.

    `timezone` is an IANA name, or None for the host's own zone. `jitter` delays each run by
    a random time up to itself. `catch_up` runs once, soon, when a run was missed. A run starts
    inside `window` only.
    """

    cron: str | None = None
    every: timedelta | None = None
    timezone: str | None = None
    jitter: timedelta = timedelta(0)
    catch_up: bool = True
    window: Window | None = None

    def __post_init__(self) -> None:
        if (self.cron is None) == (self.every is None):
            raise ValueError("a schedule has either cron or every")


@dataclass(frozen=True, slots=True)
class Objectives:
    """The most data (`rpo`) and the most time (`rto`) that a disaster may cost; None: not said."""

    rpo: timedelta | None = None
    rto: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """How many restore points each rule keeps, and for how long all are kept; never nothing."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: timedelta | None = None

    def __post_init__(self) -> None:
        counts = (self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly)
        if min(counts) < 0:
            raise ValueError("a retention rule keeps no less than zero restore points")
        if not any(counts) and self.within is None:
            raise ValueError("a retention keeps at least one restore point")


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """A raw disk image or a block device, by its absolute path."""

    path: Path


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A program whose standard output is the stream.

    `run` is the program and its arguments, never empty, run without a shell. `environment` is
    added to SnapVault's own, and left out of `repr`, because passwords are put there. An empty
    output is a failure unless `allow_empty`. `working_directory` is absolute, or None for
    SnapVault's own. `timeout` None: no limit.
    """

    run: tuple[str, ...]
    allow_empty: bool = False
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    working_directory: Path | None = None
    timeout: timedelta | None = None

    def __post_init__(self) -> None:
        if not self.run:
            raise ValueError("a command has at least the program's name")


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream of a source, and where its bytes come from."""

    name: str
    spec: ImageSpec | CommandSpec

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"not a stream name: {self.name!r}")

    @property
    def kind(self) -> str:
        """The key that the policy writes it under."""
        return "image" if isinstance(self.spec, ImageSpec) else "command"


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One thing protected: its streams in the policy's order, never empty, names unique.

    `single` says that the policy gave one kind directly, without `streams`; the stream is
    then named like its kind.
    """

    name: str
    streams: tuple[StreamSpec, ...]
    single: bool = False

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"not a source name: {self.name!r}")
        names = [stream.name for stream in self.streams]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"source {self.name!r} needs streams with names of their own")


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy file. `name` is the file's name without its ending; `vault` is a name.

    `schedule` None: runs only when asked. `retention` None: nothing expires. A policy that is
    not `enabled` is not scheduled, but its sources can still be backed up by name.
    `volume_size` is in bytes, before compression.
    """

    name: str
    path: Path
    vault: str
    sources: tuple[SourceSpec, ...]
    schedule: Schedule | None = None
    objectives: Objectives = Objectives()
    retention: Retention | None = None
    volume_size: int = DEFAULT_VOLUME_SIZE
    compression_level: int = DEFAULT_COMPRESSION_LEVEL
    enabled: bool = True
