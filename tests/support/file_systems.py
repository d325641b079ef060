# SPDX-License-Identifier: Apache-2.0
"""Images of file systems with known files in them, made without mounting anything."""

import os
import shutil
import subprocess
from pathlib import Path

MIB = 1 << 20

CONTENT = {
    "etc/hostname": b"web01\n",
    "etc/empty": b"",
    "srv/odd näme.txt": "größer\n".encode(),
    "srv/large.bin": bytes(range(256)) * 5000,
}
"""The files that every file system here has."""


def make_tree(folder: Path) -> Path:
    """Write the files, and on top of them what only file systems of Linux have; return `folder`."""
    for name, data in CONTENT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "etc/hostname").chmod(0o600)
    (folder / "etc/link").symlink_to("hostname")
    os.link(folder / "srv/large.bin", folder / "srv/second name.bin")
    os.utime(folder / "etc/hostname", (1_700_000_000, 1_700_000_000))
    return folder


def ext4(image: Path, tree: Path, size: int = 16 * MIB) -> Path:
    """Make an ext4 file system of a folder's content."""
    _empty(image, size)
    _run("mkfs.ext4", "e2fsprogs", "-q", "-F", "-d", str(tree), str(image))
    return image


def xfs(image: Path, tree: Path) -> Path:
    """Make an XFS file system of a folder's content; of at least 300 MiB, most of it a hole."""
    prototype, copies = image.with_suffix(".proto"), image.with_suffix(".copies")
    copies.mkdir()
    lines = ["/", "0 0", "d--755 0 0"]
    _describe(tree, lines, copies)
    prototype.write_text("\n".join([*lines, "$", ""]))
    _empty(image, 320 * MIB)
    _run("mkfs.xfs", "xfsprogs", "-q", "-f", "-p", str(prototype), str(image))
    return image


def ntfs(image: Path, tree: Path) -> Path:
    """Make an NTFS file system of the files of a folder's `srv`, in its root."""
    _empty(image, 16 * MIB)
    _run("mkntfs", "ntfs-3g", "-q", "-F", str(image))
    for path in sorted((tree / "srv").iterdir()):
        _run("ntfscp", "ntfs-3g", str(image), str(path), path.name)
    return image


def vfat(image: Path, tree: Path) -> Path:
    """Make a FAT file system of a folder's `srv`."""
    _empty(image, 16 * MIB)
    _run("mkfs.vfat", "dosfstools", str(image))
    _run("mcopy", "mtools", "-s", "-i", str(image), str(tree / "srv"), "::/srv")
    return image


def partitioned(
    image: Path, label: str, parts: list[str], content: dict[int, Path], *, size: int = 64 * MIB
) -> Path:
    """Make a disk; `parts` are lines for sfdisk, `content` goes to offsets in MiB."""
    _empty(image, size)
    table = "\n".join([f"label: {label}", *parts, ""])
    _run("sfdisk", "fdisk", "-q", str(image), given=table.encode())
    for at, part in content.items():
        put(image, at * MIB, part)
    return image


def put(image: Path, offset: int, part: Path) -> None:
    """Write one file's bytes into another."""
    with image.open("r+b") as file, part.open("rb") as data:
        for at in range(0, part.stat().st_size, MIB):
            piece = data.read(MIB)
            if piece.strip(b"\0"):  # else it stays a hole
                file.seek(offset + at)
                file.write(piece)


def _describe(folder: Path, lines: list[str], copies: Path) -> None:
    """Add a folder's content to a prototype of mkfs.xfs; `copies` is for odd names."""
    for path in sorted(folder.iterdir()):
        name = path.name.replace(" ", "_")  # a prototype cannot have spaces
        mode = f"{path.lstat().st_mode & 0o777:03o}"
        if path.is_symlink():
            lines.append(f"{name} l--777 0 0 {path.readlink()}")
        elif path.is_dir():
            lines.append(f"{name} d--{mode} 0 0")
            _describe(path, lines, copies)
            lines.append("$")
        else:
            held = path
            if " " in str(path):
                held = copies / name
                shutil.copy(path, held)
            lines.append(f"{name} ---{mode} 0 0 {held}")


def _empty(image: Path, size: int) -> None:
    with image.open("wb") as file:
        file.truncate(size)


def _run(program: str, package: str, *words: str, given: bytes = b"") -> None:
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert found, f'"{program}" is missing: apt-get install {package}'
    done = subprocess.run([found, *words], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
