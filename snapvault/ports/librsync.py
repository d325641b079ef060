# SPDX-License-Identifier: Apache-2.0
"""librsync's two halves that a backup needs, as push-style jobs.

Numbers and byte layouts are those of librsync's own formats (docs/format.md, section 6).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class SignatureJob(Protocol):
    """Computes the librsync signature of the bytes it is fed."""

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream, of any number."""
        ...

    def finish(self) -> None:
        """Take the end of the stream; the sink has all bytes of the signature on return."""
        ...


class DeltaJob(Protocol):
    """Computes the librsync delta of the bytes it is fed against a loaded signature."""

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream, of any number."""
        ...

    def finish(self) -> None:
        """Take the end of the stream; the sink has all bytes of the delta on return."""
        ...

    def close(self) -> None:
        """Free the job; safe to repeat, needed after a failure too."""
        ...


class Sums(Protocol):
    """A loaded signature. It takes some 50 bytes of memory a block."""

    def delta(self, sink: Callable[[bytes], None]) -> DeltaJob:
        """Start a delta against the signature; the sink gets the delta's bytes in order."""
        ...

    def close(self) -> None:
        """Free the signature once no job needs it any more; safe to repeat."""
        ...


class Rsync(Protocol):
    """The library. Jobs are for one thread at a time; different jobs run at once."""

    def signature(
        self, sink: Callable[[bytes], None], *, block_length: int, strong_length: int
    ) -> SignatureJob:
        """Start a signature (RabinKarp and BLAKE2); the sink gets its bytes in order."""
        ...

    def sums(self, signature: Path) -> Sums:
        """Load a signature file.

        Raises:
            SignatureError: the file is not a librsync signature.
        """
        ...
