# SPDX-License-Identifier: Apache-2.0
"""Whether somebody else has a disk open: what programs tell each other by locks, and loop devices.

QEMU locks bytes of each image and device that a machine uses; a lock of all bytes is refused
while one is held, and holds QEMU off in turn.
"""

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

from snapvault.errors import RestoreError

# short l_type, short l_whence, off_t l_start, off_t l_len, pid_t l_pid; 64 bits, fcntl(2)
_FLOCK = struct.Struct("@hhqqi0q")
_LOOP_DEVICES = Path("/sys/block")


def require_alone(descriptor: int, label: str) -> None:
    """Lock a file or device that is open for writing, until it is closed.

    LIMIT: who opens it without locking anything is not seen, and a file system without locks
    tells nothing.

    Raises:
        RestoreError: somebody else holds a lock on any byte of it.
    """
    everything = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, everything)
    except (BlockingIOError, PermissionError) as error:
        raise RestoreError(
            f"cannot restore to {label}: it is in use",
            hint="Stop the machine, or the other restore, that has it open.",
        ) from error
    except OSError:
        pass  # a file system that has no locks


def require_no_loop_device(file: Path, label: str) -> None:
    """Make sure that no loop device shows a file.

    Raises:
        RestoreError: one does, and is named.
    """
    for backing in _LOOP_DEVICES.glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if backing.read_text().rstrip("\n") == str(file):
                device = f"/dev/{backing.parent.parent.name}"
                raise RestoreError(
                    f'cannot restore to {label}: it is in use by loop device "{device}"',
                    hint=f"Unmount it, and detach it: losetup -d {device}.",
                )
