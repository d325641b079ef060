# SPDX-License-Identifier: Apache-2.0
"""Laying an old stream along a new one: every copy is of old bytes, and what matters is found."""

import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from snapvault.engine import anchors
from snapvault.engine.aligning import Aligner
from snapvault.engine.anchors import AnchorIndex, Anchors, AnchorWriter, Choice, Scanner, Survey
from snapvault.engine.fine import FineHashes, FineWriter
from snapvault.engine.fine_sums import GRAIN
from snapvault.model.ranges import Range


def text_of(size: int, seed: int) -> bytes:
    """Return rows of text, all different."""
    chance = random.Random(seed)
    rows = io.BytesIO()
    while rows.tell() < size:
        rows.write(b"(%d,'%s')," % (rows.tell(), chance.randbytes(40).hex().encode()))
    return rows.getvalue()[:size]


OLD = text_of(120_077, 1)


class Rebuilt:
    """Does what commands say, and knows what came from where."""

    def __init__(self, old: bytes) -> None:
        self.old = old
        self.out = io.BytesIO()
        self.new_bytes = 0
        self.copied: list[Range] = []
        self.again_at: list[Range] = []

    def copy(self, offset: int, length: int) -> None:
        assert 0 <= offset < offset + length <= len(self.old)
        self.copied.append((offset, offset + length))
        self.out.write(self.old[offset : offset + length])

    def literal(self, data: memoryview) -> None:
        assert len(data)
        self.new_bytes += len(data)
        self.out.write(data)

    def again(self, offset: int, data: memoryview) -> None:
        assert data[0] == self.old[offset]
        self.again_at.append((offset, offset + len(data)))
        self.out.write(data)


class Night:
    """What a host keeps of an old stream, and what it finds with that in a new one."""

    def __init__(self, folder: Path, old: bytes, *, most: int = 1 << 20) -> None:
        self.old = old
        self.anchors = folder / "anchors"
        with (folder / "fine").open("wb") as file:
            writer = FineWriter(file, most)
            survey = Survey(None, 0)
            for at in range(0, len(old), 5000):
                writer.feed(old[at : at + 5000])
                survey.feed(old[at : at + 5000])
            writer.finish()
            survey.write(self.anchors)
        self.hashes = FineHashes(folder / "fine", len(old))

    def index(self) -> AnchorIndex | None:
        return AnchorIndex(self.anchors) if self.anchors.exists() else None

    def read(
        self,
        new: bytes,
        *,
        piece: int = 1 << 20,
        hidden: Sequence[Range] = (),
        blind: bool = False,
        worth: int = 2 * GRAIN,
    ) -> Rebuilt:
        """Read a new stream, in pieces; it must come out as it is."""
        index = None if blind else self.index()
        rebuilt = Rebuilt(self.old)
        aligner = Aligner(
            self.hashes,
            index,
            rebuilt.copy,
            rebuilt.literal,
            rebuilt.again,
            hidden=hidden,
            worth=lambda: worth,
        )
        survey = Survey(index, len(self.old))
        for at in range(0, len(new), piece):
            aligner.feed(new[at : at + piece], survey.feed(new[at : at + piece]))
        aligner.finish()
        assert rebuilt.out.getvalue() == new
        return rebuilt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("night")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return Night(tmp_path_factory.mktemp("shared"), OLD)


@pytest.mark.parametrize(
    ("new", "at_most"),
    [
        pytest.param(OLD, 0, id="nothing changed"),
        pytest.param(OLD[:60_000] + b"x" + OLD[60_001:], 2 * GRAIN, id="a byte changed"),
        pytest.param(OLD[:60_000] + b"longer" + OLD[60_001:], 3 * GRAIN, id="a byte became six"),
        pytest.param(OLD[:60_000] + OLD[63_000:], 3 * GRAIN, id="some bytes went"),
        pytest.param(
            b"".join(OLD[at : at + 9_000] + b"new%d" % at for at in range(0, 117_000, 9_000)),
            13 * 3 * GRAIN,
            id="many places",
        ),
        pytest.param(OLD[70_000:] + OLD[:70_000], 20 * GRAIN, id="halves changed places"),
        pytest.param(OLD[5:], 3 * GRAIN, id="the beginning went"),
        pytest.param(OLD[:-1], 2 * GRAIN, id="the end went"),
        pytest.param(OLD + b"more", GRAIN + 4, id="appended"),
        pytest.param(OLD[:50_000] * 2, 20 * GRAIN, id="repeated"),
        pytest.param(text_of(30_000, 2), 30_000, id="all new"),
        pytest.param(b"", 0, id="nothing"),
        pytest.param(b"tiny", 4, id="less than a grain"),
    ],
)
def test_what_was_there_before_is_found_wherever_it_lies(
    night: Night, new: bytes, at_most: int
) -> None:
    rebuilt = night.read(new)

    assert rebuilt.new_bytes <= at_most


edits = st.lists(
    st.tuples(st.integers(0, len(OLD)), st.integers(0, 20_000), st.binary(max_size=300)),
    max_size=8,
)
moves = st.lists(st.tuples(st.integers(0, len(OLD)), st.integers(0, len(OLD))), max_size=2)
ranges = st.lists(st.integers(0, len(OLD)), max_size=6, unique=True).map(
    lambda ends: list(zip(sorted(ends)[::2], sorted(ends)[1::2], strict=False))
)


@given(edits, moves, ranges, st.sampled_from([1_000, 70_000, 1 << 20]), st.booleans())
def test_whatever_happens_to_a_stream_it_comes_out_whole_and_hidden_bytes_are_never_copied(
    night: Night,
    edits: list[tuple[int, int, bytes]],
    moves: list[tuple[int, int]],
    hidden: list[Range],
    piece: int,
    blind: bool,  # noqa: FBT001 - a parameter of the test, given by name
) -> None:
    new = bytearray(OLD)
    for at, length, text in edits:
        new[at : at + length] = text
    for cut, to in moves:
        part = new[cut : cut + 9_000]
        del new[cut : cut + 9_000]
        new[to:to] = part

    rebuilt = night.read(bytes(new), piece=piece, hidden=hidden, blind=blind)

    for begin, end in rebuilt.copied:
        assert not any(start < end and begin < stop for start, stop in hidden)


@pytest.mark.parametrize("piece", [3_000, 1 << 20])
def test_batches_are_laid_one_after_the_other_without_a_seam(folder: Path, piece: int) -> None:
    old = text_of(3_500_000, 3)
    night = Night(folder, old)
    new = old[:1_048_000] + b"between" + old[1_048_000:2_100_000] + old[2_100_500:]

    rebuilt = night.read(new, piece=piece)

    assert rebuilt.new_bytes <= 7 * GRAIN


@pytest.mark.parametrize(
    "old", [bytes(50_000), b"ab" * 25_000, random.Random(5).randbytes(50_000), b"\n" * 70_001, b"x"]
)
def test_streams_without_any_rows_stay_what_they_are(folder: Path, old: bytes) -> None:
    night = Night(folder, old)

    assert night.read(old).new_bytes == 0
    night.read(old[:20_000] + b"other" + old[20_000:])


@pytest.mark.parametrize("seed", range(3))
def test_anchors_that_tell_nonsense_cost_bytes_alone(folder: Path, seed: int) -> None:
    night = Night(folder, OLD)
    raw = night.anchors.read_bytes()
    count = len(AnchorIndex(night.anchors)._key)
    lies = np.random.default_rng(seed).integers(-(2**63), 2**63, count, dtype=np.int64)
    if seed:
        lies %= len(OLD) + 5_000
    night.anchors.write_bytes(raw[: len(raw) - 8 * count] + lies.tobytes())

    night.read(OLD[:300] + b"," + OLD[300:])


class Told(AnchorIndex):
    """Takes anchors' keys for their places in the old stream."""

    def __init__(self) -> None:
        pass

    def find(self, anchors: Anchors) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return anchors.position, anchors.key.astype(np.int64)


def anchors_at(*pairs: tuple[int, int]) -> Anchors:
    """Return anchors: places in the new stream, and in the old one."""
    position, key = zip(*pairs, strict=True)
    return Anchors(np.array(position, dtype=np.int64), np.array(key, dtype=np.uint64))


@pytest.mark.parametrize("size", [5_000, 127])
def test_anchors_in_what_was_passed_on_already_are_of_no_use(night: Night, size: int) -> None:
    seam, grain = 1 << 20, 500
    first = text_of(seam - 4 * GRAIN, 6) + OLD[: 4 * GRAIN]
    # Five bytes before the seam begins an old grain, if one believes the last anchor. Its bytes
    # are there, but five before where the last window of the second piece begins.
    second = bytearray(text_of(size, 7))
    begin = max(0, size - GRAIN + 1 - 5)
    second[begin : begin + GRAIN] = OLD[grain * GRAIN : (grain + 1) * GRAIN][: size - begin]
    rebuilt = Rebuilt(OLD)
    aligner = Aligner(
        night.hashes,
        Told(),
        rebuilt.copy,
        rebuilt.literal,
        rebuilt.again,
        worth=lambda: 2 * GRAIN,
    )

    aligner.feed(first, anchors_at((seam - 4 * GRAIN, 0)))
    late = anchors_at((seam - 20, 77_777), (seam - 10, grain * GRAIN - 5))
    aligner.feed(bytes(second), late)
    aligner.finish()

    assert rebuilt.out.getvalue() == first + bytes(second)


def test_what_is_hidden_is_handed_on_in_one_piece_with_what_changed_in_it(night: Night) -> None:
    new = bytearray(OLD)
    for at in (41_000, 45_000, 49_000, 70_000):
        new[at] ^= 1

    rebuilt = night.read(bytes(new), hidden=[(40_000, 50_000), (90_001, 90_002)])

    assert rebuilt.again_at == [(40_000, 50_000), (90_001, 90_002)]
    assert rebuilt.new_bytes <= 2 * GRAIN


def test_short_copies_are_not_worth_it_where_a_map_is_full(night: Night) -> None:
    new = bytearray(OLD)
    for at in range(0, 60_000, 1_000):
        new[at] ^= 1

    assert night.read(bytes(new), worth=2 * GRAIN).new_bytes <= 60 * 2 * GRAIN
    assert night.read(bytes(new), worth=2_000).new_bytes >= 58_000


def test_bytes_without_hashes_are_not_copied(folder: Path) -> None:
    night = Night(folder, OLD, most=32 + 100 * 12)

    rebuilt = night.read(OLD)

    assert rebuilt.copied == [(0, 100 * GRAIN)]


def test_hashes_of_a_part_of_a_stream_end_where_its_blocks_do(folder: Path) -> None:
    old = text_of(2_500_000, 2)
    night = Night(folder, old, most=32 + 17_000 * 12)

    rebuilt = night.read(old)

    assert rebuilt.copied[-1][1] == 2 << 20


def test_an_end_that_differs_behind_the_last_whole_grain_is_new(night: Night) -> None:
    rebuilt = night.read(OLD[:-1] + b"?")

    assert 0 < rebuilt.new_bytes < GRAIN


# --- anchors ---------------------------------------------------------------------------------


def test_anchors_are_the_same_in_whatever_pieces_a_stream_comes() -> None:
    def found(piece: int) -> list[tuple[int, int]]:
        scanner = Scanner(Choice(ord("("), 0))
        parts = [scanner.feed(OLD[at : at + piece]) for at in range(0, len(OLD), piece)]
        return [
            pair
            for part in parts
            for pair in zip(part.position.tolist(), part.key.tolist(), strict=True)
        ]

    assert found(1 << 20)[:1] == [(0, found(7)[0][1])]
    assert found(7) == found(1_000) == found(1 << 20)
    assert len(found(7)) == OLD.count(b"(", 0, len(OLD) - 31)


def test_the_chosen_byte_comes_up_often_enough_and_not_too_often() -> None:
    choice = anchors.choose(OLD)

    assert choice is not None
    found = Scanner(choice).feed(OLD)
    assert len(OLD) / 1500 < len(found.key) < len(OLD) / 300
    assert anchors.choose(bytes(1000)) is None
    assert anchors.choose(b"ab" * 1000) is None


def test_of_too_many_anchors_every_other_one_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchors, "_MOST", 100)
    choice = Choice(ord("("), 0)
    writer = AnchorWriter(choice)
    scanner = Scanner(choice)
    found = [scanner.feed(OLD[at : at + 5000]) for at in range(0, len(OLD), 5000)]
    for part in found:
        writer.add(part)

    writer.write(folder / "thin")

    index = AnchorIndex(folder / "thin")
    pairs = [index.find(part) for part in found]
    new, old = (np.concatenate(column).tolist() for column in zip(*pairs, strict=True))
    assert 40 <= len(new) <= 100
    assert new == old
    assert not index.is_poor(len(OLD))


def test_keys_made_to_outlast_any_thinning_are_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchors, "_MOST", 100)
    writer = AnchorWriter(Choice(65, 0))
    writer.add(Anchors(np.arange(101, dtype=np.int64), np.zeros(101, dtype=np.uint64)))

    writer.write(folder / "zeros")

    assert not len(AnchorIndex(folder / "zeros")._key)


def test_anchors_take_little_memory_however_small_the_pieces_of_a_stream_are(folder: Path) -> None:
    writer = AnchorWriter(Choice(65, 0))
    for at in range(5000):
        place = np.array([at], dtype=np.int64)
        writer.add(Anchors(place, place.astype(np.uint64)))
    parts = len(writer._parts)

    writer.write(folder / "many")

    assert parts <= 1024
    assert len(AnchorIndex(folder / "many")._key) == 5000


def test_a_byte_that_is_everywhere_all_at_once_makes_few_anchors() -> None:
    found = Scanner(Choice(ord("x"), 0)).feed(b"x" * (1 << 20))

    assert len(found.key) <= 1 << 16


def test_keys_that_come_twice_tell_nothing(folder: Path) -> None:
    writer = AnchorWriter(Choice(65, 0))
    key = np.array([5, 6, 5, 7, 7, 7], dtype=np.uint64)
    writer.add(Anchors(np.arange(6, dtype=np.int64), key))

    writer.write(folder / "twice")

    new, old = AnchorIndex(folder / "twice").find(Anchors(np.arange(6, dtype=np.int64), key))
    assert (new.tolist(), old.tolist()) == ([1], [1])


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"SVANCHR1" + bytes(12) + b"\x01" + bytes(7)])
def test_another_file_is_refused(folder: Path, content: bytes) -> None:
    (folder / "other").write_bytes(content)

    with pytest.raises(ValueError, match="anchors"):
        AnchorIndex(folder / "other")


def test_poor_anchors_are_given_up_for_better_ones(folder: Path) -> None:
    poor = AnchorWriter(Choice(ord("#"), 0))
    poor.write(folder / "poor")
    survey = Survey(AnchorIndex(folder / "poor"), len(OLD))
    survey.feed(OLD)

    survey.write(folder / "better")

    assert not AnchorIndex(folder / "better").is_poor(len(OLD))


def test_anchors_are_the_same_however_a_stream_is_cut(folder: Path) -> None:
    chance = random.Random(5)
    head = bytes(chance.choices(b"QXYZ", k=70_000))
    rows = b"".join(
        b"(%d,'%s')," % (number, chance.randbytes(9).hex().encode()) for number in range(60_000)
    )

    for name, size in (("mebibytes", 1 << 20), ("pipe", 1 << 16)):
        survey = Survey(None, 0)
        for at in range(0, len(head + rows), size):
            survey.feed((head + rows)[at : at + size])
        survey.write(folder / name)

    assert (folder / "pipe").read_bytes() == (folder / "mebibytes").read_bytes()
    assert not AnchorIndex(folder / "pipe").is_poor(len(rows))
