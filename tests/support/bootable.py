# SPDX-License-Identifier: Apache-2.0
"""Whole disks with partitions, a boot loader and a small Linux system, for BIOS and for UEFI.

Made in a second from programs of this machine and the kernel of the tests' guest, without root.
The system has a shell on its serial console, a guest agent, and a web server on port 80.
"""

import gzip
import hashlib
import random
import shutil
import struct
import subprocess
import tempfile
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

from tests.support.guest import _IMAGE, _SCRIPTS

SECTOR = 512
MIB = 1 << 20
LOGIN = "tiny login:"

_ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
_GRUB = Path("/usr/lib/grub")
_EFI_SIZE = 4 * MIB
_MODULES = ("part_msdos", "part_gpt", "ext2", "fat", "linux", "search", "search_fs_file")
_MORE = ("boot", "minicmd", "echo", "sleep", "reboot", "halt")

# Of the boot loader: the command line is what the tests' guest has, and the first screen too.
_GRUB_SCRIPT = """\
search.file /boot/vmlinuz root
linux /boot/vmlinuz console=tty0 console=ttyS0 quiet mitigations=off random.trust_cpu=on
initrd /boot/initrd
boot
"""

# Of the initramfs: load drivers, find the disk's own system, hand over.
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in $(cat /order); do insmod /modules/$module 2>/dev/null; done
mkdir -p /disk
n=0
while [ ! -e /disk/sbin/init -a $n -lt 300 ]; do
    for part in /dev/[sv]da[12]; do
        mount -t ext4 -o ro $part /disk 2>/dev/null && [ -e /disk/sbin/init ] && break
        umount /disk 2>/dev/null
    done
    n=$((n + 1))
    [ -e /disk/sbin/init ] || sleep 0.1
done
mount --move /dev /disk/dev && mount --move /proc /disk/proc
exec switch_root /disk /sbin/init
"""

_SYSTEM = """#!/bin/busybox sh
export PATH=/bin:/sbin HOME=/
exec </dev/ttyS0 >/dev/ttyS0 2>&1
mount -o remount,rw / / && mount -t sysfs sys /sys
boots=$(($(cat /var/boots) + 1))
echo $boots >/var/boots && sync
echo "booted times=$boots data=$(sha256sum /var/data | cut -d' ' -f1)"
mkdir -p /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
    [ -s $port/name ] && ln -s /dev/${port##*/} /dev/virtio-ports/$(cat $port/name)
done
if [ -e /dev/virtio-ports/org.qemu.guest_agent.0 ] && [ -x /sbin/qemu-ga ]; then
    agent="/sbin/qemu-ga -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run"
    setsid $agent </dev/null >/dev/null 2>&1 &
fi
if [ -e /sys/class/net/eth0 ]; then
    ip link set lo up
    ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up
    httpd -p 80 -h /var
fi
. /etc/start
echo "tiny login:"
while true; do setsid cttyhack sh; done
"""


class MissingProgramError(Exception):
    """A program that makes disks is not installed; the message says what installs it."""


def bios_disk(
    path: Path, *, data: bytes = b"data", start: str = "", filler: int = 0, grub: str = ""
) -> str:
    """Make a disk with an MBR, GRUB and a Linux partition; return what its console will say.

    `data` is in `/var/data`; what is returned has its SHA-256. `start` is a script of the shell
    that runs before the login line; `filler` bytes are there that nobody reads. `grub` is what
    the boot loader does instead of starting Linux; without "vmlinuz" in it there is no Linux.
    """
    with tempfile.TemporaryDirectory(prefix="svb-", dir="/tmp") as made:
        folder = Path(made)
        core = _grub(folder, "i386-pc", ("biosdisk",), grub)
        root = _root(folder, data, start, filler, has_linux=not grub or "vmlinuz" in grub)
        first = MIB // SECTOR
        loader = bytearray((_GRUB / "i386-pc/boot.img").read_bytes())
        entry = struct.pack(
            "<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", first, _sectors(root)
        )
        # GRUB's first sector stays as it is made: it looks for the rest in the next one.
        loader[440:512] = uuid.uuid4().bytes[:4] + bytes(2) + entry + bytes(48) + b"\x55\xaa"
        assert core.stat().st_size < MIB - SECTOR
        _put(path, MIB + root.stat().st_size, [(0, loader), (SECTOR, core), (MIB, root)])
    return _said(data)


def uefi_disk(
    path: Path, *, data: bytes = b"data", start: str = "", filler: int = 0, grub: str = ""
) -> str:
    """Make a disk with a GPT, GRUB in an EFI system partition and a Linux one; as `bios_disk`."""
    with tempfile.TemporaryDirectory(prefix="svb-", dir="/tmp") as made:
        folder = Path(made)
        loader = _grub(folder, "x86_64-efi", ("efi_gop", "all_video"), grub)
        esp = folder / "esp"
        _grow(esp, _EFI_SIZE)
        _run("dosfstools", "/sbin/mkfs.vfat", str(esp))
        _run("mtools", "mmd", "-i", str(esp), "::/EFI", "::/EFI/BOOT")
        _run("mtools", "mcopy", "-i", str(esp), str(loader), "::/EFI/BOOT/BOOTX64.EFI")
        root = _root(folder, data, start, filler, has_linux=not grub or "vmlinuz" in grub)
        after = MIB + _EFI_SIZE
        size = after + root.stat().st_size + MIB
        tables = _gpt(size // SECTOR, [(_ESP, MIB, esp), (_LINUX, after, root)])
        _put(path, size, [*tables, (MIB, esp), (after, root)])
    return _said(data)


def _said(data: bytes) -> str:
    return f"booted times=1 data={hashlib.sha256(data).hexdigest()}"


def _grub(folder: Path, kind: str, modules: Sequence[str], script: str) -> Path:
    package = "grub-pc-bin" if kind == "i386-pc" else "grub-efi-amd64-bin"
    if not (_GRUB / kind / "linux.mod").exists():
        raise MissingProgramError(f"GRUB is missing: apt-get install {package} grub-common")
    made, config = folder / "grub", folder / "grub.cfg"
    config.write_text(script or _GRUB_SCRIPT)
    words = ["-O", kind, "-o", str(made), "-c", str(config), "-p", "/boot"]
    _run("grub-common", "grub-mkimage", *words, *_MODULES, *modules, *_MORE)
    return made


def _root(folder: Path, data: bytes, start: str, filler: int, *, has_linux: bool) -> Path:
    """Make the file system of the Linux partition."""
    if not has_linux:
        (folder / "root").write_bytes(bytes(MIB))
        return folder / "root"
    tree = folder / "tree"
    for name in ("bin", "boot", "dev", "etc", "proc", "run", "sbin", "srv", "sys", "tmp", "var"):
        (tree / name).mkdir(parents=True)
    shutil.copy(_find("busybox-static", "busybox"), tree / "bin/busybox")
    listed = subprocess.run(
        [str(tree / "bin/busybox"), "--list"], capture_output=True, check=True, text=True
    )
    for name in listed.stdout.split():
        if name != "busybox":
            (tree / "bin" / name).symlink_to("busybox")
    for source in _agent():
        target = tree / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    shutil.copy(_find("qemu-guest-agent", "qemu-ga"), tree / "sbin/qemu-ga")
    (tree / "sbin/init").write_text(_SYSTEM)
    (tree / "sbin/init").chmod(0o755)
    (tree / "etc/start").write_text(start)
    (tree / "var/data").write_bytes(data)
    (tree / "var/boots").write_text("0\n")
    chance = random.Random(1)
    for number in range(-(-filler // MIB)):
        (tree / f"srv/{number}").write_bytes(chance.randbytes(MIB))
    if not (_IMAGE / "disk.gz").exists():
        raise MissingProgramError(f"the kernel is not there; build it with: {_SCRIPTS}/build.sh")
    shutil.copy(_IMAGE / "vmlinuz", tree / "boot/vmlinuz")
    (tree / "boot/initrd").write_bytes(_initrd(folder))
    root = folder / "root"
    _grow(root, (filler // MIB * 9 // 8 + 40) * MIB)  # an eighth for what files take beside
    _run("e2fsprogs", "/sbin/mkfs.ext4", "-q", "-F", "-b", "4096", "-d", str(tree), str(root))
    return root


def _initrd(folder: Path) -> bytes:
    start = folder / "start"
    start.mkdir()
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
    return (_IMAGE / "disk.gz").read_bytes() + gzip.compress(archive, 1)


def _agent() -> list[Path]:
    """Return the libraries that the guest agent is started with."""
    words = _run("libc-bin", "ldd", _find("qemu-guest-agent", "qemu-ga")).split()
    return [Path(word) for word in words if word.startswith("/")]


def _gpt(sectors: int, parts: Sequence[tuple[uuid.UUID, int, Path]]) -> list[tuple[int, bytes]]:
    """Return the places and bytes of a protective MBR and both partition tables."""
    table = b"".join(
        struct.pack(
            "<16s16sQQQ72s",
            kind.bytes_le,
            uuid.uuid4().bytes_le,
            offset // SECTOR,
            offset // SECTOR + _sectors(file) - 1,
            0,
            b"",
        )
        for kind, offset, file in parts
    ).ljust(128 * 128, b"\0")
    disk = uuid.uuid4().bytes_le

    def header(here: int, other: int, entries: int) -> bytes:
        fields = [0x10000, 92, 0, 0, here, other, 34, sectors - 34, disk, entries, 128, 128]
        packed = b""
        for _ in range(2):
            packed = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", *fields, zlib.crc32(table))
            fields[2] = zlib.crc32(packed)
        return packed.ljust(SECTOR, b"\0")

    everything = struct.pack(
        "<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(sectors - 1, 0xFFFFFFFF)
    )
    protective = bytes(446) + everything + bytes(48) + b"\x55\xaa"
    last = sectors - 1
    return [
        (0, protective + header(1, last, 2) + table),
        ((last - 32) * SECTOR, table + header(last, 1, last - 32)),
    ]


def _sectors(file: Path) -> int:
    return file.stat().st_size // SECTOR


def _grow(file: Path, size: int) -> None:
    with file.open("wb") as made:
        made.truncate(size)


def _put(path: Path, size: int, pieces: Sequence[tuple[int, bytes | bytearray | Path]]) -> None:
    """Make a disk of pieces, with holes where they have nothing but zeros."""
    _grow(path, size)
    with path.open("r+b") as disk:
        for offset, piece in pieces:
            content = piece.read_bytes() if isinstance(piece, Path) else piece
            for start in range(0, len(content), 65536):
                part = content[start : start + 65536]
                if part.count(0) != len(part):
                    disk.seek(offset + start)
                    disk.write(part)


def _find(package: str, program: str) -> str:
    found = shutil.which(program, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        raise MissingProgramError(f"{program} is missing: apt-get install {package}")
    return found


def _run(package: str, program: str, *words: str) -> str:
    done = subprocess.run([_find(package, program), *words], capture_output=True, check=False)
    assert done.returncode == 0, (program, done.stdout, done.stderr)
    return done.stdout.decode()
