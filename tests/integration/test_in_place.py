# SPDX-License-Identifier: Apache-2.0
"""Restores in place: whatever a disk holds becomes the point, for no more than that costs."""

import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapvault.adapters.half_restored import mark_of
from snapvault.adapters.sources.image import ImageSource
from snapvault.adapters.sources.whole import WholeSource
from snapvault.adapters.stores.directory import DirectoryStore
from snapvault.adapters.stores.memory import MemoryStore
from snapvault.adapters.stores.metered import MeteredStore
from snapvault.adapters.targets.in_place import InPlaceTarget, open_in_place
from snapvault.engine.in_place import Result, restore_in_place, volumes_of
from snapvault.engine.vault import Vault
from snapvault.errors import RestoreError, SourceError
from snapvault.formats import names
from snapvault.formats import vault as vault_format
from snapvault.model.point import Point
from tests.support import keys
from tests.support.vault_builder import VaultBuilder
from tests.support.vaults import MixedSource, SparseContent, VaultKit, gnupg_sealers
from tests.unit.adapters.targets.devices import block_device

pytestmark = pytest.mark.integration

BLOCK = 512
REGION = BLOCK << 16
MIB = 1 << 20


def opened(path: Path, size: int, devices: Path) -> InPlaceTarget:
    return open_in_place(path, size, {"target": str(path)}, devices=devices, force=False)


def bring_back(
    kit: VaultKit, point: Point, paths: list[Path], vault: Vault | None = None
) -> Result:
    """Restore all disks of a point in place."""
    vault = vault or kit.recovery()
    targets = [
        opened(path, stream.size, kit.folder / "devices")
        for path, stream in zip(paths, point.streams, strict=True)
    ]
    return restore_in_place(vault, kit.contents(point), targets)


def stored(path: Path, content: SparseContent) -> None:
    """Write sparse content into a sparse file."""
    with path.open("wb") as file:
        file.truncate(content.size)
        for number, page in content.pages.items():
            os.pwrite(file.fileno(), page[: content.size - number * 4096], number * 4096)


writes = st.lists(
    st.tuples(st.integers(0, 999), st.integers(1, 40), st.booleans(), st.integers(0, 99)),
    max_size=6,
)


def change(content: SparseContent, drawn: list[tuple[int, int, bool, int]]) -> None:
    """Write data or zeros; places are thousandths of the disk, lengths of a hundred of bytes."""
    for where, amount, is_data, seed in drawn:
        length = amount * 100
        data = random.Random(seed).randbytes(length) if is_data else bytes(length)
        content.write(content.size * where // 1000, data)


@settings(max_examples=25, deadline=None)
@given(
    size=st.sampled_from([0, 1, 511, 512, 100_000, REGION - 1, REGION + 4096, 2 * REGION + 700]),
    nights=st.lists(writes, min_size=1, max_size=3),
    wanted=st.integers(0, 2),
    since=writes,
    resize=st.sampled_from([0, 0, 1, -1, 5000, -5000, REGION]),
)
def test_whatever_a_disk_holds_becomes_the_point(
    size: int,
    nights: list[list[tuple[int, int, bool, int]]],
    wanted: int,
    since: list[tuple[int, int, bool, int]],
    resize: int,
) -> None:
    with tempfile.TemporaryDirectory(prefix="svt-") as name:
        kit = VaultKit(Path(name), block_size=BLOCK)
        content = SparseContent(size)
        source = MixedSource(disks={"root": content})
        points = []
        for night in nights:
            change(content, night)
            points.append(kit.night(source).point)
        point = points[min(wanted, len(points) - 1)]
        change(content, since)
        content.resize(max(0, size + resize))
        disk = Path(name) / "disk.img"
        stored(disk, content)

        result = bring_back(kit, point, [disk])
        again = bring_back(kit, point, [disk])

        assert disk.read_bytes() == source.at(point)["root"]
        assert result.streams[0].different <= size
        assert (again.volumes, again.streams[0].different) == (0, 0)
        assert not again.streams[0].resized
        assert not mark_of(disk, kit.folder).file.exists()


def test_only_volumes_with_blocks_that_differ_are_fetched(tmp_path: Path) -> None:
    content = bytearray(random.Random(3).randbytes(4 * MIB))
    source = MixedSource(disks={"root": content})
    kit = VaultKit(tmp_path, block_size=4096, volume_size=256 << 10)
    point = kit.night(source).point
    disk = tmp_path / "disk.img"
    disk.write_bytes(content[: 2 * MIB] + bytes(40_960) + content[2 * MIB + 40_960 :])
    store = MeteredStore(kit.store)

    result = bring_back(kit, point, [disk], kit.recovery(store))

    volumes, size = volumes_of(kit.contents(point))
    assert volumes == 16
    assert result.volumes == 1
    assert result.volume_bytes < size / 15
    assert store.counts().opens <= 3  # the volume, and what says what differs
    assert result.streams[0].different == result.streams[0].written == 40_960
    assert disk.read_bytes() == content


def test_a_disk_that_is_right_is_neither_written_nor_marked(tmp_path: Path) -> None:
    content = random.Random(4).randbytes(300_000)
    kit = VaultKit(tmp_path)
    point = kit.night(MixedSource(disks={"root": bytearray(content)})).point
    disk = tmp_path / "disk.img"
    disk.write_bytes(content)
    before = disk.stat()

    result = bring_back(kit, point, [disk])

    assert result.volumes == 0
    assert disk.stat().st_mtime_ns == before.st_mtime_ns


def test_zeros_are_made_holes_and_cost_no_fetch(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path, block_size=4096)
    point = kit.night(MixedSource(disks={"root": bytearray(2 * MIB)})).point
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"x" * (2 * MIB))

    result = bring_back(kit, point, [disk])

    assert result.volumes == 0
    assert result.streams[0].different == 2 * MIB
    assert disk.read_bytes() == bytes(2 * MIB)
    assert disk.stat().st_blocks * 512 < 64 << 10


def test_a_dump_cannot_be_restored_in_place(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    point = kit.night(MixedSource(streams={"dump": b"insert" * 1000})).point
    file = tmp_path / "dump"
    file.write_bytes(b"other")

    with pytest.raises(RestoreError, match=r'stream "dump" .* it is no disk'):
        bring_back(kit, point, [file])

    assert file.read_bytes() == b"other"


def test_a_vault_that_only_the_format_made_is_restored_in_place(tmp_path: Path) -> None:
    chance = random.Random(5)
    folder = tmp_path / "vault"
    disks = {"root": bytearray(chance.randbytes(150_000)), "data": bytearray(90_000)}
    with gnupg_sealers() as sealers:
        with keys.host_home() as home:
            builder = VaultBuilder(folder, home, recipients=[keys.RECOVERY], signer=keys.HOST)
            nights = []
            for _ in range(3):
                for disk in disks.values():
                    at = chance.randrange(80_000)
                    disk[at : at + 5_000] = chance.randbytes(5_000)
                night = {name: bytes(disk) for name, disk in disks.items()}
                nights.append((builder.commit("web01", night), night))
        kit = VaultKit(tmp_path / "host", sealers=sealers)
        kit.store = DirectoryStore(folder)
        kit.record = vault_format.decode(kit.store.get(names.VAULT))
        paths = [tmp_path / name for name in disks]
        for path, disk in zip(paths, disks.values(), strict=True):
            path.write_bytes(disk + b"grown")

        for point, night in reversed(nights):
            result = bring_back(kit, point, paths)

            assert {path.name: path.read_bytes() for path in paths} == night
            assert all(each.different < 60_000 for each in result.streams)


@pytest.fixture
def kit(tmp_path: Path) -> VaultKit:
    return VaultKit(tmp_path / "kit", store=MemoryStore(), block_size=4096)


def test_a_device_becomes_the_point_and_what_lies_beyond_stays(
    kit: VaultKit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(random.Random(6).randbytes(MIB) + bytes(MIB))
    point = kit.night(MixedSource(disks={"root": content + b"end"})).point
    with block_device(tmp_path / "backing", 4 * MIB, monkeypatch) as (device, _):
        first = bring_back(kit, point, [device])
        second = bring_back(kit, point, [device])

        assert device.read_bytes() == content + b"end" + b"\xaa" * (2 * MIB - 3)
        assert first.streams[0].different == 2 * MIB + 3
        assert second.streams[0].different == 0
        assert list((kit.folder / "devices").iterdir()) == []


def test_a_half_restored_device_is_known_by_its_record(
    kit: VaultKit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = kit.night(MixedSource(disks={"root": bytearray(b"new" * 9999)})).point
    devices = kit.folder / "devices"
    with block_device(tmp_path / "backing", MIB, monkeypatch) as (device, _):
        link = tmp_path / "link"
        link.symlink_to(device)
        source = WholeSource(ImageSource("web01", {"root": link}), [link], devices=devices)
        target = opened(device, point.streams[0].size, devices)
        target.begin(0)
        target.abort()

        with pytest.raises(SourceError, match="half restored"):
            source.open()
        bring_back(kit, point, [device])

        source.open().close()
