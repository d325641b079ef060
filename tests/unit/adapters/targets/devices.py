# SPDX-License-Identifier: Apache-2.0
"""Block devices for tests: loop devices, or where those cannot be had files that pass for one."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def block_device(
    backing: Path, size: int, patch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, bool]]:
    """Make a device of `size` bytes full of garbage; yield its path and whether it is real.

    Loop devices need root and a kernel that has them; everywhere else the backing file itself
    is taken for a device, which does all that a device does but refuse a second user.
    """
    backing.write_bytes(b"\xaa" * size)
    device = _attach(backing)
    if device is None:
        patch.setattr(stat, "S_ISBLK", stat.S_ISREG)
        yield backing, False
        return
    try:
        yield device, True
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def _attach(backing: Path) -> Path | None:
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        return None
    found = subprocess.run(
        ["losetup", "--find", "--show", backing], capture_output=True, text=True, check=False
    )
    return Path(found.stdout.strip()) if found.returncode == 0 else None
