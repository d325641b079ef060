# SPDX-License-Identifier: Apache-2.0
"""Policies: what to protect, when, for how long, and with which objectives."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time, timedelta
from pathlib import Path
from typing import Final

from snapvault.model.rehearsal import Choice, DrillStep

NAME_LENGTH: Final = 64
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]*")

DEFAULT_VOLUME_SIZE: Final = 64 * 1024 * 1024
DEFAULT_COMPRESSION_LEVEL: Final = 3
DEFAULT_FINE_HASHES: Final = 1 << 30


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
    """The most data (`rpo`) and the most time (`rto`) that a disaster may cost; None: not said.

    `drill` is the age that the newest good drill may reach. A restore point smaller than
    `min_size` bytes, or than `min_size_percent` of the one before it, is suspicious.
    """

    rpo: timedelta | None = None
    rto: timedelta | None = None
    drill: timedelta | None = None
    min_size: int | None = None
    min_size_percent: float | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """How a failed run is tried again: `attempts` in all, the pause doubling from `delay` on."""

    attempts: int = 3
    delay: timedelta = timedelta(minutes=5)
    max_delay: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may take; None: no limit, or as the host has it.

    `upload` and `read` are in bytes per second. `nice` is from 0 to 19, `io_class`
    `best-effort` or `idle`, `io_level` from 0 to 7 (the least).
    """

    upload: int | None = None
    read: int | None = None
    nice: int | None = None
    io_class: str | None = None
    io_level: int | None = None


@dataclass(frozen=True, slots=True)
class UploadSpan:
    """Part of the day with an upload limit of its own; None: none then."""

    window: Window
    upload: int | None


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
    """A disk image or a block device, by its absolute path: one disk.

    `format` is `raw` or `qcow2`. None: raw, but a file that looks like another format is refused.
    A format is never guessed: whoever writes into a raw disk could make it look like a
    qcow2 image that has a file of the host below it.
    """

    path: Path
    format: str | None = None


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
class LvmSpec:
    """A logical volume, thick or thin, as `group/volume`: one disk, read from a snapshot.

    What a thick one's snapshot may take for what is overwritten meanwhile: `snapshot_size` bytes,
    or else `snapshot_percent` of the volume. Thin snapshots take what they need from their pool.
    """

    volume: str
    snapshot_size: int | None = None
    snapshot_percent: int = 20


@dataclass(frozen=True, slots=True)
class EbsSpec:
    """EBS volumes: those of an instance, snapshot together, or one; exactly one of the two.

    `devices` picks volumes of the instance by device name or volume id; empty: all. `region`,
    `profile`, `role_arn` and `endpoint_url` are None where boto3's own default counts.
    `keep_snapshots` is how many of our EBS snapshots of a volume stay, at least 1: the next
    increment needs the newest. `timeout` bounds the wait for snapshots to complete.
    """

    instance: str | None = None
    volume: str | None = None
    devices: tuple[str, ...] = ()
    region: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    endpoint_url: str | None = None
    keep_snapshots: int = 1
    requests_per_second: int = 500
    timeout: timedelta = timedelta(hours=6)

    def __post_init__(self) -> None:
        if (self.instance is None) == (self.volume is None):
            raise ValueError("EBS needs either an instance or a volume")
        if self.keep_snapshots < 1:
            raise ValueError("the next increment needs the newest snapshot")


@dataclass(frozen=True, slots=True)
class QemuSpec:
    """A running QEMU machine: its disks, through its QMP socket, and its definition.

    `agent` is the guest agent's socket; the guest is frozen if there is one, and a silent agent
    is a failure. `domain` is the name that libvirt has for it, at `libvirt_uri`. `disks` picks
    disks by device id or node name; empty: all that can be written to. `scratch` is a folder
    for what the guest overwrites while it is read; None: a private one in the state folder.
    """

    qmp: Path
    agent: Path | None = None
    domain: str | None = None
    libvirt_uri: str | None = None
    disks: tuple[str, ...] = ()
    scratch: Path | None = None


@dataclass(frozen=True, slots=True)
class MysqlSpec:
    """A MariaDB or MySQL server, reached as the option file `defaults_file` says.

    Dumped: `databases`, or all if empty, in one stream, or one for each if `per_database`. With
    `lvm`, no dump is made: the server is held by FLUSH TABLES WITH READ LOCK, for at most
    `lock_timeout`, while that logical volume (with the data directory) is snapshot.
    `timeout` None: a dump may take as long as it takes.
    """

    defaults_file: Path | None = None
    databases: tuple[str, ...] = ()
    per_database: bool = False
    lvm: LvmSpec | None = None
    lock_timeout: timedelta = timedelta(seconds=60)
    timeout: timedelta | None = None


@dataclass(frozen=True, slots=True)
class PostgresqlSpec:
    """A PostgreSQL server, reached as libpq does: by `service`, or `host`, `port` and `user`.

    One stream for each of `databases` (empty: all that take connections), and, with `globals`, one
    for roles and tablespaces. With `base_backup` the whole cluster instead, as
    pg_basebackup sends it. `password_file` is in libpq's format.
    """

    databases: tuple[str, ...] = ()
    include_globals: bool = True
    base_backup: bool = False
    service: str | None = None
    host: str | None = None
    port: int | None = None
    user: str | None = None
    password_file: Path | None = None
    timeout: timedelta | None = None


@dataclass(frozen=True, slots=True)
class DirectorySpec:
    """A folder tree as one archive. `exclude` are shell patterns below `path`."""

    path: Path
    exclude: tuple[str, ...] = ()
    one_file_system: bool = False


KindSpec = (
    ImageSpec
    | CommandSpec
    | LvmSpec
    | EbsSpec
    | QemuSpec
    | MysqlSpec
    | PostgresqlSpec
    | DirectorySpec
)

KINDS: Final[Mapping[type[KindSpec], str]] = {
    ImageSpec: "image",
    CommandSpec: "command",
    LvmSpec: "lvm",
    EbsSpec: "ebs",
    QemuSpec: "qemu",
    MysqlSpec: "mysql",
    PostgresqlSpec: "postgresql",
    DirectorySpec: "directory",
}


@dataclass(frozen=True, slots=True)
class HookSpec:
    """A program to run at one moment of a backup, without a shell.

    `environment` is left out of `repr`, because passwords are put there. `on_failure` is `abort`
    or `warn`.
    """

    run: tuple[str, ...]
    timeout: timedelta = timedelta(minutes=5)
    on_failure: str = "abort"
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class HooksSpec:
    """Programs around a source, and around the moment alone in which its snapshots are taken.

    `before` runs before it is opened, `after` after it was closed. `thaw` always runs if `freeze`
    was started, `after` if `before` was; their failures are warnings.
    """

    before: HookSpec | None = None
    freeze: HookSpec | None = None
    thaw: HookSpec | None = None
    after: HookSpec | None = None


@dataclass(frozen=True, slots=True)
class Hints:
    """How far a platform is trusted that tells what changed.

    `sample_percent` of what is told to be unchanged is read and compared each time, and everything
    is read again once the last full read is `full_read_every` old; None: never.
    """

    sample_percent: float = 0.1
    full_read_every: timedelta | None = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Rewriting:
    """How much is stored again, so that old volumes can go.

    At most `budget_percent` of what changes; 0: nothing.
    """

    budget_percent: float = 15.0


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One entry of a source's `streams`, and where its bytes come from.

    Most kinds give one stream, which gets this name. A kind that gives several (the disks of
    a machine, a stream for each database) names them after it: `name.own-name`; of
    a `single` source they have their own names alone.
    """

    name: str
    spec: KindSpec

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"not a stream name: {self.name!r}")

    @property
    def kind(self) -> str:
        """The key that the policy writes it under."""
        return KINDS[type(self.spec)]


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One thing protected: its streams in the policy's order, never empty, names unique.

    `single` says that the policy gave one kind directly, without `streams`; the stream is
    then named like its kind.
    """

    name: str
    streams: tuple[StreamSpec, ...]
    single: bool = False
    hooks: HooksSpec = HooksSpec()

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"not a source name: {self.name!r}")
        names = [stream.name for stream in self.streams]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"source {self.name!r} needs streams with names of their own")


@dataclass(frozen=True, slots=True)
class DrillSpec:
    """A policy's `drill`. `steps` are in order: when one fails, those after it are skipped.

    `schedule` None: only when asked. A random point is one of the last `within` (None: any kept).
    `gnupg_home` and `passphrase_file` are where the recovery key is for a drill; None: the
    vault's own (with a `gnupg_home`: no passphrase). `scratch` takes what is restored; None:
    a private folder in /var/tmp, since users of scratch servers may not enter the state folder.
    """

    steps: tuple[DrillStep, ...]
    schedule: Schedule | None = None
    choice: Choice = Choice.LATEST
    within: timedelta | None = None
    gnupg_home: Path | None = None
    passphrase_file: Path | None = None
    scratch: Path | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy file. `name` is the file's name without its ending; `vault` is a name.

    `schedule` None: runs only when asked. `retention` None: nothing expires. A policy that is
    not `enabled` is not scheduled, but its sources can still be backed up by name.
    `volume_size` is in bytes, before compression. `fine_hashes` is how many bytes of finer hashes,
    and of tags, this host keeps of a dump or disk. At most `max_jobs` of its sources run at one
    time; None: as many as the host lets. Restore points are copied to the vaults `copy_to`,
    and kept there by `copy_retention`; None: as in the vault. `notify` are names of the settings'
    notifiers; None: all.
    """

    name: str
    path: Path
    vault: str
    sources: tuple[SourceSpec, ...]
    schedule: Schedule | None = None
    objectives: Objectives = Objectives()
    retention: Retention | None = None
    copy_to: tuple[str, ...] = ()
    copy_retention: Retention | None = None
    volume_size: int = DEFAULT_VOLUME_SIZE
    compression_level: int = DEFAULT_COMPRESSION_LEVEL
    fine_hashes: int = DEFAULT_FINE_HASHES
    enabled: bool = True
    hints: Hints = Hints()
    rewriting: Rewriting = Rewriting()
    max_jobs: int | None = None
    retry: Retry = Retry()
    limits: Limits = Limits()
    notify: tuple[str, ...] | None = None
    drill: DrillSpec | None = None
