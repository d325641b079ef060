# SPDX-License-Identifier: Apache-2.0
"""Commit a restore point: metadata first, the manifest last."""

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from snapvault import clock
from snapvault.engine import fetch, notes
from snapvault.engine.files import write_durably
from snapvault.engine.notes import Notes
from snapvault.engine.vault import Held, Vault
from snapvault.errors import (
    IntegrityError,
    ObjectMissingError,
    SnapVaultError,
    StoreUnavailableError,
    VolumeError,
)
from snapvault.formats import manifest, maps, meta, names, volume_list
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.extents import ExtentMap
from snapvault.model.logs import extend_log
from snapvault.model.notes import PruneRecord
from snapvault.model.point import LogEntry, ObjectRecord, ParentRecord, Point, StreamRecord
from snapvault.ports.catalog import CatalogRow
from snapvault.ports.sealer import Readers
from snapvault.ports.source import Consistency

_PIECE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class StreamDraft:
    """One stream as it was read.

    `before` is the base's record of it, if its changes refer to one; the logs of `record` are still
    empty. `changed_signature` is None where a signature is always written whole.
    """

    record: StreamRecord
    before: StreamRecord | None
    changes: ExtentMap
    full: ExtentMap
    full_signature: Path
    changed_signature: Path | None
    read_bytes: int
    changed_bytes: int
    rewritten_bytes: int = 0

    @property
    def is_unchanged(self) -> bool:
        """Whether it is, byte for byte, what and where the base has it: its logs serve it too."""
        before = self.before
        return (
            before is not None
            and not self.rewritten_bytes
            and self.record
            == replace(
                before,
                map_log=(),
                signature_log=(),
                mark=self.record.mark,
                facts=self.record.facts,
            )
        )


@dataclass(frozen=True, slots=True)
class Draft:
    """A point in the making.

    `base` is the point that changes refer to, `previous` the newest one there is (or none); they
    differ only when the newest could not be used. `volumes` are those stored by this run and by
    the unfinished ones before it, `shared` those that points of other sources brought. `counters`
    are added to those that the commit makes. `prunes` are the records that were read before.
    `doomed` are names of objects that prunes remove or have removed, or that are damaged;
    `deserted` those of the base's metadata that no other point
    needs, of points that have expired. With `restarts_logs` the point refers to no map and no
    signature of an earlier one.
    """

    point: str
    source: str
    view_taken_at: datetime
    consistency: Consistency
    streams: tuple[StreamDraft, ...]
    base: Held | None
    previous: tuple[Held, ...]
    hash_key: ObjectRecord
    volumes: Mapping[str, VolumeRecord]
    host: str
    tool: str
    counters: Mapping[str, int]
    prunes: Notes[PruneRecord] | None = None
    doomed: Container[str] = frozenset()
    deserted: frozenset[str] = frozenset()
    restarts_logs: bool = False
    shared: Mapping[str, VolumeRecord] = field(default_factory=dict)


def commit(vault: Vault, draft: Draft, folder: Path) -> Held:
    """Store maps, signatures and lists, then the manifest; `folder` takes what is in the making.

    Raises:
        IntegrityError: a list of the base is damaged, or a volume in use is nowhere vouched for.
        SealError, StoreError: sealing or storing failed; the point does not exist then.
    """
    map_name = names.map_of(draft.source, draft.point)
    signature_name = names.signature_of(draft.source, draft.point)
    map_sections, signature_sections, records = [], [], []
    for stream in draft.streams:
        if stream.before is not None and stream.is_unchanged and not draft.restarts_logs:
            before = stream.before
            records.append(replace(before, mark=stream.record.mark, facts=stream.record.facts))
            continue
        map_log, map_section = _map_section(draft, stream)
        signature_log, signature_section = _signature_section(draft, stream)
        map_sections.append(map_section)
        signature_sections.append(signature_section)
        records.append(replace(stream.record, map_log=map_log, signature_log=signature_log))
    own = [
        put_sealed(vault, name, meta.encode(sections), folder)
        for name, sections in ((map_name, map_sections), (signature_name, signature_sections))
        if sections
    ]
    lists, volumes, added, list_bytes = _put_lists(vault, draft)
    new_volumes = [record for record in added if record.volume in draft.volumes]
    metadata_bytes = sum(record.size for record in own) + list_bytes
    volume_bytes = sum(record.size for record in new_volumes)

    previous = draft.previous[-1] if draft.previous else None
    point = Point(
        vault=vault.record.vault,
        source=draft.source,
        point=draft.point,
        sequence=previous.point.sequence + 1 if previous else 1,
        taken_at=draft.view_taken_at,
        finished_at=clock.now(),
        parent=ParentRecord(previous.point.point, previous.manifest.name, previous.manifest.sha256)
        if previous
        else None,
        consistency=draft.consistency.value,
        streams=tuple(records),
        hash_key=draft.hash_key,
        objects=(*_inherited_objects(draft, records), *own),
        lists=lists,
        host=draft.host,
        tool=draft.tool,
        counters={
            **draft.counters,
            "read_bytes": draft.counters["sampled_bytes"]
            + sum(stream.read_bytes for stream in draft.streams),
            "changed_bytes": sum(stream.changed_bytes for stream in draft.streams),
            "new_volumes": len(new_volumes),
            "volume_bytes": volume_bytes,
            "metadata_bytes": metadata_bytes,
            "stored_bytes": metadata_bytes + volume_bytes,
        },
    )
    _require_undoomed(vault, point, volumes, added, draft)
    return _put_manifest(vault, point)


def _require_undoomed(
    vault: Vault,
    point: Point,
    volumes: Iterable[VolumeRecord],
    added: Iterable[VolumeRecord],
    draft: Draft,
) -> None:
    """See to it that no prune is about to remove what the point needs.

    `added` are those of its volumes that the base does not have.

    ORDER: after all that the manifest names is known, and before the manifest. What a prune
    dooms later than this look it removes a grace later, and only if no manifest names it: by
    then this one does (docs/retention.md).

    Volumes of the base may be doomed: by a prune that found another source's last point with them
    expired in the moment before the base was put. They stay as long as the base is there.

    Raises:
        StoreUnavailableError: one is; the next run does without.
    """
    doomed = notes.doomed(notes.prunes(vault, draft.prunes))
    if not doomed:
        return
    # ORDER: the base is looked for after the records were read: so whoever acts upon one of them
    # finds the base, or this point.
    base = draft.base
    needed = added if base is not None and _is_there(vault, base) else volumes
    used = [record.name for record in (*point.objects, *point.lists)]
    used += [names.volume(record.volume) for record in needed]
    for name in used:
        if name in doomed:
            raise StoreUnavailableError(
                f'restore point of source "{point.source}" cannot be committed: a prune is about '
                f'to remove object "{name}", which it needs',
                hint="Run the backup again: it stores anew what it needs. Let no two hosts back "
                "up one source, and no backup take longer than orphans are kept.",
            )


def _is_there(vault: Vault, held: Held) -> bool:
    try:
        return vault.store.stat(held.manifest.name).size == held.manifest.size
    except ObjectMissingError:
        return False


def _put_manifest(vault: Vault, point: Point) -> Held:
    name = names.point(point.source, point.taken_at, point.point)
    content = manifest.encode(point)
    message = vault.sealer.sign(content)
    # ORDER: the manifest goes last. It is what makes the restore point exist, so a crash before
    # this line leaves only objects that nothing refers to (docs/design.md, order of writes).
    vault.store.put(name, message)
    record = ObjectRecord(name, len(message), hashlib.sha256(message).hexdigest())
    row = CatalogRow(
        name=name,
        source=point.source,
        point=point.point,
        taken_at=clock.to_text(point.taken_at),
        size=record.size,
        sha256=record.sha256,
        signer=vault.sealer.signer,
        content=content,
    )
    try:
        vault.catalog.add([row])
    except SnapVaultError as error:
        # The point is committed; the catalog learns of it at the next look at the vault.
        vault.events.warn("catalog.failed", str(error), source=point.source)
    vault.events.emit("point.committed", source=point.source, point=point.point)
    return Held(point, record, vault.sealer.signer)


def _map_section(draft: Draft, stream: StreamDraft) -> tuple[tuple[LogEntry, ...], meta.Section]:
    log, is_full = extend_log(
        stream.before.map_log if stream.before and not draft.restarts_logs else (),
        draft.point,
        changes=maps.size(stream.changes),
        full=maps.size(stream.full),
        deserted=_deserted(draft, ".map"),
    )
    return log, maps.section(stream.record.name, stream.full if is_full else stream.changes)


def _signature_section(
    draft: Draft, stream: StreamDraft
) -> tuple[tuple[LogEntry, ...], meta.Section]:
    record = stream.record
    full = stream.full_signature.stat().st_size
    changed = stream.changed_signature
    goes_on = changed is not None and not draft.restarts_logs
    log, is_full = extend_log(
        stream.before.signature_log if stream.before and goes_on else (),
        draft.point,
        changes=changed.stat().st_size if changed else full,
        full=full,
        deserted=_deserted(draft, ".sig"),
    )
    path = stream.full_signature if is_full or changed is None else changed
    return log, signature_part(record, path, is_full=is_full)


def signature_part(stream: StreamRecord, path: Path, *, is_full: bool) -> meta.Section:
    """Return a stream's signature, or what changed of it, as a part of a container."""
    header = {
        "kind": "signature",
        "stream": stream.name,
        "engine": stream.engine,
        "full": is_full,
        "size": stream.size,
        "block_size": stream.block_size,
    }
    return meta.Section(header, path.stat().st_size, _file_pieces(path))


def _deserted(draft: Draft, suffix: str) -> frozenset[str]:
    """Return the points that wrote what only the base needs, of maps or of signatures."""
    return frozenset(
        name.rpartition("/")[2].removesuffix(suffix)
        for name in draft.deserted
        if name.endswith(suffix)
    )


def _file_pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def put_sealed(vault: Vault, name: str, chunks: Iterator[bytes], folder: Path) -> ObjectRecord:
    """Seal metadata to the recovery keys and this host, and store it; `folder` takes it meanwhile.

    Raises:
        SealError, StoreError: it could not be sealed or stored.
    """
    path = folder / name.rpartition("/")[2]
    try:
        vault.sealer.seal_to_file(chunks, path, Readers.RECOVERY_AND_HOST)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        record = ObjectRecord(name, path.stat().st_size, digest)
        vault.store.put_file(name, path, size=record.size, sha256=record.sha256)
    finally:
        path.unlink(missing_ok=True)
    return record


def _put_lists(
    vault: Vault, draft: Draft
) -> tuple[tuple[ObjectRecord, ...], list[VolumeRecord], list[VolumeRecord], int]:
    """Store the lists that are not there yet.

    Returns all lists of the point, all its volumes, those that the base did not have, and the
    bytes stored.
    """
    before = draft.base.point.lists if draft.base else ()
    previous = [cached_list(vault, record) for record in before]
    known = {record.volume: record for each in previous for record in each}
    used = dict.fromkeys(volume for stream in draft.streams for volume in stream.full.live_bytes())
    vouched = {**draft.shared, **draft.volumes, **known}
    if unknown := [volume for volume in used if volume not in vouched]:
        raise VolumeError(f'volume "{unknown[0]}" is in use and no list vouches for it')
    live = [vouched[volume] for volume in used]
    there = dict(zip(previous, before, strict=True))
    lists, stored = [], 0
    for entry in volume_list.arrange(previous, live):
        if entry in there and there[entry].name not in draft.doomed:
            lists.append(there[entry])
            continue
        record, encoded = _list_object(volume_list.encode(entry))
        is_shared = any(each.volume in draft.shared for each in entry)
        if is_shared or record.name in draft.doomed:
            # An older list of the same volumes, which a prune removes or has removed; or one of
            # another source, which a prune may doom while this point is committed.
            record, encoded = _list_object(volume_list.encode(entry, salt=names.new_note_id()))
        lists.append(record)
        vault.store.put(record.name, encoded)
        _cache_list(vault, record, encoded)
        stored += len(encoded)
    return tuple(lists), live, [each for each in live if each.volume not in known], stored


def _list_object(encoded: bytes) -> tuple[ObjectRecord, bytes]:
    digest = volume_list.digest(encoded)
    return ObjectRecord(names.volume_list(digest), len(encoded), digest), encoded


def cached_list(vault: Vault, record: ObjectRecord) -> tuple[VolumeRecord, ...]:
    """Return a list of volumes from this host's copy if it is good, or else from the vault."""
    if (found := kept_list(vault, record)) is not None:
        return found
    encoded = fetch.get(vault.store, record)
    _cache_list(vault, record, encoded)
    return volume_list.decode(encoded)


def kept_list(vault: Vault, record: ObjectRecord) -> tuple[VolumeRecord, ...] | None:
    """Return a list of volumes from this host's copy; None if there is no good one."""
    try:
        encoded = (vault.state / "lists" / record.sha256).read_bytes()
        if volume_list.digest(encoded) == record.sha256:
            return volume_list.decode(encoded)
    except (OSError, IntegrityError):
        pass
    return None


def _cache_list(vault: Vault, record: ObjectRecord, encoded: bytes) -> None:
    folder = vault.state / "lists"
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / record.sha256, [encoded])


def _inherited_objects(draft: Draft, records: Sequence[StreamRecord]) -> Iterator[ObjectRecord]:
    """Yield the base's objects that the logs still need, oldest first."""
    needed = {
        names.map_of(draft.source, entry.point) for record in records for entry in record.map_log
    } | {
        names.signature_of(draft.source, entry.point)
        for record in records
        for entry in record.signature_log
    }
    for record in draft.base.point.objects if draft.base else ():
        if record.name in needed:
            yield record
