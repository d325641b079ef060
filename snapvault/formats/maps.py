# SPDX-License-Identifier: Apache-2.0
"""Maps as bytes: docs/format.md, section 5.1.

Payload: length u64 x n | place u32 x n | offset i64 x n, little-endian, where an offset is
written as the difference from where it would be if nothing had moved.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from snapvault.errors import SignatureError
from snapvault.formats import names
from snapvault.model.extents import FIRST_VOLUME, PARENT, ZERO, ExtentMap

_ROW = 20  # bytes
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


def encode(extents: ExtentMap) -> bytes:
    """Write a map's columns."""
    shift = extents.offset.astype(np.int64)
    data = extents.place >= FIRST_VOLUME
    shift[data] = np.diff(shift[data] - _expected_data(extents.length[data]), prepend=0)
    copied = extents.place == PARENT
    shift[copied] = np.diff(shift[copied] - extents.starts().astype(np.int64)[copied], prepend=0)
    return b"".join(
        (
            extents.length.astype("<u8").tobytes(),
            extents.place.astype("<u4").tobytes(),
            shift.astype("<i8").tobytes(),
        )
    )


def decode(section: Mapping[str, Any], payload: bytes) -> ExtentMap:
    """Read a map's columns.

    Raises:
        SignatureError: header and columns contradict each other or themselves.
    """
    try:
        count = int(section["extents"])
        size = int(section["size"])
        volumes = tuple(str(volume) for volume in section["volumes"])
        if len(payload) != count * _ROW:
            raise ValueError(f"{len(payload)} bytes for {count} extents")
        if len(set(volumes)) != len(volumes) or not all(map(names.is_volume_id, volumes)):
            raise ValueError("impossible volume ids")
        length = np.frombuffer(payload, "<u8", count).astype(np.uint64)
        place = np.frombuffer(payload, "<u4", count, 8 * count).astype(np.uint32)
        offset = np.frombuffer(payload, "<i8", count, 12 * count).astype(np.int64)
        # In floating point a sum cannot wrap around, and is close enough to refuse nonsense.
        if size >= _MOST_BYTES or float(length.sum(dtype=np.float64)) >= _MOST_BYTES:
            raise ValueError("the extents are longer than any stream")
        data = place >= FIRST_VOLUME
        offset[data] = np.cumsum(offset[data]) + _expected_data(length[data])
        copied = place == PARENT
        starts = (np.cumsum(length, dtype=np.uint64) - length).astype(np.int64)
        offset[copied] = np.cumsum(offset[copied]) + starts[copied]
        if int(offset.min(initial=0)) < 0 or offset[place == ZERO].any():
            raise ValueError("an extent lies at an impossible offset")
        extents = ExtentMap(length, place, offset.astype(np.uint64), volumes)
        if extents.size != size or extents.is_full != section["full"]:
            raise ValueError("header and columns disagree")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise SignatureError(f"map cannot be read: {error}") from error
    return extents


def _expected_data(length: "np.ndarray[Any, np.dtype[np.uint64]]") -> "np.ndarray[Any, Any]":
    """Return where each data extent would begin if they all followed each other in one volume."""
    return (np.cumsum(length, dtype=np.uint64) - length).astype(np.int64)
