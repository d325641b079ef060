# SPDX-License-Identifier: Apache-2.0
"""From the shapes of sources to model values; paths become absolute on the way."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from snapvault.config import kinds
from snapvault.config.document import Document, Location
from snapvault.config.paths import resolve
from snapvault.config.problems import ProblemError, quoted
from snapvault.config.validate import problem_at
from snapvault.config.values import snapshot_room
from snapvault.model import policy
from snapvault.model.policy import (
    CommandSpec,
    DirectorySpec,
    EbsSpec,
    HookSpec,
    HooksSpec,
    ImageSpec,
    KindSpec,
    LvmSpec,
    MysqlSpec,
    PostgresqlSpec,
    QemuSpec,
    SourceSpec,
    StreamSpec,
)


def source_spec(document: Document, name: str, shape: kinds.SourceShape) -> SourceSpec:
    """Make the model value of a source.

    Raises:
        ProblemError: a path in a home folder that nobody knows, hooks with nothing to freeze,
            two servers to lock, or a logical volume twice.
    """
    location: Location = ("sources", name)
    _require_a_snapshot(document, location, shape)
    _require_one_lock(document, location, shape)
    _require_volumes_once(document, location, shape)
    if shape.streams is None:
        spec = _kind(document, location, shape)
        streams: tuple[StreamSpec, ...] = (StreamSpec(policy.KINDS[type(spec)], spec),)
    else:
        streams = tuple(
            StreamSpec(stream, _kind(document, (*location, "streams", stream), each))
            for stream, each in shape.streams.items()
        )
    return SourceSpec(name, streams, single=shape.streams is None, hooks=_hooks(shape.hooks))


def _require_a_snapshot(document: Document, location: Location, shape: kinds.SourceShape) -> None:
    streams = [shape] if shape.streams is None else shape.streams.values()
    if shape.hooks is None or any(stream.takes_snapshot for stream in streams):
        return
    for key in ("freeze", "thaw"):
        if getattr(shape.hooks, key) is not None:
            raise ProblemError(
                problem_at(
                    document,
                    (*location, "hooks", key),
                    f"expected {quoted(key)} where a snapshot is taken, found a source without one",
                    'Snapshots are taken for "lvm", "ebs", "qemu" and "mysql" with "lvm"; use'
                    ' "before" and "after" for the others.',
                )
            )


def _require_one_lock(document: Document, location: Location, shape: kinds.SourceShape) -> None:
    """Refuse a second locked server: the facts of a snapshot name the state of one."""
    servers = {name: each.mysql or each.mariadb for name, each in (shape.streams or {}).items()}
    locked = [name for name, server in servers.items() if server and server.lvm]
    if len(locked) > 1:
        raise ProblemError(
            problem_at(
                document,
                (*location, "streams", locked[1]),
                'expected one server with "lvm" in a source, found a second',
                "Make it a source of its own.",
            )
        )


def _require_volumes_once(document: Document, location: Location, shape: kinds.SourceShape) -> None:
    streams: dict[str, str] = {}
    for name, each in (shape.streams or {}).items():
        server = each.mysql or each.mariadb
        lvm = each.lvm or (server.lvm if server else None)
        if lvm is None:
            continue
        first = streams.setdefault(lvm.volume, name)
        if first != name:
            message = f"logical volume {quoted(lvm.volume)} is already stream {quoted(first)}"
            raise ProblemError(problem_at(document, (*location, "streams", name), message))


def _kind(document: Document, location: Location, shape: kinds.StreamShape) -> KindSpec:
    for key in shape.model_fields_set:
        value = getattr(shape, key)
        if reader := _READERS.get(type(value)):
            return reader(_Paths(document, (*location, key)), value)
    raise AssertionError("a shape has exactly one kind")  # pragma: no cover - kinds.py checks


class _Paths:
    """Resolves the paths of one mapping of a document."""

    def __init__(self, document: Document, location: Location) -> None:
        self._document = document
        self._location = location

    def needed(self, key: str, text: str) -> Path:
        try:
            return resolve(text, beside=self._document.path)
        except ValueError as error:
            problem = problem_at(self._document, (*self._location, key), str(error))
            raise ProblemError(problem) from error

    def optional(self, key: str, text: str | None) -> Path | None:
        return None if text is None else self.needed(key, text)


def _image(paths: _Paths, shape: kinds.ImageShape) -> ImageSpec:
    return ImageSpec(paths.needed("path", shape.path), shape.format)


def _command(paths: _Paths, shape: kinds.CommandShape) -> CommandSpec:
    return CommandSpec(
        run=tuple(shape.run),
        allow_empty=shape.allow_empty,
        environment=dict(shape.environment),
        working_directory=paths.optional("working_directory", shape.working_directory),
        timeout=shape.timeout,
    )


def _lvm(_: _Paths, shape: kinds.LvmShape) -> LvmSpec:
    size, percent = snapshot_room(shape.snapshot_size)
    if percent is None:
        return LvmSpec(shape.volume, snapshot_size=size)
    return LvmSpec(shape.volume, snapshot_percent=percent)


def _ebs(_: _Paths, shape: kinds.EbsShape) -> EbsSpec:
    return EbsSpec(**{**dict(shape), "devices": tuple(shape.devices)})


def _qemu(paths: _Paths, shape: kinds.QemuShape) -> QemuSpec:
    return QemuSpec(
        qmp=paths.needed("qmp", shape.qmp),
        agent=paths.optional("agent", shape.agent),
        domain=shape.domain,
        libvirt_uri=shape.libvirt_uri,
        disks=tuple(shape.disks),
        scratch=paths.optional("scratch", shape.scratch),
    )


def _mysql(paths: _Paths, shape: kinds.MysqlShape) -> MysqlSpec:
    return MysqlSpec(
        defaults_file=paths.optional("defaults_file", shape.defaults_file),
        databases=tuple(shape.databases),
        per_database=shape.per_database,
        lvm=_lvm(paths, shape.lvm) if shape.lvm else None,
        lock_timeout=shape.lock_timeout,
        timeout=shape.timeout,
    )


def _postgresql(paths: _Paths, shape: kinds.PostgresqlShape) -> PostgresqlSpec:
    return PostgresqlSpec(
        databases=tuple(shape.databases),
        include_globals=shape.globals and not shape.base_backup,
        base_backup=shape.base_backup,
        service=shape.service,
        host=shape.host,
        port=shape.port,
        user=shape.user,
        password_file=paths.optional("password_file", shape.password_file),
        timeout=shape.timeout,
    )


def _directory(paths: _Paths, shape: kinds.DirectoryShape) -> DirectorySpec:
    return DirectorySpec(
        paths.needed("path", shape.path), tuple(shape.exclude), shape.one_file_system
    )


_READERS: Final[Mapping[type[object], Callable[[_Paths, Any], KindSpec]]] = {
    kinds.ImageShape: _image,
    kinds.CommandShape: _command,
    kinds.LvmShape: _lvm,
    kinds.EbsShape: _ebs,
    kinds.QemuShape: _qemu,
    kinds.MysqlShape: _mysql,
    kinds.PostgresqlShape: _postgresql,
    kinds.DirectoryShape: _directory,
}


def _hooks(shape: kinds.HooksShape | None) -> HooksSpec:
    if shape is None:
        return HooksSpec()
    return HooksSpec(**{key: _hook(hook) for key, hook in dict(shape).items()})


def _hook(shape: kinds.HookShape | None) -> HookSpec | None:
    if shape is None:
        return None
    return HookSpec(
        run=tuple(shape.run),
        timeout=shape.timeout,
        on_failure=shape.on_failure,
        environment=dict(shape.environment),
    )
