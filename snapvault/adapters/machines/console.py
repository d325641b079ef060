# SPDX-License-Identifier: Apache-2.0
"""The serial console of a machine: what it wrote, and a way to type."""

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

KEPT: Final = 1 << 20
"""Bytes that are remembered: the last ones."""

_PIECE = 1 << 16
_OVERLAP = 8 << 10  # bytes looked at again, for lines that were not whole
_LONGEST = 4 << 10  # characters of a line; a search in an endless one takes minutes

# Moves to the first column begin a line, others go on in one, after a return, too (SeaBIOS); all
# else that an escape says is about looks (ECMA-48).
_WITHIN = re.compile(r"\r?\x1b\[[0-9]+;0*([2-9]|[1-9][0-9]+)[Hf]")
_MOVES = re.compile(r"\x1b\[([0-9]*(;0*1?)?[Hf]|[0-9?]*[JEF])|\x1bc|\r\n|\r|\v|\f")
_LOOKS = re.compile(r"\x1b\[[0-9;?=>]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[@-_]?")
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def readable(raw: bytes) -> str:
    """Return what a terminal would show, as lines, without escapes and empty lines."""
    text = _WITHIN.sub("", raw.decode(errors="replace"))
    text = _LOOKS.sub("", _MOVES.sub("\n", text))
    lines = (line.rstrip() for line in _INVISIBLE.sub("", text).split("\n"))
    return "\n".join(line for line in lines if line)


class Console:
    """Takes what a machine writes to a socket that it connects to. Safe from several threads.

    `changed` is called, by another thread, after each piece. Nothing that a machine writes makes
    it grow without bounds, and nothing makes the machine wait.
    """

    def __init__(self, path: Path, changed: Callable[[], None]) -> None:
        """Listen at a path; the machine may be started after that."""
        self._changed = changed
        self._lock = threading.Lock()
        self._kept = bytearray()
        self._total = 0
        self._listeners: list[Callable[[bytes], None]] = []
        self._peer: socket.socket | None = None
        self._closed = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(str(path))
            self._listener.listen(1)
        except OSError:
            self._listener.close()
            raise
        self._thread = threading.Thread(target=self._take, name="console", daemon=True)
        self._thread.start()

    @property
    def total(self) -> int:
        """How many bytes came so far."""
        with self._lock:
            return self._total

    def text(self) -> str:
        """Return what was written, of the last KEPT bytes."""
        with self._lock:
            kept = bytes(self._kept)
        return readable(kept)

    def lines_since(self, total: int) -> list[str]:
        """Return the lines that came after so many bytes, and some before them.

        Of a line that is very long, the end.
        """
        with self._lock:
            wanted = self._total - total + _OVERLAP
            kept = bytes(self._kept[-wanted:])
        return [line[-_LONGEST:] for line in readable(kept).split("\n")]

    def last_line(self) -> str:
        """Return the last line that is not empty; nothing if there is none."""
        with self._lock:
            kept = bytes(self._kept[-_OVERLAP:])
        return readable(kept).rpartition("\n")[2].strip()

    def follow(self, listener: Callable[[bytes], None]) -> None:
        """Have a function called with the end of what was kept, and each piece from now on."""
        with self._lock:
            self._listeners.append(listener)
            listener(bytes(self._kept[-_PIECE:]))

    def leave(self, listener: Callable[[bytes], None]) -> None:
        """Call a function no more; safe to repeat."""
        with self._lock, suppress(ValueError):
            self._listeners.remove(listener)

    def send(self, data: bytes) -> None:
        """Type something; lost while the machine is not there, or takes nothing."""
        with self._lock:
            peer = self._peer
        if peer is not None:
            with suppress(OSError):
                peer.send(data, socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Leave the machine; safe to repeat. What was written can still be read."""
        with self._lock:
            self._closed = True
            peer = self._peer
        for each in (self._listener, peer):
            if each is not None:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _take(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        with peer:
            with self._lock:
                if self._closed:
                    return
                self._peer = peer
            with suppress(OSError):
                while data := peer.recv(_PIECE):
                    self._add(data)
            with self._lock:
                self._peer = None
        self._changed()

    def _add(self, data: bytes) -> None:
        with self._lock:
            self._kept += data
            del self._kept[:-KEPT]
            self._total += len(data)
            for listener in self._listeners:
                listener(data)
        self._changed()
