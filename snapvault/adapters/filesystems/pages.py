# SPDX-License-Identifier: Apache-2.0
"""What libraries read of a disk: pages that are kept a while, and failures that are not lost."""

import io
import threading
from collections import OrderedDict
from typing import Final

from snapvault.errors import SnapVaultError
from snapvault.ports.browsing import Readable

_PAGE: Final = 64 << 10
_KEPT: Final = 256  # pages: 16 MiB
_LARGE: Final = 1 << 20  # bytes; reads of files, that would push out everything else

LIBRARY_ERRORS: Final = (OSError, ValueError, OverflowError, MemoryError, RuntimeError)
"""What libraries raise of damaged data, and of reads that failed."""


class Part:
    """A range of something else."""

    def __init__(self, whole: Readable, offset: int, size: int) -> None:
        self._whole = whole
        self._offset = offset
        self.size = size

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return the bytes of a range that lies inside."""
        return self._whole.read(self._offset + offset, length)


class Pages:
    """The bytes below, by pages of which the last ones are kept. Safe from several threads.

    Libraries make of any exception one of their own, or of unreadable folders empty ones. So what
    went wrong is remembered, and `raise_failure` raises it.
    """

    def __init__(self, data: Readable) -> None:
        self._data = data
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._failure: SnapVaultError | None = None

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self._data.size

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes from `offset` on; fewer, or none, at the end.

        Raises:
            OSError: they cannot be had.
        """
        length = max(0, min(length, self.size - offset))
        try:
            if length >= _LARGE:
                return bytes(self._data.read(offset, length))
            begin = offset - offset % _PAGE
            pages = [self._page(at) for at in range(begin, offset + length, _PAGE)]
        except SnapVaultError as error:
            self._failure = error
            raise OSError(str(error)) from error
        return b"".join(pages)[offset - begin : offset - begin + length]

    def raise_failure(self) -> None:
        """Raise what went wrong since the last call.

        Raises:
            SnapVaultError: some bytes could not be had.
        """
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _page(self, at: int) -> bytes:
        with self._lock:
            page = self._kept.get(at)
            if page is not None:
                self._kept.move_to_end(at)
                return page
        page = bytes(self._data.read(at, min(_PAGE, self.size - at)))
        with self._lock:
            self._kept[at] = page
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return page


class PagesFile(io.RawIOBase):
    """Pages as a file, for libraries that read from one."""

    def __init__(self, pages: Pages) -> None:
        super().__init__()
        self._pages = pages
        self._at = 0

    def readable(self) -> bool:
        """Tell that it can be read from."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read at random."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; fewer, or none, at the end."""
        wanted = self._pages.size - self._at if size < 0 else size
        found = self._pages.read(self._at, wanted)
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to another place; return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._pages.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def get_size(self) -> int:
        """Return how many bytes there are, by the name that libyal asks for."""
        return self._pages.size
