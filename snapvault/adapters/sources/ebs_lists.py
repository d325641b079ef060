# SPDX-License-Identifier: Apache-2.0
"""Lists of an EBS snapshot's blocks: runs kept as columns, tokens a few pages at a time.

Source: ListSnapshotBlocks and ListChangedBlocks in the EBS direct APIs reference.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from snapvault.adapters.aws import BLOCK, AwsError, Caller
from snapvault.errors import SourceError

LARGEST_PAGE: Final = 10_000  # LIMIT: of the EBS direct APIs, entries
SMALLEST_PAGE: Final = 100  # LIMIT: of the EBS direct APIs, entries

_PAGES_KEPT = 8  # of at most 10,000 tokens of some 150 bytes each
_NEARBY = 4096  # blocks; a lookup that far behind a page goes on where that page ended
_RESTARTS = 3
_MOST_EMPTY = 10_000  # pages in a row; one may be, and nobody says how many

Column = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a list call. Entries are a block's number and its token, None if it has none.

    `volume_size` is in bytes.
    """

    entries: Sequence[tuple[int, str | None]]
    next_token: str | None
    block_size: int
    volume_size: int


@dataclass(frozen=True, slots=True)
class ListPage:
    """All that a list has in the blocks [start, end): ascending numbers, a token for each."""

    start: int
    end: int
    numbers: Column
    tokens: Sequence[str | None]

    def token(self, number: int) -> str | None:
        """Return a block's token; None if the block is not listed, or has none."""
        at = int(np.searchsorted(self.numbers, number))
        if at == len(self.numbers) or self.numbers[at] != number:
            return None
        return self.tokens[at]


class BlockList:
    """One list of blocks, read page by page from wherever it is needed. For all threads.

    `ask` makes one call, for a first block, a token to go on with, and how many entries.
    `what` names the list in messages.
    """

    def __init__(
        self,
        what: str,
        size: int,
        ask: Callable[[int, str | None, int], Answer],
        caller: Caller,
    ) -> None:
        self._what = what
        self._size = size
        self._blocks = -(-size // BLOCK)
        self._ask = ask
        self._caller = caller
        self._kept: OrderedDict[int, ListPage] = OrderedDict()
        self._lock = threading.Lock()

    def pages(self, first: int = 0, wanted: int = LARGEST_PAGE) -> Iterator[ListPage]:
        """Yield the list's pages from a block on, covering everything up to the disk's end.

        A page that takes longer to use than its successor's token lasts does no harm.

        Raises:
            AwsError: a call failed.
            SourceError: the list contradicts itself or the disk.
        """
        at, token, restarts, empty = first, None, 0, 0
        while at < self._blocks:
            try:
                answer = self._caller.call(partial(self._ask, at, token, wanted))
            except AwsError as error:
                if token is None or error.why != "INVALID_PAGE_TOKEN" or restarts == _RESTARTS:
                    raise
                # LIMIT: the EBS direct APIs let a page's token expire after an hour.
                token, restarts = None, restarts + 1
                continue
            empty = 0 if answer.entries else empty + 1
            if empty > _MOST_EMPTY:
                raise SourceError(f"{self._what} does not go on: {empty} empty pages in a row")
            token = answer.next_token
            page = self._checked(answer, at)
            if len(page.numbers) or token is None:
                restarts = 0
                yield page
            if token is None:
                return
            at = page.end

    def remembered(self) -> Iterator[ListPage]:
        """Yield all pages, and keep the first ones for `token`."""
        for page in self.pages():
            with self._lock:
                if len(self._kept) < _PAGES_KEPT:
                    self._kept[page.start] = page
            yield page

    def token(self, number: int) -> str | None:
        """Return a block's token; None if the block is not listed, or has none.

        Raises:
            AwsError, SourceError: as `pages`.
        """
        with self._lock:
            page = self._page_with(number)
            if page is None:
                page = next(self.pages(number, self._page_size(number)))
                self._kept[page.start] = page
                while len(self._kept) > _PAGES_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(page.start)
            return page.token(number)

    def forget(self, number: int, token: str) -> None:
        """Drop the page of a token that was refused; the next lookup lists that range again."""
        with self._lock:
            page = self._page_with(number)
            if page is not None and page.token(number) == token:
                del self._kept[page.start]

    def _page_with(self, number: int) -> ListPage | None:
        return next((page for page in self._kept.values() if page.start <= number < page.end), None)

    def _page_size(self, number: int) -> int:
        """Return a large page for whoever reads on in order, and a small one for a sample."""
        near = any(0 <= number - page.end <= _NEARBY for page in self._kept.values())
        return LARGEST_PAGE if near or number == 0 else SMALLEST_PAGE

    def _checked(self, answer: Answer, start: int) -> ListPage:
        if answer.block_size != BLOCK:
            raise SourceError(f"{self._what} has blocks of {answer.block_size} bytes, not {BLOCK}")
        if answer.volume_size > self._size:
            raise SourceError(
                f"{self._what} is of {answer.volume_size} bytes,"
                f" but the snapshot has {self._size} bytes"
            )
        numbers = np.array([number for number, _ in answer.entries], dtype=np.int64)
        if len(numbers) and (
            numbers[0] < start or numbers[-1] >= self._blocks or bool((np.diff(numbers) <= 0).any())
        ):
            raise SourceError(f"{self._what} is out of order, or goes beyond the disk")
        end = self._blocks
        if answer.next_token is not None:
            end = int(numbers[-1]) + 1 if len(numbers) else start
        return ListPage(start, end, numbers, [token for _, token in answer.entries])


class Runs(Sequence[tuple[int, int]]):
    """Sorted, disjoint runs of blocks as half-open ranges of bytes, in two columns."""

    def __init__(self, starts: Column, ends: Column) -> None:
        self._starts = starts
        self._ends = ends

    @classmethod
    def of(cls, pieces: Iterable[Column]) -> "Runs":
        """Make runs of ascending block numbers, given piece by piece."""
        starts: list[Column] = [np.zeros(0, dtype=np.int64)]
        ends: list[Column] = [np.zeros(0, dtype=np.int64)]
        for numbers in pieces:
            if len(numbers):
                breaks = np.flatnonzero(np.diff(numbers) != 1)
                starts.append(numbers[np.concatenate(([0], breaks + 1))])
                ends.append(numbers[np.concatenate((breaks, [len(numbers) - 1]))] + 1)
        first, last = np.concatenate(starts), np.concatenate(ends)
        if len(first):
            # A run may go on from one piece into the next.
            begins = np.concatenate(([True], first[1:] != last[:-1]))
            first, last = first[begins], last[np.concatenate((begins[1:], [True]))]
        return cls(first, last)

    def has(self, number: int) -> bool:
        """Tell whether a block is in one of the runs."""
        at = int(np.searchsorted(self._starts, number, side="right")) - 1
        return at >= 0 and number < int(self._ends[at])

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        return int(self._starts[index]) * BLOCK, int(self._ends[index]) * BLOCK
