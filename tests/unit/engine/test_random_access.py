# SPDX-License-Identifier: Apache-2.0
"""Disks read at random out of a vault: only what is asked for, and nothing that is not proven."""

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapvault import clock
from snapvault.engine import volume_cache
from snapvault.engine.contents import look_up
from snapvault.engine.random_access import open_point
from snapvault.errors import (
    IntegrityError,
    KeyMissingError,
    RestoreError,
    StoreUnavailableError,
    VolumeError,
)
from snapvault.formats import names
from snapvault.model.point import Point
from snapvault.ports.sealer import Readers
from snapvault.ports.store import Readable, Store
from tests.support.served import opened
from tests.support.stores import FailingStore, FlippingStore, ForwardingStore, RecordingStore
from tests.support.vault_builder import pack_volume
from tests.support.vaults import MixedSource, SparseContent, VaultKit

BLOCK = 512
VOLUME = 64 << 10
MIB = 1 << 20
DEADLINE = 60.0  # seconds


def nights(folder: Path) -> tuple[VaultKit, MixedSource, list[Point]]:
    """Back up a sparse disk and an odd-sized one on three nights."""
    kit = VaultKit(folder, block_size=BLOCK, volume_size=VOLUME)
    chance = random.Random(1)
    root = SparseContent(2 * MIB)
    source = MixedSource(disks={"root": root, "data": chance.randbytes(300_001)})
    points = []
    for _ in range(3):
        for _ in range(20):
            root.write(chance.randrange(2 * MIB), chance.randbytes(chance.randrange(20_000)))
        root.write(chance.randrange(2 * MIB), bytes(50_000))
        points.append(kit.night(source).point)
    return kit, source, points


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[VaultKit, MixedSource, list[Point]]:
    return nights(tmp_path_factory.mktemp("served"))


@pytest.fixture
def one(tmp_path: Path) -> tuple[VaultKit, bytes, Point]:
    """A disk of a megabyte that lies, in order, in sixteen volumes."""
    kit = VaultKit(tmp_path, block_size=BLOCK, volume_size=VOLUME)
    content = random.Random(2).randbytes(MIB)
    return kit, content, kit.night(MixedSource(disks={"root": content})).point


def volume_at(kit: VaultKit, point: Point, offset: int) -> str:
    """Return the object that holds a byte of the first disk."""
    extents = kit.contents(point).maps[0]
    index = int((extents.starts() <= offset).sum()) - 1
    return names.volume(extents.volumes[int(extents.place[index]) - 2])


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 2 * MIB), st.integers(1, 200_000)), max_size=20
    ),
    st.integers(0, 2),
    st.sampled_from([VOLUME, 3 * VOLUME, 100 * VOLUME]),
)
@settings(max_examples=20, deadline=None)
def test_any_read_gives_the_bytes_of_that_point(
    served: tuple[VaultKit, MixedSource, list[Point]],
    reads: list[tuple[int, int, int]],
    night: int,
    limit: int,
) -> None:
    kit, source, points = served
    expected = source.at(points[night])

    with opened(kit, points[night], limit=limit) as found:
        for which, at, length in reads:
            disk = found.disks[which]
            whole = expected[disk.name]
            offset = min(at, len(whole) - 1)
            part = whole[offset : offset + length]

            assert bytes(disk.read(offset, len(part))) == part
            assert found.cache.taken_bytes <= limit


def test_extents_tell_zeros_from_data_and_cover_the_disk(
    served: tuple[VaultKit, MixedSource, list[Point]],
) -> None:
    kit, source, points = served
    whole = source.at(points[-1])["root"]

    with opened(kit, points[-1]) as found:
        disk = found.disks[0]
        at = 0
        zeros = 0
        while at < disk.size:
            for length, is_zero in disk.extents(at, disk.size - at, 3):
                assert length > 0
                if is_zero:
                    assert not any(whole[at : at + length])
                    zeros += length
                at += length
        (clipped,) = disk.extents(1, 7, 3)

    assert at == disk.size
    assert 0 < zeros < disk.size
    assert clipped[0] == 7


def test_only_the_volumes_that_are_read_are_fetched_and_each_once(
    one: tuple[VaultKit, bytes, Point],
) -> None:
    kit, content, point = one
    store = RecordingStore(kit.store)

    with opened(kit, point, store) as found:
        before = store.called("open")
        for _ in range(3):
            for offset in (10_000, 700_000):
                read = found.disks[0].read(offset, 5000)
                assert bytes(read) == content[offset : offset + 5000]
        fetched = [name for name in store.called("open") if name not in before]

    assert before == [name for name in before if not name.startswith(names.VOLUMES)]
    assert sorted(fetched) == sorted(volume_at(kit, point, each) for each in (10_000, 700_000))
    assert (found.cache.fetched, found.cache.volumes) == (2, 16)


def test_zeros_fetch_nothing(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    disk = SparseContent(MIB)
    disk.write(900_000, b"something")
    store = RecordingStore(kit.store)
    point = kit.night(MixedSource(disks={"root": disk})).point

    with opened(kit, point, store) as found:
        zeros = found.disks[0].read(0, 800_000)

    assert not any(zeros)
    assert found.cache.fetched == 0


def test_what_was_read_longest_ago_makes_room(one: tuple[VaultKit, bytes, Point]) -> None:
    kit, content, point = one
    store = RecordingStore(kit.store)

    with opened(kit, point, store, limit=2 * VOLUME) as found:
        for offset in (0, 500_000, 10, 900_000, 20, 500_000):
            assert bytes(found.disks[0].read(offset, 5)) == content[offset : offset + 5]
            assert found.cache.taken_bytes <= 2 * VOLUME

    counts = [store.called("open").count(volume_at(kit, point, at)) for at in (0, 500_000, 900_000)]
    assert counts == [1, 2, 1]


def test_a_cache_that_takes_no_volume_is_refused(one: tuple[VaultKit, bytes, Point]) -> None:
    kit, _, point = one

    with pytest.raises(RestoreError, match=r"a cache of 63\.0 KiB is too small"):
        opened(kit, point, limit=63 << 10).__enter__()


def test_many_readers_at_once_get_the_right_bytes_and_fetch_each_volume_once(
    one: tuple[VaultKit, bytes, Point],
) -> None:
    kit, content, point = one
    store = RecordingStore(kit.store)
    wrong: list[int] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(40):
            offset = chance.randrange(MIB - 9000)
            if bytes(found.disks[0].read(offset, 9000)) != content[offset : offset + 9000]:
                wrong.append(offset)

    with opened(kit, point, store) as found:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()

    volumes = [name for name in store.called("open") if name.startswith(names.VOLUMES)]
    assert wrong == []
    assert len(volumes) == len(set(volumes)) == 16


def test_many_readers_get_on_in_a_cache_of_one_volume(one: tuple[VaultKit, bytes, Point]) -> None:
    kit, content, point = one
    right: list[bool] = []

    def work(number: int) -> None:
        for offset in range(number * 1000, MIB - 600, 101_000):
            read = bytes(found.disks[0].read(offset, 600))
            right.append(read == content[offset : offset + 600])

    with opened(kit, point, limit=VOLUME) as found:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()

    assert right == [True] * 66


class SlowStore(ForwardingStore):
    """Gives volumes out in pieces of 4 KiB, and none after `first` bytes until `go` is set."""

    def __init__(self, inner: Store, first: int) -> None:
        self._inner = inner
        self._first = first
        self.go = threading.Event()

    @contextmanager
    def _open(self, name: str) -> Iterator[Readable]:
        with self._inner.open(name) as readable:
            yield _Slow(readable, self._first, self.go)

    def open(self, name: str) -> AbstractContextManager[Readable]:
        return self._open(name) if name.startswith(names.VOLUMES) else self._inner.open(name)


class _Slow:
    def __init__(self, inner: Readable, first: int, go: threading.Event) -> None:
        self._inner = inner
        self._left = first
        self._go = go

    def read(self, size: int, /) -> bytes:
        if self._left <= 0:
            assert self._go.wait(DEADLINE)
        piece = self._inner.read(min(size, 4096))
        self._left -= len(piece)
        return piece


def test_a_reader_goes_on_as_soon_as_its_own_bytes_are_there(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path, volume_size=8 * MIB)
    content = random.Random(3).randbytes(6 * MIB)
    point = kit.night(MixedSource(disks={"root": content})).point
    store = SlowStore(kit.store, first=3 * MIB)

    with opened(kit, point, store, limit=8 * MIB) as found:
        early = bytes(found.disks[0].read(1000, 5000))
        was_all_there = store.go.is_set()
        store.go.set()
        late = bytes(found.disks[0].read(5 * MIB, 5000))

    assert early == content[1000:6000]
    assert not was_all_there
    assert late == content[5 * MIB : 5 * MIB + 5000]
    assert found.cache.fetched == 1


def test_a_volume_that_was_begun_is_fetched_to_its_end_in_the_background(
    one: tuple[VaultKit, bytes, Point],
) -> None:
    kit, _, point = one

    with opened(kit, point) as found:
        found.disks[0].read(0, 1)
        until(lambda: "volume.fetched" in kit.events.names())

    assert found.cache.fetched_bytes >= VOLUME


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = clock.monotonic() + DEADLINE
    while not holds():
        assert clock.monotonic() < deadline
        threading.Event().wait(0.01)


def test_closing_lets_those_fail_who_wait(one: tuple[VaultKit, bytes, Point]) -> None:
    kit, _, point = one
    store = SlowStore(kit.store, first=0)
    failed: list[str] = []

    def work() -> None:
        try:
            found.disks[0].read(0, 1)
        except RestoreError as error:
            failed.append(str(error))

    with opened(kit, point, store, outlived=True) as found:
        reader = threading.Thread(target=work)
        reader.start()
        until(lambda: found.cache.fetched == 1)

    reader.join(DEADLINE)
    store.go.set()
    assert failed == ["the restore point is not served any more"]


def test_a_store_that_is_gone_fails_reads_until_it_is_back(
    one: tuple[VaultKit, bytes, Point],
) -> None:
    kit, content, point = one
    store = FailingStore(
        kit.store,
        lambda: StoreUnavailableError("the store did not answer"),
        verbs={"open"},
        matches=lambda name: name.startswith(names.VOLUMES),
        after=1,
        times=2,
    )

    with opened(kit, point, store) as found:
        disk = found.disks[0]
        disk.read(0, 1)
        until(lambda: "volume.fetched" in kit.events.names())
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="did not answer"):
                disk.read(600_000, 1)
            assert bytes(disk.read(0, 900)) == content[:900]
        back = bytes(disk.read(600_000, 900))

    assert back == content[600_000:600_900]


def test_without_the_recovery_key_nothing_is_read(one: tuple[VaultKit, bytes, Point]) -> None:
    kit, _, point = one
    host = VaultKit.recovery(kit)
    kit.recovery_sealer, recovery = kit.host_sealer, kit.recovery_sealer

    with opened(kit, point) as found, pytest.raises(KeyMissingError):
        found.disks[0].read(0, 1)

    assert host.sealer is recovery


@pytest.mark.parametrize("bit", [100, 8 * 20_000, -1])
def test_a_flipped_bit_is_never_served_and_the_volume_is_named(
    one: tuple[VaultKit, bytes, Point], bit: int
) -> None:
    kit, content, point = one
    damaged = volume_at(kit, point, 300_000)
    store = FlippingStore(kit.store, damaged, bit=bit)
    failures: list[str] = []

    with opened(kit, point, store) as found:
        for offset in range(0, MIB, 4096):
            try:
                assert bytes(found.disks[0].read(offset, 4096)) == content[offset : offset + 4096]
            except IntegrityError as error:
                failures.append(str(error))
        until(lambda: any(damaged in each for each in kit.events.warnings))

    # A bit of the message's end spoils no block; the others do.
    assert bool(failures) is (bit != -1)
    assert all(damaged in failure for failure in failures)
    assert len(failures) <= VOLUME // 4096 + 1


def test_a_volume_replaced_by_another_that_opens_is_not_believed(
    one: tuple[VaultKit, bytes, Point],
) -> None:
    kit, content, point = one
    name = volume_at(kit, point, 300_000)
    other = pack_volume(random.Random(9).randbytes(VOLUME))
    kit.replace(name, kit.host_sealer.seal(other, Readers.RECOVERY))

    with opened(kit, point) as found:
        for _ in range(3):
            with pytest.raises(VolumeError, match=name):
                found.disks[0].read(300_000, 1)
        elsewhere = bytes(found.disks[0].read(900_000, 10))

    assert elsewhere == content[900_000:900_010]


def test_a_missing_volume_is_named_and_told_once_until_it_is_back(
    one: tuple[VaultKit, bytes, Point],
) -> None:
    kit, content, point = one
    name = volume_at(kit, point, 0)
    kept = kit.store.get(name)
    kit.store.delete([name])

    with opened(kit, point) as found:
        for _ in range(3):
            with pytest.raises(VolumeError, match=f"{name}.*missing"):
                found.disks[0].read(0, 1)
        until(lambda: len(kit.events.warnings) > 0)
        kit.store.put(name, kept)
        back = bytes(found.disks[0].read(0, 9))

    assert back == content[:9]
    assert len(kit.events.warnings) == 1


def test_a_damaged_volume_is_fetched_again_only_after_a_while(
    one: tuple[VaultKit, bytes, Point], monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, content, point = one
    name = volume_at(kit, point, 0)
    kept = kit.store.get(name)
    kit.replace(name, kept[:100])
    store = RecordingStore(kit.store)
    now = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])

    with opened(kit, point, store) as found:
        for _ in range(5):
            with pytest.raises(VolumeError, match=f"{name}.*is damaged"):
                found.disks[0].read(0, 1)
        asked = store.called("open").count(name)
        kit.replace(name, kept)
        now[0] += volume_cache.TRUST_AGAIN
        mended = bytes(found.disks[0].read(0, 9))

    assert asked == 1
    assert mended == content[:9]


def test_a_cache_that_the_local_disk_spoiled_is_fetched_anew(
    one: tuple[VaultKit, bytes, Point],
) -> None:
    kit, content, point = one

    with opened(kit, point) as found:
        found.disks[0].read(0, 1)
        until(lambda: "volume.fetched" in kit.events.names())
        (held,) = (each for each in found.cache._held.values() if each.file.is_open)
        held.file.write(5000, memoryview(b"spoiled"))

        read = bytes(found.disks[0].read(4000, 4000))

    assert read == content[4000:8000]
    assert kit.events.warnings == []


def test_a_full_disk_shrinks_the_cache(
    one: tuple[VaultKit, bytes, Point], monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, content, point = one
    files = [0]
    take = os.posix_fallocate

    def full(descriptor: int, offset: int, size: int) -> None:
        if found.cache.taken_bytes + size > 2 * VOLUME:
            raise OSError(28, "No space left on device")
        files[0] += 1
        take(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with opened(kit, point) as found:
        whole = bytes(found.disks[0].read(0, MIB))

    assert whole == content
    assert files[0] >= 16


def test_a_disk_without_any_room_fails_reads_and_no_more(
    one: tuple[VaultKit, bytes, Point], monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, content, point = one

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    with opened(kit, point) as found:
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            with pytest.raises(RestoreError, match="no space left"):
                found.disks[0].read(0, 1)
        later = bytes(found.disks[0].read(0, 10))

    assert later == content[:10]


def test_a_stream_of_bytes_cannot_be_read_at_random(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    point = kit.night(MixedSource(streams={"dump": b"text"})).point
    vault = kit.recovery()
    contents = look_up(vault, point, point.streams)

    with (
        pytest.raises(RestoreError, match='"dump" is no disk'),
        open_point(vault, contents, folder=tmp_path, limit=MIB),
    ):
        pass


def test_a_signature_that_the_manifest_does_not_bear_out_is_refused(
    one: tuple[VaultKit, bytes, Point],
) -> None:
    from dataclasses import replace

    kit, _, point = one
    forged = replace(point, streams=(replace(point.streams[0], digest="00" * 32),))

    with pytest.raises(IntegrityError, match="differs from the manifest"):
        opened(kit, forged).__enter__()


def test_an_empty_disk_is_opened(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    point = kit.night(MixedSource(disks={"root": b""})).point

    with opened(kit, point) as found:
        assert found.disks[0].size == 0
        assert found.disks[0].first_data is None
