# SPDX-License-Identifier: Apache-2.0
r"""librsync's delta, read as it comes: docs/format.md, section 6.

    magic "rs\x026" | commands | 0x00

    0x01-0x40  literal of as many bytes as the opcode says, which follow
    0x41-0x44  literal; its length in 1, 2, 4 or 8 bytes, then the bytes
    0x45-0x54  copy; the offset in 1, 2, 4 or 8 bytes, then the length likewise:
               0x45 + 4 * log2(offset bytes) + log2(length bytes)

All numbers are big-endian.
"""

from typing import NamedTuple, TypeAlias

from snapvault.errors import SignatureError

MAGIC = b"rs\x026"

_END = 0x00
_LAST_SHORT_LITERAL = 0x40
_LAST_LITERAL = 0x44
_LAST_COPY = 0x54
_MAX_NUMBER = 2**63 - 1  # LIMIT: librsync keeps offsets and lengths in an intmax_t, bytes


class Copy(NamedTuple):
    """The half-open byte range [offset, offset + length) of the old stream. Never empty."""

    offset: int
    length: int


Command: TypeAlias = Copy | memoryview
"""A copy, or a piece of a literal; a literal may come in any number of pieces, none empty."""


class DeltaReader:
    """Turns the bytes of one delta into its commands; holds at most one command's header."""

    def __init__(self) -> None:
        self._magic_read = False
        self._pending = b""
        self._literal_left = 0
        self._ended = False

    def feed(self, data: bytes) -> list[Command]:
        """Return the commands that `data` completes, in order; may be empty.

        Literals are views into `data`: nothing is copied, and they keep `data` alive.

        Raises:
            SignatureError: this is not a delta. What was returned before may be of no use.
        """
        view = memoryview(data)
        commands: list[Command] = []
        position = 0
        while self._pending or not self._magic_read:
            # A header that the previous bytes cut in two is completed byte by byte, so
            # that the bulk of `data` is never joined to anything.
            if position == len(data):
                return commands
            header = self._pending + data[position : position + 1]
            position += 1
            self._pending = b"" if self._take_header(header, commands) else header
        self._take_rest(data, view, position, commands)
        return commands

    def finish(self) -> None:
        """Take the end of the delta.

        Raises:
            SignatureError: the delta is cut short.
        """
        if not self._ended:
            raise SignatureError("delta is cut short")

    def _take_header(self, header: bytes, commands: list[Command]) -> bool:
        """Take a header (or the magic) that stands alone; tell whether it is whole."""
        if not self._magic_read:
            if not MAGIC.startswith(header):
                raise SignatureError(f"not a delta: magic {header!r}")
            self._magic_read = len(header) == len(MAGIC)
            return self._magic_read
        if len(header) < _header_size(header[0]):
            return False
        self._take_rest(header, memoryview(b""), 0, commands)
        return True

    def _take_rest(
        self, data: bytes, view: memoryview, position: int, commands: list[Command]
    ) -> None:
        """Take commands from `position` on; `view` is of `data` and gives the literals."""
        end = len(data)
        literal_left = self._literal_left
        while position < end:
            if literal_left:
                piece = view[position : position + literal_left]
                commands.append(piece)
                position += len(piece)
                literal_left -= len(piece)
                continue
            if self._ended:
                raise SignatureError("delta goes on after its end")
            opcode = data[position]
            header_end = position + _header_size(opcode)
            if header_end > end:
                self._pending = data[position:]
                break
            if opcode == _END:
                self._ended = True
            elif opcode <= _LAST_SHORT_LITERAL:
                literal_left = opcode
            elif opcode <= _LAST_LITERAL:
                literal_left = int.from_bytes(data[position + 1 : header_end])
                if not 0 < literal_left <= _MAX_NUMBER:
                    raise SignatureError(f"delta has a literal of {literal_left} bytes")
            else:
                commands.append(_copy(opcode, data[position + 1 : header_end]))
            position = header_end
        self._literal_left = literal_left


def _header_size(opcode: int) -> int:
    """Return the bytes of a command without a literal's data, the opcode included."""
    if opcode <= _LAST_SHORT_LITERAL:
        return 1
    if opcode <= _LAST_LITERAL:
        return 1 + (1 << (opcode - _LAST_SHORT_LITERAL - 1))
    if opcode <= _LAST_COPY:
        offset_power, length_power = divmod(opcode - _LAST_LITERAL - 1, 4)
        return 1 + (1 << offset_power) + (1 << length_power)
    raise SignatureError(f"delta has an unknown command {opcode:#04x}")


def _copy(opcode: int, numbers: bytes) -> Copy:
    offset_size = 1 << ((opcode - _LAST_LITERAL - 1) >> 2)
    offset = int.from_bytes(numbers[:offset_size])
    length = int.from_bytes(numbers[offset_size:])
    if length == 0 or offset + length > _MAX_NUMBER:
        raise SignatureError(f"delta copies {length} bytes from offset {offset}")
    return Copy(offset, length)
