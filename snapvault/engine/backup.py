# SPDX-License-Identifier: Apache-2.0
"""Back up one source: from a view of it to a committed restore point."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from snapvault.engine import head, journal
from snapvault.engine.blocks import BlockScan
from snapvault.engine.commit import Draft, StreamDraft, cached_list, commit
from snapvault.engine.head import Head
from snapvault.engine.journal import NO_BLOCKS, Journal, Leftovers
from snapvault.engine.rolling import OldStream, Roll
from snapvault.engine.vault import Held, Inventory, Vault, host_key, late_recipients, sync
from snapvault.engine.volumes import Piece, VolumeWriter
from snapvault.errors import ConfigError, IntegrityError, KeyMissingError
from snapvault.formats import names, signatures
from snapvault.formats.signatures import Hashes
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.extents import ExtentMap, compose
from snapvault.model.point import StreamRecord
from snapvault.ports.events import Progress
from snapvault.ports.librsync import Rsync
from snapvault.ports.source import ByteStream, DiskStream, Source, View

_POINTS_TRIED = 3


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """How to write: raw bytes of a volume, zstd's level, and who to name in the manifest."""

    volume_size: int
    compression_level: int
    host: str
    tool: str


@dataclass(frozen=True, slots=True)
class BackupJob:
    """One source to be backed up into a vault. `folder` is this source's own, in the vault's state.

    Nobody else may use the folder meanwhile: the caller holds the source's lock.
    """

    vault: Vault
    source: Source
    rsync: Rsync
    folder: Path
    options: BackupOptions

    def run(self) -> Held:
        """Make one restore point.

        On return it is committed. On failure there is none, what was there before is
        untouched, and the next run uses the volumes that were stored.

        Raises:
            SourceError: the source could not be read, or what was read is worth nothing.
            SealError, StoreError: keys or store failed.
        """
        vault = self.vault
        vault.sealer.check()
        self._require_readers()
        key, key_record = host_key(vault)
        inventory = sync(vault, self.source.name)
        for problem in inventory.problems:
            vault.events.warn("vault.damaged", str(problem), source=self.source.name)
        parent = self._parent(inventory)
        if parent is not None and parent.held.point.hash_key.sha256 != key_record.sha256:
            parent = None
        run_folder = self._clean_run_folder()
        leftovers = journal.load(
            run_folder,
            vault.store,
            block_size=vault.record.block_size,
            key_id=key_record.sha256,
        )
        if leftovers.volumes:
            vault.events.emit(
                "run.resumed", source=self.source.name, volumes=len(leftovers.volumes)
            )
        point = names.new_point_id()
        heads = self.folder / "heads"
        view = self.source.open()
        try:
            with ExitStack() as stack:
                reading = _Reading(
                    job=self,
                    key=key,
                    parent=parent,
                    leftovers=leftovers,
                    journal=Journal(
                        run_folder, block_size=vault.record.block_size, key_id=key_record.sha256
                    ),
                    run_folder=run_folder,
                    head_folder=head.new_folder(heads, point),
                    progress=_progress(vault, view, stack),
                )
                streams, volumes = reading.run(view)
                draft = Draft(
                    point=point,
                    source=self.source.name,
                    view_taken_at=view.taken_at,
                    consistency=view.finish().consistency,
                    streams=tuple(streams),
                    base=parent.held if parent else None,
                    previous=inventory.of(self.source.name)[-1:],
                    hash_key=key_record,
                    volumes={**leftovers.volumes, **{each.volume: each for each in volumes}},
                    host=self.options.host,
                    tool=self.options.tool,
                )
                held = commit(vault, draft, run_folder)
        except BaseException:
            # Only journals are of use to the next run; signatures can be as large as a dump's.
            with suppress(OSError):
                self._clean_run_folder()
            shutil.rmtree(heads / point, ignore_errors=True)
            raise
        finally:
            view.close()
        try:
            head.keep(heads, point, {stream.record.name: stream.full for stream in streams})
            journal.clear(run_folder)
        except OSError as error:
            # The point is committed; what failed is a cache, which the next run makes again.
            vault.events.warn(
                "head.failed",
                f'could not keep the head of source "{self.source.name}": {error.strerror}',
                source=self.source.name,
            )
        return held

    def _require_readers(self) -> None:
        """See to it that somebody can restore what is about to be backed up.

        Raises:
            ConfigError: no recipient was there when the vault was initialized.
        """
        late = late_recipients(self.vault)
        message = (
            "recipient {} was added after the vault was initialized and cannot restore from it"
        )
        hint = "Initialize another vault for the new set of recipients."
        if len(late) == len(self.vault.sealer.recipients):
            raise ConfigError(message.format(late[0]), hint=hint)
        for fingerprint in late:
            self.vault.events.warn(
                "recipient.late", f"{message.format(fingerprint)}. {hint}", recipient=fingerprint
            )

    def _parent(self, inventory: Inventory) -> Head | None:
        """Return the newest point that this host can go on from."""
        for held in reversed(inventory.of(self.source.name)[-_POINTS_TRIED:]):
            try:
                found = head.load(self.vault, self.folder / "heads", held)
                # A list that is gone would fail the commit, after everything was read and sent.
                for record in held.point.lists:
                    cached_list(self.vault, record)
            except (IntegrityError, KeyMissingError) as error:
                self.vault.events.warn(
                    "parent.unusable",
                    f'cannot go on from restore point "{held.point.point}": {error}',
                    source=self.source.name,
                )
            else:
                return found
        return None

    def _clean_run_folder(self) -> Path:
        """Return the folder of the run, with nothing in it but journals."""
        folder = self.folder / "run"
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.suffix != journal.SUFFIX:
                path.unlink()
        return folder


def _progress(vault: Vault, view: View, stack: ExitStack) -> Progress:
    total: int | None = 0
    for stream in view.streams:
        if total is not None and isinstance(stream, DiskStream):
            total += sum(end - begin for begin, end in stream.data_ranges())
        else:
            total = None
    progress = vault.events.progress("reading", total=total)
    stack.callback(progress.close)
    return progress


@dataclass(slots=True)
class _Reading:
    """The part of a run in which the source is read."""

    job: BackupJob
    key: bytes
    parent: Head | None
    leftovers: Leftovers
    journal: Journal
    run_folder: Path
    head_folder: Path
    progress: Progress

    def run(self, view: View) -> tuple[list[StreamDraft], list[VolumeRecord]]:
        vault, options = self.job.vault, self.job.options
        writer = VolumeWriter(
            store=vault.store,
            sealer=vault.sealer,
            events=vault.events,
            folder=self.run_folder,
            volume_size=options.volume_size,
            level=options.compression_level,
            on_sealed=self.journal.seal,
        )
        try:
            streams = [
                self._settled(
                    self._disk(stream, writer)
                    if isinstance(stream, DiskStream)
                    else self._bytes(stream, writer)
                )
                for stream in view.streams
            ]
            return streams, writer.finish()
        except BaseException:
            writer.abort()
            raise

    def _settled(self, draft: StreamDraft) -> StreamDraft:
        """Give a stream that did not change its parent's full map, which its point refers to.

        The map just found may differ: where a stream repeats itself, librsync copies all of it
        from one place, and the volumes with the others would no longer be vouched for.
        """
        if self.parent is None or not draft.is_unchanged:
            return draft
        return replace(draft, full=self.parent.maps[draft.record.name])

    def _before(self, name: str, engine: str) -> StreamRecord | None:
        record = self.parent.held.point.stream(name) if self.parent else None
        return record if record is not None and record.engine == engine else None

    def _full(self, changes: ExtentMap, before: StreamRecord | None) -> ExtentMap:
        if self.parent is None or before is None:
            return changes
        return compose(changes, self.parent.maps[before.name])

    def _disk(self, stream: DiskStream, writer: VolumeWriter) -> StreamDraft:
        block_size = self.job.vault.record.block_size
        before = self._before(stream.name, "blocks")
        if before is not None and before.block_size != block_size:
            before = None
        full_path = self.head_folder / f"{stream.name}.sig"
        changes_path = self.run_folder / f"{stream.name}.changes"

        def on_stored(piece: Piece, first: int, hashes: Hashes) -> None:
            self.journal.note_blocks(stream.name, piece.volume, piece.offset, first, hashes)

        with ExitStack() as stack:
            pages: Iterator[signatures.Page] = iter(())
            if self.parent is not None and before is not None:
                file = stack.enter_context(self.parent.signatures[before.name].open("rb"))
                pages = signatures.pages(file)
            scan = BlockScan(
                stream=stream,
                key=self.key,
                block_size=block_size,
                parent_size=before.size if before else 0,
                parent_pages=pages,
                pending=self.leftovers.blocks.get(stream.name, NO_BLOCKS),
                writer=writer,
                full_pages=stack.enter_context(full_path.open("wb")),
                changed_pages=stack.enter_context(changes_path.open("wb")),
                on_stored=on_stored,
                on_read=self.progress.advance,
            )
            result = scan.run()
        return StreamDraft(
            record=StreamRecord(
                name=stream.name,
                kind="disk",
                engine="blocks",
                size=stream.size,
                block_size=block_size,
                digest=result.digest,
                map_log=(),
                signature_log=(),
            ),
            before=before,
            changes=result.changes,
            full=self._full(result.changes, before),
            full_signature=full_path,
            changed_signature=changes_path,
            read_bytes=result.read_bytes,
            changed_bytes=result.changed_bytes,
        )

    def _bytes(self, stream: ByteStream, writer: VolumeWriter) -> StreamDraft:
        before = self._before(stream.name, "rolling")
        old = None
        if self.parent is not None and before is not None:
            old = OldStream(before.size, before.block_size, self.parent.signatures[before.name])
        result = Roll(
            stream=stream,
            parent=old,
            pending=self.leftovers.bytes.get(stream.name, ()),
            rsync=self.job.rsync,
            writer=writer,
            folder=self.run_folder,
            on_stored=lambda volume, held: self.journal.note_bytes(stream.name, volume, held),
            on_read=self.progress.advance,
        ).run()
        full_path = self.head_folder / f"{stream.name}.sig"
        result.signature.replace(full_path)
        return StreamDraft(
            record=StreamRecord(
                name=stream.name,
                kind="bytes",
                engine="rolling",
                size=result.size,
                block_size=result.block_length,
                digest=result.digest,
                map_log=(),
                signature_log=(),
            ),
            before=before,
            changes=result.changes,
            full=self._full(result.changes, before),
            full_signature=full_path,
            changed_signature=None,
            read_bytes=result.size,
            changed_bytes=result.changed_bytes,
        )
