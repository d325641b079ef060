# SPDX-License-Identifier: Apache-2.0
"""A server that exports disks over NBD, read-only.

Fixed newstyle negotiation, structured replies, `base:allocation`, several connections, and
several requests of each at once. Clients are local and known: there is neither encryption nor a
password in it.

Source: doc/proto.md of the NBD project.
"""

import os
import socket
import stat
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from snapvault import clock
from snapvault.adapters import nbd_protocol as protocol
from snapvault.adapters.nbd_negotiation import Agreed, negotiate
from snapvault.adapters.nbd_wire import Gone, Wire
from snapvault.errors import ConfigError, SnapVaultError
from snapvault.ports.events import Events
from snapvault.ports.serving import ServedDisk

CONNECTIONS: Final = 32
"""Clients at once, at the most."""

_REQUESTS: Final = 16  # of one connection at once
_BYTES: Final = 64 << 20  # of one connection's replies in memory
_EXTENTS: Final = 4096  # told of at once
_BACKLOG: Final = 64
_CLOSING: Final = 5.0  # seconds to wait for threads at the end

_ALLOCATION_ID: Final = 1
_EPERM, _EIO, _EINVAL, _EOVERFLOW = 1, 5, 22, 75  # the protocol's numbers
_CHANGES: Final = {protocol.WRITE, protocol.TRIM, protocol.WRITE_ZEROES}


class NbdServer:
    """Serves disks to whoever connects to a listening socket; a context manager.

    With one disk its export is also the default one, whose name is empty.
    """

    def __init__(
        self, listener: socket.socket, disks: Sequence[ServedDisk], events: Events
    ) -> None:
        self._listener = listener
        self._exports = {disk.name: disk for disk in disks}
        if len(disks) == 1:
            self._exports.setdefault("", disks[0])
        self._names = [disk.name for disk in disks]
        self._events = events
        self._lock = threading.Lock()
        self._closed = False
        self._peers: dict[threading.Thread, socket.socket] = {}
        self._acceptor = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        with self._lock:
            threads = [self._acceptor, *self._peers]
        deadline = clock.monotonic() + _CLOSING
        for thread in threads:
            thread.join(max(0.0, deadline - clock.monotonic()))

    def hang_up(self) -> None:
        """Leave all clients and listen no more; waits for nothing, safe to repeat."""
        with self._lock:
            self._closed = True
            peers = list(self._peers.values())
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in peers:
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                # Out of descriptors, say: those who are connected go on, and may leave.
                clock.sleep(0.1)
                continue
            with self._lock:
                if self._closed or len(self._peers) >= CONNECTIONS:
                    peer.close()
                    continue
                thread = threading.Thread(
                    target=self._serve, args=(peer,), name="nbd-client", daemon=True
                )
                self._peers[thread] = peer
                thread.start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer:
                if peer.family != socket.AF_UNIX:
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                wire = Wire(peer)
                agreed = negotiate(wire, self._exports, self._names)
                if agreed is not None:
                    self._events.emit("nbd.connected", export=agreed.disk.name)
                    _Client(wire, agreed, self._events).run()
                    self._events.emit("nbd.disconnected", export=agreed.disk.name)
        except Gone:
            pass
        finally:
            with self._lock:
                self._peers.pop(threading.current_thread(), None)


class _Client:
    """A client in the transmission phase."""

    def __init__(self, wire: Wire, agreed: Agreed, events: Events) -> None:
        self._wire = wire
        self._agreed = agreed
        self._disk = agreed.disk
        self._budget = _Budget(_BYTES)
        self._events = events
        self._free = threading.Semaphore(_REQUESTS)

    def run(self) -> None:
        """Answer requests until the client leaves; those in work are answered first.

        Raises:
            Gone: it did not say good-bye, or broke the protocol.
        """
        with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="nbd") as pool:
            while True:
                magic, flags, kind, cookie, offset, length = protocol.REQUEST.unpack(
                    self._wire.take(protocol.REQUEST.size)
                )
                if magic != protocol.REQUEST_MAGIC:
                    raise Gone
                if kind == protocol.DISCONNECT:
                    return
                if kind == protocol.WRITE:
                    if length > protocol.LARGEST_REQUEST:
                        raise Gone
                    self._wire.skip(length)
                wrong = self._objection(flags, kind, offset, length)
                if wrong is not None:
                    self._fail(cookie, *wrong)
                    continue
                size = 0 if kind == protocol.BLOCK_STATUS else length
                self._free.acquire()
                self._budget.take(size)
                try:
                    pool.submit(self._work, flags, kind, cookie, offset, length)
                except BaseException:
                    self._budget.give(size)
                    raise

    def _objection(self, flags: int, kind: int, offset: int, length: int) -> tuple[int, str] | None:
        """Return what is wrong with a request: the protocol's number, and a text."""
        if kind in _CHANGES:
            return _EPERM, "the restore point is served read-only"
        allowed = {
            protocol.READ: protocol.DO_NOT_FRAGMENT if self._agreed.structured else 0,
            protocol.BLOCK_STATUS: protocol.REQUEST_ONE,
            protocol.CACHE: 0,
        }
        if kind not in allowed or (kind == protocol.BLOCK_STATUS and not self._agreed.allocation):
            return _EINVAL, "no such request"
        if flags & ~allowed[kind]:
            return _EINVAL, "no such flags"
        if not length or offset + length > self._disk.size:
            return _EINVAL, f"the disk ends at {self._disk.size} bytes"
        if kind != protocol.BLOCK_STATUS and length > protocol.LARGEST_REQUEST:
            return _EOVERFLOW, f"more than {protocol.LARGEST_REQUEST} bytes at once"
        return None

    def _work(self, flags: int, kind: int, cookie: int, offset: int, length: int) -> None:
        try:
            if kind == protocol.BLOCK_STATUS:
                self._tell_extents(cookie, offset, length, one=bool(flags & protocol.REQUEST_ONE))
            elif kind == protocol.CACHE:
                self._disk.read(offset, length)
                self._done(cookie)
            else:
                self._read(cookie, offset, length)
        except SnapVaultError as error:
            self._fail(cookie, _EIO, str(error))
        except Gone:
            pass
        except Exception as error:  # noqa: BLE001 - a guest gets an error, and the others go on
            self._events.warn("nbd.failed", f"could not answer an NBD client: {error!r}")
            self._fail(cookie, _EIO, "internal error")
        finally:
            self._budget.give(0 if kind == protocol.BLOCK_STATUS else length)
            self._free.release()

    def _read(self, cookie: int, offset: int, length: int) -> None:
        if not self._agreed.structured:
            data = self._disk.read(offset, length)
            self._wire.send(_simple(cookie, 0), data)
            return
        if self._disk.extents(offset, length, 1) == [(length, True)]:
            hole = struct.pack(">QI", offset, length)
            self._wire.send(_chunk(cookie, protocol.CHUNK_HOLE, len(hole)), hole)
            return
        data = self._disk.read(offset, length)
        head = _chunk(cookie, protocol.CHUNK_DATA, 8 + length) + struct.pack(">Q", offset)
        self._wire.send(head, data)

    def _tell_extents(self, cookie: int, offset: int, length: int, *, one: bool) -> None:
        extents = self._disk.extents(offset, length, 1 if one else _EXTENTS)
        zeros = protocol.IS_HOLE | protocol.IS_ZERO
        rows = [struct.pack(">II", size, zeros if is_zero else 0) for size, is_zero in extents]
        payload = struct.pack(">I", _ALLOCATION_ID) + b"".join(rows)
        self._wire.send(_chunk(cookie, protocol.CHUNK_STATUS, len(payload)), payload)

    def _done(self, cookie: int) -> None:
        if self._agreed.structured:
            self._wire.send(_chunk(cookie, protocol.CHUNK_NONE, 0))
        else:
            self._wire.send(_simple(cookie, 0))

    def _fail(self, cookie: int, number: int, text: str) -> None:
        with suppress(Gone):
            if not self._agreed.structured:
                self._wire.send(_simple(cookie, number))
                return
            said = text.encode()[: protocol.TEXT_LIMIT]
            payload = struct.pack(">IH", number, len(said)) + said
            self._wire.send(_chunk(cookie, protocol.CHUNK_ERROR_TOLD, len(payload)), payload)


class _Budget:
    """Bytes that may be in memory at once; one request larger than all of it goes alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        with self._changed:
            while self._taken and self._taken + size > self._size:
                self._changed.wait()
            self._taken += size

    def give(self, size: int) -> None:
        with self._changed:
            self._taken -= size
            self._changed.notify_all()


def _simple(cookie: int, number: int) -> bytes:
    return struct.pack(">IIQ", protocol.SIMPLE_REPLY_MAGIC, number, cookie)


def _chunk(cookie: int, kind: int, size: int) -> bytes:
    """Return the head of a reply's only chunk."""
    return struct.pack(">IHHQI", protocol.STRUCTURED_REPLY_MAGIC, protocol.DONE, kind, cookie, size)


def listen_unix(path: Path) -> socket.socket:
    """Return a socket that listens at a path, for this user alone; a dead one is replaced.

    Raises:
        ConfigError: something else is there, somebody serves there, or it cannot be made.
    """
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        # SAFETY: nobody can connect before it listens, so nobody gets in before it is private.
        path.chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(f"unix:{path}", error) from error
    return listener


def _clear(path: Path) -> None:
    try:
        found = path.lstat()
    except OSError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(
            f'cannot listen on "{path}": it is there, and no socket',
            hint="Name a path where nothing is.",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            with suppress(OSError):
                path.unlink()
            return
        except OSError as error:
            raise _cannot_listen(f"unix:{path}", error) from error
    raise ConfigError(
        f'cannot listen on "{path}": somebody serves there already', hint="Name another path."
    )


def listen_tcp(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port of this machine; 0 is a free one.

    `host` is a loopback address in numbers.

    Raises:
        ConfigError: the port is taken, or the address is not there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(f"{host}:{port}", error) from error
    return listener


def _cannot_listen(where: str, error: OSError) -> ConfigError:
    reason = (os.strerror(error.errno) if error.errno else str(error)).lower()
    return ConfigError(f'could not listen on "{where}": {reason}', hint="Name another place.")
