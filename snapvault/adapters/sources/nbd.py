# SPDX-License-Identifier: Apache-2.0
"""A client for disks that a server on this machine exports over NBD.

Only what backups need of the protocol (doc/proto.md of the NBD project): fixed newstyle
negotiation over a unix socket, structured replies, reads and block status. Nothing is
believed: whatever a server sends that the protocol does not allow ends the connection.
"""

import errno
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from snapvault.adapters import nbd_protocol as protocol
from snapvault.adapters.nbd_protocol import ALLOCATION as ALLOCATION
from snapvault.adapters.nbd_protocol import IS_ZERO as IS_ZERO
from snapvault.errors import SourceError

DIRTY_BITMAP: Final = "qemu:dirty-bitmap:"  # the context of a bitmap is this and its name
IS_DIRTY: Final = 1  # flag of an extent of a bitmap

TIMEOUT: Final = 120.0  # seconds in which a server sends at least something

_READ_LIMIT = protocol.LARGEST_REQUEST // 2  # bytes
_STATUS_LIMIT = 1 << 30  # bytes asked about at once
_PATH_LIMIT = 107  # LIMIT: bytes of a unix socket's path (Linux)
_ANSWER_LIMIT = 16 << 20  # bytes of the answer to one question about extents


class ProtocolError(SourceError):
    """The server said what the protocol does not allow."""


@contextmanager
def socket_folder() -> Iterator[Path]:
    """Make a private folder for sockets, with a path short enough for them, and remove it."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > _PATH_LIMIT - 40:
        base = "/tmp"  # noqa: S108 - the folder made in it is private
    with tempfile.TemporaryDirectory(prefix="snapvault-", dir=base) as folder:
        yield Path(folder)


class Connection:
    """One connection to an export, with at most one context. For one thread at a time.

    After an error it is of no more use than to be closed.
    """

    def __init__(
        self, path: Path, export: str, context: str | None = None, *, timeout: float = TIMEOUT
    ) -> None:
        """Connect and negotiate.

        Raises:
            SourceError: nobody listens, or the server has no such export or context.
        """
        self.size = 0
        self._context_id: int | None = None
        self._handle = 0
        self._timeout = timeout
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            try:
                self._socket.connect(str(path))
            except OSError as error:
                raise SourceError(
                    f'could not connect to NBD socket "{path}": {_reason(error)}'
                ) from error
            self._negotiate(export, context)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Say good-bye and disconnect; safe to repeat."""
        if self._socket.fileno() >= 0:
            with suppress(OSError):
                self._socket.settimeout(1.0)
                self._socket.sendall(
                    protocol.REQUEST.pack(protocol.REQUEST_MAGIC, 0, protocol.DISCONNECT, 0, 0, 0)
                )
            self._socket.close()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer, of at most 16 MiB, from `offset` on."""
        length = len(buffer)
        covered: list[tuple[int, int]] = []
        for kind, size in self._chunks(protocol.READ, offset, length):
            if kind == protocol.CHUNK_DATA:
                if size < 9:
                    raise ProtocolError(f"NBD server sent {size} bytes as data with its offset")
                start = self._number(">Q") - offset
                self._cover(covered, start, size - 8, length)
                self._fill(buffer[start : start + size - 8])
            elif kind == protocol.CHUNK_HOLE:
                if size != 12:
                    raise ProtocolError(f"NBD server sent a hole in {size} bytes")
                place, hole = struct.unpack(">QI", self._take(12))
                self._cover(covered, place - offset, hole, length)
                buffer[place - offset : place - offset + hole] = bytes(hole)
            else:
                raise ProtocolError(f"NBD server answered a read with a chunk of type {kind}")
        end = 0
        for start, stop in sorted(covered):
            if start != end:
                end = -1
                break
            end = stop
        if end != length:
            raise ProtocolError(
                f"NBD server did not send each of {length} bytes at offset {offset} once"
            )

    def extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Return (length, flags) of the extents from `offset` on, in order; never empty.

        They end after `offset + length` at the latest; perhaps earlier: ask again from there.
        """
        answer: list[tuple[int, int]] | None = None
        for kind, size in self._chunks(protocol.BLOCK_STATUS, offset, length):
            if kind != protocol.CHUNK_STATUS or answer is not None:
                raise ProtocolError(f"NBD server sent an unexpected chunk of type {kind}")
            if size < 12 or size % 8 != 4 or size > _ANSWER_LIMIT:
                raise ProtocolError(f"NBD server sent extents in {size} bytes")
            if self._number(">I") != self._context_id:
                raise ProtocolError("NBD server told of a context that nobody asked for")
            answer = list(struct.iter_unpack(">II", self._take(size - 4)))
        if not answer:
            raise ProtocolError("NBD server told of no extents")
        return _clip(answer, length)

    # --- negotiation ----------------------------------------------------------------------

    def _negotiate(self, export: str, context: str | None) -> None:
        magic, option_magic, flags = struct.unpack(">8sQH", self._take(18))
        if (
            magic != protocol.INIT_MAGIC
            or option_magic != protocol.OPTION_MAGIC
            or not flags & protocol.FIXED_NEWSTYLE
        ):
            raise ProtocolError("what listens is no NBD server, or one that is too old")
        self._send(struct.pack(">I", flags & (protocol.FIXED_NEWSTYLE | protocol.NO_ZEROES)))
        self._option(protocol.OPTION_STRUCTURED_REPLY, b"")
        name = export.encode()
        sized_name = struct.pack(">I", len(name)) + name
        if context is not None:
            query = context.encode()
            data = sized_name + struct.pack(">II", 1, len(query)) + query
            for kind, payload in self._option(protocol.OPTION_SET_META_CONTEXT, data):
                if kind != protocol.REPLY_META_CONTEXT or len(payload) < 5 or payload[4:] != query:
                    raise ProtocolError("NBD server granted a context that nobody asked for")
                self._context_id = int.from_bytes(payload[:4], "big")
            if self._context_id is None:
                raise SourceError(f'NBD server cannot tell "{context}" of export "{export}"')
        told = False
        for kind, payload in self._option(protocol.OPTION_GO, sized_name + struct.pack(">H", 0)):
            if kind != protocol.REPLY_INFO or len(payload) < 2:
                raise ProtocolError(f"NBD server sent an unexpected reply of type {kind}")
            if int.from_bytes(payload[:2], "big") == protocol.INFO_EXPORT:
                if len(payload) != 12:
                    raise ProtocolError("NBD server told the export's size in a strange way")
                self.size = int.from_bytes(payload[2:10], "big")
                told = True
        if not told or self.size >= 1 << 63:
            raise ProtocolError("NBD server did not tell the export's size")

    def _option(self, option: int, data: bytes) -> list[tuple[int, bytes]]:
        """Send an option and return its replies up to the acknowledgment."""
        self._send(struct.pack(">QII", protocol.OPTION_MAGIC, option, len(data)) + data)
        replies: list[tuple[int, bytes]] = []
        while True:
            magic, answered, kind, length = struct.unpack(">QIII", self._take(20))
            if magic != protocol.OPTION_REPLY_MAGIC or answered != option:
                raise ProtocolError("NBD server answered an option that nobody sent")
            if length > 2 * protocol.TEXT_LIMIT or len(replies) > 100:
                raise ProtocolError("NBD server sent too long an answer to an option")
            payload = self._take(length)
            if kind == protocol.REPLY_ACK:
                return replies
            if kind >> 31:
                text = _printable(payload) or f"error {kind & 0x7FFFFFFF}"
                raise SourceError(f"NBD server refused option {option}: {text}")
            replies.append((kind, payload))

    # --- transmission ---------------------------------------------------------------------

    def _chunks(self, command: int, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Send a request and yield (type, size) of its reply's chunks; the caller takes `size`.

        The empty last chunk is not yielded. An error the server tells is raised once.
        """
        self._handle += 1
        self._send(
            protocol.REQUEST.pack(protocol.REQUEST_MAGIC, 0, command, self._handle, offset, length)
        )
        done = False
        while not done:
            magic, flags, kind, handle, size = struct.unpack(">IHHQI", self._take(20))
            if (
                magic != protocol.STRUCTURED_REPLY_MAGIC
                or handle != self._handle
                or flags & ~protocol.DONE
            ):
                raise ProtocolError("NBD server sent something that is no reply to our request")
            done = bool(flags & protocol.DONE)
            if kind & protocol.CHUNK_ERROR:
                raise self._told(size)
            if kind == protocol.CHUNK_NONE:
                if size or not done:
                    raise ProtocolError("NBD server sent an empty chunk in the middle of a reply")
            else:
                yield kind, size

    def _told(self, size: int) -> SourceError:
        if not 6 <= size <= 2 * protocol.TEXT_LIMIT:
            return ProtocolError(f"NBD server told an error in {size} bytes")
        payload = self._take(size)
        number, length = struct.unpack(">IH", payload[:6])
        reason = os.strerror(protocol.ERRORS.get(number, errno.EIO)).lower()
        text = _printable(payload[6 : 6 + length])
        return SourceError(f"{reason} ({text})" if text else reason)

    def _cover(self, covered: list[tuple[int, int]], start: int, size: int, length: int) -> None:
        if start < 0 or size <= 0 or start + size > length:
            raise ProtocolError("NBD server sent bytes that nobody asked for")
        covered.append((start, start + size))

    def _number(self, form: str) -> int:
        (number,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(number)

    def _take(self, size: int) -> bytes:
        data = bytearray(size)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, view: memoryview) -> None:
        while view:
            try:
                count = self._socket.recv_into(view)
            except OSError as error:
                raise self._broken(error) from error
            if not count:
                raise SourceError("NBD server closed the connection")
            view = view[count:]

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._broken(error) from error

    def _broken(self, error: OSError) -> SourceError:
        if isinstance(error, TimeoutError):
            return SourceError(f"NBD server did not answer within {self._timeout:.0f} seconds")
        return SourceError(f"NBD connection broke: {_reason(error)}")


class Disk:
    """An export as a disk: what `DiskStream` reads with. Safe from several threads.

    Each thread that reads gets a connection of its own, kept for the next read. `label` is the
    disk's type and name for messages: `image "/srv/a.qcow2"`.
    """

    def __init__(self, path: Path, export: str, label: str, *, timeout: float = TIMEOUT) -> None:
        self._path = path
        self._export = export
        self._label = label
        self._timeout = timeout
        self._lock = threading.Lock()
        self._all: set[Connection] = set()
        self._free: list[Connection] = []
        self._closed = False
        first = self._connect(None)
        self.size = first.size
        self._free.append(first)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset` on, as `DiskStream.read_into` says."""
        if offset < 0 or offset + buffer.nbytes > self.size:
            raise SourceError(
                f"{self._label} ends at {self.size} bytes:"
                f" cannot read {buffer.nbytes} bytes from offset {offset}"
            )
        with buffer.cast("B") as view, self._connection() as connection:
            for start in range(0, len(view), _READ_LIMIT):
                with self._at(offset + start):
                    connection.read_into(offset + start, view[start : start + _READ_LIMIT])

    def ranges(self, context: str, flag: int, *, is_set: bool) -> Iterator[tuple[int, int]]:
        """Yield the half-open ranges whose flag is set, or is not: sorted, disjoint, not empty."""
        if not self.size:
            return
        connection = self._connect(context)
        try:
            position = start = 0
            inside = False
            while position < self.size:
                with self._at(position):
                    extents = connection.extents(position, min(_STATUS_LIMIT, self.size - position))
                for length, flags in extents:
                    wanted = bool(flags & flag) is is_set
                    if wanted and not inside:
                        start = position
                    elif inside and not wanted:
                        yield start, position
                    inside = wanted
                    position += length
            if inside:
                yield start, position
        finally:
            self._drop(connection)

    def close(self) -> None:
        """Disconnect; safe to repeat."""
        with self._lock:
            self._closed = True
            connections, self._all, self._free = self._all, set(), []
        for connection in connections:
            connection.close()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with self._lock:
            connection = self._free.pop() if self._free else None
        if connection is None:
            connection = self._connect(None)
        try:
            yield connection
        except BaseException:
            self._drop(connection)
            raise
        with self._lock:
            if not self._closed:
                self._free.append(connection)

    def _connect(self, context: str | None) -> Connection:
        with self._lock:
            if self._closed:
                raise SourceError(f"{self._label} is closed")
        try:
            connection = Connection(self._path, self._export, context, timeout=self._timeout)
        except SourceError as error:
            raise SourceError(f"could not open {self._label}: {error}", hint=error.hint) from error
        with self._lock:
            self._all.add(connection)
        return connection

    def _drop(self, connection: Connection) -> None:
        with self._lock:
            self._all.discard(connection)
        connection.close()

    @contextmanager
    def _at(self, offset: int) -> Iterator[None]:
        try:
            yield
        except SourceError as error:
            raise SourceError(
                f"could not read {self._label} at offset {offset}: {error}", hint=error.hint
            ) from error


def _clip(extents: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """Cut the last extent at what was asked about; servers may tell more of it."""
    clipped: list[tuple[int, int]] = []
    left = length
    for size, flags in extents:
        if not size or not left:
            raise ProtocolError("NBD server told of an empty extent, or of one too many")
        clipped.append((min(size, left), flags))
        left -= min(size, left)
    return clipped


def _printable(text: bytes) -> str:
    line = " ".join(text.decode(errors="replace").split())
    return "".join(character if character.isprintable() else "?" for character in line)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
