# SPDX-License-Identifier: Apache-2.0
"""Lists of blocks: runs, pages, and what must not be believed."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.adapters.aws import BLOCK, AwsError, Caller, Trouble
from snapvault.adapters.sources.ebs_lists import Answer, BlockList, Runs
from snapvault.errors import SourceError

SIZE = 100_000 * BLOCK


class Service:
    """A list call over fixed entries, which records what it was asked."""

    def __init__(self, numbers: Sequence[int], *, page: int = 10_000) -> None:
        self.numbers = numbers
        self.page = page
        self.asked: list[tuple[int, str | None, int]] = []
        self.serial = 0

    def ask(self, first: int, token: str | None, wanted: int) -> Answer:
        self.asked.append((first, token, wanted))
        self.serial += 1
        start = int(token) if token is not None else first
        rest = [number for number in self.numbers if number >= start]
        shown = rest[: min(wanted, self.page)]
        more = str(rest[len(shown)]) if len(shown) < len(rest) else None
        return Answer([(one, f"{one}/{self.serial}") for one in shown], more, BLOCK, SIZE)


def listed(service: Service) -> BlockList:
    return BlockList("the list", SIZE, service.ask, Caller())


@given(st.sets(st.integers(0, 300)), st.integers(1, 50))
def test_runs_hold_just_their_blocks(numbers: set[int], piece: int) -> None:
    column = np.array(sorted(numbers), dtype=np.int64)

    runs = Runs.of(column[at : at + piece] for at in range(0, len(column), piece))

    assert {n for start, end in runs for n in range(start // BLOCK, end // BLOCK)} == numbers
    assert [n for n in range(302) if runs.has(n)] == sorted(numbers)
    bounds = [bound for one in runs for bound in one]
    assert bounds == sorted(set(bounds))


def test_reads_in_order_list_large_pages_and_each_once() -> None:
    service = Service(range(25_000))
    blocks = listed(service)

    for number in range(25_000):
        assert blocks.token(number) is not None

    assert [(first, wanted) for first, _, wanted in service.asked] == [
        (0, 10_000),
        (10_000, 10_000),
        (20_000, 10_000),
    ]


def test_a_lookup_far_away_lists_a_small_page() -> None:
    service = Service(range(0, 100_000, 2))
    blocks = listed(service)

    found = [blocks.token(70_000), blocks.token(70_001), blocks.token(33)]

    assert found == ["70000/1", None, None]
    assert [wanted for _, _, wanted in service.asked] == [100, 100]


def test_empty_pages_are_passed_over_and_have_an_end() -> None:
    answers = [Answer([], "more", BLOCK, SIZE)] * 9_000 + [Answer([(7, "t")], None, BLOCK, SIZE)]
    left = iter(answers)
    blocks = BlockList("the list", SIZE, lambda *_: next(left), Caller())
    endless = BlockList("the list", SIZE, lambda *_: answers[0], Caller())

    assert blocks.token(7) == "t"
    with pytest.raises(SourceError, match="the list does not go on: 10001 empty pages in a row"):
        endless.token(7)


def test_a_token_that_was_refused_is_listed_again_once() -> None:
    service = Service(range(10))
    blocks = listed(service)
    old = blocks.token(3) or ""

    blocks.forget(3, old)
    new = blocks.token(3) or ""
    blocks.forget(3, old)  # another thread, later

    assert (old, new) == ("3/1", "3/2")
    assert blocks.token(3) == new


def test_memory_holds_few_pages() -> None:
    service = Service(range(100_000))
    blocks = listed(service)

    for number in range(0, 100_000, 1000):
        blocks.token(number)

    assert len(blocks._kept) <= 8


def answer(numbers: Sequence[int], *, block: int = BLOCK, size: int = SIZE) -> Answer:
    return Answer([(number, "token") for number in numbers], None, block, size)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (answer([5, 4]), "out of order"),
        (answer([5, 5]), "out of order"),
        (answer([1]), "out of order"),
        (answer([-1]), "out of order"),
        (answer([100_000]), "beyond the disk"),
        (answer([5], block=512), "blocks of 512 bytes"),
        (answer([5], size=2 * SIZE), "but the snapshot has"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(bad: Answer, message: str) -> None:
    blocks = BlockList("the list", SIZE, lambda *_: bad, Caller())

    with pytest.raises(SourceError, match=message):
        list(blocks.pages(2))


def test_a_page_token_that_is_always_refused_fails() -> None:
    def ask(first: int, token: str | None, wanted: int) -> Answer:
        if token is not None:
            raise AwsError(Trouble.REFUSED, "no", why="INVALID_PAGE_TOKEN")
        return Answer([], "again", BLOCK, SIZE)

    with pytest.raises(AwsError, match="no"):
        list(BlockList("the list", SIZE, ask, Caller()).pages())
