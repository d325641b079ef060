# SPDX-License-Identifier: Apache-2.0
"""The members of a tar archive as it streams by, and which of them pass.

Reads what GNU tar writes in its format `posix`: ustar headers with extended ones (pax) before
them. Source: POSIX.1-2017, pax, "pax Interchange Format"; GNU tar's manual, "Storing Sparse Files".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from snapvault.errors import IntegrityError

_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)
_CHECKSUM: Final = slice(148, 156)
_FOLDER, _HARD_LINK, _EXTENDED, _GLOBAL = b"5", b"1", b"x", b"g"
_WITHOUT_BODY: Final = b"123456"
_LARGEST_EXTENDED: Final = 1 << 30  # bytes; a file's holes are listed there


@dataclass(frozen=True, slots=True)
class Member:
    """One member. Names are relative to the archived folder, which is `.` itself.

    `link` is the name of the member that a hard link is another name of. `size` is of what the
    archive has of a file, in bytes: its holes do not count.
    """

    name: bytes
    is_folder: bool = False
    link: bytes | None = None
    size: int = 0


class MemberFilter:
    """Takes an archive in pieces of any size, and passes the wanted members on, whole.

    Raises IntegrityError from `write` and `finish` for what is no archive; nothing may follow then.
    """

    def __init__(self, wants: Callable[[Member], bool], out: Callable[[memoryview], None]) -> None:
        self._wants = wants
        self._out = out
        self._part = bytearray()  # of a header, or the body of an extended one
        self._missing = _BLOCK  # bytes until `_part` is whole
        self._extended: bytes | None = None  # the extended header's own header, while it is read
        self._before = b""  # extended headers, whole, that belong to the next member
        self._records: dict[bytes, bytes] = {}
        self._body = 0  # bytes of a member's body still to come
        self._passes = False
        self._is_over = False

    def write(self, data: memoryview) -> None:
        """Take the next bytes."""
        while data and not self._is_over:
            if self._body:
                piece, data = data[: self._body], data[self._body :]
                self._body -= len(piece)
                if self._passes:
                    self._out(piece)
                continue
            piece, data = data[: self._missing], data[self._missing :]
            self._part += piece
            self._missing -= len(piece)
            if not self._missing:
                self._take(bytes(self._part))

    def finish(self) -> None:
        """Take the end of the archive, and pass an end on."""
        if not self._is_over:
            raise IntegrityError("the archive ends in the middle")
        self._out(memoryview(_ZEROS * 2))

    def _take(self, part: bytes) -> None:
        self._part.clear()
        self._missing = _BLOCK
        if self._extended is not None:
            self._take_extended(part)
        elif part == _ZEROS:
            self._is_over = True
        else:
            self._take_header(part)

    def _take_header(self, header: bytes) -> None:
        _require_checksum(header)
        kind = header[156:157]
        size = _number(header[124:136])
        if kind in {_EXTENDED, _GLOBAL}:
            if size > _LARGEST_EXTENDED:
                raise IntegrityError("the archive has an extended header that is too large")
            self._extended = header
            self._missing = _padded(size)
            if not size:
                self._take_extended(b"")
            return
        records, self._records = self._records, {}
        before, self._before = self._before, b""
        if b"size" in records:
            size = int(records[b"size"])
        size = 0 if kind in _WITHOUT_BODY else size
        self._body = _padded(size)
        name = records.get(b"GNU.sparse.name") or records.get(b"path") or _name(header)
        link = records.get(b"linkpath") or _text(header[157:257])
        first = _plain(link) if kind == _HARD_LINK else None
        self._passes = self._wants(Member(_plain(name), kind == _FOLDER, first, size))
        if self._passes:
            self._out(memoryview(before + header))

    def _take_extended(self, body: bytes) -> None:
        header, self._extended = self._extended or b"", None
        self._missing = _BLOCK
        self._before += header + body
        if header[156:157] == _EXTENDED:
            self._records.update(_records(body[: _number(header[124:136])]))


def _plain(name: bytes) -> bytes:
    """Return a name without the ways to write the same name otherwise."""
    parts = [part for part in name.split(b"/") if part not in {b"", b"."}]
    return b"/".join(parts) or b"."


def _name(header: bytes) -> bytes:
    prefix = _text(header[345:500])
    name = _text(header[:100])
    return prefix + b"/" + name if prefix else name


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:])
    try:
        return int(_text(field).strip() or b"0", 8)
    except ValueError as error:
        raise IntegrityError("the archive has a header with a wrong number") from error


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _require_checksum(header: bytes) -> None:
    expected = sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ")
    if _number(header[_CHECKSUM]) != expected:
        raise IntegrityError("the archive has something else in the place of a header")


def _records(body: bytes) -> dict[bytes, bytes]:
    """Return the records of an extended header that matter here, by keyword."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        space = body.find(b" ", at)
        try:
            length = int(body[at:space])
        except ValueError as error:
            raise IntegrityError("the archive has a wrong extended header") from error
        keyword, equals, value = body[space + 1 : at + length - 1].partition(b"=")
        if length <= space - at or not equals or body[at + length - 1 : at + length] != b"\n":
            raise IntegrityError("the archive has a wrong extended header")
        if keyword in {b"path", b"linkpath", b"size", b"GNU.sparse.name"}:
            found[keyword] = value
        at += length
    return found
