# SPDX-License-Identifier: Apache-2.0
"""QEMU's own programs: images made, written and read by them."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEADLINE = 60.0  # seconds, for anything that takes a moment


def program(name: str) -> str:
    """Return the path of a program of Debian's QEMU; fails when it is not there."""
    path = shutil.which(name)
    assert path, f"{name} is missing: apt-get install qemu-utils qemu-system-x86"
    return path


def qemu_img(*arguments: str) -> bytes:
    """Run qemu-img and return what it said."""
    return subprocess.run([program("qemu-img"), *arguments], check=True, capture_output=True).stdout


def make_image(path: Path, size: int) -> Path:
    """Make an empty qcow2 image."""
    qemu_img("create", "-q", "-f", "qcow2", str(path), str(size))
    return path


def qemu_io(path: Path, *commands: str) -> None:
    """Run qemu-io's commands on a qcow2 image."""
    wanted = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        [program("qemu-io"), "-f", "qcow2", *wanted, str(path)], check=True, capture_output=True
    )
    # It ends with status 0 also when a command failed.
    assert b"failed" not in done.stdout, done.stdout


def raw_of(path: Path) -> bytes:
    """Return the disk in a qcow2 image as qemu-img sees it."""
    out = path.with_name(path.name + ".out")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", str(path), str(out))
    content = out.read_bytes()
    out.unlink()
    return content


@contextmanager
def write_lock(path: Path) -> Iterator[None]:
    """Have another process keep an image open for writing, as a machine does."""
    process = subprocess.Popen(
        [program("qemu-io"), "-f", "qcow2", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"length\n")
        process.stdin.flush()
        process.stdout.read(1)  # it prompts once the image is open
        yield
    finally:
        process.communicate(b"quit\n")


def until(deadline: float = DEADLINE) -> Iterator[None]:
    """Yield every 20 ms until the deadline (seconds from now), then fail."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        yield
        time.sleep(0.02)
    raise AssertionError("it took too long")
