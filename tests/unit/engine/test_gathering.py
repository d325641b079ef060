# SPDX-License-Identifier: Apache-2.0
"""What is put together on its way to a target, and what is written as it comes."""

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from snapvault.engine import gathering as gathering_module
from snapvault.engine.contents import stream_digest
from snapvault.engine.extract import PIECE, Pieces, Plan, plan
from snapvault.engine.gathering import Gathering, scattered_first
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.extents import FIRST_VOLUME, ZERO, from_rows

VOLUMES = tuple(f"{number:032x}" for number in range(3))
RECORDS = {name: VolumeRecord(name, 1, "00" * 32) for name in VOLUMES}
BASE, NIGHT = FIRST_VOLUME, FIRST_VOLUME + 1
AGES = from_rows([], VOLUMES)  # a map lists its volumes, the oldest first
UNIT = 4096
AMPLE = 16 * PIECE

Rows = Sequence[tuple[int, int, int]]


@pytest.fixture(autouse=True)
def _packs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering_module, "_UNPACKED", -1)


def address_of(data: memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).ctypes.data)


class Written:
    """A stream in memory, and how it was written: (offset, length) of pieces, write by write."""

    def __init__(self, size: int) -> None:
        self.content = bytearray(size)
        self.calls: list[list[tuple[int, int]]] = []
        self.is_aligned = True

    def deliver(self, number: int, pieces: Pieces, data: memoryview) -> None:
        assert number == 0
        self.calls.append(list(pieces))
        address = address_of(data)
        self.is_aligned &= (address - pieces[0][0]) % 4096 == 0
        at = 0
        for offset, length in pieces:
            self.content[offset : offset + length] = data[at : at + length]
            at += length
        assert at == len(data)


def pass_on(work: Plan, gathering: Gathering, content: bytes) -> None:
    """Give all pieces of a plan to a gathering, volume by volume, as a restore does."""
    for turns in scattered_first(work, {0: AGES}):
        for turn in turns:
            for piece in work.pieces(turn):
                length = piece.end - piece.begin
                data = bytearray(content[piece.offset : piece.offset + length])
                gathering.take(piece.stream, [(piece.offset, length)], memoryview(data))


def gathered(rows: Rows, *, room: int = AMPLE) -> tuple[Written, bytes]:
    """Pass a map's pieces through a gathering; return what came, and what the stream holds."""
    extents = from_rows(list(rows), VOLUMES)
    chance = random.Random(1)
    content = b"".join(
        bytes(length) if place == ZERO else chance.randbytes(length) for length, place, _ in rows
    )
    work = plan([extents], RECORDS, [1])
    written = Written(len(content))
    pass_on(work, Gathering(work, [0], written.deliver, room=room), content)
    return written, content


def changed_here_and_there(mebibytes: int, piece: int) -> list[tuple[int, int, int]]:
    """Return a map in which each mebibyte has three pieces of a night between those of a base."""
    rows = []
    for number in range(mebibytes):
        at = number * PIECE
        for part in range(3):
            base = PIECE // 3 - piece if part < 2 else PIECE - 2 * (PIECE // 3) - piece
            rows.append((base, BASE, at))
            rows.append((piece, NIGHT, 3 * number * piece + part * piece))
            at += base + piece
    return rows


def test_scattered_pieces_are_written_with_what_is_around_them() -> None:
    written, content = gathered(changed_here_and_there(5, 100))

    assert written.content == content
    assert sorted(written.calls) == [[(number * PIECE, PIECE)] for number in range(5)]
    assert written.is_aligned


def test_what_memory_does_not_hold_is_written_as_it_comes_from_the_end_on() -> None:
    rows = changed_here_and_there(20, 30_000)

    written, content = gathered(rows, room=2 * PIECE)

    assert written.content == content
    together = [call[0][0] // PIECE for call in written.calls if call[0][1] == PIECE]
    assert 5 <= len(together) < 20
    assert sorted(together) == list(range(len(together)))


def test_memory_is_given_back_when_a_stretch_is_written() -> None:
    rows = changed_here_and_there(1, 100)
    for number in range(1, 9):  # each mebibyte of two volumes that are both read late
        rows += [(PIECE // 2, BASE, number * PIECE), (PIECE // 2, FIRST_VOLUME + 2, number * PIECE)]

    extents = from_rows(rows, VOLUMES)
    content = random.Random(2).randbytes(9 * PIECE)
    work = plan([extents], RECORDS, [1])
    written = Written(len(content))
    gathering = Gathering(work, [0], written.deliver, room=2 * PIECE)
    pieces = sorted(
        (piece.offset, piece.end - piece.begin)
        for turn in range(len(work.volumes))
        for piece in work.pieces(turn)
    )
    for offset, length in pieces:
        data = bytearray(content[offset : offset + length])
        gathering.take(0, [(offset, length)], memoryview(data))

    assert written.content == content
    assert len(written.calls) == 9


def test_nothing_is_kept_of_stretches_that_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering_module, "_SPARE", 2)
    work = plan([from_rows(changed_here_and_there(12, 100), VOLUMES)], RECORDS, [1])
    content = random.Random(3).randbytes(12 * PIECE)
    written = Written(len(content))
    gathering = Gathering(work, [0], written.deliver, room=AMPLE)

    pass_on(work, gathering, content)

    assert written.content == content
    assert len(gathering._last) <= 2


def test_zeros_between_pieces_are_not_written() -> None:
    rows = [(3000, BASE, 0), (1000, NIGHT, 0), (500, ZERO, 0), (2000, BASE, 3000)]

    written, content = gathered(rows)

    assert written.content == content
    assert written.calls == [[(0, 4000)], [(4500, 2000)]]


def test_the_pieces_of_a_disk_are_passed_on_as_they_are() -> None:
    work = plan([from_rows([(UNIT, BASE, 0), (UNIT, NIGHT, 0)], VOLUMES)], RECORDS, [UNIT])
    written = Written(2 * UNIT)

    Gathering(work, [], written.deliver).take(0, [(0, UNIT)], memoryview(bytes(UNIT)))

    assert written.calls == [[(0, UNIT)]]


def test_volumes_whose_pieces_are_scattered_come_first() -> None:
    work = plan([from_rows(changed_here_and_there(3, 100), VOLUMES)], RECORDS, [1])

    turns = scattered_first(work, {0: AGES})

    assert [record.volume for record in work.volumes] == [VOLUMES[0], VOLUMES[1]]
    assert turns == [[1], [0]]


def test_the_newest_of_them_comes_before_all_others() -> None:
    rows: list[tuple[int, int, int]] = []
    for number in range(40):
        place = NIGHT + number % 2
        rows += [(20_000, BASE, number * 20_000), (100, place, number * 100)]
    work = plan([from_rows(rows, VOLUMES)], RECORDS, [1])

    turns = scattered_first(work, {0: AGES})

    names = [[work.volumes[turn].volume for turn in group] for group in turns]
    assert names == [[VOLUMES[2], VOLUMES[1]], [VOLUMES[0]]]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_map_each_byte_comes_once(seed: int) -> None:
    chance = random.Random(seed)
    rows = []
    for _ in range(chance.randrange(1, 40)):
        length = chance.choice((1, 100, 5000, 200_000, PIECE)) + chance.randrange(3)
        place = chance.choice((ZERO, BASE, BASE, NIGHT, NIGHT + 1))
        rows.append((length, place, chance.randrange(1 << 20) if place != ZERO else 0))

    written, content = gathered(rows, room=chance.choice((0, 300_000, AMPLE)))

    assert written.content == content
    pieces = sorted(piece for call in written.calls for piece in call)
    assert sum(length for _, length in pieces) == sum(
        length for length, place, _ in rows if place != ZERO
    )


@pytest.mark.parametrize("seed", range(12))
def test_pieces_that_come_by_their_numbers_are_the_same(seed: int) -> None:
    chance = random.Random(seed)
    raw = [chance.randbytes(PIECE // 2) * 4 for _ in VOLUMES]
    maps, contents = [], []
    for _ in range(2):
        rows, content = [], []
        for _ in range(chance.randrange(1, 200)):
            length = chance.choice((1, 100, 5000, 40_000, PIECE)) + chance.randrange(3)
            place = chance.choice((ZERO, BASE, BASE, NIGHT, NIGHT + 1))
            at = chance.randrange(PIECE // 2) if place != ZERO else 0
            rows.append((length, place, at))
            zeros = bytes(length)
            content.append(zeros if place == ZERO else raw[place - BASE][at : at + length])
        maps.append(from_rows(rows, VOLUMES))
        contents.append(b"".join(content))
    work = plan(maps, RECORDS, [1, 1])
    written = [bytearray(len(content)) for content in contents]

    def deliver(number: int, pieces: Pieces, data: memoryview) -> None:
        ((offset, length),) = pieces
        assert not any(written[number][offset : offset + length][:1])
        written[number][offset : offset + length] = data

    gathering = Gathering(work, [0, 1], deliver, room=chance.choice((0, 300_000, AMPLE)))
    for turns in scattered_first(work, {0: maps[0], 1: maps[1]}):
        for turn in turns:
            rows_of_it = work.rows(turn)
            number = VOLUMES.index(work.volumes[turn].volume)
            assert gathering.wants(rows_of_it)
            edges = sorted(
                {
                    rows_of_it.start,
                    rows_of_it.stop,
                    *(chance.randrange(rows_of_it.start, rows_of_it.stop) for _ in range(3)),
                }
            )
            for first, stop in pairwise(edges):
                base = int(work.raw[first:stop].min()) // 4096 * 4096
                window = memoryview(raw[number])[base:]
                gathering.take_rows(slice(first, stop), window, base)

    assert [bytes(each) for each in written] == contents


@pytest.mark.parametrize(("unpacked", "least", "most"), [(-1, 0, 0.1), (1 << 20, 1, 1.1)])
def test_much_that_waits_is_packed_and_little_is_not(
    monkeypatch: pytest.MonkeyPatch, unpacked: int, least: float, most: float
) -> None:
    monkeypatch.setattr(gathering_module, "_UNPACKED", unpacked)
    text = b"INSERT INTO t VALUES (1, 'text');" * 1000
    rows = []
    for number in range(20):
        rows += [(len(text), NIGHT, number * len(text)), (PIECE - len(text), BASE, number * PIECE)]
    work = plan([from_rows(rows, VOLUMES)], RECORDS, [1])
    gathering = Gathering(work, [0], Written(20 * PIECE).deliver, room=AMPLE)
    (early,), _ = scattered_first(work, {0: AGES})

    gathering.take_rows(work.rows(early), memoryview(text * 20), 0)

    assert least < gathering._held / (20 * len(text)) < most


def test_a_dump_is_read_back_into_memory_that_starts_at_a_page() -> None:
    places: list[int] = []

    def read_into(offset: int, buffer: memoryview) -> None:
        places.append(address_of(buffer) % 4096)

    stream_digest(9 * PIECE, read_into)

    assert set(places) == {0}
