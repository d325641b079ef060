# SPDX-License-Identifier: Apache-2.0
"""The part of a run in which the source is read: from its streams to drafts of their records."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from snapvault import clock
from snapvault.engine import head
from snapvault.engine.anchors import AnchorIndex
from snapvault.engine.blocks import BlockScan
from snapvault.engine.commit import StreamDraft
from snapvault.engine.fine import FineHashes
from snapvault.engine.finer import Finer
from snapvault.engine.grains import Grains, grains_of
from snapvault.engine.head import Head
from snapvault.engine.journal import NO_BLOCKS, Journal, Leftovers
from snapvault.engine.old_file import OldStream
from snapvault.engine.rewriting import UNKNOWN, Rewriting
from snapvault.engine.rolling import Roll
from snapvault.engine.sampling import Sample
from snapvault.engine.sharing import Sharing
from snapvault.engine.sorted_volumes import SortedVolumes
from snapvault.engine.spare_file import SpareFile
from snapvault.engine.tags import UNIT, Tags, are_cheap
from snapvault.engine.vault import Vault
from snapvault.engine.volumes import VOLUMES_AT_ONCE, Piece, VolumeWriter
from snapvault.formats import signatures
from snapvault.formats.signatures import Hashes
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.extents import ExtentMap, compose
from snapvault.model.point import StreamRecord
from snapvault.model.policy import Hints
from snapvault.model.ranges import Range, bytes_in, intersect, is_well_formed, union
from snapvault.model.rewriting import Lifetime
from snapvault.ports.events import Progress
from snapvault.ports.librsync import Rsync
from snapvault.ports.source import ByteStream, Changes, DiskStream, View
from snapvault.units import format_count

_OTHERS_AT_ONCE = 2  # volumes of each lifetime but the usual one
_ENDING_SECONDS = 3.0  # that volumes on their way may take to be dropped, or to arrive

FULL_READ_AT = "full_read_at"
"""The fact of a disk that tells when it was last read as a whole."""


@dataclass(slots=True)
class Reading:
    """One source to be read against its parent, which may be missing.

    `volume_size` is in raw bytes, `level` is zstd's; `hints` says how far a platform is trusted.
    `fine_hashes` is what finer hashes of a stream may take, in bytes.
    """

    vault: Vault
    source: str
    rsync: Rsync
    volume_size: int
    level: int
    hints: Hints
    fine_hashes: int
    key: bytes
    parent: Head | None
    leftovers: Leftovers
    sharing: Sharing
    journal: Journal
    run_folder: Path
    head_folder: Path
    grains_folder: Path
    rewriting: Rewriting
    sampled_bytes: int = 0
    hint_mismatches: int = 0
    _full_reads: dict[str, datetime] = field(default_factory=dict)

    def run(self, view: View) -> tuple[list[StreamDraft], list[VolumeRecord]]:
        """Read every stream once, and store what is new.

        Raises:
            SourceError: a stream could not be read.
            SealError, StoreError: sealing or storing failed.
        """
        hints = {
            stream.name: self._hint(stream, view.taken_at)
            for stream in view.streams
            if isinstance(stream, DiskStream)
        }
        writer = SortedVolumes(self._new_writer)
        progress = self.vault.events.progress("reading", total=self._bytes_to_read(view, hints))
        try:
            streams = [
                self._settled(
                    self._disk(stream, hints[stream.name], writer, progress)
                    if isinstance(stream, DiskStream)
                    else self._bytes(stream, writer, progress)
                )
                for stream in view.streams
            ]
            return streams, writer.finish()
        except Exception:
            writer.abort()
            raise
        except BaseException:
            # We are asked to end: the source must not stay frozen for the sake of a slow network.
            writer.abort(patience=_ENDING_SECONDS)
            raise
        finally:
            progress.close()
            self.sharing.close()

    def _new_writer(self, lifetime: Lifetime) -> VolumeWriter:
        return VolumeWriter(
            store=self.vault.store,
            sealer=self.vault.sealer,
            events=self.vault.events,
            folder=self.run_folder,
            volume_size=self.volume_size,
            level=self.level,
            on_sealed=self.journal.seal,
            at_once=VOLUMES_AT_ONCE if lifetime is Lifetime.LONG else _OTHERS_AT_ONCE,
        )

    def facts_of(self, stream: StreamDraft) -> dict[str, str]:
        """Return what the next run needs to know of how a disk was read."""
        moment = self._full_reads.get(stream.record.name)
        return {} if moment is None else {FULL_READ_AT: clock.to_text(moment)}

    # --- hints ------------------------------------------------------------------------------

    def _hint(self, stream: DiskStream, now: datetime) -> Sequence[Range] | None:
        """Return what has to be read of a disk; None: everything."""
        changes = stream.changes()
        before = self._before_disk(stream.name)
        if changes is None or self.parent is None or before is None:
            self._full_reads[stream.name] = now
            return None
        last = _moment(before.facts.get(FULL_READ_AT))
        every = self.hints.full_read_every
        if last is None or (every is not None and now - last >= every):
            self.vault.events.emit("hint.full_read", source=self.source, stream=stream.name)
        elif self._holds(stream, changes, before.size, self.parent.signatures[before.name]):
            self._full_reads[stream.name] = last
            return changes.ranges
        self._full_reads[stream.name] = now
        return None

    def _holds(
        self, stream: DiskStream, changes: Changes, parent_size: int, signature: Path
    ) -> bool:
        """Tell whether what a platform claims makes sense, and a sample of it is true."""
        about = f'stream "{stream.name}" of source "{self.source}" is read as a whole'
        if not is_well_formed(changes.ranges, stream.size):
            self.hint_mismatches += 1
            message = f"{about}: {changes.told_by} told of ranges that cannot be"
            self.vault.events.warn("hint.wrong", message, source=self.source, stream=stream.name)
            return False
        with signature.open("rb") as file:
            found = Sample(
                stream=stream,
                changes=changes,
                key=self.key,
                block_size=self.vault.record.block_size,
                parent_size=parent_size,
                parent_pages=signatures.pages(file),
                percent=self.hints.sample_percent,
            ).run()
        self.sampled_bytes += found.read_bytes
        if found.wrong_at is None:
            return True
        self.hint_mismatches += 1
        message = (
            f"{about}: {changes.told_by} told that it did not change at offset"
            f" {found.wrong_at}, but it did"
        )
        self.vault.events.warn("hint.wrong", message, source=self.source, stream=stream.name)
        return False

    def _was_lied_to(self, stream: str, blocks: int) -> None:
        """Tell of blocks that changed, untold, and were read to be stored again; they are now."""
        self.hint_mismatches += 1
        message = (
            f'stream "{stream}" of source "{self.source}" is read as a whole by the next run: '
            f"{format_count(blocks, 'block')} changed that the platform did not tell of"
        )
        self.vault.events.warn("hint.wrong", message, source=self.source, stream=stream)
        self._full_reads.pop(stream, None)

    def _bytes_to_read(self, view: View, hints: Mapping[str, Sequence[Range] | None]) -> int | None:
        """Return what is going to be read; None when a stream does not know its size."""
        total = 0
        for stream in view.streams:
            if not isinstance(stream, DiskStream):
                return None
            wanted = stream.data_ranges()
            if (hint := hints[stream.name]) is not None:
                wanted = intersect(wanted, union(hint, self.rewriting.of(stream.name).again))
            total += bytes_in(wanted)
        return total

    # --- streams ----------------------------------------------------------------------------

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

    def _before_disk(self, name: str) -> StreamRecord | None:
        record = self._before(name, "blocks")
        if record is None or record.block_size != self.vault.record.block_size:
            return None
        return record

    def _full(self, changes: ExtentMap, before: StreamRecord | None) -> ExtentMap:
        if self.parent is None or before is None:
            return changes
        return compose(changes, self.parent.maps[before.name])

    def _disk(
        self,
        stream: DiskStream,
        changed: Sequence[Range] | None,
        writer: SortedVolumes,
        progress: Progress,
    ) -> StreamDraft:
        block_size = self.vault.record.block_size
        before = self._before_disk(stream.name)
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
                on_read=progress.advance,
                share=self.sharing.find,
                changed=changed,
                old=self.rewriting.of(stream.name) if before else UNKNOWN,
                finer=self._finer(stream.name, before, writer, stack),
                tags=self._tags(stream.name, before, stack),
            )
            result = scan.run()
        if result.lies:
            self._was_lied_to(stream.name, result.lies)
        return StreamDraft(
            record=_record(
                stream.name, "disk", size=stream.size, unit=block_size, digest=result.digest
            ),
            before=before,
            changes=result.changes,
            full=self._full(result.changes, before),
            full_signature=full_path,
            changed_signature=changes_path,
            read_bytes=result.read_bytes,
            changed_bytes=result.changed_bytes,
            rewritten_bytes=result.rewritten_bytes,
        )

    def _finer(
        self,
        name: str,
        before: StreamRecord | None,
        writer: SortedVolumes,
        stack: ExitStack,
    ) -> Finer | None:
        """Return what divides blocks that change, where that is wanted and there is room for it."""
        block_size = self.vault.record.block_size
        path = self.grains_folder / name
        if not self.fine_hashes or not grains_of(block_size):
            path.unlink(missing_ok=True)
            return None
        try:
            grains = stack.enter_context(Grains(path, block_size, self.fine_hashes))
        except (OSError, ValueError):
            return None
        parent = self.parent.maps[name] if self.parent and before else None
        return Finer(block_size, parent, grains, writer)

    def _tags(self, name: str, before: StreamRecord | None, stack: ExitStack) -> Tags | None:
        """Return the tags of a disk, where they are wanted and cost less than they save."""
        block_size = self.vault.record.block_size
        if not self.fine_hashes or 2 * block_size > UNIT or not are_cheap():
            return None
        old = self.parent.tags.get(name) if self.parent and before else None
        file = stack.enter_context(SpareFile(head.tags(self.head_folder, name)))
        return stack.enter_context(Tags(old, file, block_size, self.fine_hashes))

    def _fine_hashes(self, name: str, size: int) -> FineHashes | None:
        """Return the finer hashes of the parent's stream, if there are any and they are wanted."""
        path = self.parent.fine_hashes.get(name) if self.parent and self.fine_hashes else None
        try:
            return None if path is None else FineHashes(path, size)
        except (OSError, ValueError):
            return None

    def _anchors(self, name: str) -> AnchorIndex | None:
        """Return the anchors of the parent's stream, if there are any."""
        path = self.parent.fine_hashes.get(name) if self.parent else None
        try:
            return None if path is None else AnchorIndex(head.anchors(path))
        except (OSError, ValueError):
            return None

    def _bytes(self, stream: ByteStream, writer: SortedVolumes, progress: Progress) -> StreamDraft:
        before = self._before(stream.name, "rolling")
        old = None
        if self.parent is not None and before is not None:
            old = OldStream(
                before.size,
                before.block_size,
                self.parent.signatures[before.name],
                self._fine_hashes(before.name, before.size),
                self._anchors(before.name),
            )
        result = Roll(
            stream=stream,
            parent=old,
            pending=self.leftovers.bytes.get(stream.name, ()),
            rsync=self.rsync,
            writer=writer,
            folder=self.run_folder,
            on_stored=lambda volume, held: self.journal.note_bytes(stream.name, volume, held),
            on_read=progress.advance,
            fine_hashes=(fine := head.fine_hashes(self.head_folder, stream.name)),
            anchors=head.anchors(fine),
            most_fine_hashes=self.fine_hashes,
            old=self.rewriting.of(stream.name) if old else UNKNOWN,
        ).run()
        full_path = self.head_folder / f"{stream.name}.sig"
        result.signature.replace(full_path)
        return StreamDraft(
            record=_record(
                stream.name,
                "bytes",
                size=result.size,
                unit=result.block_length,
                digest=result.digest,
            ),
            before=before,
            changes=result.changes,
            full=self._full(result.changes, before),
            full_signature=full_path,
            changed_signature=None,
            read_bytes=result.size,
            changed_bytes=result.changed_bytes,
            rewritten_bytes=result.rewritten_bytes,
        )


def _record(name: str, kind: str, *, size: int, unit: int, digest: str) -> StreamRecord:
    """Return a stream's record, its logs still empty; `unit` is the block size in bytes."""
    return StreamRecord(
        name=name,
        kind=kind,
        engine="blocks" if kind == "disk" else "rolling",
        size=size,
        block_size=unit,
        digest=digest,
        map_log=(),
        signature_log=(),
    )


def _moment(text: str | None) -> datetime | None:
    try:
        return None if text is None else clock.from_text(text)
    except ValueError:
        return None
