# SPDX-License-Identifier: Apache-2.0
"""Finer hashes: what is found are old bytes, and what matters is found."""

import io
import operator
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.engine import fine_search
from snapvault.engine.fine import HASH_BYTES, FineHashes, FineWriter
from snapvault.engine.fine_search import Gap, find
from snapvault.engine.fine_sums import GRAIN, Sums
from snapvault.engine.refining import Refiner
from snapvault.model.extents import U64

OLD = random.Random(1).randbytes(40 * GRAIN + 77)


def hashes_of(path: Path, old: bytes, *, most: int = 1 << 20, piece: int = 1000) -> FineHashes:
    with path.open("wb") as file:
        writer = FineWriter(file, most)
        for at in range(0, len(old), piece):
            writer.feed(old[at : at + piece])
        writer.finish()
    return FineHashes(path, len(old))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fine") / "fine"


def old_bytes(fine: FineHashes, new: bytes, begin: int, end: int) -> int:
    """Return how many bytes of a literal are found to be old ones, having checked each."""
    (runs,) = find(fine, new, [Gap(0, len(new), begin, end)])
    at = 0
    for run in runs:
        assert at <= run.start < run.end <= len(new)
        assert new[run.start : run.end] == OLD[run.old : run.old + run.end - run.start]
        at = run.end
    return sum(run.end - run.start for run in runs)


@pytest.mark.parametrize(
    ("new", "at_least"),
    [
        pytest.param(OLD, 40 * GRAIN, id="nothing changed"),
        pytest.param(OLD[:1000] + b"x" + OLD[1001:], 39 * GRAIN, id="a byte changed"),
        pytest.param(OLD[:1000] + b"longer" + OLD[1001:], 38 * GRAIN, id="a byte became six"),
        pytest.param(OLD[:1000] + OLD[1300:], 36 * GRAIN, id="some bytes went"),
        pytest.param(
            OLD[:1000] + b"a" + OLD[1003:3000] + b"bcd" + OLD[3001:], 36 * GRAIN, id="two places"
        ),
        pytest.param(b"odd" + OLD[5:], 39 * GRAIN, id="at the beginning"),
        pytest.param(OLD[2000:4000] + OLD[:1900], 28 * GRAIN, id="moved"),
        pytest.param(random.Random(2).randbytes(4000), 0, id="all new"),
        pytest.param(b"", 0, id="nothing"),
        pytest.param(b"tiny", 0, id="less than a grain"),
    ],
)
def test_what_was_there_before_is_found_wherever_it_lies(
    path: Path, new: bytes, at_least: int
) -> None:
    fine = hashes_of(path, OLD)

    found = old_bytes(fine, new, 0, len(OLD))

    assert found >= at_least


edits = st.lists(
    st.tuples(st.integers(0, len(OLD)), st.integers(0, 700), st.binary(max_size=300)), max_size=6
)


@given(edits, st.integers(0, 45 * GRAIN), st.integers(0, 45 * GRAIN))
def test_whatever_is_found_is_what_the_old_stream_has_there(
    path: Path, edits: list[tuple[int, int, bytes]], begin: int, end: int
) -> None:
    fine = hashes_of(path, OLD)
    new = bytearray(OLD)
    for at, length, text in edits:
        new[at : at + length] = text

    old_bytes(fine, bytes(new), begin, max(begin, end))


@given(st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_of_bytes_that_repeat_themselves_any_grain_will_do(
    path: Path, at: int, pattern: bytes
) -> None:
    old = pattern * 2000
    fine = hashes_of(path, old)
    new = old[:at] + b"other" + old[at:3000]

    (runs,) = find(fine, new, [Gap(0, len(new), 0, len(old))])

    for run in runs:
        assert new[run.start : run.end] == old[run.old : run.old + run.end - run.start]


def test_grains_that_differ_in_one_bit_differ(path: Path) -> None:
    fine = hashes_of(path, OLD[:GRAIN])
    grain = bytearray(OLD[:GRAIN])

    for bit in range(8 * GRAIN):
        grain[bit // 8] ^= 1 << bit % 8
        assert find(fine, bytes(grain), [Gap(0, GRAIN, 0, GRAIN)]) == [[]]
        grain[bit // 8] ^= 1 << bit % 8


def test_words_that_change_places_or_cancel_out_differ(path: Path) -> None:
    # Both leave the weak sum, as it adds words by their places, as it was.
    words = [100] * 64
    swapped = list(words)
    swapped[3], swapped[4], swapped[5] = 101, 98, 101

    fine = hashes_of(path, b"".join(word.to_bytes(2, "little") for word in words))
    new = b"".join(word.to_bytes(2, "little") for word in swapped)

    assert find(fine, new, [Gap(0, GRAIN, 0, GRAIN)]) == [[]]


def test_grains_made_to_have_one_weak_sum_are_not_tried_one_by_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(3)
    grains = []
    for _ in range(300):
        words = [1000] * 64
        at, by = chance.randrange(62), chance.randrange(1, 400)
        words[at : at + 3] = 1000 + by, 1000 - 2 * by, 1000 + by
        grains.append(b"".join(word.to_bytes(2, "little") for word in words))
    old = b"".join(grains)
    fine = hashes_of(path, old)
    tried: list[int] = []
    proven = fine_search._proven

    def counted(position: U64, *rest: Any) -> Iterator[tuple[int, int, int]]:
        tried.append(len(position))
        return proven(position, *rest)

    monkeypatch.setattr(fine_search, "_proven", counted)
    same = (1000).to_bytes(2, "little") * 5000

    (runs,) = find(fine, same + grains[7] + same, [Gap(0, 20_128, 0, len(old))])

    assert [run.end - run.start for run in runs] == [GRAIN]
    assert tried[0] < 20


def test_what_matches_everywhere_takes_little_memory(path: Path) -> None:
    old = b"a" * (128 << 10)
    fine = hashes_of(path, old)
    new = b"x" + old + b"x"
    tracemalloc.start()
    try:
        find(fine, new, [Gap(0, len(new), 1, len(old) - 1)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 120 * len(new)


def test_the_sums_are_exact_for_the_largest_words_and_weights() -> None:
    chance = random.Random(4)
    rows = [b"\xff" * GRAIN, bytes(GRAIN), *(chance.randbytes(GRAIN) for _ in range(30))]
    words = np.frombuffer(b"".join(rows), dtype="<u2").reshape(-1, 64)
    prime = 2**31 - 1
    for largest in (False, True):
        sums = Sums(b"0123456789abcdef")
        if largest:
            sums._weights[:, 2:] = prime - 1
            sums._strong_weights[:] = prime - 1
        weights = sums._strong_weights.astype(np.int64).T.tolist()
        exact = [
            [sum(map(operator.mul, row, column)) % prime for column in weights]
            for row in words.tolist()
        ]

        assert sums.of(words)[:, 1:].tolist() == exact
        assert sums.strong_of(words).tolist() == exact


def test_what_has_no_room_goes_without(path: Path) -> None:
    fine = hashes_of(path, OLD, most=32 + 10 * HASH_BYTES + 5)

    assert path.stat().st_size <= 32 + 10 * HASH_BYTES + 5
    assert old_bytes(fine, OLD, 0, len(OLD)) == 10 * GRAIN


def test_each_file_has_a_key_of_its_own(path: Path) -> None:
    hashes_of(path, OLD)
    first = path.read_bytes()

    hashes_of(path, OLD)

    assert path.read_bytes() != first


@pytest.mark.parametrize(
    "content",
    [b"", b"SVFINE2\n", b"x" * 100, b"SVFINE2\n" + bytes(24 + 7), b"SVFINE1\n" + bytes(24)],
)
def test_another_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(ValueError, match="fine hashes"):
        FineHashes(path, 1000)


# --- between copies --------------------------------------------------------------------------


class Rebuilt:
    """Does what commands say."""

    def __init__(self, old: bytes) -> None:
        self.old = old
        self.out = io.BytesIO()
        self.new_bytes = 0

    def copy(self, offset: int, length: int) -> None:
        assert 0 <= offset < offset + length <= len(self.old)
        self.out.write(self.old[offset : offset + length])

    def literal(self, data: memoryview) -> None:
        assert len(data)
        self.out.write(data)
        self.new_bytes += len(data)


def refined(path: Path, old: bytes, parts: list[tuple[int, int] | bytes], piece: int) -> Rebuilt:
    """Pass copies and literals through a refiner."""
    rebuilt = Rebuilt(old + b"beyond" * 100)
    refiner = Refiner(
        hashes_of(path, old, piece=1 << 20),
        len(old),
        rebuilt.copy,
        rebuilt.literal,
        worth=lambda: 2 * GRAIN,
    )
    for part in parts:
        if isinstance(part, bytes):
            for at in range(0, len(part), piece):
                refiner.literal(memoryview(part)[at : at + piece])
        else:
            refiner.copy(*part)
    refiner.finish()
    return rebuilt


commands = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 38), st.integers(1, 2)).map(lambda at: (at[0] * GRAIN, at[1])),
        st.tuples(st.integers(0, 4000), st.integers(1, 1200)).map(
            lambda cut: OLD[cut[0] : cut[0] + cut[1]]
        ),
        st.binary(min_size=1, max_size=300),
        st.just((len(OLD) + 30, 200)),  # of what an unfinished run has stored
    ),
    max_size=12,
)


@given(commands, st.sampled_from([7, 128, 1 << 20]))
def test_the_stream_stays_what_it_was(
    path: Path, commands: list[tuple[int, int] | bytes], piece: int
) -> None:
    plain = Rebuilt(OLD + b"beyond" * 100)
    for part in commands:
        if isinstance(part, bytes):
            plain.literal(memoryview(part))
        else:
            plain.copy(*part)

    rebuilt = refined(path, OLD, commands, piece)

    assert rebuilt.out.getvalue() == plain.out.getvalue()
    assert rebuilt.new_bytes <= plain.new_bytes


def test_of_a_block_with_one_changed_row_the_row_is_new(path: Path) -> None:
    row = OLD[16 * GRAIN : 24 * GRAIN]
    edited = row[:300] + b"another state" + row[310:]

    rebuilt = refined(path, OLD, [(0, 16 * GRAIN), edited, (24 * GRAIN, 16 * GRAIN)], 1 << 20)

    assert rebuilt.new_bytes < 3 * GRAIN


def test_a_long_literal_with_old_bytes_in_it_is_refined_throughout(path: Path) -> None:
    old = random.Random(3).randbytes(1 << 20)
    new = b"".join(old[at : at + 5000] + b"edit" for at in range(0, len(old), 5000))

    rebuilt = refined(path, old, [new], 64 << 10)

    assert rebuilt.out.getvalue() == new
    assert rebuilt.new_bytes < len(new) // 10


def test_a_long_literal_that_is_all_new_is_passed_on(path: Path) -> None:
    new = random.Random(4).randbytes(2 << 20)

    rebuilt = refined(path, OLD, [new, (0, GRAIN), OLD[GRAIN : 20 * GRAIN]], 64 << 10)

    assert rebuilt.out.getvalue() == new + OLD[: 20 * GRAIN]
    assert rebuilt.new_bytes == len(new)
