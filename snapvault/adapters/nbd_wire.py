# SPDX-License-Identifier: Apache-2.0
"""The server's side of an NBD connection: bytes in, whole messages out."""

import socket
import threading
from contextlib import suppress

_STEP = 1 << 16  # bytes skipped at once


class Gone(Exception):  # noqa: N818 - what clients do, and no error of ours
    """The client went away, or said what the protocol does not allow."""


class Wire:
    """A connected socket. One thread takes; several send, each a whole message at a time."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._lock = threading.Lock()

    def patience(self, seconds: float | None) -> None:
        """Say how long to wait for bytes; None is for ever."""
        with suppress(OSError):
            self._peer.settimeout(seconds)

    def take(self, size: int) -> bytes:
        """Return exactly as many bytes.

        Raises:
            Gone: they do not come.
        """
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                count = self._peer.recv_into(view)
            except OSError as error:
                raise Gone from error
            if not count:
                raise Gone
            view = view[count:]
        return bytes(data)

    def skip(self, size: int) -> None:
        """Take bytes and forget them.

        Raises:
            Gone: they do not come.
        """
        while size:
            size -= len(self.take(min(size, _STEP)))

    def send(self, head: bytes, data: bytes | memoryview = b"") -> None:
        """Send a message.

        Raises:
            Gone: nobody takes it; whoever waits for the client's next request hears of it too.
        """
        with self._lock:
            try:
                rest = self._peer.sendmsg([head, data]) - len(head)
                if rest < 0:
                    self._peer.sendall(head[rest:])
                    rest = 0
                if rest < len(data):
                    self._peer.sendall(memoryview(data)[rest:])
            except OSError as error:
                with suppress(OSError):
                    self._peer.shutdown(socket.SHUT_RDWR)
                raise Gone from error
