# SPDX-License-Identifier: Apache-2.0
"""Writing lines to a stream that may be full, without ever waiting for whoever should read it."""

import os
import select
import socket
import stat
from typing import Final, TextIO

_PATIENCE: Final = 1000  # milliseconds for a reader that is only slow
_ATOMIC: Final = 4096  # bytes that a pipe with room takes whole: pipe(7), PIPE_BUF


class LogStream:
    """Takes whole lines, or says that it could not. Not safe from several threads."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._descriptor = _descriptor(stream)
        self._is_socket = False
        self._own: int | None = None
        self._may_block = False
        self._is_torn = False
        self._is_stuck = False
        if self._descriptor is None:
            return
        mode = os.fstat(self._descriptor).st_mode
        self._may_block = not stat.S_ISREG(mode)
        self._is_socket = stat.S_ISSOCK(mode)
        if stat.S_ISFIFO(mode):
            # Whether a write waits is a matter of the open file, and others share ours.
            self._own = _reopened(self._descriptor)

    def write(self, line: str) -> bool:
        """Write a line, with its end; return whether it went out whole."""
        # A lone surrogate stands for a byte of a name that was no text.
        data = line.encode(errors="backslashreplace")
        try:
            if self._descriptor is None or not self._may_block:
                return self._write_plainly(data)
            return self._write_soon(b"\n" + data if self._is_torn else data)
        except (OSError, ValueError):
            return False

    def _write_plainly(self, data: bytes) -> bool:
        if self._stream is None:
            return False
        self._stream.write(data.decode())
        self._stream.flush()
        return True

    def _write_soon(self, data: bytes) -> bool:
        left = memoryview(data)
        while left:
            if not self._has_room():
                self._is_stuck = True
                self._is_torn = self._is_torn or 0 < len(left) < len(data)
                return False
            try:
                left = left[self._send(left) :]
            except BlockingIOError:  # there is some room, and not enough for this
                self._is_stuck = True
        self._is_torn = self._is_stuck = False
        return True

    def _has_room(self) -> bool:
        """Tell whether something can be written; a reader that did not come once is not awaited."""
        poll = select.poll()
        poll.register(self._descriptor or 0, select.POLLOUT)
        return bool(poll.poll(0 if self._is_stuck else _PATIENCE))

    def _send(self, data: memoryview) -> int:
        if self._is_socket:
            end = socket.socket(fileno=self._descriptor)
            try:
                return end.send(data, socket.MSG_DONTWAIT)
            finally:
                end.detach()  # the stream's owner closes it
        if self._own is not None:
            return os.write(self._own, data)
        return os.write(self._descriptor or 0, data[:_ATOMIC])


def _descriptor(stream: TextIO | None) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None


def _reopened(descriptor: int) -> int | None:
    """Open a pipe again, for writes that do not wait; None: it is somebody else's."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        return None
