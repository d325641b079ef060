# SPDX-License-Identifier: Apache-2.0
"""A private folder whose path is short enough for sockets, where that of the state is not."""

import os
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path

from snapvault.adapters.own_folder import own_folder

_PREFIX = "s-"


def short_folder(stack: ExitStack) -> Path:
    """Make a folder below the system's one for temporary files, removed with the stack.

    What a killed process left is removed by the next one of the same user.
    """
    ours = Path(tempfile.gettempdir()) / f"snapvault-{os.geteuid()}"
    if not _is_private(ours):  # somebody else was first, or nobody may be
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="snapvault-")))
    return stack.enter_context(own_folder(ours, _PREFIX))


def _is_private(folder: Path) -> bool:
    """Make a folder that only this user can enter, unless it is there; tell whether it is so."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    # SAFETY: everybody may make a folder or a link of that name; we use none but our own.
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return is_ours and not found.st_mode & 0o077
