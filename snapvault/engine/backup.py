# SPDX-License-Identifier: Apache-2.0
"""Back up one source: from a view of it to a committed restore point."""

import shutil
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from snapvault.engine import damages, grains, head, journal, key_changes, notes, rewriting, sharing
from snapvault.engine.commit import Draft, StreamDraft, cached_list, commit
from snapvault.engine.donors import Donors
from snapvault.engine.head import Head
from snapvault.engine.journal import Journal, Leftovers
from snapvault.engine.key_changes import OwnKey
from snapvault.engine.reading import Reading
from snapvault.engine.sharing import Sharing
from snapvault.engine.vault import Held, Inventory, Vault, sync
from snapvault.errors import IntegrityError, KeyMissingError, SnapVaultError
from snapvault.formats import names
from snapvault.model import logs
from snapvault.model.policy import Hints, Rewriting
from snapvault.ports.librsync import Rsync
from snapvault.ports.source import Outcome, Source, View

_POINTS_TRIED = 3


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """How to write: raw bytes of a volume, zstd's level, and who to name in the manifest.

    `hints` says how far a platform is trusted that tells what changed, `rewriting` how much is
    stored again so that old volumes can go. With `is_full` everything is, and no volume that is
    there is used. Finer hashes of a stream take at most `fine_hashes` bytes on this host;
    0: there are none.
    """

    volume_size: int
    compression_level: int
    host: str
    tool: str
    hints: Hints = field(default_factory=Hints)
    is_full: bool = False
    fine_hashes: int = 0
    rewriting: Rewriting = field(default_factory=Rewriting)


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
        own = key_changes.own_key(vault)
        for late in own.late:
            message = f"{key_changes.told_late(late)} yet. {key_changes.apply_hint(vault)}"
            vault.events.warn("recipient.late", message, recipient=late)
        key, key_record = own.key, own.record
        inventory = sync(vault, self.source.name)
        for problem in inventory.problems:
            vault.events.warn("vault.damaged", str(problem), source=self.source.name)
        records = notes.prunes(vault)
        doomed = notes.doomed(records)
        for problem in records.problems:
            vault.events.warn("vault.damaged", str(problem), source=self.source.name)
        parent = None if self.options.is_full else self._parent(inventory, doomed)
        restarts_logs = False
        if parent is not None and parent.held.point.hash_key.sha256 != key_record.sha256:
            # What the parent refers to was sealed to other readers: its hashes are of use, if they
            # were made with this key, and the new point's metadata does without its.
            restarts_logs = own.is_same(parent.held.point.hash_key)
            parent = parent if restarts_logs else None
        bad = damages.known(vault)
        avoided = {*doomed, *bad}
        if parent is not None and any(each.name in bad for each in parent.held.point.objects):
            restarts_logs = True  # the head has what they held
        # What a record that cannot be read has doomed nobody knows: only what this run stores
        # itself, and the newest point, are safe from it.
        unusable: Container[str] = _Everything() if records.problems else avoided
        again = rewriting.plan(
            vault,
            parent,
            inventory.of(self.source.name),
            share=self.options.rewriting.budget_percent / 100,
            volume_size=self.options.volume_size,
            bad=bad,
        )
        run_folder = self._clean_run_folder()
        leftovers = self._leftovers(run_folder, key_record.sha256, unusable)
        point = names.new_point_id()
        heads = self.folder / "heads"
        view = self.source.open(_marks(parent))
        try:
            reading = Reading(
                vault=vault,
                source=self.source.name,
                rsync=self.rsync,
                volume_size=self.options.volume_size,
                level=self.options.compression_level,
                hints=self.options.hints,
                fine_hashes=self.options.fine_hashes,
                key=key,
                parent=parent,
                leftovers=leftovers,
                sharing=self._sharing(parent, own, unusable),
                journal=Journal(
                    run_folder, block_size=vault.record.block_size, key_id=key_record.sha256
                ),
                run_folder=run_folder,
                head_folder=head.new_folder(heads, point),
                grains_folder=self.folder / "grains",
                rewriting=again,
            )
            streams, volumes = reading.run(view)
            outcome = view.finish()
            draft = Draft(
                point=point,
                source=self.source.name,
                view_taken_at=view.taken_at,
                consistency=outcome.consistency,
                streams=tuple(
                    _with_outcome(stream, outcome, reading.facts_of(stream)) for stream in streams
                ),
                base=parent.held if parent else None,
                previous=inventory.of(self.source.name)[-1:],
                hash_key=key_record,
                volumes={**leftovers.volumes, **{each.volume: each for each in volumes}},
                host=self.options.host,
                tool=self.options.tool,
                counters={
                    "sampled_bytes": reading.sampled_bytes,
                    "hint_mismatches": reading.hint_mismatches,
                    "deduplicated_bytes": reading.sharing.deduplicated_bytes,
                    **again.counters(
                        changed=sum(stream.changed_bytes for stream in streams),
                        rewritten=sum(stream.rewritten_bytes for stream in streams),
                    ),
                },
                prunes=records,
                doomed=avoided,
                deserted=_deserted(parent, inventory.of(self.source.name)),
                restarts_logs=restarts_logs,
                shared=reading.sharing.records,
            )
            held = commit(vault, draft, run_folder)
            self._tell_committed(view, held)
        except BaseException as error:
            # Only journals are of use to the next run; signatures can be as large as a dump's.
            with suppress(OSError):
                self._clean_run_folder()
            shutil.rmtree(heads / point, ignore_errors=True)
            _close_after(view, error)
            raise
        self._close_committed(view)
        try:
            head.keep(heads, point, {stream.record.name: stream.full for stream in streams})
            grains.drop_others(self.folder / "grains", [stream.record.name for stream in streams])
            self._learn(streams, own.key)
            journal.clear(run_folder)
        except OSError as error:
            # The point is committed; what failed is a cache, which the next run makes again.
            vault.events.warn(
                "head.failed",
                f'could not keep the head of source "{self.source.name}": {error.strerror}',
                source=self.source.name,
            )
        return held

    def _leftovers(self, run_folder: Path, key_id: str, unusable: Container[str]) -> Leftovers:
        """Return what an unfinished run has stored, and that may be used."""
        found = journal.load(
            run_folder,
            self.vault.store,
            block_size=self.vault.record.block_size,
            key_id=key_id,
            doomed=unusable,
        )
        if found.volumes:
            count = len(found.volumes)
            self.vault.events.emit("run.resumed", source=self.source.name, volumes=count)
        return found

    def _sharing(self, parent: Head | None, key: OwnKey, unusable: Container[str]) -> Sharing:
        """Return what finds the blocks of tonight that sources of this host have stored."""
        vault = self.vault
        maps = parent.maps.values() if parent is not None else ()
        donors = Donors(vault, self.folder.parent, parent=parent, key=key, doomed=unusable)
        return Sharing(
            lambda: None if self.options.is_full else sharing.open_index(vault, key.key),
            donors,
            block_size=vault.record.block_size,
            used=(volume for extents in maps for volume in extents.volumes),
        )

    def _learn(self, streams: Sequence[StreamDraft], key: bytes) -> None:
        """Let runs of other sources find the blocks that are new."""
        changed = [
            (stream.record.name, stream.changed_signature)
            for stream in streams
            if stream.changed_signature is not None
        ]
        try:
            sharing.learn(self.vault, self.folder.parent, self.source.name, changed, key)
        except OSError as error:
            self.vault.events.warn(
                "index.failed",
                f'could not note the blocks of source "{self.source.name}", so no other source '
                f"can share them: {error.strerror}",
                source=self.source.name,
            )

    def _tell_committed(self, view: View, held: Held) -> None:
        """Let the platform go on; what fails there does not undo the restore point."""
        try:
            view.committed(held.point.point)
        except SnapVaultError as error:
            self.vault.events.warn("source.not_released", str(error), source=self.source.name)

    def _close_committed(self, view: View) -> None:
        """Release the source; what fails there does not undo the restore point."""
        try:
            view.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, a run that committed succeeded
            self.vault.events.warn(
                "source.not_released",
                f'could not release source "{self.source.name}": {_told(error)}',
                source=self.source.name,
            )

    def _parent(self, inventory: Inventory, doomed: Container[str]) -> Head | None:
        """Return the newest point that this host can go on from, and that no prune takes away."""
        for held in reversed(inventory.of(self.source.name)[-_POINTS_TRIED:]):
            if any(each.name in doomed for each in (*held.point.objects, *held.point.lists)):
                continue
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


class _Everything:
    """Has every name in it."""

    def __contains__(self, name: object) -> bool:
        return True


def _deserted(parent: Head | None, present: Sequence[Held]) -> frozenset[str]:
    """Return the names of metadata that is kept for the parent's sake alone."""
    if parent is None:
        return frozenset()
    return logs.deserted(parent.held.point, [each.point for each in present])


def _close_after(view: View, first: BaseException) -> None:
    """Release the source after a failure; one of the release itself is a note on the first."""
    try:
        view.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not hide the first
        first.add_note(f"the source could not be released either: {_told(error)}")


def _told(error: Exception) -> str:
    """Return what an error says; of one that is not ours, nobody knows what it may give away."""
    return str(error) if isinstance(error, SnapVaultError) else f"unforeseen {type(error).__name__}"


def _marks(parent: Head | None) -> dict[str, str]:
    """Return what the platforms called the state that the parent holds, by stream."""
    streams = parent.held.point.streams if parent else ()
    return {stream.name: stream.mark for stream in streams if stream.mark is not None}


def _with_outcome(stream: StreamDraft, outcome: Outcome, facts: dict[str, str]) -> StreamDraft:
    """Put a mark, and what the source and the reading tell of a stream, into its record."""
    name = stream.record.name
    mark = outcome.marks.get(name)
    told = {**outcome.facts.get(name, {}), **(facts if mark is not None else {})}
    return replace(stream, record=replace(stream.record, mark=mark, facts=told))
