# SPDX-License-Identifier: Apache-2.0
"""The state folder of this host, and an error with a remedy when it cannot be used."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from snapvault.errors import SealError, SnapVaultError, refusal_of_state
from snapvault.model.settings import Settings

# What the operating system says when a state folder is full, read-only or somebody else's.
_FORESEEABLE: Final = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
}


@contextmanager
def naming_state(state: Path) -> Iterator[None]:
    """Turn what the operating system says of the state folder into an error with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FORESEEABLE:
            raise
        raise _state_failed(state, error) from error
    except SealError as error:
        # gpg itself writes what it sealed into the state folder; only its words tell why not.
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise _state_failed(state, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error


def try_state(settings: Settings) -> int:
    """Write into the state folder and return the bytes that are free there.

    Raises:
        StateError, ConfigError: it cannot be made or written.
    """
    import shutil
    import tempfile

    folder = settings.state_dir
    make_private(folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"probe")
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise _state_failed(folder, error) from error


def make_private(folder: Path) -> None:
    """Make a folder of the state, for this user alone; one that is there stays as it is.

    Raises:
        StateError, ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _state_failed(folder, error) from error


def _state_failed(folder: Path, error: OSError) -> SnapVaultError:
    reason = (error.strerror or str(error)).lower()
    name = error.filename if isinstance(error.filename, str | Path) else folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "Free room there, or set state_dir in the settings to a folder that has more."
    elif error.errno in (errno.EROFS, errno.EIO):
        hint = "Look at the disk behind it, or set state_dir in the settings to another folder."
    else:
        hint = "Run as the user who owns it, or set state_dir in the settings to another folder."
    where = "" if str(name) == str(folder) else f': "{name}"'
    return refusal_of_state(error)(
        f'could not work in state folder "{folder}": {reason}{where}', hint=hint
    )
