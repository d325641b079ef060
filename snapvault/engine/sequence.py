# SPDX-License-Identifier: Apache-2.0
"""Bring one stream back in order, for pipes; what comes early waits in a spool of known size."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from snapvault.engine.contents import BlockDigest, Contents, require_digest
from snapvault.engine.extract import Pieces, Plan, extract
from snapvault.engine.mixed import InOrder, is_part
from snapvault.engine.vault import Vault
from snapvault.errors import RestoreError
from snapvault.model.extents import U64
from snapvault.units import format_size

_ZEROS = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class Order:
    """A plan whose pieces come in its own order, and where the early ones are kept.

    `early` tells which pieces come before their turn; `spot` is where in the spool they lie.
    """

    work: Plan
    early: "np.ndarray[tuple[int], np.dtype[np.bool_]]"
    spot: U64
    spool_bytes: int


def arrange(contents: Contents) -> Order:
    """Find out which pieces of the one stream come early, and so how much spool it takes."""
    work = contents.plan()
    by_offset = np.argsort(work.offset)
    # A piece comes in its turn when everything before it in the stream is delivered before it.
    latest = np.maximum.accumulate(by_offset) if len(by_offset) else by_offset
    early = np.zeros(len(by_offset), dtype=bool)
    early[by_offset] = latest > by_offset
    sizes = np.where(early, work.length, np.uint64(0))
    ends = np.cumsum(sizes, dtype=np.uint64)
    return Order(work, early, ends - sizes, int(sizes.sum()))


def stream_out(
    vault: Vault,
    contents: Contents,
    order: Order,
    folder: Path,
    write: Callable[[memoryview], None],
) -> None:
    """Write the one stream of `contents`, in order, and hold its digest against the manifest.

    The spool lies in `folder`, has no name, and its room is taken before the first byte is written.

    Raises:
        RestoreError: there is no room for the spool. Nothing was written.
        IntegrityError: as for `restore`; bytes written so far must not be used.
    """
    (stream,) = contents.streams
    progress = vault.events.progress("restoring", total=stream.size)

    def count(data: memoryview) -> None:
        write(data)
        progress.advance(len(data))

    try:
        with _Spool(folder, order.spool_bytes) as spool:
            out = _Out(contents, order, spool, count)
            extract(
                vault.store,
                vault.sealer,
                order.work,
                out.deliver,
                at_once=1,
            )
            out.finish()
    finally:
        progress.close()


class _Spool:
    """A nameless file of fixed size; room for it is taken at once."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._size = size

    def __enter__(self) -> Self:
        if not self._size:
            return self
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if free < self._size:
            raise RestoreError(
                f'folder "{self._folder}" has {format_size(free)} free, and bringing this stream '
                f"back in order takes {format_size(self._size)}",
                hint="Restore to a file, which takes no temporary space, or move state_dir.",
            )
        self._file = tempfile.TemporaryFile(dir=self._folder)
        try:
            os.posix_fallocate(self._file.fileno(), 0, self._size)
        except OSError as error:
            self._file.close()
            raise RestoreError(
                f'could not take {format_size(self._size)} in folder "{self._folder}": '
                f"{error.strerror}"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._size:
            self._file.close()

    def write(self, offset: int, data: memoryview) -> None:
        while data:
            written = os.pwrite(self._file.fileno(), data, offset)
            offset, data = offset + written, data[written:]

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)


class _Out:
    """Writes what is due and keeps the rest. Columns are in stream order."""

    def __init__(
        self,
        contents: Contents,
        order: Order,
        spool: _Spool,
        write: Callable[[memoryview], None],
    ) -> None:
        (self._stream,) = contents.streams
        self._point = contents.point
        self._write = write
        self._spool = spool
        self._joined = InOrder(self._stream)
        self._digest = (
            # Blocks that come in pieces are put together where their bytes go out.
            BlockDigest(self._stream, contents.hash_key, lambda *_: None)
            if self._stream.engine == "blocks"
            else None
        )
        self._sha256 = hashlib.sha256()
        rows = np.argsort(order.work.offset)
        self._offset = order.work.offset[rows]
        self._length = order.work.length[rows]
        self._early = order.early[rows]
        self._spot = order.spot[rows]
        self._row = 0
        self._at = 0

    def deliver(self, _: int, pieces: Pieces, data: memoryview) -> None:
        """Take some pieces."""
        if self._digest is not None:
            self._digest.add(pieces, data)
        at = 0
        for offset, length in pieces:
            self._take(offset, data[at : at + length])
            at += length

    def _take(self, offset: int, data: memoryview) -> None:
        # QUIRK: looking for any other type, numpy first copies the whole column to one of both.
        row = int(np.searchsorted(self._offset, np.uint64(offset)))
        if self._early[row]:
            self._spool.write(int(self._spot[row]), data)
            return
        self._catch_up(row)
        self._put_piece(offset, data)

    def finish(self) -> None:
        """Write what is left and check the digest."""
        self._catch_up(len(self._offset))
        self._zeros(self._stream.size - self._at)
        if self._digest is not None:
            self._digest.add_whole(self._joined.finish())
            self._digest.check(self._point)
        else:
            require_digest(self._stream, self._point, self._sha256.hexdigest())

    def _catch_up(self, row: int) -> None:
        """Write the spooled rows and the zeros that come before a row."""
        while self._row < row:
            if self._early[self._row]:
                start, length = int(self._offset[self._row]), int(self._length[self._row])
                self._zeros(start - self._at)
                spot = int(self._spot[self._row])
                self._put_piece(start, memoryview(self._spool.read(spot, length)))
            self._row += 1
        if row < len(self._offset):
            self._zeros(int(self._offset[row]) - self._at)

    def _zeros(self, length: int) -> None:
        while length > 0:
            take = min(length, len(_ZEROS))
            self._put(memoryview(_ZEROS)[:take])
            length -= take

    def _put_piece(self, offset: int, data: memoryview) -> None:
        if self._digest is not None and is_part(self._stream, offset, len(data)):
            self._digest.add_whole(self._joined.take(offset, data))
        self._put(data)

    def _put(self, data: memoryview) -> None:
        if self._digest is None:
            self._sha256.update(data)
        self._write(data)
        self._at += len(data)
