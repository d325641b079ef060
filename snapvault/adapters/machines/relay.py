# SPDX-License-Identifier: Apache-2.0
"""A socket at which a machine's console can be seen and typed on, by several at once."""

import socket
import threading
from contextlib import suppress
from pathlib import Path

from snapvault.adapters.machines.running import QemuMachine

_PIECE = 1 << 12


class ConsoleRelay:
    """Lets whoever connects to a path, this user alone, see and use the console."""

    def __init__(self, machine: QemuMachine, path: Path) -> None:
        """Listen at a path."""
        self._machine = machine
        self.path = path
        self._lock = threading.Lock()
        self._closed = False
        self._peers: dict[threading.Thread, socket.socket] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(str(path))
            # SAFETY: nobody can connect before it listens, so nobody before it is private.
            path.chmod(0o600)
            self._listener.listen()
        except OSError:
            self._listener.close()
            raise
        self._acceptor = threading.Thread(target=self._accept, name="console-relay", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Leave everybody; safe to repeat."""
        with self._lock:
            self._closed = True
            peers = dict(self._peers)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for peer in peers.values():
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        for thread in (self._acceptor, *peers):
            thread.join()
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._closed:
                    peer.close()
                    return
                thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
                self._peers[thread] = peer
                thread.start()

    def _serve(self, peer: socket.socket) -> None:
        def show(data: bytes) -> None:
            # Who does not read is left: the machine must not wait.
            try:
                sent = peer.send(data, socket.MSG_DONTWAIT) if data else 0
            except OSError:
                sent = -1
            if sent != len(data):
                with suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)

        with peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
            self._machine.follow_console(show)
            try:
                with suppress(OSError):
                    while data := peer.recv(_PIECE):
                        self._machine.type(data)
            finally:
                self._machine.leave_console(show)
                with self._lock:
                    self._peers.pop(threading.current_thread(), None)
