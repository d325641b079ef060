# SPDX-License-Identifier: Apache-2.0
"""Logical volumes for the tests that run inside the guest."""

import gc
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from snapvault.adapters.sources.lvm_view import LvmView
from snapvault.errors import SourceError
from snapvault.ports.source import DiskStream

MIB = 1 << 20
CHUNK = 64 << 10
POOL = "pool-0"

_DISKS = ("/dev/vda", "/dev/vdb")


def run(*argv: str, check: bool = True) -> str:
    """Run a program and return its stdout; its stderr is in the test's report."""
    return subprocess.run(argv, check=check, stdout=subprocess.PIPE, text=True, timeout=300).stdout


@contextmanager
def volume_group(name: str = "vg-guest", *, extent: str = "4M") -> Iterator[str]:
    """Give an empty volume group, with a name that LVM has to escape."""
    run("vgcreate", "-q", "-q", "-y", "-s", extent, name, *_DISKS)
    try:
        yield name
    finally:
        run("vgremove", "-q", "-q", "-ff", "-y", name, check=False)
        for disk in _DISKS:
            run("wipefs", "-q", "-a", "-f", disk)


def thick(group: str, name: str, size: str = "32M") -> str:
    """Make a thick volume and return its full name."""
    run("lvcreate", "-q", "-q", "-y", "-Wn", "-n", name, "-L", size, group)
    return f"{group}/{name}"


def thin_pool(group: str, name: str = POOL, size: str = "96M", *, chunk: str = "64k") -> str:
    """Make a thin pool and return its full name."""
    run(
        *("lvcreate", "-q", "-q", "-y", "-n", name, "-L", size, "--type", "thin-pool"),
        *("--chunksize", chunk, "--poolmetadatasize", "4M", group),
    )
    return f"{group}/{name}"


def thin(pool: str, name: str, size: str = "32M") -> str:
    """Make a thin volume and return its full name."""
    run("lvcreate", "-q", "-q", "-y", "-V", size, "--thin", "-n", name, pool)
    return f"{pool.partition('/')[0]}/{name}"


def remove_volumes(group: str, *, but: Sequence[str] = ()) -> None:
    """Remove all volumes of a group that can be seen; views that a failed test left are closed."""
    for left in gc.get_objects():
        if isinstance(left, LvmView):
            with suppress(SourceError):
                left.close()
    names = [name for name in names_in(group) if name not in but]
    if names:
        run("lvremove", "-q", "-q", "-y", "-ff", *(f"{group}/{name}" for name in names))


def names_in(group: str) -> list[str]:
    """Return the names of a group's volumes that can be seen."""
    return [row["lv_name"] for row in _lvs(group, "lv_name")]


def snapshots_in(group: str) -> list[str]:
    """Return the names of SnapVault's snapshots."""
    rows = _lvs(group, "lv_name", "lv_tags")
    return [row["lv_name"] for row in rows if "snapvault" in row["lv_tags"].split(",")]


def field(volume: str, name: str) -> str:
    """Return one thing that lvs tells of a volume."""
    return _lvs(volume, name)[0][name]


def write(volume: str, offset: int, data: bytes) -> None:
    """Write into a volume, past the cache of this machine."""
    with Path(f"/dev/{volume}").open("r+b", buffering=0) as device:
        device.seek(offset)
        device.write(data)
        os.fsync(device.fileno())


def content(volume: str) -> bytes:
    """Return all bytes of a volume."""
    return Path(f"/dev/{volume}").read_bytes()


def pool_device(group: str, pool: str = POOL) -> str:
    """Return the name of the device that takes a pool's messages."""
    return f"{group.replace('-', '--')}-{pool.replace('-', '--')}-tpool"


def read_ranges(disk: DiskStream, ranges: Iterator[tuple[int, int]]) -> bytes:
    """Read ranges of a disk; the rest is zeros."""
    found = bytearray(disk.size)
    for start, end in ranges:
        for offset in range(start, end, MIB):
            piece = memoryview(found)[offset : min(end, offset + MIB)]
            disk.read_into(offset, piece)
    return bytes(found)


def read(disk: DiskStream) -> bytes:
    """Read a disk as a first backup does."""
    return read_ranges(disk, disk.data_ranges())


def _lvs(what: str, *fields: str) -> list[dict[str, str]]:
    output = run(
        *("lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", ",".join(fields)),
        what,
    )
    rows: list[dict[str, str]] = json.loads(output)["report"][0]["lv"]
    return rows
