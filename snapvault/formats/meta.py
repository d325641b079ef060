# SPDX-License-Identifier: Apache-2.0
"""The container of maps and signatures: docs/format.md, section 5.

One zstd frame over: magic 8s | sections | u32 zero. A section is: header size u32 | header
JSON | payload size u64 | payload. Little-endian.
"""

import io
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import zstandard

from snapvault.errors import FormatVersionError, SignatureError

MAGIC = b"SVMETA\x00\x01"
_HEADER_SIZE = struct.Struct("<I")
_PAYLOAD_SIZE = struct.Struct("<Q")
_MOST_HEADER = 256 << 20  # bytes; a header names every volume of a full map
_LEVEL = 3

Header = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """One stream's part to be written: a JSON header, and a payload of known size (bytes)."""

    header: Header
    size: int
    payload: Iterable[bytes]


@dataclass(frozen=True, slots=True)
class Found:
    """One stream's part as read: its header, and where in the file its payload lies."""

    header: Header
    position: int
    size: int


def encode(sections: Iterable[Section]) -> Iterator[bytes]:
    """Write a container in pieces, holding none of the payloads."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
    for piece in _plain(sections):
        if packed := compressor.compress(piece):
            yield packed
    yield compressor.flush()


def _plain(sections: Iterable[Section]) -> Iterator[bytes]:
    yield MAGIC
    for section in sections:
        header = json.dumps(section.header, separators=(",", ":"), sort_keys=True).encode()
        yield _HEADER_SIZE.pack(len(header)) + header + _PAYLOAD_SIZE.pack(section.size)
        written = 0
        for piece in section.payload:
            written += len(piece)
            yield piece
        if written != section.size:
            raise ValueError(f"section payload is {written} bytes, announced {section.size}")
    yield _HEADER_SIZE.pack(0)


class Unpacker:
    """Takes stored bytes in pieces of any size and writes the container in clear to a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._zstd = zstandard.ZstdDecompressor().decompressobj()

    def feed(self, stored: bytes) -> None:
        """Take the next stored bytes.

        Raises:
            SignatureError: they are damaged.
        """
        if self._zstd.eof:
            raise SignatureError("container goes on after its end")
        try:
            self._file.write(self._zstd.decompress(stored))
        except zstandard.ZstdError as error:
            raise SignatureError(f"container cannot be unpacked: {error}") from error
        if self._zstd.unused_data:
            raise SignatureError("container goes on after its end")

    def finish(self) -> None:
        """Take the end.

        Raises:
            SignatureError: the container was cut short.
        """
        if not self._zstd.eof:
            raise SignatureError("container is cut short")


def sections(file: BinaryIO) -> list[Found]:
    """Find the sections of a container in clear; reads headers only.

    Raises:
        SignatureError: this is not a container.
        FormatVersionError: it is of a newer format.
    """
    end = file.seek(0, 2)
    file.seek(0)
    magic = file.read(len(MAGIC))
    if len(magic) == len(MAGIC) and magic[:7] == MAGIC[:7] and magic != MAGIC:
        raise FormatVersionError(
            f"container has format {magic[7]}, this release reads {MAGIC[7]}",
            hint="Use a newer SnapVault.",
        )
    if magic != MAGIC:
        raise SignatureError(f"not a container: magic {magic!r}")
    found: list[Found] = []
    while True:
        (header_size,) = _HEADER_SIZE.unpack(_exactly(file, _HEADER_SIZE.size))
        if header_size == 0:
            if file.read(1):
                raise SignatureError("container goes on after its end")
            return found
        if header_size > _MOST_HEADER:
            raise SignatureError(f"container announces a header of {header_size} bytes")
        try:
            header = json.loads(_exactly(file, header_size))
            if not isinstance(header, dict):
                raise TypeError("it is not an object")
        except (ValueError, TypeError, RecursionError) as error:
            raise SignatureError(f"container header cannot be read: {error}") from error
        (size,) = _PAYLOAD_SIZE.unpack(_exactly(file, _PAYLOAD_SIZE.size))
        position = file.tell()
        if position + size > end:
            raise SignatureError("container is cut short")
        found.append(Found(header, position, size))
        file.seek(size, 1)


def read_all(stored: Iterable[bytes]) -> list[tuple[Header, bytes]]:
    """Read a container that fits in memory: each section's header and payload.

    Raises: as `Unpacker` and `sections`.
    """
    file = io.BytesIO()
    unpacker = Unpacker(file)
    for piece in stored:
        unpacker.feed(piece)
    unpacker.finish()
    plain = file.getbuffer()
    return [
        (part.header, bytes(plain[part.position : part.position + part.size]))
        for part in sections(file)
    ]


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise SignatureError("container is cut short")
    return data
