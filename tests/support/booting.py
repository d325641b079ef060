# SPDX-License-Identifier: Apache-2.0
"""A small disk with a Linux system on it, and starting a machine from it.

The kernel is that of the tests' guest; all else that runs is on the disk.
"""

import gzip
import random
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.bootable import LOGIN as LOGIN
from tests.support.bootable import bios_disk as bios_disk
from tests.support.bootable import uefi_disk as uefi_disk
from tests.support.guest import _IMAGE, _find_qemu
from tests.support.seaweed import _die_with_parent

# Before the disk's own first process: load drivers, mount the disk, hand over.
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in $(cat /order); do insmod /modules/$module 2>/dev/null; done
n=0
while [ ! -b /dev/vda -a $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
mkdir -p /disk
mount -t ext4 -o ro /dev/vda /disk && mount --move /dev /disk/dev && mount --move /proc /disk/proc
exec switch_root /disk /sbin/init
"""

_SYSTEM = """#!/bin/busybox sh
export PATH=/bin
mount -o remount,rw /dev/vda / && echo written > /var/written && sync
echo "booted data=$(sha256sum /var/data | cut -d' ' -f1) $(cat /var/written)" > /dev/ttyS0
echo "tiny login:" > /dev/ttyS0
poweroff -f
"""

_APPLETS = ("cat", "cut", "echo", "mount", "poweroff", "sh", "sha256sum", "sync")


def make_disk(path: Path, *, size: int, data: bytes, filler: int) -> None:
    """Make a disk that starts: it tells the SHA-256 of `data`; `filler` bytes nobody reads."""
    with tempfile.TemporaryDirectory(prefix="svb-", dir="/tmp") as made:
        tree = Path(made) / "tree"
        for name in ("bin", "dev", "proc", "sbin", "srv", "var"):
            (tree / name).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox, '"busybox" is missing: apt-get install busybox-static'
        shutil.copy(busybox, tree / "bin/busybox")
        for name in _APPLETS:
            (tree / "bin" / name).symlink_to("busybox")
        (tree / "sbin/init").write_text(_SYSTEM)
        (tree / "sbin/init").chmod(0o755)
        (tree / "var/data").write_bytes(data)
        chance = random.Random(1)
        for number in range(filler >> 20):
            (tree / f"srv/{number}").write_bytes(chance.randbytes(1 << 20))
        path.touch()
        with path.open("r+b") as file:
            file.truncate(size)
        subprocess.run(
            ["/sbin/mkfs.ext4", "-q", "-F", "-b", "4096", "-d", str(tree), str(path)], check=True
        )


def boot(drive: str, folder: Path, *, seconds: float = 240, more: Sequence[str] = ()) -> str:
    """Start a machine from `drive`, a value of QEMU's -drive, and return its console once it ended.

    `folder` takes what QEMU writes.
    """
    initrd = folder / "initrd"
    start = folder / "start"
    start.mkdir(exist_ok=True)
    (start / "init").write_text(_INIT)
    (start / "init").chmod(0o755)
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        input=b"init\n",
        cwd=start,
        capture_output=True,
        check=True,
    ).stdout
    # What a later archive holds replaces what is in an earlier one.
    initrd.write_bytes((_IMAGE / "initramfs.gz").read_bytes() + gzip.compress(archive, 1))
    command = [
        *(_find_qemu(), "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "256", "-smp", "1"),
        *("-machine", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-nic", "none", "-kernel", str(_IMAGE / "vmlinux"), "-initrd", str(initrd)),
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on"),
        *("-drive", drive, "-serial", "stdio"),
    ]
    done = subprocess.run(
        [*_die_with_parent(), *command, *more],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=seconds,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(folder)},
    )
    return (done.stdout + done.stderr).decode(errors="replace")
