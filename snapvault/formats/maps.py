# SPDX-License-Identifier: Apache-2.0
"""Maps as bytes: docs/format.md, section 5.1.

Payload: length u64 x n | place u32 x n | offset i64 x n, little-endian, where an offset is
written as the difference from where it would be if nothing had moved.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from snapvault.errors import SignatureError
from snapvault.formats import meta, names
from snapvault.model.extents import FIRST_VOLUME, PARENT, U32, U64, ZERO, ExtentMap

_Mask: TypeAlias = NDArray[np.bool_]
_I64: TypeAlias = NDArray[np.int64]

_ROW = 20  # bytes
_AT_ONCE = 1 << 16  # extents
_MOST_BYTES = 1 << 62


def header(stream: str, extents: ExtentMap) -> dict[str, Any]:
    """Return the header of a map's section."""
    return {
        "kind": "map",
        "stream": stream,
        "full": extents.is_full,
        "size": extents.size,
        "extents": len(extents),
        "volumes": list(extents.volumes),
    }


def size(extents: ExtentMap) -> int:
    """Return how many bytes a map takes, without its header."""
    return _ROW * len(extents)


def section(stream: str, extents: ExtentMap) -> meta.Section:
    """Return the section of a container that holds a stream's map."""
    return meta.Section(header(stream, extents), size(extents), encode(extents))


def encode(extents: ExtentMap) -> Iterator[bytes]:
    """Yield a map's columns in pieces; takes some megabytes of memory."""
    for column, kind in ((extents.length, "<u8"), (extents.place, "<u4")):
        for begin in range(0, len(column), _AT_ONCE):
            yield column[begin : begin + _AT_ONCE].astype(kind).tobytes()
    last = [0, 0]
    for rows, kinds in _expected(extents.length, extents.place):
        shift = extents.offset[rows].astype(np.int64)
        for number, (chosen, expected) in enumerate(kinds):
            moved = shift[chosen] - expected
            shift[chosen] = np.diff(moved, prepend=last[number])
            last[number] = int(moved[-1]) if len(moved) else last[number]
        yield shift.astype("<i8").tobytes()


def decode(described: Mapping[str, Any], payload: bytes) -> ExtentMap:
    """Read a map's columns.

    Raises:
        SignatureError: header and columns contradict each other or themselves.
    """
    try:
        count = int(described["extents"])
        stream_size = int(described["size"])
        volumes = tuple(str(volume) for volume in described["volumes"])
        if len(payload) != count * _ROW:
            raise ValueError(f"{len(payload)} bytes for {count} extents")
        if len(set(volumes)) != len(volumes) or not all(map(names.is_volume_id, volumes)):
            raise ValueError("impossible volume ids")
        length = np.frombuffer(payload, "<u8", count).astype(np.uint64)
        place = np.frombuffer(payload, "<u4", count, 8 * count).astype(np.uint32)
        offset = np.frombuffer(payload, "<i8", count, 12 * count).astype(np.int64)
        # In floating point a sum cannot wrap around, and is close enough to refuse nonsense.
        if stream_size >= _MOST_BYTES or float(length.sum(dtype=np.float64)) >= _MOST_BYTES:
            raise ValueError("the extents are longer than any stream")
        last = [0, 0]
        for rows, kinds in _expected(length, place):
            shift = offset[rows]
            for number, (chosen, expected) in enumerate(kinds):
                moved = last[number] + np.cumsum(shift[chosen])
                shift[chosen] = moved + expected
                last[number] = int(moved[-1]) if len(moved) else last[number]
        if int(offset.min(initial=0)) < 0 or offset[place == ZERO].any():
            raise ValueError("an extent lies at an impossible offset")
        extents = ExtentMap(length, place, offset.view(np.uint64), volumes)
        if extents.size != stream_size or extents.is_full != described["full"]:
            raise ValueError("header and columns disagree")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise SignatureError(f"map cannot be read: {error}") from error
    return extents


def _expected(length: U64, place: U32) -> Iterator[tuple[slice, list[tuple[_Mask, _I64]]]]:
    """Yield, some extents at a time, where offsets would be if nothing had moved.

    For data, which would follow each other in one volume, and for copies of the parent, which would
    lie where they are now: which extents those are, and the offsets.
    """
    data_before = before = 0
    for begin in range(0, len(length), _AT_ONCE):
        rows = slice(begin, begin + _AT_ONCE)
        lengths = length[rows].astype(np.int64)
        data, copied = place[rows] >= FIRST_VOLUME, place[rows] == PARENT
        ends, data_ends = np.cumsum(lengths), np.cumsum(lengths[data])
        yield (
            rows,
            [
                (data, data_before + data_ends - lengths[data]),
                (copied, (before + ends - lengths)[copied]),
            ],
        )
        before += int(ends[-1])
        data_before += int(data_ends[-1]) if len(data_ends) else 0
