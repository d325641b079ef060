# SPDX-License-Identifier: Apache-2.0
"""One EBS snapshot as a disk: its blocks are fetched as they are read, many at once."""

import base64
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from snapvault.adapters.aws import BLOCK, AwsError, Caller, translate
from snapvault.adapters.sources.ebs_lists import Answer, BlockList, Runs
from snapvault.errors import SourceError
from snapvault.ports.source import Changes, Trust

if TYPE_CHECKING:
    from mypy_boto3_ebs import EBSClient

_FETCHES = 4  # of a block that arrives damaged
_LISTINGS = 3  # for a block whose token is refused
_BLOCKS_KEPT = 16  # that were read in part


@dataclass(frozen=True, slots=True)
class Api:
    """How blocks are asked for: the client, the pace of all calls, and who makes them."""

    client: "EBSClient"
    caller: Caller
    pool: Executor

    def blocks_of(self, snapshot: str, size: int) -> BlockList:
        """Return the list of the blocks that hold data in a snapshot of `size` bytes."""

        def ask(first: int, token: str | None, wanted: int) -> Answer:
            if token is None:
                answer = self.client.list_snapshot_blocks(
                    SnapshotId=snapshot, MaxResults=wanted, StartingBlockIndex=first
                )
            else:
                answer = self.client.list_snapshot_blocks(
                    SnapshotId=snapshot, MaxResults=wanted, NextToken=token
                )
            return Answer(
                [(block["BlockIndex"], block["BlockToken"]) for block in answer["Blocks"]],
                answer.get("NextToken"),
                answer["BlockSize"],
                answer["VolumeSize"] << 30,
            )

        return BlockList(f'the list of blocks of snapshot "{snapshot}"', size, ask, self.caller)

    def changes_between(self, old: str, new: str, size: int) -> BlockList:
        """Return the list of the blocks that differ, with their tokens in the new snapshot."""

        def ask(first: int, token: str | None, wanted: int) -> Answer:
            if token is None:
                answer = self.client.list_changed_blocks(
                    FirstSnapshotId=old,
                    SecondSnapshotId=new,
                    MaxResults=wanted,
                    StartingBlockIndex=first,
                )
            else:
                answer = self.client.list_changed_blocks(
                    FirstSnapshotId=old, SecondSnapshotId=new, MaxResults=wanted, NextToken=token
                )
            return Answer(
                [(b["BlockIndex"], b.get("SecondBlockToken")) for b in answer["ChangedBlocks"]],
                answer.get("NextToken"),
                answer["BlockSize"],
                answer["VolumeSize"] << 30,
            )

        what = f'the list of changes from snapshot "{old}" to "{new}"'
        return BlockList(what, size, ask, self.caller)


class Difference:
    """What differs from the parent's snapshot: `changed` runs, those `gone`, and tokens.

    `grown_from` is the size in bytes of the parent's snapshot.
    """

    def __init__(self, listed: BlockList, size: int, grown_from: int) -> None:
        gone = []
        changed = []
        for page in listed.remembered():
            changed.append(page.numbers)
            absent = [number is None for number in page.tokens]
            gone.append(page.numbers[np.array(absent, dtype=np.bool_)])
        if grown_from < size:
            # Whatever the list says of it, the parent had nothing there.
            first = grown_from // BLOCK
            changed = [numbers[numbers < first] for numbers in changed]
            self.ranges: Sequence[tuple[int, int]] = [*Runs.of(changed), (grown_from, size)]
        else:
            self.ranges = Runs.of(changed)
        self.listed = listed
        self.changed = Runs.of(changed)
        self.gone = Runs.of(gone)


class EbsDisk:
    """A completed snapshot as a disk; `fetched` counts the blocks that came from AWS."""

    def __init__(
        self, name: str, snapshot: str, size: int, api: Api, difference: Difference | None
    ) -> None:
        self._name = name
        self._snapshot = snapshot
        self._size = size
        self._api = api
        self._difference = difference
        self._listed = api.blocks_of(snapshot, size)
        self._data: Runs | None = None
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.fetched = 0

    @property
    def name(self) -> str:
        """The stream's name."""
        return self._name

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield what EBS holds blocks for; with a parent, all but what was let go since then."""
        if self._difference is not None:
            at = 0
            for start, end in self._difference.gone:
                if start > at:
                    yield at, start
                at = end
            if at < self._size:
                yield at, self._size
            return
        if self._data is None:
            try:
                self._data = Runs.of(page.numbers for page in self._listed.remembered())
            except AwsError as error:
                raise self._failed(error, "list the blocks of") from error
        yield from self._data

    def changes(self) -> Changes | None:
        """Tell what AWS lists as changed since the parent's snapshot."""
        if self._difference is None:
            return None
        return Changes(self._difference.ranges, BLOCK, Trust.COMPARED, "ListChangedBlocks")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fetch the blocks of the buffer, all of them at once."""
        if offset < 0 or offset + buffer.nbytes > self._size:
            raise SourceError(
                f'snapshot "{self._snapshot}" ends at {self._size} bytes:'
                f" cannot read {buffer.nbytes} bytes from offset {offset}"
            )
        pieces = []
        at = 0
        while at < buffer.nbytes:
            number, skip = divmod(offset + at, BLOCK)
            end = min(buffer.nbytes, at + BLOCK - skip)
            pieces.append((number, skip, buffer[at:end]))
            at = end
        if len(pieces) == 1:
            self._fill(*pieces[0])
            return
        futures = [self._api.pool.submit(self._fill, *piece) for piece in pieces]
        # ORDER: nobody may write into the buffer any more when this returns or raises.
        wait(futures)
        for future in futures:
            future.result()

    def _fill(self, number: int, skip: int, piece: memoryview) -> None:
        with self._lock:
            data: bytes | None = self._kept.get(number)
        if data is None:
            data = self._block(number)
            if data is None:
                piece[:] = bytes(len(piece))
                return
            if len(piece) < BLOCK:
                self._keep(number, data)
        piece[:] = data if len(piece) == BLOCK else data[skip : skip + len(piece)]

    def _keep(self, number: int, data: bytes) -> None:
        with self._lock:
            self._kept[number] = data
            while len(self._kept) > _BLOCKS_KEPT:
                self._kept.popitem(last=False)

    def _block(self, number: int) -> bytes | None:
        """Fetch a whole block; None: EBS holds none, and it reads as zeros."""
        listed = self._listed
        if self._difference is not None and self._difference.changed.has(number):
            listed = self._difference.listed
        left = _LISTINGS
        try:
            while (token := listed.token(number)) is not None:
                left -= 1
                try:
                    return self._fetch(number, token)
                except AwsError as error:
                    # LIMIT: the EBS direct APIs let a block's token expire after seven days.
                    if error.why != "INVALID_BLOCK_TOKEN" or left == 0:
                        raise
                    listed.forget(number, token)
        except AwsError as error:
            raise self._failed(error, f"read block {number} of") from error
        return None

    def _fetch(self, number: int, token: str) -> bytes:
        def ask() -> tuple[bytes, str]:
            answer = self._api.client.get_snapshot_block(
                SnapshotId=self._snapshot, BlockIndex=number, BlockToken=token
            )
            return answer["BlockData"].read(), answer["Checksum"]

        for _ in range(_FETCHES):
            data, checksum = self._api.caller.call(ask)
            with self._lock:
                self.fetched += 1
            digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
            if len(data) == BLOCK and digest == checksum:
                return data
        raise SourceError(
            f'block {number} of snapshot "{self._snapshot}" arrived damaged {_FETCHES} times:'
            " its SHA-256 differs from the one that AWS sent"
        )

    def _failed(self, error: AwsError, verb: str) -> Exception:
        return translate(error, f'could not {verb} snapshot "{self._snapshot}"', SourceError)
