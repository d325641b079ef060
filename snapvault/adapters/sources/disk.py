# SPDX-License-Identifier: Apache-2.0
"""Reading a disk of a fixed size, with failures in our words."""

from snapvault.adapters.sources.reading import QuietReader
from snapvault.errors import SourceError


def read_whole(
    reader: QuietReader, offset: int, buffer: memoryview, *, size: int, disk: str
) -> None:
    """Fill the whole buffer; `disk` says in messages what is read: `image "/srv/a.raw"`.

    Raises:
        SourceError: reading failed, the range is not inside `size`, or the disk became smaller.
    """
    if offset < 0 or offset + buffer.nbytes > size:
        raise SourceError(
            f"{disk} ends at {size} bytes: cannot read {buffer.nbytes} bytes from offset {offset}"
        )
    try:
        read = reader.read_into(offset, buffer)
    except OSError as error:
        raise SourceError(f"could not read {disk} at offset {offset}: {error.strerror}") from error
    if read < buffer.nbytes:
        raise shrank(disk)


def shrank(disk: str) -> SourceError:
    """Return the error for a disk that became smaller while it was open."""
    return SourceError(
        f"{disk} became smaller while it was read",
        hint="Back it up while nothing resizes it, or from a snapshot.",
    )
