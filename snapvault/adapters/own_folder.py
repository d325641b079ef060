# SPDX-License-Identifier: Apache-2.0
"""Private folders that last as long as their process, however that ends."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def own_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder that only this user can enter, and remove it at the end.

    Those of the same prefix whose processes are gone are removed first. `parent` is there.
    """
    for other in parent.glob(f"{prefix}*"):
        _remove_if_abandoned(other)
    folder, descriptor = _locked_folder(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """Make a folder; return it and a descriptor that holds its lock (flock(2)).

    The kernel lets go of that with the process.
    """
    # SAFETY: the parent is not locked for this: anybody might hold the lock of one like /tmp.
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):
            descriptor = _open(folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)
        # Before it was locked, somebody took it for abandoned.


def _remove_if_abandoned(folder: Path) -> None:
    with suppress(OSError):
        descriptor = _open(folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
