# SPDX-License-Identifier: Apache-2.0
"""The shape of each kind of source, key by key."""

from datetime import timedelta
from typing import Any, Final, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from snapvault.config.problems import HintedValueError, found, quoted
from snapvault.config.strict import Shape
from snapvault.config.values import (
    AwsRole,
    DiskVolumeId,
    EndpointUrl,
    InstanceId,
    LogicalVolume,
    Name,
    PathText,
    PositiveCount,
    PositiveDuration,
    ProgramLine,
    Region,
    SnapshotSize,
    SomeText,
    TcpPort,
    Texts,
    Variables,
)

# What a policy may name and this release does not read, with what to write in its place.
LATER_KINDS: Final = {
    "libvirt": 'Use "qemu" with the name that libvirt has for the machine as "domain".',
    "sqlite": 'Use "command" with a program that writes the database out: sqlite3 FILE .dump.',
}
# Other words for what there is.
OTHER_WORDS: Final = {
    "files": "directory",
    "folder": "directory",
    "postgres": "postgresql",
}


class ImageShape(Shape):
    """A disk image or a block device."""

    path: PathText
    """The file or device; relative to the policy file."""
    format: Literal["raw", "qcow2"] | None = None
    """The format of the image; left out: raw, and what looks like another is refused."""


class CommandShape(Shape):
    """A program whose standard output is kept."""

    run: ProgramLine
    """The program and its arguments; no shell."""
    allow_empty: bool = False
    """Whether an empty output is a restore point and no failure."""
    environment: Variables = Field(default_factory=dict)
    """Variables added to SnapVault's own environment."""
    working_directory: PathText | None = None
    """The folder to run in; relative to the policy file."""
    timeout: PositiveDuration | None = None
    """The longest time that the program may take."""


class LvmShape(Shape):
    """A logical volume, read from a snapshot."""

    volume: LogicalVolume
    """The logical volume, as group/volume."""
    snapshot_size: SnapshotSize = "20%"
    """The room for what is overwritten meanwhile: a size, or a part of the volume."""


class EbsShape(Shape):
    """EBS volumes: all or some of an instance, or one."""

    instance: InstanceId | None = None
    """The instance whose volumes are taken, at one moment."""
    volume: DiskVolumeId | None = None
    """Instead of an instance: the one volume."""
    devices: Texts = Field(default_factory=list)
    """The volumes of the instance by device name or volume id; left out: all."""
    region: Region | None = None
    """The AWS region; left out: what boto3 finds."""
    profile: SomeText | None = None
    """The profile of the AWS configuration."""
    role_arn: AwsRole | None = None
    """A role to take on, of this or of another account."""
    endpoint_url: EndpointUrl | None = None
    """The address of the EC2 and EBS services; left out: AWS."""
    keep_snapshots: PositiveCount = 1
    """How many EBS snapshots of a volume stay."""
    requests_per_second: PositiveCount = 500
    """The most requests for blocks in a second."""
    timeout: PositiveDuration = timedelta(hours=6)
    """The longest wait for snapshots to complete."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.instance is None) == (self.volume is None):
            names = "none" if self.volume is None else "both"
            raise ValueError(f'expected exactly one of "instance" and "volume", found {names}')
        if self.devices and self.instance is None:
            raise ValueError('expected "devices" with "instance" only, found it with "volume"')
        return self


class QemuShape(Shape):
    """A running QEMU machine."""

    qmp: PathText
    """The machine's QMP socket."""
    agent: PathText | None = None
    """The guest agent's socket; the guest's file systems are frozen through it."""
    domain: SomeText | None = None
    """The name that libvirt has for the machine; its definition is kept too."""
    libvirt_uri: SomeText | None = None
    """Where libvirt is; left out: virsh's own default."""
    disks: Texts = Field(default_factory=list)
    """Disks by device id or node name; left out: all that can be written to."""
    scratch: PathText | None = None
    """A folder for what the guest overwrites while it is read."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.libvirt_uri is not None and self.domain is None:
            raise ValueError('expected "libvirt_uri" with "domain" only, found it alone')
        return self


class MysqlShape(Shape):
    """A MariaDB or MySQL server."""

    defaults_file: PathText | None = None
    """An option file that says how to reach the server, as whom and with which password."""
    databases: Texts = Field(default_factory=list)
    """The databases to dump; left out: all."""
    per_database: bool = False
    """Whether each database is a stream of its own."""
    lvm: LvmShape | None = None
    """Instead of a dump: the logical volume with the data directory, read from a snapshot."""
    lock_timeout: PositiveDuration = timedelta(seconds=60)
    """The longest wait for a locked table; with lvm, the longest time to lock all of them."""
    timeout: PositiveDuration | None = None
    """The longest time that a dump may take."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = "databases" if self.databases else "per_database" if self.per_database else None
        if self.lvm is not None and given is not None:
            raise ValueError(
                f'expected at most one of {quoted(given)} and "lvm", found both: a logical volume'
                " is backed up whole"
            )
        return self


class PostgresqlShape(Shape):
    """A PostgreSQL server."""

    databases: Texts = Field(default_factory=list)
    """The databases to dump, each a stream; left out: all that take connections."""
    globals: bool = True
    """Whether roles and tablespaces are a stream too."""
    base_backup: bool = False
    """Instead of dumps: the whole cluster, as pg_basebackup sends it."""
    service: SomeText | None = None
    """The service of libpq's service file that says how to reach the server."""
    host: SomeText | None = None
    """The server's name, or the folder of its socket."""
    port: TcpPort | None = None
    """The server's port."""
    user: SomeText | None = None
    """The role to connect as."""
    password_file: PathText | None = None
    """A file with passwords, in libpq's format."""
    timeout: PositiveDuration | None = None
    """The longest time that one dump may take."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.base_backup:
            asked = "globals" if self.globals and "globals" in self.model_fields_set else None
            given = "databases" if self.databases else asked
            if given is not None:
                raise ValueError(
                    f'expected at most one of "base_backup" and {quoted(given)}, found both: a base'
                    " backup holds the whole cluster"
                )
        for key in ("host", "port", "user"):
            if self.service is not None and getattr(self, key) is not None:
                raise ValueError(f'expected at most one of "service" and {quoted(key)}, found both')
        return self


class DirectoryShape(Shape):
    """A folder tree as one archive."""

    path: PathText
    """The folder; relative to the policy file."""
    exclude: Texts = Field(default_factory=list)
    """Shell patterns of what is left out, below the folder."""
    one_file_system: bool = False
    """Whether what is mounted below is left out."""


class StreamShape(Shape):
    """Where one stream comes from: exactly one kind."""

    image: ImageShape | None = None
    """A disk image or a block device."""
    command: CommandShape | None = None
    """The output of a program."""
    lvm: LvmShape | None = None
    """A logical volume, from a snapshot."""
    ebs: EbsShape | None = None
    """EBS volumes, from EBS snapshots."""
    qemu: QemuShape | None = None
    """A running QEMU machine."""
    mysql: MysqlShape | None = None
    """A MariaDB or MySQL server."""
    mariadb: MysqlShape | None = None
    """The same as mysql."""
    postgresql: PostgresqlShape | None = None
    """A PostgreSQL server."""
    directory: DirectoryShape | None = None
    """A folder tree."""

    @property
    def takes_snapshot(self) -> bool:
        """Whether there is a moment to freeze: one in which a snapshot is taken."""
        server = self.mysql or self.mariadb
        return bool(self.lvm or self.ebs or self.qemu or (server and server.lvm))

    @model_validator(mode="after")
    def _check(self) -> Self:
        origins = [key for key in type(self).model_fields if key != "hooks"]
        given = [key for key in origins if getattr(self, key) is not None]
        if not given and self.model_fields_set:
            key = next(key for key in type(self).model_fields if key in self.model_fields_set)
            if key in origins:
                raise HintedValueError(
                    f"expected what {quoted(key)} is to be, found nothing after it",
                    hint=f"Write it below, indented; {quoted(key + ': {}')} leaves out every key.",
                )
        if len(given) != 1:
            keys = ", ".join(quoted(key) for key in sorted(origins))
            names = " and ".join(quoted(key) for key in given) or "none"
            raise ValueError(f"expected exactly one of {keys}, found {names}")
        return self


def _or_list(schema: dict[str, Any]) -> None:
    """Allow a list in place of the mapping, in a JSON schema."""
    mapping = dict(schema)
    schema.clear()
    schema["anyOf"] = [mapping, {"type": "array", "items": {"type": "string"}, "minItems": 1}]


class HookShape(Shape):
    """A program to run at one moment of a backup; a list alone is its `run`."""

    model_config = ConfigDict(json_schema_extra=_or_list)

    run: ProgramLine
    """The program and its arguments; no shell."""
    timeout: PositiveDuration = timedelta(minutes=5)
    """The longest time that the program may take."""
    on_failure: Literal["abort", "warn"] = "abort"
    """What its failure means: no restore point, or a warning."""
    environment: Variables = Field(default_factory=dict)
    """Variables added to SnapVault's own environment."""

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: object) -> object:
        if isinstance(value, str):
            raise HintedValueError(
                f"expected a list or a mapping, found {found(value)}",
                hint="Write the program and its arguments as a list: [systemctl, stop, shop].",
            )
        return {"run": value} if isinstance(value, list) else value


class LateHookShape(HookShape):
    """A program to run when it is too late to abort."""

    on_failure: Literal["abort", "warn"] = "warn"
    """What its failure means: always a warning."""

    @field_validator("on_failure")
    @classmethod
    def _cannot_abort(cls, value: str) -> str:
        if value == "abort":
            raise ValueError(
                'expected "warn", found "abort": when this program runs it is too late to abort'
            )
        return value


class HooksShape(Shape):
    """Programs around a source, and around the moment in which its snapshots are taken."""

    before: HookShape | None = None
    """Runs before the source is opened."""
    freeze: HookShape | None = None
    """Runs right before the snapshots are taken."""
    thaw: LateHookShape | None = None
    """Runs right after the snapshots were taken, whenever freeze was started."""
    after: LateHookShape | None = None
    """Runs after the source was closed, whenever before was started."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.thaw is not None and self.freeze is None:
            raise ValueError('expected "thaw" with "freeze" only, found it alone')
        return self


class SourceShape(StreamShape):
    """One thing protected: `streams`, or for a single stream its kind directly."""

    streams: dict[Name, StreamShape] | None = Field(default=None, min_length=1)
    """Streams by name."""
    hooks: HooksShape | None = None
    """Programs to run around it."""
