# SPDX-License-Identifier: Apache-2.0
"""Restores in place that fetch parts of volumes, and what becomes of them where that cannot be."""

import random
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from snapvault.adapters.stores.memory import MemoryStore
from snapvault.adapters.stores.metered import MeteredStore
from snapvault.adapters.targets.in_place import open_in_place
from snapvault.engine.contents import Contents
from snapvault.engine.in_place import Result, restore_in_place, volumes_of
from snapvault.errors import (
    KeyMissingError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    VolumeError,
)
from snapvault.formats import names
from snapvault.model.point import Point
from snapvault.ports.sealer import Readers, Sealer
from snapvault.ports.store import Store
from tests.support import keys
from tests.support.stores import FailingStore
from tests.support.vaults import MixedSource, VaultKit, gnupg_sealers

pytestmark = pytest.mark.integration

BLOCK = 4096
MIB = 1 << 20
SIZE = 12 * MIB + 5000


def content() -> bytearray:
    """Return a disk half of which packs well, in runs of a few blocks."""
    chance = random.Random(1)
    pieces: list[bytes] = []
    while len(pieces) < SIZE // 10_000 + 1:
        pieces.append(
            chance.randbytes(10_000) if len(pieces) % 2 else b"%07d---" % len(pieces) * 1000
        )
    return bytearray(b"".join(pieces)[:SIZE])


@pytest.fixture(scope="module")
def sealers() -> Iterator[tuple[Sealer, Sealer]]:
    with gnupg_sealers() as both:
        yield both


def backed_up(tmp_path: Path, sealers: tuple[Sealer, Sealer]) -> tuple[VaultKit, Point]:
    store = MeteredStore(MemoryStore())
    kit = VaultKit(
        tmp_path / "kit", store=store, sealers=sealers, block_size=BLOCK, volume_size=5 * MIB
    )
    return kit, kit.night(MixedSource(disks={"root": content()})).point


def changed(*blocks: int) -> bytes:
    """Return the disk with other bytes in some blocks."""
    disk = content()
    for block in blocks:
        disk[block * BLOCK : block * BLOCK + 10] = b"other than"
    return bytes(disk)


# One early in every third MiB, and one that lies across the end of a frame and of a volume.
SCATTERED = (10, 3 * 256 + 40, 6 * 256 + 20, 9 * 256 + 5, 12 * 256)


def bring_back(kit: VaultKit, point: Point, disk: Path, *, store: Store | None = None) -> Result:
    contents = kit.contents(point)
    words = {"target": disk.name}
    target = open_in_place(disk, SIZE, words, devices=kit.folder / "devices", force=False)
    return restore_in_place(kit.recovery(store), contents, [target])


def full_bytes(contents: Contents) -> int:
    return volumes_of(contents)[1]


def flip(kit: VaultKit, volume: str, *, share: tuple[float, float]) -> None:
    """Flip a bit in every KiB of a part of a volume."""
    name = names.volume(volume)
    damaged = bytearray(kit.store.get(name))
    for at in range(int(len(damaged) * share[0]), int(len(damaged) * share[1]), 1024):
        damaged[at] ^= 4
    kit.replace(name, bytes(damaged))


def test_scattered_blocks_cost_the_starts_of_their_frames(
    tmp_path: Path, sealers: tuple[Sealer, Sealer]
) -> None:
    kit, point = backed_up(tmp_path, sealers)
    store = kit.store
    assert isinstance(store, MeteredStore)
    disk = tmp_path / "root.img"
    disk.write_bytes(changed(*SCATTERED))
    contents = kit.contents(point)
    before = store.counts()

    words = {"target": disk.name}
    target = open_in_place(disk, SIZE, words, devices=kit.folder / "devices", force=False)
    result = restore_in_place(kit.recovery(), contents, [target])

    assert disk.read_bytes() == content()
    assert result.volumes == len(contents.maps[0].volumes) == 3
    assert result.volume_bytes < full_bytes(contents) / 3
    # What is reported is what came from the store, beside the signature.
    (signature,) = (each.size for each in point.objects if each.name.endswith(".sig"))
    after = store.counts()
    assert after.bytes_down - before.bytes_down == result.volume_bytes + signature
    assert after.opens - before.opens <= 1
    assert result.streams[0].written == len(SCATTERED) * BLOCK


def test_a_disk_that_is_all_different_is_fetched_by_whole_volumes(
    tmp_path: Path, sealers: tuple[Sealer, Sealer]
) -> None:
    kit, point = backed_up(tmp_path, sealers)
    disk = tmp_path / "root.img"
    disk.write_bytes(bytes(SIZE))

    result = bring_back(kit, point, disk)

    assert disk.read_bytes() == content()
    assert result.volume_bytes == full_bytes(kit.contents(point))


def test_damage_in_what_is_fetched_is_named_and_not_written(
    tmp_path: Path, sealers: tuple[Sealer, Sealer]
) -> None:
    kit, point = backed_up(tmp_path, sealers)
    disk = tmp_path / "root.img"
    there, wanted = changed(*SCATTERED), bytes(content())
    disk.write_bytes(there)
    volume = kit.contents(point).maps[0].volumes[1]
    flip(kit, volume, share=(0.1, 0.9))

    with pytest.raises(VolumeError, match=names.volume(volume)):
        bring_back(kit, point, disk)

    left = disk.read_bytes()
    assert left != wanted
    for at in range(0, SIZE, BLOCK):
        assert left[at : at + BLOCK] in (wanted[at : at + BLOCK], there[at : at + BLOCK])


@pytest.mark.parametrize("at", [5, 70], ids=["name of the key", "session key"])
def test_damage_in_the_head_of_a_volume_is_named_too(
    tmp_path: Path, sealers: tuple[Sealer, Sealer], at: int
) -> None:
    kit, point = backed_up(tmp_path, sealers)
    disk = tmp_path / "root.img"
    disk.write_bytes(changed(*SCATTERED))
    name = names.volume(kit.contents(point).maps[0].volumes[1])
    good = kit.store.get(name)
    # gpg says that it has no such key, or that the key does not fit.
    kit.replace(name, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])

    with pytest.raises(VolumeError, match=name):
        bring_back(kit, point, disk)


def test_damage_in_what_is_not_needed_does_not_matter(
    tmp_path: Path, sealers: tuple[Sealer, Sealer]
) -> None:
    kit, point = backed_up(tmp_path, sealers)
    disk = tmp_path / "root.img"
    disk.write_bytes(changed(10))
    flip(kit, kit.contents(point).maps[0].volumes[0], share=(0.5, 0.9))

    bring_back(kit, point, disk)

    assert disk.read_bytes() == content()


class _OtherSealer:
    """A host's sealer whose volumes are sealed in another way."""

    def __init__(self, inner: Sealer, home: Path, seal: Callable[[Path, bytes], bytes]) -> None:
        self._inner = inner
        self._home = home
        self._seal = seal

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def seal_to_file(self, chunks: Iterable[bytes], path: Path, readers: Readers) -> None:
        if readers is Readers.RECOVERY:
            path.write_bytes(self._seal(self._home, b"".join(chunks)))
        else:
            self._inner.seal_to_file(chunks, path, readers)


def sealed(home: Path, data: bytes, *options: str) -> bytes:
    common = ["--trust-model=always", "--cipher-algo=AES256", "--recipient", keys.RECOVERY]
    return keys.gpg(home, *common, *(options or ["--compress-algo=none"]), "--encrypt", data=data)


def compressed(home: Path, data: bytes) -> bytes:
    return sealed(home, data, "--compress-algo=zlib")


def in_other_parts(home: Path, data: bytes) -> bytes:
    """Seal as ever, and cut a part in the middle in two: the message is as good as before."""
    message = sealed(home, data)
    # Its only session key packet has two bytes before its body. Looked for, the next one could be
    # found in the key, which is random.
    start = 2 + message[1] + 1
    assert message[start - 1 : start + 1] == b"\xd2\xed"
    at = start + 60 * 8193
    assert message[at] == 0xED
    return b"".join(
        [message[:at], b"\xec", message[at + 1 : at + 4097], b"\xec", message[at + 4097 :]]
    )


def with_a_wrong_table(home: Path, data: bytes) -> bytes:
    """Seal a volume whose seek table gives its first frame a byte of the second."""
    frames, _, _ = struct.unpack("<IBI", data[-9:])
    table = bytearray(data[-9 - 8 * frames : -9])
    first, second = struct.unpack_from("<I4xI", table)
    struct.pack_into("<I4xI", table, 0, first + 1, second - 1)
    return sealed(home, data[: -9 - 8 * frames] + bytes(table) + data[-9:])


def with_a_table_that_does_not_add_up(home: Path, data: bytes) -> bytes:
    frames, _, _ = struct.unpack("<IBI", data[-9:])
    table = bytearray(data[-9 - 8 * frames : -9])
    table[0] ^= 1
    return sealed(home, data[: -9 - 8 * frames] + bytes(table) + data[-9:])


@pytest.mark.parametrize(
    "seal", [compressed, in_other_parts, with_a_wrong_table, with_a_table_that_does_not_add_up]
)
def test_volumes_sealed_in_another_way_are_fetched_whole(
    tmp_path: Path, sealers: tuple[Sealer, Sealer], seal: Callable[[Path, bytes], bytes]
) -> None:
    host, recovery = sealers
    with keys.host_home() as home:
        other = _OtherSealer(host, home, seal)
        kit, point = backed_up(tmp_path, (other, recovery))  # type: ignore[arg-type]  # it passes on
    disk = tmp_path / "root.img"
    disk.write_bytes(changed(*SCATTERED[1:], 4 * 256 + 100))

    result = bring_back(kit, point, disk)

    assert disk.read_bytes() == content()
    assert result.volume_bytes > full_bytes(kit.contents(point)) / 3


@pytest.mark.parametrize("after", [0, 2])
def test_a_store_without_parts_gives_whole_volumes(
    tmp_path: Path, sealers: tuple[Sealer, Sealer], after: int
) -> None:
    kit, point = backed_up(tmp_path, sealers)
    disk = tmp_path / "root.img"
    disk.write_bytes(changed(*SCATTERED))
    store = FailingStore(kit.store, lambda: StoreError("no parts"), verbs=["part"], after=after)

    result = bring_back(kit, point, disk, store=store)

    assert disk.read_bytes() == content()
    assert result.volume_bytes >= full_bytes(kit.contents(point))


def test_a_store_that_does_not_answer_is_not_asked_for_whole_volumes(
    tmp_path: Path, sealers: tuple[Sealer, Sealer]
) -> None:
    kit, point = backed_up(tmp_path, sealers)
    disk = tmp_path / "root.img"
    disk.write_bytes(changed(*SCATTERED))
    store = FailingStore(kit.store, lambda: StoreUnavailableError("away"), verbs=["part"])

    with pytest.raises(StoreUnavailableError, match="away"):
        bring_back(kit, point, disk, store=store)


@pytest.mark.parametrize("error", [StoreUnavailableError, StoreDeniedError])
def test_a_store_that_fails_is_told_of_and_the_disk_is_as_it_was(
    tmp_path: Path, sealers: tuple[Sealer, Sealer], error: type[StoreError]
) -> None:
    kit, point = backed_up(tmp_path, sealers)
    disk = tmp_path / "root.img"
    there = changed(*SCATTERED)
    disk.write_bytes(there)
    store = FailingStore(
        kit.store, lambda: error("not now"), matches=lambda name: name.startswith("volumes/")
    )

    with pytest.raises(error, match="not now"):
        bring_back(kit, point, disk, store=store)

    assert disk.read_bytes() == there


def test_without_the_recovery_key_the_disk_is_as_it_was(
    tmp_path: Path, sealers: tuple[Sealer, Sealer]
) -> None:
    kit, point = backed_up(tmp_path, sealers)
    disk = tmp_path / "root.img"
    there = changed(*SCATTERED)
    disk.write_bytes(there)
    kit.recovery_sealer = kit.host_sealer

    with pytest.raises(KeyMissingError):
        bring_back(kit, point, disk)

    assert disk.read_bytes() == there
