# SPDX-License-Identifier: Apache-2.0
"""The sources of a policy in plain words, and as values for JSON."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

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
)
from snapvault.units import format_count, format_duration, format_size

# Where JSON says more than the model's name, or says it in the policy's own word.
_JSON_KEYS: Final = {"include_globals": "globals", "snapshot_size": "snapshot_size_bytes"}


def source_lines(source: SourceSpec) -> list[str]:
    """Say what a source is made of; values of environment variables are left out."""
    if source.single:
        lines = [f"  source {source.name}: {_words(source.streams[0].spec)}"]
    else:
        lines = [
            f"  source {source.name}: {format_count(len(source.streams), 'stream')}",
            *(f"    {stream.name}: {_words(stream.spec)}" for stream in source.streams),
        ]
    return lines + list(_hook_lines(source.hooks))


def source_document(source: SourceSpec) -> dict[str, Any]:
    """Return what a source is made of, for JSON; of environment variables their names."""
    return {
        "name": source.name,
        "streams": [
            {"name": stream.name, "kind": stream.kind, **_document(stream.spec)}
            for stream in source.streams
        ],
        "hooks": {
            key: None if hook is None else _document(hook) for key, hook in _of(source.hooks)
        },
    }


def _document(value: Any) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for field in fields(value):
        given = getattr(value, field.name)
        if field.name.endswith("timeout"):
            document[f"{field.name}_seconds"] = (
                None if given is None else float(given.total_seconds())
            )
        else:
            document[_JSON_KEYS.get(field.name, field.name)] = _plain(given)
    return document


def _plain(value: object) -> object:
    match value:
        case Path():
            return str(value)
        case tuple():
            return list(value)
        case Mapping():
            # The values are passwords more often than not.
            return sorted(value)
        case LvmSpec():
            return _document(value)
        case _:
            return value


def _words(spec: KindSpec) -> str:
    return "; ".join(_WORDS[type(spec)](spec))


def _of(hooks: HooksSpec) -> Iterator[tuple[str, HookSpec | None]]:
    """Yield the hooks by name, in the order in which they run."""
    for field in fields(hooks):
        yield field.name, getattr(hooks, field.name)


def _hook_lines(hooks: HooksSpec) -> Iterator[str]:
    moments = {
        "before": "before it is opened",
        "freeze": "before its snapshot is taken",
        "thaw": "after its snapshot was taken",
        "after": "after it was closed",
    }
    for key, hook in _of(hooks):
        if hook is not None:
            outcome = "ends the run" if hook.on_failure == "abort" else "is a warning"
            said = [shlex.join(hook.run), *_environment(hook.environment), *_killed(hook.timeout)]
            yield f"    {moments[key]}: {'; '.join(said)}; its failure {outcome}"


def _image(spec: ImageSpec) -> Iterator[str]:
    yield f'disk "{spec.path}"'
    if spec.format is not None:
        yield f"in format {spec.format}"


def _command(spec: CommandSpec) -> Iterator[str]:
    yield f"output of: {shlex.join(spec.run)}"
    if spec.working_directory is not None:
        yield f'in folder "{spec.working_directory}"'
    yield from _environment(spec.environment)
    yield from _killed(spec.timeout)
    if spec.allow_empty:
        yield "may be empty"


def _lvm(spec: LvmSpec) -> Iterator[str]:
    yield f'snapshot of logical volume "{spec.volume}"'
    if spec.snapshot_size is not None:
        yield f"which takes up to {format_size(spec.snapshot_size)} unless it is thin"
    else:
        yield f"which takes up to {spec.snapshot_percent}% of the volume unless it is thin"


def _ebs(spec: EbsSpec) -> Iterator[str]:
    if spec.volume is not None:
        yield f'EBS volume "{spec.volume}"'
    else:
        which = f"volumes {', '.join(spec.devices)}" if spec.devices else "all volumes"
        yield f'{which} of EC2 instance "{spec.instance}", taken at one moment'
    if spec.region is not None:
        yield f'in region "{spec.region}"'
    if spec.profile is not None:
        yield f'with profile "{spec.profile}"'
    if spec.role_arn is not None:
        yield f'in role "{spec.role_arn}"'
    if spec.endpoint_url is not None:
        yield f"at {spec.endpoint_url}"
    yield f"keeps {format_count(spec.keep_snapshots, 'EBS snapshot')} of each volume"
    yield f"makes up to {format_count(spec.requests_per_second, 'request')} a second"
    yield f"waits up to {format_duration(spec.timeout)} for a snapshot"


def _qemu(spec: QemuSpec) -> Iterator[str]:
    which = f"disks {', '.join(spec.disks)}" if spec.disks else "all disks"
    yield f'{which} of the running machine behind QMP socket "{spec.qmp}"'
    if spec.agent is None:
        yield "without a guest agent"
    else:
        yield f'frozen through guest agent "{spec.agent}"'
    if spec.domain is not None:
        where = "" if spec.libvirt_uri is None else f" at {spec.libvirt_uri}"
        yield f'with the definition of libvirt domain "{spec.domain}"{where}'
    if spec.scratch is not None:
        yield f'room for overwritten data in folder "{spec.scratch}"'


def _mysql(spec: MysqlSpec) -> Iterator[str]:
    server = "MariaDB or MySQL server"
    if spec.lvm is not None:
        yield from _lvm(spec.lvm)
        yield f"with the {server} locked for up to {format_duration(spec.lock_timeout)}"
    else:
        yield f"dump of {_databases(spec.databases)} of a {server}"
    if spec.per_database:
        yield "one stream for each database"
    if spec.defaults_file is not None:
        yield f'reached as option file "{spec.defaults_file}" says'
    yield from _killed(spec.timeout)


def _postgresql(spec: PostgresqlSpec) -> Iterator[str]:
    if spec.base_backup:
        yield "base backup of a PostgreSQL server"
    else:
        yield f"dump of {_databases(spec.databases)} of a PostgreSQL server"
        yield f"{'with' if spec.include_globals else 'without'} roles and tablespaces"
    for key in ("service", "host", "port", "user"):
        if (value := getattr(spec, key)) is not None:
            yield f'{key} "{value}"'
    if spec.password_file is not None:
        yield f'with the password in file "{spec.password_file}"'
    yield from _killed(spec.timeout)


def _directory(spec: DirectorySpec) -> Iterator[str]:
    yield f'folder "{spec.path}"'
    if spec.exclude:
        yield f"without {', '.join(spec.exclude)}"
    if spec.one_file_system:
        yield "without what is mounted below"


def _databases(names: tuple[str, ...]) -> str:
    if not names:
        return "all databases"
    return f"{'database' if len(names) == 1 else 'databases'} {', '.join(names)}"


def _environment(environment: Mapping[str, str]) -> Iterator[str]:
    if environment:
        yield f"with {', '.join(sorted(environment))} in its environment"


def _killed(timeout: timedelta | None) -> Iterator[str]:
    if timeout is not None:
        yield f"killed after {format_duration(timeout)}"


_WORDS: Final[Mapping[type[KindSpec], Callable[[Any], Iterator[str]]]] = {
    ImageSpec: _image,
    CommandSpec: _command,
    LvmSpec: _lvm,
    EbsSpec: _ebs,
    QemuSpec: _qemu,
    MysqlSpec: _mysql,
    PostgresqlSpec: _postgresql,
    DirectorySpec: _directory,
}
