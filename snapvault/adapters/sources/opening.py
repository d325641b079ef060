# SPDX-License-Identifier: Apache-2.0
"""From what a policy says of a source to the adapters that read it.

What only one kind needs is imported where it is needed, so that a small night stays cheap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snapvault.adapters.half_restored import DEVICES
from snapvault.model.policy import (
    CommandSpec,
    DirectorySpec,
    EbsSpec,
    HooksSpec,
    ImageSpec,
    LvmSpec,
    MysqlSpec,
    PostgresqlSpec,
    QemuSpec,
    SourceSpec,
    StreamSpec,
)
from snapvault.ports.events import Events
from snapvault.ports.source import Quiesce, Source


@dataclass(frozen=True, slots=True)
class Around:
    """What the parts of one source have in common.

    `policy` and `vault` are names; `folder` is the source's own, in the vault's state.
    """

    spec: SourceSpec
    policy: str
    vault: str
    vault_id: str
    folder: Path
    events: Events

    @property
    def devices(self) -> Path:
        """The folder, in the state folder, for marks of half-restored block devices."""
        return self.folder.parents[2] / DEVICES

    @property
    def owner(self) -> str:
        """What tells the source's snapshots from everybody else's."""
        return f"{self.vault_id}/{self.spec.name}"

    def prefix(self, stream: StreamSpec) -> str:
        """Return what comes before the names of streams that one entry of the policy gives."""
        return "" if self.spec.single else f"{stream.name}."

    def hook_environment(self) -> dict[str, str]:
        """Return what the policy's own programs are told."""
        from snapvault.adapters.sources.hooked import hook_environment

        return hook_environment(source=self.spec.name, vault=self.vault, policy=self.policy)

    def freeze(self) -> tuple[Quiesce, ...]:
        """Return the policy's own way to bring the source to rest, if there is one."""
        if self.spec.hooks.freeze is None:
            return ()
        from snapvault.adapters.sources.hooked import HookQuiesce

        return (HookQuiesce(self.spec.hooks, self.hook_environment(), self.events),)


def open_source(around: Around) -> Source:
    """Return the source that a policy describes; nothing of the platform is touched yet."""
    spec = around.spec
    groups: dict[tuple[str, str], list[StreamSpec]] = {}
    for stream in spec.streams:
        groups.setdefault(_group(stream), []).append(stream)
    parts = [_part(streams, around) for streams in groups.values()]
    source = parts[0]
    if len(parts) > 1:
        from snapvault.adapters.sources.combined import CombinedSource

        source = CombinedSource(spec.name, parts)
    if spec.hooks != HooksSpec():
        from snapvault.adapters.sources.hooked import HookedSource

        source = HookedSource(source, spec.hooks, around.hook_environment(), around.events)
    disks = [disk for stream in spec.streams if (disk := _disk_of(stream))]
    if not disks:
        return source
    from snapvault.adapters.sources.whole import WholeSource

    return WholeSource(source, disks, devices=around.devices)


def _disk_of(stream: StreamSpec) -> Path | None:
    """Return the file or block device that a restore in place overwrites; None: there is none."""
    match stream.spec:
        case ImageSpec(path=path):
            return path
        case LvmSpec(volume=volume) | MysqlSpec(lvm=LvmSpec(volume=volume)):
            return Path("/dev") / volume
        case _:
            return None


def _group(stream: StreamSpec) -> tuple[str, str]:
    """Return a key that is equal for streams that one adapter opens at one moment."""
    match stream.spec:
        case ImageSpec(format="qcow2"):
            return "qcow2", ""
        case ImageSpec():
            return "raw", ""
        case LvmSpec() | MysqlSpec(lvm=LvmSpec()):
            return "lvm", ""
        case _:
            return "", stream.name


def _part(streams: Sequence[StreamSpec], around: Around) -> Source:  # noqa: PLR0911 - one a kind
    """Return the source of the streams of one group; they are of one kind, or all on LVM."""
    first = streams[0]
    match first.spec:
        case ImageSpec():
            return _images(streams, around)
        case CommandSpec() as spec:
            return _command(first, spec, around)
        case LvmSpec() | MysqlSpec(lvm=LvmSpec()):
            return _logical_volumes(streams, around)
        case MysqlSpec() as spec:
            return _mysql(first, spec, around)
        case EbsSpec() as spec:
            return _ebs(first, spec, around)
        case DirectorySpec() as spec:
            return _directory(first, spec, around)
        case QemuSpec() as spec:
            return _qemu(first, spec, around)
        case PostgresqlSpec() as spec:
            return _postgresql(first, spec, around)


def _images(streams: Sequence[StreamSpec], around: Around) -> Source:
    specs = {stream.name: stream.spec for stream in streams if isinstance(stream.spec, ImageSpec)}
    disks = {name: spec.path for name, spec in specs.items()}
    if any(spec.format == "qcow2" for spec in specs.values()):
        from snapvault.adapters.sources.qcow2 import Qcow2Source

        return Qcow2Source(around.spec.name, disks)
    from snapvault.adapters.sources.image import ImageSource

    surely_raw = {name for name, spec in specs.items() if spec.format == "raw"}
    return ImageSource(around.spec.name, disks, surely_raw=surely_raw)


def _command(stream: StreamSpec, spec: CommandSpec, around: Around) -> Source:
    from snapvault.adapters.sources.command import CommandSource

    return CommandSource(
        around.spec.name,
        stream.name,
        spec.run,
        allow_empty=spec.allow_empty,
        environment=dict(spec.environment),
        working_directory=spec.working_directory,
        timeout=spec.timeout.total_seconds() if spec.timeout else None,
    )


def _logical_volumes(streams: Sequence[StreamSpec], around: Around) -> Source:
    """Return all logical volumes of a source as one part, so that they are frozen together."""
    from snapvault.adapters.sources.lvm import LvmSource

    volumes: dict[str, LvmSpec] = {}
    server: MysqlSpec | None = None
    for stream in streams:
        if isinstance(stream.spec, LvmSpec):
            volumes[stream.name] = stream.spec
        elif isinstance(stream.spec, MysqlSpec) and stream.spec.lvm is not None:
            volumes[stream.name] = stream.spec.lvm
            server = stream.spec

    def part(*locks: Quiesce) -> Source:
        # ORDER: a server is locked before anything is frozen: it writes while it locks.
        return LvmSource(
            around.spec.name,
            volumes,
            owner=around.owner,
            quiesce=(*locks, *around.freeze()),
            events=around.events,
            needed=(around.folder,),
        )

    if server is None:
        return part()
    from snapvault.adapters.sources.mysql_quiesce import MysqlLvmSource, MysqlQuiesce

    lock = MysqlQuiesce(server)
    return MysqlLvmSource(part(lock), lock)


def _mysql(stream: StreamSpec, spec: MysqlSpec, around: Around) -> Source:
    from snapvault.adapters.sources.dump_names import Naming
    from snapvault.adapters.sources.mysql import MysqlSource

    naming = Naming(stream.name, around.prefix(stream))
    return MysqlSource(around.spec.name, spec, naming=naming, events=around.events)


def _ebs(stream: StreamSpec, spec: EbsSpec, around: Around) -> Source:
    from snapvault.adapters.sources.ebs import EbsSource

    return EbsSource(
        around.spec.name,
        stream.name,
        spec,
        owner=around.owner,
        events=around.events,
        prefix=around.prefix(stream),
        quiesce=around.freeze(),
    )


def _qemu(stream: StreamSpec, spec: QemuSpec, around: Around) -> Source:
    from snapvault.adapters.sources.qemu import QemuSource

    return QemuSource(
        around.spec.name,
        spec,
        prefix=None if around.spec.single else stream.name,
        owner=around.owner,
        # Two machines of one source are open at the same time, and share no scratch folder.
        state=around.folder / f"qemu-{stream.name}",
        quiesce=around.freeze(),
        events=around.events,
    )


def _postgresql(stream: StreamSpec, spec: PostgresqlSpec, around: Around) -> Source:
    from snapvault.adapters.sources.dump_names import Naming
    from snapvault.adapters.sources.postgresql import PostgresqlSource

    naming = Naming(stream.name, around.prefix(stream))
    return PostgresqlSource(around.spec.name, spec, naming=naming)


def _directory(stream: StreamSpec, spec: DirectorySpec, around: Around) -> Source:
    from snapvault.adapters.sources.directory import DirectorySource

    return DirectorySource(around.spec.name, stream.name, spec, events=around.events)
