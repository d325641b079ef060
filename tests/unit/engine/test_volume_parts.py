# SPDX-License-Identifier: Apache-2.0
"""Disks read at random through frames of their volumes: no more is fetched than is asked for."""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapvault import clock
from snapvault.engine import volume_cache, volume_frames
from snapvault.engine.volume_cache import VolumeCache
from snapvault.errors import IntegrityError, RestoreError, StoreError, StoreUnavailableError
from snapvault.formats import names
from snapvault.formats.volume import Frame
from snapvault.model.point import Point
from snapvault.ports.sealer import Parts
from snapvault.ports.store import Store
from tests.support.sealers import PaperSealer
from tests.support.served import opened
from tests.support.stores import FailingStore, FlippingStore, ForwardingStore, RecordingStore
from tests.support.vaults import MixedSource, VaultKit

MIB = 1 << 20
BLOCK = 4096
VOLUME = 8 * MIB
DEADLINE = 60.0  # seconds


class CountingSealer(PaperSealer):
    """Counts how often a session key is asked for; opens no parts when told so."""

    def __init__(self, *, parts: bool = True) -> None:
        super().__init__(holds="recovery")
        self.opened = 0
        self._parts = parts

    def open_parts(self, size: int, fetch: Callable[[int, int], bytes]) -> Parts | None:
        self.opened += 1
        return super().open_parts(size, fetch) if self._parts else None


@pytest.fixture
def kit(tmp_path: Path) -> VaultKit:
    """A vault whose volumes have some frames."""
    kit = VaultKit(tmp_path, block_size=BLOCK, volume_size=VOLUME)
    kit.recovery_sealer = CountingSealer()
    return kit


def disk_of(size: int, seed: int = 1) -> bytes:
    """Return bytes that pack to about two thirds."""
    chance = random.Random(seed)
    return b"".join(
        chance.randbytes(8192) + bytes([1 + at % 250]) * 4096 for at in range(-(-size // 12288))
    )[:size]


def saved(kit: VaultKit, content: bytes) -> Point:
    return kit.night(MixedSource(disks={"root": content})).point


def volumes(kit: VaultKit) -> list[str]:
    return [each.name for each in kit.store.names(names.VOLUMES)]


def calls(store: RecordingStore, verb: Literal["part", "open"]) -> int:
    return len([name for name in store.called(verb) if name.startswith(names.VOLUMES)])


def together(work: Callable[[int], None], count: int) -> None:
    """Do some work on threads, and wait for all of them."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = clock.monotonic() + DEADLINE
    while not holds():
        assert clock.monotonic() < deadline
        threading.Event().wait(0.01)


def is_waited_for(cache: VolumeCache, count: int) -> bool:
    return sum(held.waiting for held in cache._held.values()) == count


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[VaultKit, bytes, Point]:
    """A disk of seven mebibytes and a bit in volumes of not quite three frames, on two nights."""
    kit = VaultKit(
        tmp_path_factory.mktemp("served"), block_size=BLOCK, volume_size=2 * MIB + 100 * BLOCK
    )
    content = bytearray(disk_of(7 * MIB + 777))
    saved(kit, bytes(content))
    content[3 * MIB : 4 * MIB + BLOCK] = disk_of(MIB + BLOCK, seed=2)
    return kit, bytes(content), saved(kit, bytes(content))


@given(
    st.lists(st.tuples(st.integers(0, 7 * MIB), st.integers(1, 2 * MIB)), max_size=12),
    st.sampled_from([3 * MIB, 4 * MIB, 100 * MIB]),
)
@settings(max_examples=20, deadline=None)
def test_any_read_gives_the_bytes_of_the_point(
    served: tuple[VaultKit, bytes, Point], reads: list[tuple[int, int]], limit: int
) -> None:
    kit, content, point = served

    with opened(kit, point, limit=limit) as found:
        for offset, length in reads:
            part = content[offset : offset + length]

            assert bytes(found.disks[0].read(offset, len(part))) == part
            assert found.cache.taken_bytes <= limit


def test_many_readers_get_on_where_one_volume_has_room(
    served: tuple[VaultKit, bytes, Point],
) -> None:
    kit, content, point = served
    right: list[bool] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(10):
            offset = chance.randrange(7 * MIB - 10_000)
            read = bytes(found.disks[0].read(offset, 10_000))
            right.append(read == content[offset : offset + 10_000])

    with opened(kit, point, limit=3 * MIB) as found:
        together(work, 8)

    assert right == [True] * 80


def test_only_the_frames_that_are_read_are_fetched(kit: VaultKit) -> None:
    content = disk_of(2 * VOLUME)
    store = RecordingStore(kit.store)

    with opened(kit, saved(kit, content), store) as found:
        for offset in (5 * MIB + 100, 5 * MIB + 50_000, 2 * MIB):
            assert bytes(found.disks[0].read(offset, 900)) == content[offset : offset + 900]
        fetched = found.cache.fetched_bytes
        taken = found.cache.taken_bytes

    assert calls(store, "open") == 0
    assert 1.3 * MIB < fetched < 1.6 * MIB
    assert taken == 2 * MIB
    assert (found.cache.fetched, found.cache.volumes) == (1, 2)


def test_reading_on_and_on_takes_few_requests_and_each_byte_once(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path, block_size=BLOCK, volume_size=24 * MIB)
    content = disk_of(24 * MIB)
    store = RecordingStore(kit.store)
    point = saved(kit, content)

    with opened(kit, point, store) as found:
        for offset in range(0, len(content), 128 << 10):
            read = found.disks[0].read(offset, 128 << 10)
            assert read == content[offset : offset + (128 << 10)]
        until(lambda: "volume.fetched" in kit.events.names())
        fetched = found.cache.fetched_bytes

    (stored,) = (each.size for each in kit.store.names(names.VOLUMES))
    assert calls(store, "part") < 16
    assert stored <= fetched < 1.02 * stored


class GatedStore(ForwardingStore):
    """Gives no part of a volume until `go` is set, and counts what was asked."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.go = threading.Event()
        self.sizes: list[int] = []

    def get_part(self, name: str, offset: int, size: int) -> bytes:
        self.sizes.append(size)
        assert self.go.wait(DEADLINE)
        return self._inner.get_part(name, offset, size)


def test_a_frame_that_many_wait_for_is_fetched_once_and_its_key_told_once(kit: VaultKit) -> None:
    content = disk_of(VOLUME)
    point = saved(kit, content)
    store = GatedStore(kit.store)
    right: list[bool] = []

    def work(number: int) -> None:
        offset = MIB + number // 2 * 2 * MIB + 10_000 * number
        right.append(bytes(found.disks[0].read(offset, 500)) == content[offset : offset + 500])

    with opened(kit, point, store) as found:
        readers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for reader in readers:
            reader.start()
        until(lambda: is_waited_for(found.cache, 6))
        store.go.set()
        for reader in readers:
            reader.join(DEADLINE)

    assert right == [True] * 6
    assert isinstance(kit.recovery_sealer, CountingSealer)
    assert kit.recovery_sealer.opened == 1
    assert len([size for size in store.sizes if size > MIB // 2]) == 3


def test_a_key_is_forgotten_with_its_volume(kit: VaultKit) -> None:
    content = disk_of(2 * VOLUME)
    point = saved(kit, content)

    with opened(kit, point, limit=VOLUME) as found:
        disk = found.disks[0]
        for offset in (0, 2 * MIB, VOLUME, VOLUME + 2 * MIB):
            disk.read(offset, 1)
        kept = [held for held in found.cache._held.values() if held.frames is not None]
        for offset in range(VOLUME, 2 * VOLUME, MIB):
            disk.read(offset, 1)
        left = [held for held in found.cache._held.values() if held.frames is not None]

    assert (len(kept), len(left)) == (2, 1)
    assert isinstance(kit.recovery_sealer, CountingSealer)
    assert kit.recovery_sealer.opened == 2


def test_a_damaged_frame_is_named_and_all_others_are_served(kit: VaultKit) -> None:
    content = disk_of(VOLUME)
    point = saved(kit, content)
    (name,) = volumes(kit)
    store = FlippingStore(kit.store, name, bit=8 * (kit.store.stat(name).size // 2))
    failures: list[str] = []

    with opened(kit, point, store) as found:
        for offset in (*range(0, VOLUME, MIB // 2), 0, VOLUME - 5):
            part = content[offset : offset + MIB // 2]
            try:
                assert bytes(found.disks[0].read(offset, len(part))) == part
            except IntegrityError as error:
                failures.append(str(error))

    assert 1 <= len(failures) <= 2
    assert all(name in failure for failure in failures)
    assert any(name in warning for warning in kit.events.warnings)


class _LyingStore(FlippingStore):
    """Flips its bit in parts alone."""

    def open(self, name: str):  # type: ignore[no-untyped-def]
        return self._inner.open(name)


def test_a_volume_whose_parts_are_wrong_is_fetched_whole_before_it_is_blamed(
    kit: VaultKit,
) -> None:
    content = disk_of(VOLUME)
    point = saved(kit, content)
    (name,) = volumes(kit)
    store = _LyingStore(kit.store, name, bit=8 * (kit.store.stat(name).size // 2))

    with opened(kit, point, store) as found:
        read = bytes(found.disks[0].read(0, VOLUME))

    assert read == content
    assert kit.events.warnings == []


@pytest.mark.parametrize("reason", ["message", "store", "frames"])
def test_a_volume_without_parts_is_fetched_whole(
    kit: VaultKit, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = disk_of(2 * VOLUME)
    point = saved(kit, content)
    store = RecordingStore(kit.store)
    if reason == "message":
        kit.recovery_sealer = CountingSealer(parts=False)
    elif reason == "store":
        store._inner = FailingStore(
            kit.store, lambda: StoreError("whole objects only"), verbs={"part"}
        )
    else:
        uneven = [Frame(MIB, MIB // 2)] * 16
        monkeypatch.setattr(volume_frames, "read_seek_table", lambda parts: uneven)

    with opened(kit, point, store) as found:
        for offset in (6 * MIB, MIB, VOLUME + 5 * MIB):
            assert bytes(found.disks[0].read(offset, 900)) == content[offset : offset + 900]
        until(lambda: kit.events.names().count("volume.fetched") == 2)

    assert calls(store, "open") == 2
    assert kit.events.warnings == []


def test_a_store_that_is_gone_fails_reads_until_it_is_back(kit: VaultKit) -> None:
    content = disk_of(VOLUME)
    point = saved(kit, content)
    store = FailingStore(
        kit.store,
        lambda: StoreUnavailableError("the store did not answer"),
        verbs={"part"},
        times=2,
        after=3,
    )

    with opened(kit, point, store) as found:
        disk = found.disks[0]
        disk.read(0, 1)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="did not answer"):
                disk.read(5 * MIB, 1)
            assert bytes(disk.read(0, 900)) == content[:900]
        back = bytes(disk.read(5 * MIB, 900))

    assert back == content[5 * MIB : 5 * MIB + 900]


def test_closing_lets_those_fail_who_wait_for_a_frame(kit: VaultKit) -> None:
    point = saved(kit, disk_of(VOLUME))
    store = GatedStore(kit.store)
    failed: list[str] = []

    def work() -> None:
        with pytest.raises(RestoreError) as caught:
            found.disks[0].read(0, 1)
        failed.append(str(caught.value))
        store.go.set()

    with opened(kit, point, store) as found:
        reader = threading.Thread(target=work)
        reader.start()
        until(lambda: is_waited_for(found.cache, 1) and len(store.sizes) == 1)

    reader.join(DEADLINE)
    assert failed == ["the restore point is not served any more"]


def test_a_reader_gets_a_place_from_what_is_only_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = VaultKit(tmp_path, block_size=BLOCK, volume_size=24 * MIB)
    content = disk_of(12 * MIB)
    point = saved(kit, content)
    monkeypatch.setattr(volume_cache, "JOBS", 2)
    monkeypatch.setattr(volume_frames, "REQUEST", 0)
    right: list[bool] = []

    def work(number: int) -> None:
        begin = number * 2 * MIB
        for offset in range(begin, begin + 2 * MIB, 200_000):
            read = bytes(found.disks[0].read(offset, 500))
            right.append(read == content[offset : offset + 500])

    with opened(kit, point) as found:
        together(work, 6)

    assert right == [True] * 6 * 11


def test_a_full_disk_takes_frames_of_the_volume_itself_away(
    kit: VaultKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = disk_of(VOLUME)
    point = saved(kit, content)
    take = os.posix_fallocate
    right: list[bool] = []

    def full(descriptor: int, offset: int, size: int) -> None:
        if sum(held.file.taken for held in found.cache._held.values()) + size > 2 * MIB:
            raise OSError(28, "No space left on device")
        take(descriptor, offset, size)

    def work(number: int) -> None:
        for offset in range(number * 3000, VOLUME, MIB + 5000):
            read = bytes(found.disks[0].read(offset, 900))
            right.append(read == content[offset : offset + 900])

    with opened(kit, point) as found:
        monkeypatch.setattr(os, "posix_fallocate", full)
        together(work, 3)

    assert right == [True] * 24
