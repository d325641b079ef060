# SPDX-License-Identifier: Apache-2.0
"""The two ends of a transfer: an object being read, and a file being sent."""

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from io import BytesIO, FileIO
from typing import Any

from snapvault.adapters.stores.naming import cut_short
from snapvault.adapters.stores.s3_errors import PreconditionError, Request
from snapvault.adapters.throttle import take_all, unlimited
from snapvault.errors import IntegrityError, SnapVaultError, StoreError, StoreUnavailableError
from snapvault.ports.throttle import Throttle

PIECE = 1 << 18
_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/")


class Download:
    """An object being read: the open transfer, and what it takes to start the next one.

    `fetch(offset, etag)` asks for the rest of the object, `translated()` is a context that
    turns the vendor's exceptions into ours.
    """

    def __init__(
        self,
        name: str,
        location: str,
        *,
        fetch: Callable[[int, str | None], dict[str, Any]],
        translated: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._label = f'"{name}" in "{location}"'
        self._fetch = fetch
        self._translated = translated
        self._stream: Any = None
        self._offset = 0
        self._size = -1  # until the first answer
        self._etag: str | None = None

    def connect(self) -> None:
        """Start the transfer, or start it again behind the last byte given out."""
        try:
            answer = self._fetch(self._offset, self._etag)
        except PreconditionError:
            raise self._changed() from None
        self._stream = answer["Body"]
        if self._size < 0:
            self._size = answer["ContentLength"]
            self._etag = answer.get("ETag")
        elif not self._carries_on(answer):
            self.close()
            raise self._changed()

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        if size <= 0 or self._offset == self._size:
            return b""
        if self._stream is None:
            self.connect()
        try:
            with self._translated():
                data: bytes = self._stream.read(min(size, self._size - self._offset))
                if self._offset + len(data) == self._size:
                    # QUIRK: botocore compares the object's checksum, where it was asked to,
                    # only when it is asked for more than there is.
                    self._stream.read(1)
        except SnapVaultError:
            self.close()
            raise
        if not data:
            self.close()
            raise StoreUnavailableError(
                f"could not read {self._label}: "
                f"the transfer ended after {self._offset} of {self._size} bytes"
            )
        self._offset += len(data)
        return data

    def close(self) -> None:
        """End the transfer, if one is open."""
        if self._stream is not None:
            with suppress(SnapVaultError, OSError), self._translated():
                self._stream.close()
            self._stream = None

    def _carries_on(self, answer: dict[str, Any]) -> bool:
        expected = f"bytes {self._offset}-{self._size - 1}/{self._size}"
        if answer.get("ContentRange") == expected:
            return True
        return self._offset == 0 and answer["ContentLength"] == self._size

    def _changed(self) -> IntegrityError:
        return IntegrityError(f"object {self._label} changed while it was read")


def read_part(
    answer: dict[str, Any],
    offset: int,
    size: int,
    *,
    request: Request,
    translated: Callable[[Request], AbstractContextManager[None]],
) -> bytes:
    """Return `size` bytes of an object from `offset` on: the answer to the request for them.

    Raises:
        StoreError: the server took no notice of which bytes were asked for.
        IntegrityError: the object ends before them.
        StoreUnavailableError: the transfer was cut.
    """
    body = answer["Body"]
    with closing(body), translated(request):
        found = _CONTENT_RANGE.match(answer.get("ContentRange") or "")
        if found is None or int(found[1]) != offset:
            raise StoreError(request.summary("the store gives objects only as a whole"))
        if int(found[2]) != offset + size - 1:
            raise cut_short(str(request.name), request.location)
        pieces, left = [], size
        while left and (piece := body.read(left)):
            pieces.append(piece)
            left -= len(piece)
    if left:
        reason = f"the transfer ended after {size - left} of {size} bytes"
        raise StoreUnavailableError(request.summary(reason))
    return b"".join(pieces)


class FileBody:
    """A file as the body of a request, as fast as a throttle lets it pass.

    QUIRK: http.client and urllib3 read a body 16 KiB at a time, each a system call and a
    trip through the interpreter; they send on whatever length they are given. So they are given
    more, unless the throttle lets fewer bytes pass.
    """

    def __init__(self, file: FileIO | BytesIO, size: int, throttle: Throttle | None = None) -> None:
        """`size` is the file's, in bytes."""
        self._file = file
        self._size = size
        self._throttle = throttle or unlimited()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes: all with a `size` below zero, none at the end only."""
        left = self._size - self._file.tell()
        if left <= 0:
            return b""
        if size < 0:
            take_all(self._throttle, left)
            return self._file.read()
        return self._file.read(self._throttle.take(min(left, max(size, PIECE))))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as a file does."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position, as a file does."""
        return self._file.tell()
