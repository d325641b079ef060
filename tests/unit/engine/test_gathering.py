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
from snapvault.engine.gathering import Gathered, Gathering
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.extents import FIRST_VOLUME, ZERO, ExtentMap, from_rows
from tests.support.targets import MemoryTarget

VOLUMES = tuple(f"{number:032x}" for number in range(3))
RECORDS = {name: VolumeRecord(name, 1, "00" * 32) for name in VOLUMES}
BASE, NIGHT = FIRST_VOLUME, FIRST_VOLUME + 1
UNIT = 4096
AMPLE = 16 * PIECE

Rows = Sequence[tuple[int, int, int]]


def address_of(data: memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).ctypes.data)


def content_of(target: MemoryTarget) -> bytes:
    target.commit()
    assert target.content is not None
    return target.content


def of_zeros(length: int) -> bytes:
    """Return what a target has where it is left alone."""
    return b"\xaa" * length


class Written:
    """A stream in memory, and how it was delivered: (offset, length) of pieces, call by call."""

    def __init__(self, size: int) -> None:
        self.target = MemoryTarget(size)
        self.calls: list[list[tuple[int, int]]] = []
        self.is_aligned = True

    @property
    def content(self) -> bytes:
        return content_of(self.target)

    def deliver(self, number: int, pieces: Pieces, data: memoryview) -> None:
        assert number == 0
        self.calls.append(list(pieces))
        address = address_of(data)
        self.is_aligned &= (address - pieces[0][0]) % 4096 == 0
        at = 0
        for offset, length in pieces:
            self.target.write(offset, data[at : at + length])
            at += length
        assert at == len(data)


def gathering_of(
    work: Plan, extents: ExtentMap, written: Written, *, room: int = AMPLE, few: int = 1
) -> Gathering:
    stream = Gathered(extents, written.target, few=few)
    return Gathering(work, {0: stream}, written.deliver, room=room)


def pass_on(work: Plan, gathering: Gathering, content: bytes) -> None:
    """Give all pieces of a plan to a gathering, volume by volume, as a restore does."""
    for turns in gathering.turns():
        for turn in turns:
            for piece in work.pieces(turn):
                length = piece.end - piece.begin
                data = bytearray(content[piece.offset : piece.offset + length])
                gathering.take(piece.stream, [(piece.offset, length)], memoryview(data))


def gathered(rows: Rows, *, room: int = AMPLE, few: int = 1) -> tuple[Written, bytes]:
    """Pass a map's pieces through a gathering; return what came, and what the stream holds."""
    extents = from_rows(list(rows), VOLUMES)
    chance = random.Random(1)
    content = b"".join(
        of_zeros(length) if place == ZERO else chance.randbytes(length) for length, place, _ in rows
    )
    work = plan([extents], RECORDS, [1])
    written = Written(len(content))
    pass_on(work, gathering_of(work, extents, written, room=room, few=few), content)
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


@pytest.mark.parametrize("size", [30_000, 200_000], ids=["in parts", "in buffers"])
def test_what_memory_does_not_hold_is_put_aside_and_delivered_whole(
    size: int,
) -> None:
    extents = from_rows(changed_here_and_there(20, size), VOLUMES)
    content = random.Random(1).randbytes(20 * PIECE)
    work = plan([extents], RECORDS, [1])
    written = Written(len(content))
    gathering = gathering_of(work, extents, written, room=2 * PIECE)

    pass_on(work, gathering, content)

    assert written.content == content
    assert sorted(written.calls) == [[(number * PIECE, PIECE)] for number in range(20)]
    aside = gathering._streams[0].is_aside
    assert 0 < aside.sum() < 20
    assert not aside[0]
    assert gathering._held == 0


def test_memory_is_given_back_when_a_stretch_is_written() -> None:
    rows = changed_here_and_there(1, 100)
    for number in range(1, 9):  # each mebibyte of two volumes that are both read late
        rows += [(PIECE // 2, BASE, number * PIECE), (PIECE // 2, FIRST_VOLUME + 2, number * PIECE)]

    extents = from_rows(rows, VOLUMES)
    content = random.Random(2).randbytes(9 * PIECE)
    work = plan([extents], RECORDS, [1])
    written = Written(len(content))
    gathering = gathering_of(work, extents, written, room=2 * PIECE)
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
    extents = from_rows(changed_here_and_there(12, 100), VOLUMES)
    work = plan([extents], RECORDS, [1])
    content = random.Random(3).randbytes(12 * PIECE)
    written = Written(len(content))
    gathering = gathering_of(work, extents, written)

    pass_on(work, gathering, content)

    assert written.content == content
    assert len(gathering._last) <= 2


def test_zeros_between_pieces_are_not_written() -> None:
    rows = [(3000, BASE, 0), (1000, NIGHT, 0), (500, ZERO, 0), (2000, BASE, 3000)]

    written, content = gathered(rows)

    assert written.content == content
    assert written.calls == [[(0, 4000)], [(4500, 2000)]]


def test_pieces_of_a_stream_that_is_not_gathered_are_passed_on_as_they_are() -> None:
    work = plan([from_rows([(UNIT, BASE, 0), (UNIT, NIGHT, 0)], VOLUMES)], RECORDS, [UNIT])
    written = Written(2 * UNIT)

    Gathering(work, {}, written.deliver).take(0, [(0, UNIT)], memoryview(bytes(UNIT)))

    assert written.calls == [[(0, UNIT)]]


def test_where_a_mebibyte_has_few_pieces_those_that_lie_in_a_row_are_delivered_together() -> None:
    rows = [(PIECE, BASE, 0), (PIECE - 200, BASE, PIECE), (200, NIGHT, 0), (300, BASE, 3 * PIECE)]
    extents = from_rows(rows, VOLUMES)
    work = plan([extents], RECORDS, [1])
    content = random.Random(4).randbytes(4 * PIECE)
    expected = content[: 2 * PIECE - 200] + content[:200] + content[3 * PIECE :][:300]
    written = Written(len(expected))
    gathering = gathering_of(work, extents, written, few=2)

    for turn in (0, 1):
        gathering.take_rows(work.rows(turn), memoryview(content), 0)

    assert written.content == expected
    assert written.calls == [
        [(0, PIECE), (PIECE, PIECE - 200)],
        [(2 * PIECE, 300)],
        [(2 * PIECE - 200, 200)],
    ]


def turns_of(rows: Rows) -> list[list[int]]:
    """Return the turns of a plan's volumes, as their numbers in a map."""
    extents = from_rows(list(rows), VOLUMES)
    work = plan([extents], RECORDS, [1])
    turns = gathering_of(work, extents, Written(0)).turns()
    return [[VOLUMES.index(work.volumes[turn].volume) for turn in group] for group in turns]


def test_volumes_whose_pieces_are_scattered_come_first() -> None:
    assert turns_of(changed_here_and_there(3, 100)) == [[1], [0]]


def test_the_newest_of_them_comes_before_all_others() -> None:
    rows: list[tuple[int, int, int]] = []
    for number in range(40):
        place = NIGHT + number % 2
        rows += [(20_000, BASE, number * 20_000), (100, place, number * 100)]

    assert turns_of(rows) == [[2, 1], [0]]


def test_what_is_scattered_far_behind_comes_after_what_is_in_front_of_it() -> None:
    rows = [(PIECE, BASE, number * PIECE) for number in range(200)]
    for number in range(200):
        rows += [(PIECE - 100, NIGHT, number * PIECE), (100, NIGHT + 1, number * 100)]

    assert turns_of(rows) == [[0], [2], [1]]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_map_each_byte_comes_once(seed: int) -> None:
    chance = random.Random(seed)
    rows = []
    for _ in range(chance.randrange(1, 40)):
        length = chance.choice((1, 100, 5000, 200_000, PIECE)) + chance.randrange(3)
        place = chance.choice((ZERO, BASE, BASE, NIGHT, NIGHT + 1))
        rows.append((length, place, chance.randrange(1 << 20) if place != ZERO else 0))

    room, few = chance.choice((0, 300_000, AMPLE)), chance.choice((1, 3, 100))
    written, content = gathered(rows, room=room, few=few)

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
            zeros = of_zeros(length)
            content.append(zeros if place == ZERO else raw[place - BASE][at : at + length])
        maps.append(from_rows(rows, VOLUMES))
        contents.append(b"".join(content))
    work = plan(maps, RECORDS, [1, 1])
    targets = [MemoryTarget(len(content)) for content in contents]
    delivered: list[tuple[int, int, int]] = []

    def deliver(number: int, pieces: Pieces, data: memoryview) -> None:
        at = 0
        for offset, length in pieces:
            delivered.append((number, offset, length))
            targets[number].write(offset, data[at : at + length])
            at += length

    few = chance.choice((1, 3))
    streams = {n: Gathered(each, targets[n], few=few) for n, each in enumerate(maps)}
    gathering = Gathering(work, streams, deliver, room=chance.choice((0, 300_000, AMPLE)))
    for turns in gathering.turns():
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

    assert [content_of(each) for each in targets] == contents
    assert sum(length for _, _, length in delivered) == work.data_bytes


def test_a_dump_is_read_back_into_memory_that_starts_at_a_page() -> None:
    places: list[int] = []

    def read_into(offset: int, buffer: memoryview) -> None:
        places.append(address_of(buffer) % 4096)

    stream_digest(9 * PIECE, read_into)

    assert set(places) == {0}
