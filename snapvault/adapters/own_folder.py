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
    # The kernel lets go of a lock (flock(2)) with the process that holds it.
    with _locked(parent, fcntl.LOCK_EX):
        # ORDER: under the parent's lock, so that nobody takes a folder for abandoned that was
        # made and is not locked yet.
        for other in parent.glob(f"{prefix}*"):
            _remove_if_abandoned(other)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _remove_if_abandoned(folder: Path) -> None:
    with suppress(OSError), _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
