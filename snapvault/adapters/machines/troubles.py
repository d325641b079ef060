# SPDX-License-Identifier: Apache-2.0
"""What a console says when a machine does not start, told as what it is."""

import re
from typing import Final, NamedTuple

RESTARTS: Final = 5
"""A machine that restarted more often than this does nothing else; first starts need one or two."""

_MEMORY_HINT = "Give the machine more memory."
_FIRMWARE_HINT = (
    "See that the first disk is the one with the system, and try the other firmware (BIOS or UEFI)."
)
_DISK_HINT = (
    'Try the other kind of bus: a system without drivers for "virtio" needs "sata". Or a disk of'
    " the machine is missing."
)


class Trouble(NamedTuple):
    """What happened, as it follows "the machine"; the line that says so; what may help."""

    what: str
    line: str
    hint: str | None


_SIGNS: Final = (
    (
        r"System is deadlocked on memory|Out of memory and no killable",
        "has too little memory",
        _MEMORY_HINT,
    ),
    (
        r"Unable to mount root fs|VFS: Cannot open root device",
        "panicked: it did not find its disk",
        _DISK_HINT,
    ),
    (r"Kernel panic - not syncing", "panicked", None),
    (
        r"^\s*(Shell>|UEFI Interactive Shell)",
        "found nothing to start, and is in the shell of its firmware",
        _FIRMWARE_HINT,
    ),
    (
        r"No bootable (device|option or device)|Boot failed: not a bootable|BOOTMGR is missing",
        "found nothing to start",
        _FIRMWARE_HINT,
    ),
    (
        r"(Missing|No|Error loading) operating system|[Oo]perating [Ss]ystem not found",
        "found nothing to start",
        _FIRMWARE_HINT,
    ),
    (
        r"^\s*grub( rescue)?>|error: you need to load the kernel first",
        "stopped in its boot loader",
        None,
    ),
    (
        r"^\s*\(initramfs\)|^\s*dracut:/#|ALERT!.*does not exist",
        "did not find the disk with its system",
        _DISK_HINT,
    ),
    (
        r"You are in (emergency|rescue) mode|Give root password for maintenance",
        "started in emergency mode",
        None,
    ),
)
_COMPILED: Final = tuple((re.compile(sign), what, hint) for sign, what, hint in _SIGNS)


def find(lines: list[str]) -> Trouble | None:
    """Return the first known trouble that lines of a console tell of."""
    for line in lines:
        for sign, what, hint in _COMPILED:
            if sign.search(line):
                return Trouble(what, line.strip(), hint)
    return None
