# SPDX-License-Identifier: Apache-2.0
"""What is foreseen of restores and verifies is what is counted when they are carried out."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.adapters.stores.metered import MeteredStore
from snapvault.engine import forecast
from snapvault.engine.contents import look_up
from snapvault.engine.restore import restore
from snapvault.engine.vault import Held, Vault, sync
from snapvault.engine.verify import Level, Verification
from snapvault.model.usage import Usage
from tests.support.targets import MemoryTarget
from tests.support.vaults import MixedSource, VaultKit


class Metered:
    """A vault of three nights, and a machine with the recovery key that counts what it asks."""

    def __init__(self, folder: Path) -> None:
        chance = random.Random(7)
        self.kit = VaultKit(folder, volume_size=32 << 10)
        self.source = MixedSource(
            disks={"root": bytearray(chance.randbytes(200_000))},
            streams={"dump": chance.randbytes(50_000)},
        )
        for _ in range(3):
            disk = self.source.disks["root"]
            assert isinstance(disk, bytearray)
            start = chance.randrange(100_000)
            disk[start : start + 20_000] = chance.randbytes(20_000)
            self.source.streams["dump"] = chance.randbytes(50_000)
            self.kit.night(self.source)
        self.store = MeteredStore(self.kit.store)
        self.vault: Vault = self.kit.recovery(self.store)
        self.held: tuple[Held, ...] = sync(self.vault).held

    def asked(self, work: Callable[[], object]) -> Usage:
        before = self.store.usage()
        work()
        return self.store.usage() - before


@pytest.fixture
def metered(tmp_path: Path) -> Metered:
    return Metered(tmp_path)


@pytest.mark.parametrize("wanted", [["root", "dump"], ["root"], ["dump"]])
def test_a_restore_asks_what_was_foreseen(metered: Metered, wanted: list[str]) -> None:
    newest = metered.held[-1]
    streams = tuple(each for each in newest.point.streams if each.name in wanted)

    foreseen = forecast.of_restore(metered.vault, newest, streams, metered.store.usage)

    def bring_back() -> None:
        sync(metered.vault, newest.point.source)
        contents = look_up(metered.vault, newest.point, streams)
        restore(metered.vault, contents, [MemoryTarget(each.size) for each in streams])

    assert metered.asked(bring_back) == foreseen.usage
    assert foreseen.usage.volume_gets == len(foreseen.volumes) > 1


def test_a_restore_of_all_is_foreseen_without_its_maps(metered: Metered) -> None:
    newest = metered.held[-1]
    exactly = forecast.of_restore(metered.vault, newest, newest.point.streams, metered.store.usage)

    from_lists = forecast.of_whole(metered.vault, newest.point)

    assert from_lists.usage == exactly.usage
    assert set(from_lists.volumes) == set(exactly.volumes)


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("source", [None, "web01"])
def test_a_verify_asks_what_was_foreseen(
    metered: Metered, tmp_path: Path, level: Level, source: str | None
) -> None:
    work = Verification(
        metered.vault, sync(metered.vault), level, 100.0, tmp_path, random.Random(1)
    )

    foreseen = work.forecast(source, metered.store.usage)

    assert metered.asked(lambda: work.run(source)) == foreseen
    assert foreseen.volume_gets > 10 or level is Level.OBJECTS


def test_a_sample_is_foreseen_by_its_share(metered: Metered, tmp_path: Path) -> None:
    work = Verification(
        metered.vault, sync(metered.vault), Level.DATA, 50.0, tmp_path, random.Random(1)
    )

    foreseen = work.forecast(None, metered.store.usage)

    asked = metered.asked(work.run)
    assert replace(foreseen, bytes_down=0, volume_down=0) == replace(
        asked, bytes_down=0, volume_down=0
    )
    assert 0.5 < foreseen.volume_down / asked.volume_down < 2


def test_a_first_backup_sends_no_more_than_was_foreseen(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path, volume_size=64 << 10)
    source = MixedSource(disks={"root": random.Random(7).randbytes(1_000_000)})
    store = MeteredStore(kit.store)

    kit.night(source, store)

    foreseen = forecast.of_first_backup(1_000_000, 64 << 10)
    asked = store.usage()
    assert asked.volume_puts == foreseen.volume_puts
    assert asked.volume_puts + 4 < asked.puts <= foreseen.puts
    # Blocks of tests are a sixteenth of real ones, so their hashes take 16 times the room.
    assert 0.95 * foreseen.bytes_up < asked.bytes_up < 1.05 * foreseen.bytes_up
