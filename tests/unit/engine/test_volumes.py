# SPDX-License-Identifier: Apache-2.0
"""Writing volumes: where bytes go, what is left behind, and who hears of a failure."""

import random
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from snapvault.adapters.stores.memory import MemoryStore
from snapvault.engine.volumes import Piece, VolumeWriter
from snapvault.errors import SealError, StoreUnavailableError
from snapvault.formats import names, volume
from snapvault.formats.volume_list import VolumeRecord
from snapvault.ports.sealer import Readers, Sealer
from snapvault.ports.store import Store
from tests.support.events import RecordedEvents
from tests.support.sealers import PaperSealer
from tests.support.stores import FailingStore, PowerCut


def open_writer(
    folder: Path,
    *,
    store: Store | None = None,
    sealer: Sealer | None = None,
    volume_size: int = 1 << 20,
    on_sealed: Callable[[VolumeRecord], None] = lambda record: None,
    events: RecordedEvents | None = None,
) -> VolumeWriter:
    return VolumeWriter(
        store=store or MemoryStore(),
        sealer=sealer or PaperSealer(holds="recovery"),
        events=events or RecordedEvents(),
        folder=folder,
        volume_size=volume_size,
        level=1,
        on_sealed=on_sealed,
    )


def raw_bytes(store: Store, record: VolumeRecord) -> bytes:
    packed = PaperSealer(holds="recovery").open(store.get(names.volume(record.volume)))
    size = volume.seek_table_size(packed[-volume.FOOTER_SIZE :])
    frames = volume.parse_seek_table(packed[-size:])
    raw, at = b"", 0
    for frame in frames:
        part = zstandard.ZstdDecompressor().decompress(packed[at : at + frame.stored])
        assert len(part) == frame.raw
        raw, at = raw + part, at + frame.stored
    assert at == len(packed) - size
    return raw


appends = st.lists(
    st.tuples(st.sampled_from([1, 512, 4096]), st.integers(0, 9000)), min_size=1, max_size=12
)


@given(appends, st.sampled_from([512, 4096, 5000, 20_000]))
def test_every_appended_byte_lies_where_its_piece_says(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]], volume_size: int
) -> None:
    store = MemoryStore()
    pieces: list[tuple[Piece, bytes]] = []
    writer = open_writer(tmp_path_factory.getbasetemp(), store=store, volume_size=volume_size)

    for number, (unit, size) in enumerate(sizes):
        data = random.Random(number).randbytes(size)
        own: list[tuple[Piece, bytes]] = []
        writer.append(
            memoryview(data),
            unit=unit,
            on_piece=lambda piece, own=own: own.append((piece, bytes(piece.data))),  # type: ignore[misc]
        )
        assert b"".join(content for _, content in own) == data
        # A unit is in one volume: only the last piece may end inside one.
        assert all(piece.length % unit == 0 for piece, _ in own[:-1])
        pieces += own
    records = writer.finish()

    raw = {record.volume: raw_bytes(store, record) for record in records}
    for piece, content in pieces:
        assert raw[piece.volume][piece.offset : piece.offset + piece.length] == content
    assert sum(map(len, raw.values())) == sum(size for _, size in sizes)
    assert all(len(each) <= max(volume_size, volume_size + 4096 - 1) for each in raw.values())


def test_nothing_appended_stores_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    writer = open_writer(tmp_path, store=store)

    records = writer.finish()

    assert records == []
    assert list(store.names()) == []


def test_a_volume_is_announced_before_it_is_sent(tmp_path: Path) -> None:
    store = MemoryStore()
    held_then: list[list[str]] = []
    writer = open_writer(
        tmp_path,
        store=store,
        on_sealed=lambda record: held_then.append([found.name for found in store.names()]),
    )
    writer.append(memoryview(b"data"), unit=1, on_piece=lambda piece: None)

    (record,) = writer.finish()

    assert held_then == [[]]
    assert [found.name for found in store.names()] == [names.volume(record.volume)]


class BrokenSealer(PaperSealer):
    """Fails after a few bytes, as gpg does when it is killed."""

    def seal_to_file(self, chunks: Iterable[bytes], path: Path, readers: Readers) -> None:
        next(iter(chunks))
        raise SealError("gpg ended")


def full_disk(record: VolumeRecord) -> None:
    raise OSError(28, "No space left on device")


def failing_writers(folder: Path) -> list[tuple[VolumeWriter, type[BaseException]]]:
    away = FailingStore(
        MemoryStore(), lambda: StoreUnavailableError("away"), verbs=["put"], after=1
    )
    dead = FailingStore(MemoryStore(), PowerCut, verbs=["put"])
    return [
        (open_writer(folder, store=away, volume_size=3 << 20), StoreUnavailableError),
        (open_writer(folder, store=dead, volume_size=3 << 20), PowerCut),
        (open_writer(folder, sealer=BrokenSealer(holds="host"), volume_size=9 << 20), SealError),
        (open_writer(folder, on_sealed=full_disk), OSError),
    ]


@pytest.mark.parametrize("case", range(4), ids=["store", "power", "sealer", "journal"])
def test_a_failure_is_raised_and_leaves_no_file_and_no_thread(tmp_path: Path, case: int) -> None:
    before = set(threading.enumerate())
    writer, error = failing_writers(tmp_path)[case]

    def write() -> None:
        data = memoryview(random.Random(1).randbytes(1 << 20))
        for _ in range(40):
            writer.append(data, unit=4096, on_piece=lambda piece: None)
        writer.finish()

    with pytest.raises(error):
        write()
    writer.abort()

    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("size", [0, 10, 3 << 20])
def test_aborting_stores_no_incomplete_volume(tmp_path: Path, size: int) -> None:
    before = set(threading.enumerate())
    store = MemoryStore()
    writer = open_writer(tmp_path, store=store, volume_size=16 << 20)
    writer.append(memoryview(bytes(size)), unit=1, on_piece=lambda piece: None)

    writer.abort()
    writer.abort()

    assert list(store.names()) == []
    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) <= before


def test_a_signal_that_comes_while_a_volume_begins_leaves_no_thread_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    writer = open_writer(tmp_path)
    start = writer._crew.start

    def start_and_be_interrupted(task: Callable[[], VolumeRecord]) -> None:
        start(task)
        raise PowerCut

    monkeypatch.setattr(writer._crew, "start", start_and_be_interrupted)
    with pytest.raises(PowerCut):
        writer.append(memoryview(b"data"), unit=1, on_piece=lambda piece: None)
    aborting = threading.Thread(target=writer.abort, daemon=True)
    aborting.start()
    aborting.join(60)

    assert not aborting.is_alive()
    assert set(threading.enumerate()) <= before
    assert list(tmp_path.iterdir()) == []


class HangingStore(MemoryStore):
    """A store that answers no put before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.let_go = threading.Event()

    def put_file(self, name: str, path: Path, *, size: int, sha256: str) -> None:
        self.asked.set()
        assert self.let_go.wait(60)
        super().put_file(name, path, size=size, sha256=sha256)


def sending(folder: Path, store: HangingStore, events: RecordedEvents) -> VolumeWriter:
    """Return a writer with one whole volume on its way."""
    writer = open_writer(folder, store=store, volume_size=4096, events=events)
    writer.append(memoryview(bytes(4096)), unit=1, on_piece=lambda piece: None)
    assert store.asked.wait(60)
    return writer


def test_a_volume_on_its_way_is_dropped_when_there_is_no_time(tmp_path: Path) -> None:
    store, events = HangingStore(), RecordedEvents()
    before = set(threading.enumerate())
    writer = sending(tmp_path, store, events)
    (sender,) = [each for each in set(threading.enumerate()) - before if each.name == "volume"]

    writer.abort(patience=0.01)
    is_left = sender.is_alive()
    store.let_go.set()
    sender.join(60)

    assert is_left
    assert sender.daemon  # or the interpreter would wait for it
    # Nobody listens any more to what became of it.
    assert events.names() == []


def test_a_volume_on_its_way_arrives_when_only_the_source_failed(tmp_path: Path) -> None:
    store, events = HangingStore(), RecordedEvents()
    writer = sending(tmp_path, store, events)
    threading.Timer(0.05, store.let_go.set).start()

    writer.abort()

    assert len(list(store.names())) == 1
    assert events.names() == ["volume.stored"]
