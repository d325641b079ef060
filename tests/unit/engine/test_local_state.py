# SPDX-License-Identifier: Apache-2.0
"""What a host keeps for itself, journals and heads: it can be damaged or lost, never believed."""

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault.engine import journal, notes
from snapvault.engine.files import write_durably
from snapvault.errors import SourceError
from snapvault.formats import names
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.notes import PruneRecord
from tests.support.stores import BeforeCall, RecordingStore
from tests.support.vaults import MixedSource, VaultKit, require_whole

Damage = Callable[[bytes], bytes]

DAMAGES: dict[str, Damage] = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[:-1],
    "too long": lambda data: data + b"x",
    "flipped": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    ),
    "something else": lambda data: b'{"point": 5}',
}


@pytest.fixture
def kit(tmp_path: Path) -> VaultKit:
    return VaultKit(tmp_path)


@pytest.fixture
def source() -> MixedSource:
    return MixedSource(
        disks={"root": random.Random(1).randbytes(200_001)},
        streams={"dump": random.Random(2).randbytes(100_000)},
    )


@pytest.fixture
def journals(kit: VaultKit, source: MixedSource) -> list[Path]:
    """The journals of a run whose source broke near its end."""
    source.faults.after_bytes = 290_000
    with pytest.raises(SourceError):
        kit.night(source)
    source.faults.after_bytes = None
    return sorted((kit.folder / "state").rglob("*.journal"))


def load(kit: VaultKit, folder: Path) -> journal.Leftovers:
    (name,) = (name for name in kit.objects("keys/") if name.endswith(".hash"))
    digest = hashlib.sha256(kit.store.get(name)).hexdigest()
    return journal.load(folder, kit.store, block_size=512, key_id=digest)


def test_journals_name_every_volume_that_was_stored(kit: VaultKit, journals: list[Path]) -> None:
    leftovers = load(kit, journals[0].parent)

    assert len(journals) >= 3
    assert {names.volume(name) for name in leftovers.volumes} == set(kit.objects(names.VOLUMES))
    assert {"root"} <= set(leftovers.blocks)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_is_dropped_and_the_run_completes(
    kit: VaultKit, source: MixedSource, journals: list[Path], damage: str
) -> None:
    for path in journals[1:]:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))

    held = kit.night(source)

    used = {name for each in kit.contents(held.point).maps for name in each.volumes}
    assert journals[0].stem in used
    assert not used & {path.stem for path in journals[1:]}
    require_whole(kit, source, [held.point])


def test_a_journal_of_a_volume_that_never_arrived_is_dropped(
    kit: VaultKit, journals: list[Path]
) -> None:
    kit.store.delete([names.volume(journals[0].stem)])

    leftovers = load(kit, journals[0].parent)

    assert journals[0].stem not in leftovers.volumes
    assert not journals[0].exists()


def test_a_journal_of_another_key_is_dropped(kit: VaultKit, journals: list[Path]) -> None:
    leftovers = journal.load(journals[0].parent, kit.store, block_size=512, key_id="other")

    assert leftovers == journal.Leftovers({}, {}, {})
    assert not any(path.exists() for path in journals)


def test_a_volume_of_another_size_than_its_journal_says_is_not_used(
    kit: VaultKit, source: MixedSource, journals: list[Path]
) -> None:
    name = names.volume(journals[0].stem)
    kit.replace(name, kit.store.get(name)[:-1])

    held = kit.night(source)

    require_whole(kit, source, [held.point])


def test_a_journal_without_content_is_dropped(kit: VaultKit, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    journal.Journal(folder, block_size=512, key_id="k").seal(VolumeRecord("ab" * 16, 5, "00" * 32))

    leftovers = journal.load(folder, kit.store, block_size=512, key_id="k")

    assert leftovers.volumes == {}
    assert list(folder.iterdir()) == []


def test_a_committed_run_leaves_no_journal(
    kit: VaultKit, source: MixedSource, journals: list[Path]
) -> None:
    kit.night(source)

    assert list((kit.folder / "state").rglob("*.journal")) == []


@pytest.mark.parametrize("after_bytes", [100_000, 290_000])
def test_a_failed_run_leaves_nothing_but_journals(
    kit: VaultKit, source: MixedSource, after_bytes: int
) -> None:
    held = kit.night(source)
    source.disks["root"] = random.Random(3).randbytes(200_001)
    source.faults.after_bytes = after_bytes
    with pytest.raises(SourceError):
        kit.night(source)

    folder = kit.folder / "state" / "sources" / source.name

    assert {path.suffix for path in (folder / "run").iterdir()} <= {".journal"}
    assert [path.name for path in (folder / "heads").iterdir()] == [held.point.point]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["index.json", "root.map", "root.sig", "dump.sig", "dump.map"])
def test_a_damaged_head_is_rebuilt_from_the_vault(
    kit: VaultKit, source: MixedSource, file: str, damage: str
) -> None:
    kit.night(source)
    (path,) = (kit.folder / "state").rglob(f"heads/*/{file}")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    before = kit.objects(names.VOLUMES)

    held = kit.night(source)

    assert kit.objects(names.VOLUMES) == before
    assert held.point.counters["changed_bytes"] == 0
    require_whole(kit, source, [held.point])


def test_a_volume_id_that_changed_in_the_cache_is_noticed(
    kit: VaultKit, source: MixedSource
) -> None:
    first = kit.night(source)
    volume = kit.contents(first.point).maps[0].volumes[0]
    (index,) = (kit.folder / "state").rglob("heads/*/index.json")
    other = ("0" if volume[0] != "0" else "1") + volume[1:]
    index.write_text(index.read_text().replace(volume, other))

    held = kit.night(source)

    assert "head.rebuilt" in kit.events.names()
    require_whole(kit, source, [held.point])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_of_a_list_is_fetched_again(
    kit: VaultKit, source: MixedSource, damage: str
) -> None:
    kit.night(source)
    (path,) = (kit.folder / "state" / "lists").iterdir()
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    store = RecordingStore(kit.store)

    held = kit.night(source, store)

    assert store.called("get")[-1] == names.volume_list(path.name)
    require_whole(kit, source, [held.point])


def test_a_list_that_is_lost_on_both_sides_does_not_stop_backups(
    kit: VaultKit, source: MixedSource
) -> None:
    first = kit.night(source)
    (lost,) = first.point.lists
    kit.store.delete([lost.name])
    (kit.folder / "state" / "lists" / lost.sha256).unlink()

    held = kit.night(source)

    assert "parent.unusable" in kit.events.names()
    require_whole(kit, source, [held.point])


def test_a_run_reads_the_record_of_a_prune_once(kit: VaultKit, source: MixedSource) -> None:
    record = PruneRecord(names.new_note_id(), kit.record.created_at, "h", "t", timedelta(7), (), ())
    notes.put_prune(kit.host(), record)
    notes.prunes(kit.host())
    copies = kit.host().state / names.PRUNES
    forgetful = BeforeCall(
        kit.store, lambda _, name: name.startswith(names.VOLUMES), lambda: shutil.rmtree(copies)
    )
    store = RecordingStore(forgetful)

    kit.night(source, store)

    assert not copies.exists()
    assert store.called("names").count(names.PRUNES) == 2
    assert [name for name in store.called("get") if name.startswith(names.PRUNES)] == []


def test_two_processes_can_write_the_same_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "list"

    def interrupted() -> Iterator[bytes]:
        yield b"who"
        write_durably(path, [b"whole"])
        yield b"le"

    write_durably(path, interrupted())

    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
