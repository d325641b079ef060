# SPDX-License-Identifier: Apache-2.0
"""What an NBD client and the server agree on before the first read: fixed newstyle negotiation.

Source: doc/proto.md of the NBD project, "Fixed newstyle negotiation" and "Metadata querying".
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from snapvault.adapters import nbd_protocol as protocol
from snapvault.adapters.nbd_wire import Gone, Wire
from snapvault.ports.serving import ServedDisk

_PATIENCE: Final = 30.0  # seconds for a client's next option
_OPTION_LIMIT: Final = 64 << 10  # bytes of an option
_OPTIONS: Final = 1000  # that one client may send
_PREFERRED: Final = 4096  # bytes, where blocks are no power of two
_ALLOCATION_ID: Final = 1


@dataclass(frozen=True, slots=True)
class Agreed:
    """The export that a client reads, and in which way replies are written."""

    disk: ServedDisk
    structured: bool
    allocation: bool


def negotiate(wire: Wire, exports: Mapping[str, ServedDisk], names: Sequence[str]) -> Agreed | None:
    """Talk until the client has chosen an export; None if it chose to leave.

    `names` are those that are listed.

    Raises:
        Gone: it went away, or does not speak the protocol.
    """
    return _Negotiation(wire, exports, names).run()


class _Refused(Exception):  # noqa: N818 - an answer, which the client may take better than we do
    """An option cannot be granted; `kind` is the reply's type."""

    def __init__(self, kind: int, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class _Negotiation:
    def __init__(self, wire: Wire, exports: Mapping[str, ServedDisk], names: Sequence[str]) -> None:
        self._wire = wire
        self._exports = exports
        self._names = names
        self._structured = False
        self._allocation_of: str | None = None  # the export whose allocation is asked for
        self._no_zeroes = False

    def run(self) -> Agreed | None:
        self._wire.patience(_PATIENCE)
        flags = protocol.FIXED_NEWSTYLE | protocol.NO_ZEROES
        self._wire.send(protocol.INIT_MAGIC + struct.pack(">QH", protocol.OPTION_MAGIC, flags))
        (answer,) = struct.unpack(">I", self._wire.take(4))
        if answer & ~flags:
            raise Gone
        self._no_zeroes = bool(answer & protocol.NO_ZEROES)
        for _ in range(_OPTIONS):
            magic, option, size = struct.unpack(">QII", self._wire.take(16))
            if magic != protocol.OPTION_MAGIC:
                raise Gone
            if option == protocol.OPTION_EXPORT_NAME:
                return self._plain_choice(size)
            if size > _OPTION_LIMIT:
                self._wire.skip(size)
                self._reply(option, protocol.REPLY_ERROR_TOO_BIG, b"too long")
                continue
            data = self._wire.take(size)
            if option == protocol.OPTION_ABORT:
                self._reply(option, protocol.REPLY_ACK)
                return None
            try:
                agreed = self._answer(option, data)
            except _Refused as refusal:
                self._reply(option, refusal.kind, str(refusal).encode())
                continue
            if agreed is not None:
                self._wire.patience(None)
                return agreed
        raise Gone

    def _plain_choice(self, size: int) -> Agreed:
        """Take the old option, which can be refused only by hanging up."""
        if size > protocol.TEXT_LIMIT:
            raise Gone
        name = _text(self._wire.take(size))
        disk = None if name is None else self._exports.get(name)
        if name is None or disk is None:
            raise Gone
        padding = b"" if self._no_zeroes else bytes(124)
        self._wire.send(struct.pack(">QH", disk.size, self._flags()) + padding)
        self._wire.patience(None)
        return self._agreed(name, disk)

    def _answer(self, option: int, data: bytes) -> Agreed | None:
        """Answer an option; what is agreed, if that was the last one."""
        if option in {protocol.OPTION_GO, protocol.OPTION_INFO}:
            name, disk = self._inform(option, data)
            self._reply(option, protocol.REPLY_ACK)
            return self._agreed(name, disk) if option == protocol.OPTION_GO else None
        if option == protocol.OPTION_STRUCTURED_REPLY:
            _require(not data)
            self._structured = True
        elif option == protocol.OPTION_LIST:
            _require(not data)
            for name in self._names:
                raw = name.encode()
                self._reply(option, protocol.REPLY_SERVER, struct.pack(">I", len(raw)) + raw)
        elif option in {protocol.OPTION_SET_META_CONTEXT, protocol.OPTION_LIST_META_CONTEXT}:
            self._contexts(option, data)
        else:
            raise _Refused(protocol.REPLY_ERROR_UNSUPPORTED, "not supported")
        self._reply(option, protocol.REPLY_ACK)
        return None

    def _inform(self, option: int, data: bytes) -> tuple[str, ServedDisk]:
        name, rest = self._named(data)
        disk = self._disk(name)
        _require(len(rest) >= 2)
        (count,) = struct.unpack(">H", rest[:2])
        _require(len(rest) == 2 + 2 * count)
        wanted = set(struct.unpack(f">{count}H", rest[2:]))
        self._reply(
            option,
            protocol.REPLY_INFO,
            struct.pack(">HQH", protocol.INFO_EXPORT, disk.size, self._flags()),
        )
        if protocol.INFO_NAME in wanted:
            told = struct.pack(">H", protocol.INFO_NAME) + disk.name.encode()
            self._reply(option, protocol.REPLY_INFO, told)
        if protocol.INFO_BLOCK_SIZE in wanted:
            sizes = (1, _preferred(disk.block_size), protocol.LARGEST_REQUEST)
            told = struct.pack(">HIII", protocol.INFO_BLOCK_SIZE, *sizes)
            self._reply(option, protocol.REPLY_INFO, told)
        return name, disk

    def _contexts(self, option: int, data: bytes) -> None:
        if not self._structured:
            raise _Refused(protocol.REPLY_ERROR_INVALID, "structured replies come first")
        name, rest = self._named(data)
        is_choice = option == protocol.OPTION_SET_META_CONTEXT
        if is_choice:
            self._allocation_of = None  # what was chosen before counts no more
        self._disk(name)
        _require(len(rest) >= 4)
        (count,) = struct.unpack(">I", rest[:4])
        rest = rest[4:]
        queries: list[bytes] = []
        for _ in range(count):
            query, rest = _sized(rest)
            queries.append(query)
        _require(not rest)
        known = protocol.ALLOCATION.encode()
        if is_choice:
            is_wanted = known in queries
        else:
            is_wanted = not queries or bool({known, b"base:"} & set(queries))
        if is_wanted:
            number = _ALLOCATION_ID if is_choice else 0
            self._reply(option, protocol.REPLY_META_CONTEXT, struct.pack(">I", number) + known)
            if is_choice:
                self._allocation_of = name

    def _named(self, data: bytes) -> tuple[str, bytes]:
        raw, rest = _sized(data)
        name = _text(raw)
        if name is None:
            raise _Refused(protocol.REPLY_ERROR_INVALID, "a name is no UTF-8")
        return name, rest

    def _disk(self, name: str) -> ServedDisk:
        disk = self._exports.get(name)
        if disk is None:
            raise _Refused(
                protocol.REPLY_ERROR_UNKNOWN, f"no such export; there are: {', '.join(self._names)}"
            )
        return disk

    def _agreed(self, name: str, disk: ServedDisk) -> Agreed:
        return Agreed(disk, self._structured, self._allocation_of == name)

    def _flags(self) -> int:
        flags = (
            protocol.HAS_FLAGS | protocol.READ_ONLY | protocol.CAN_MULTI_CONN | protocol.SEND_CACHE
        )
        return flags | protocol.SEND_DF if self._structured else flags

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        head = struct.pack(">QIII", protocol.OPTION_REPLY_MAGIC, option, kind, len(data))
        self._wire.send(head + data)


def _require(holds: bool) -> None:  # noqa: FBT001 - it reads like an assertion
    if not holds:
        raise _Refused(protocol.REPLY_ERROR_INVALID, "the option is malformed")


def _sized(data: bytes) -> tuple[bytes, bytes]:
    """Split a text off that its length comes before."""
    _require(len(data) >= 4)
    (size,) = struct.unpack(">I", data[:4])
    _require(size <= min(protocol.TEXT_LIMIT, len(data) - 4))
    return data[4 : 4 + size], data[4 + size :]


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _preferred(block_size: int) -> int:
    """Return the size that clients should read in; the protocol wants a power of two."""
    is_good = 512 <= block_size <= protocol.LARGEST_REQUEST and not block_size & (block_size - 1)
    return block_size if is_good else _PREFERRED
