# SPDX-License-Identifier: Apache-2.0
"""What a run finds that other sources of this host have stored already."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from snapvault.engine import notes
from snapvault.engine.vault import Held, create
from snapvault.engine.verify import Level
from snapvault.formats import names
from snapvault.model.notes import PruneRecord
from tests.support.sealers import PaperSealer
from tests.support.stores import RecordingStore
from tests.support.vaults import MixedSource, SparseContent, VaultKit, require_whole

BLOCK = 512
SIZE = 400 * BLOCK + 100
REGION = BLOCK << 16


@pytest.fixture
def kit(tmp_path: Path) -> VaultKit:
    return VaultKit(tmp_path)


def noise(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


def source(name: str, disk: bytes) -> MixedSource:
    return MixedSource(name, disks={"root": disk})


def clone_of(disk: bytes, share: float = 0.02) -> bytes:
    """Return a disk of which a share of the blocks, here and there, has changed."""
    changed = bytearray(disk)
    chance = random.Random(9)
    for start in range(0, len(disk), BLOCK):
        if chance.random() < share:
            changed[start : start + 8] = chance.randbytes(8)
    return bytes(changed)


def deduplicated(held: Held) -> int:
    return held.point.counters["deduplicated_bytes"]


def index_of(kit: VaultKit) -> Path:
    return kit.folder / "state" / "blocks.index"


def head_of(kit: VaultKit, name: str) -> Path:
    (folder,) = (kit.folder / "state" / "sources" / name / "heads").iterdir()
    return folder


def test_a_clone_stores_what_differs_and_comes_back(kit: VaultKit) -> None:
    disk = noise(1)
    first = kit.night(source("web01", disk))
    web02 = source("web02", clone_of(disk))

    clone = kit.night(web02)

    differing = clone.point.counters["changed_bytes"] - deduplicated(clone)
    assert 0 < differing < 0.05 * len(disk)
    assert clone.point.counters["volume_bytes"] < 0.06 * first.point.counters["volume_bytes"]
    assert clone.point.counters["new_volumes"] == 1
    require_whole(kit, web02, [clone.point])
    assert kit.verify(Level.FULL).findings == ()
    assert kit.verify(Level.DATA, kit.host()).findings == ()


def test_a_clone_of_several_regions_is_found_in_each(kit: VaultKit) -> None:
    disk = SparseContent(3 * REGION)
    for number in range(3):
        disk.write(number * REGION + 8192 * number, noise(number))
    kit.night(MixedSource("web01", disks={"root": disk}))
    clone = disk.copy()
    clone.write(REGION + 16384, b"changed")
    web02 = MixedSource("web02", disks={"root": clone})

    held = kit.night(web02)

    assert deduplicated(held) == held.point.counters["changed_bytes"] - BLOCK
    assert kit.restored(held.point) == web02.at(held.point)


def test_a_disk_like_another_stores_no_volume_at_all(kit: VaultKit) -> None:
    kit.night(source("web01", noise(1)))

    same = kit.night(source("web02", noise(1)))

    assert same.point.counters["new_volumes"] == 0
    assert same.point.counters["volume_bytes"] == 0
    assert deduplicated(same) == same.point.counters["changed_bytes"]
    assert kit.restored(same.point) == {"root": noise(1)}


def test_blocks_are_found_at_other_places_of_disks_of_other_sizes(kit: VaultKit) -> None:
    kit.night(source("web01", noise(1)))
    web02 = source("web02", noise(2, 77 * BLOCK) + noise(1)[50 * BLOCK :] + noise(3, 70))

    held = kit.night(web02)

    # The last block of one is short and the other's has more to say.
    assert deduplicated(held) == 350 * BLOCK
    require_whole(kit, web02, [held.point])


def test_blocks_that_moved_on_one_disk_are_found(kit: VaultKit) -> None:
    web01 = source("web01", noise(1))
    kit.night(web01)
    web01.disks["root"] = noise(1)[200 * BLOCK : 400 * BLOCK] + noise(1)[: 200 * BLOCK]

    held = kit.night(web01)

    assert deduplicated(held) == 400 * BLOCK
    assert held.point.counters["new_volumes"] == 0
    require_whole(kit, web01, [held.point])


def test_what_changes_alike_on_two_machines_is_stored_once(kit: VaultKit) -> None:
    disks = [source(name, clone_of(noise(1))) for name in ("web01", "web02")]
    for each in disks:
        kit.night(each)
    for each in disks:
        each.disks["root"] = clone_of(noise(1)) + noise(5, 60 * BLOCK)

    first, second = (kit.night(each) for each in disks)

    assert deduplicated(first) == 0
    assert deduplicated(second) == second.point.counters["changed_bytes"] == 61 * BLOCK
    for each, held in zip(disks, (first, second), strict=True):
        require_whole(kit, each, [held.point])


def test_a_few_blocks_are_not_worth_another_volume_to_fetch(kit: VaultKit) -> None:
    kit.night(source("web01", noise(1)))

    held = kit.night(source("web02", noise(1)[: 15 * BLOCK] + noise(2)))

    assert deduplicated(held) == 0
    assert kit.restored(held.point) == {"root": noise(1)[: 15 * BLOCK] + noise(2)}


def test_a_disk_that_has_nothing_in_common_is_stored_as_ever(kit: VaultKit) -> None:
    first = kit.night(source("web01", noise(1)))

    other = kit.night(source("web02", noise(2)))

    assert deduplicated(other) == 0
    assert other.point.counters["new_volumes"] == first.point.counters["new_volumes"]


@pytest.mark.parametrize("size", [0, 100, 4096 + 16 * 70_000, None], ids=str)
def test_a_lost_or_torn_index_is_made_anew_from_the_heads(kit: VaultKit, size: int | None) -> None:
    web01 = source("web01", noise(1))
    kit.night(web01)
    if size is None:
        index_of(kit).unlink()
    else:
        index_of(kit).write_bytes(noise(4, size))

    missed = kit.night(source("web02", noise(1)))
    kit.night(web01)
    found = kit.night(source("web03", noise(1)))

    assert deduplicated(missed) == 0
    assert deduplicated(found) == found.point.counters["changed_bytes"]


def scramble(kit: VaultKit, seed: int) -> None:
    """Let every slot in use name some page, mostly a wrong one or none, and fill the others."""
    path = index_of(kit)
    raw = bytearray(path.read_bytes())
    slots = np.frombuffer(raw, [("tag", "<u8"), ("stream", "<u4"), ("region", "<u4")], offset=4096)
    chance = np.random.default_rng(seed)
    streams = np.unique(slots["stream"])
    slots["stream"] = chance.choice(streams, len(slots))
    slots["region"] = chance.integers(0, 3, len(slots))
    free = slots["tag"] == 0
    slots["tag"][free] = chance.integers(0, 1 << 63, int(free.sum()))
    path.write_bytes(raw)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_index_says_what_is_backed_up_comes_back(kit: VaultKit, seed: int) -> None:
    """Disks whose blocks are partly the same, behind an index that lies."""
    chance = random.Random(seed)
    pool = [noise(each, 40 * BLOCK) for each in range(6)]
    kept: list[tuple[MixedSource, Held]] = []
    for number in range(4):
        parts = [chance.choice(pool) for _ in range(6)] + [noise(50 + number, 20 * BLOCK)]
        chance.shuffle(parts)
        web = source(f"web{number}", b"".join(parts))
        kept.append((web, kit.night(web)))
        scramble(kit, seed)

    for web, held in kept:
        require_whole(kit, web, [held.point])
    assert kit.verify(Level.FULL).findings == ()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["root.sig", "root.map", "index.json"])
@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_a_damaged_head_of_another_source_is_not_believed(
    kit: VaultKit, name: str, harm: Callable[[Path], None]
) -> None:
    kit.night(source("web01", noise(1)))
    harm(head_of(kit, "web01") / name)
    web02 = source("web02", clone_of(noise(1)))

    held = kit.night(web02)

    assert deduplicated(held) == 0
    require_whole(kit, web02, [held.point])


def test_the_point_of_another_source_counts_only_while_it_is_in_the_vault(kit: VaultKit) -> None:
    gone = kit.night(source("web01", noise(1)))
    kit.store.delete([gone.manifest.name])

    held = kit.night(source("web02", noise(1)))

    assert deduplicated(held) == 0
    assert kit.restored(held.point) == {"root": noise(1)}


def test_volumes_that_a_prune_has_doomed_are_not_shared(kit: VaultKit) -> None:
    kit.night(source("web01", noise(1)))
    volumes = sorted(kit.objects(names.VOLUMES))
    moment, doomed = kit.record.created_at, tuple(volumes[:2])
    record = PruneRecord(names.new_note_id(), moment, "h", "t", timedelta(7), (), doomed)
    notes.put_prune(kit.host(), record)

    held = kit.night(source("web02", noise(1)))

    assert 0 < deduplicated(held) < held.point.counters["changed_bytes"]
    assert held.point.counters["new_volumes"] == 2
    assert kit.restored(held.point) == {"root": noise(1)}


def test_volumes_that_the_store_has_lost_are_not_shared(kit: VaultKit) -> None:
    kit.night(source("web01", noise(1)))
    lost = min(kit.objects(names.VOLUMES))
    kit.store.delete([lost])

    held = kit.night(source("web02", noise(1)))

    assert 0 < deduplicated(held) < held.point.counters["changed_bytes"]
    assert kit.restored(held.point) == {"root": noise(1)}


def test_each_volume_is_asked_for_once_and_nothing_is_for_blocks_that_did_not_change(
    kit: VaultKit,
) -> None:
    kit.night(source("web01", noise(1)))
    volumes = len(kit.objects(names.VOLUMES))
    store = RecordingStore(kit.store)
    web02 = source("web02", noise(1))

    kit.night(web02, store)
    asked = [name for name in store.called("stat") if name.startswith(names.VOLUMES)]
    again = RecordingStore(kit.store)
    kit.night(web02, again)

    assert len(asked) == len(set(asked)) == volumes
    assert [name for name in again.called("stat") if name.startswith(names.VOLUMES)] == []


def test_what_was_hashed_with_another_key_is_not_shared(kit: VaultKit) -> None:
    """As of a host with a new key, in the very state folder that it had with the old one."""
    kit.night(source("web01", noise(1)))
    kit.host_sealer = PaperSealer(host="other", holds="other", trusts="host")
    kit.recovery_sealer = PaperSealer(host="other", holds="recovery", trusts="host")
    create("offsite", kit.store, kit.host_sealer)

    held = kit.night(source("web02", noise(1)))
    again = kit.night(source("web03", noise(1)))

    assert deduplicated(held) == 0
    assert deduplicated(again) == again.point.counters["changed_bytes"]
    assert kit.restored(again.point) == {"root": noise(1)}


def test_a_run_that_shall_store_everything_shares_nothing(kit: VaultKit) -> None:
    """Somebody does not trust what is there, or it is sealed to others than it should be."""
    web01 = source("web01", noise(1))
    first = kit.night(web01)
    kit.night(source("web02", noise(1)))
    kit.options = replace(kit.options, is_full=True)

    held = kit.night(web01)

    assert deduplicated(held) == 0
    assert held.point.counters["new_volumes"] == first.point.counters["new_volumes"]


def test_a_disk_next_to_a_dump_of_another_source_is_shared_and_the_dump_is_not(
    kit: VaultKit,
) -> None:
    kit.night(MixedSource("web01", disks={"root": noise(1)}, streams={"dump": noise(2)}))
    web02 = MixedSource("web02", disks={"root": noise(1)}, streams={"dump": noise(2)})

    held = kit.night(web02)

    assert deduplicated(held) == 401 * BLOCK
    assert held.point.counters["new_volumes"] == 4
    require_whole(kit, web02, [held.point])


def test_a_state_folder_that_takes_no_index_costs_a_warning_and_no_point(kit: VaultKit) -> None:
    index_of(kit).mkdir(parents=True)

    held = kit.night(source("web01", noise(1)))

    assert kit.restored(held.point) == {"root": noise(1)}
    assert kit.events.names().count("index.failed") == len(kit.events.warnings) == 1


def test_sources_that_are_gone_make_room_for_those_that_are_there(kit: VaultKit) -> None:
    """A rebuild enters the newest heads last, so that they and not old ones are found."""
    gone = kit.night(source("web01", noise(1)))
    web02 = source("web02", noise(1))
    kit.night(web02)
    kit.store.delete([gone.manifest.name])
    index_of(kit).unlink()
    kit.night(web02)

    held = kit.night(source("web03", noise(1)))

    assert deduplicated(held) == held.point.counters["changed_bytes"]
    assert kit.restored(held.point) == {"root": noise(1)}
