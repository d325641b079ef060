# SPDX-License-Identifier: Apache-2.0
"""Disks on platforms that tell what changed: thin LVM, EBS, a running QEMU machine.

Each lies in a folder with a mirror, a plain file with the same bytes, and with a vault. Whatever
the disk shall hold is written to the mirror first, and then to the disk as its machine would.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.lab import (
    ROOT,
    make_surroundings,
    program,
    surroundings,
    write_policy,
    write_settings,
)
from benchmarks.measure import BenchmarkError, Runner
from snapvault.adapters.qmp import Qmp
from snapvault.model.ranges import Range
from tests.support import keys
from tests.support.ebs_fake import EbsFake
from tests.support.ebs_fake_world import BLOCK, GIB, Volume
from tests.support.guest import Guest, GuestError, _find_qemu
from tests.support.qemu import Machine, make_image

SOURCE = "disk"
REGION = "eu-west-1"

_MIB = 1 << 20
_PIECE = 16 * _MIB  # of a disk, written at once
_GUEST_SECONDS = 1800.0  # for one command in the guest, which is emulated
_GUEST_HOME = "/run/bench"  # in the guest's memory
_GROUP = "bench"
_POOL = "pool"


class Disk(Protocol):
    """A disk and the host that backs it up. `folder` has the mirror and the vault."""

    folder: Path

    @property
    def grain(self) -> int:
        """Bytes of the chunks that the platform keeps its books in."""
        ...

    def copy(self, ranges: Sequence[Range]) -> None:
        """Write these ranges of the mirror to the disk."""
        ...

    def back_up(self) -> Any:
        """Make a restore point and return what is reported of it."""
        ...

    def bytes_read(self) -> int:
        """Return how many bytes of the disk were read so far, as the platform counts them."""
        ...


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform; `open` makes an empty disk of so many bytes on it, working below a folder."""

    name: str
    open: Callable[[Path, int], AbstractContextManager[Disk]]
    divisor: int  # the disk is the smaller by it than others
    unit: int  # a disk is a multiple of it


def mirror_of(disk: Disk) -> Path:
    """Return the mirror of a disk."""
    return disk.folder / "mirror.raw"


def vault_of(disk: Disk) -> Path:
    """Return the folder that is the vault of a disk."""
    return disk.folder / "vault"


def require_programs() -> None:
    """See whether the programs are there that the platforms need.

    Raises:
        BenchmarkError: one is not; the message says what installs it.
    """
    try:
        _find_qemu()
    except GuestError as error:
        raise BenchmarkError(str(error)) from error
    if shutil.which("qemu-img") is None:
        raise BenchmarkError('"qemu-img" is not installed: apt-get install qemu-utils')


@dataclass(frozen=True, slots=True)
class _Host:
    """SnapVault on this machine, with one source and a vault in the folder."""

    folder: Path
    environment: Mapping[str, str]

    def set_up(self, home: Path, source: Mapping[str, Any]) -> None:
        make_surroundings(self.folder)
        write_settings(self.folder, {"store": f"file://{self.folder / 'vault'}"}, home)
        write_policy(self.folder, SOURCE, source)
        self.run("init")

    def run(self, *words: str) -> Any:
        environment = {**surroundings(self.folder), **self.environment}
        usage = Runner(environment).run(program(self.folder, *words), cwd=self.folder)
        return json.loads(usage.output)


# --- EBS ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _EbsDisk:
    """A volume of the tests' fake of AWS, which keeps it in memory."""

    folder: Path
    host: _Host
    fake: EbsFake
    volume: Volume

    @property
    def grain(self) -> int:
        return BLOCK

    def copy(self, ranges: Sequence[Range]) -> None:
        with mirror_of(self).open("rb") as mirror:
            for begin, end in _pieces(ranges):
                self.volume.write(begin, os.pread(mirror.fileno(), end - begin, begin))

    def back_up(self) -> Any:
        return self.host.run("backup", SOURCE)[0]

    def bytes_read(self) -> int:
        return self.fake.calls["GetSnapshotBlock"] * BLOCK


@contextmanager
def _open_ebs(folder: Path, size: int) -> Iterator[Disk]:
    with EbsFake() as fake, keys.host_home() as home:
        fake.world.looks_until_completed = 0
        volume = fake.add_volume(size // GIB, region=REGION)
        host = _Host(folder, fake.environment())
        spec = {"volume": volume.id, "region": REGION, "endpoint_url": fake.endpoint_url}
        host.set_up(home, {"ebs": spec})
        yield _EbsDisk(folder, host, fake, volume)


# --- a running QEMU machine -----------------------------------------------------------------


@dataclass(slots=True)
class _QemuDisk:
    """A qcow2 image of a machine that runs."""

    folder: Path
    host: _Host
    machine: Machine
    grain: int

    def copy(self, ranges: Sequence[Range]) -> None:
        piece = self.machine.folder / "piece"
        device = "/machine/peripheral/vd0/virtio-backend"
        with mirror_of(self).open("rb") as mirror, Qmp(self.machine.folder / "own") as qmp:
            for begin, end in _pieces(ranges):
                piece.write_bytes(os.pread(mirror.fileno(), end - begin, begin))
                line = f'qemu-io -d {device} "write -s {piece} {begin} {end - begin}"'
                said = qmp.execute("human-monitor-command", {"command-line": line})
                if said:
                    raise BenchmarkError(f"QEMU could not write to the disk: {said}")
        self.machine.flush("vd0")

    def back_up(self) -> Any:
        return self.host.run("backup", SOURCE)[0]

    def bytes_read(self) -> int:
        # What the process read by any system call for it; the image's own tables too.
        assert self.machine.process is not None
        lines = Path(f"/proc/{self.machine.process.pid}/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["rchar"])


@contextmanager
def _open_qemu(folder: Path, size: int) -> Iterator[Disk]:
    image = make_image(folder / "disk.qcow2", size)
    with Machine({"vd0": image}) as machine, keys.host_home() as home:
        host = _Host(folder, {})
        host.set_up(home, {"qemu": {"qmp": str(machine.qmp)}})
        yield _QemuDisk(folder, host, machine, grain=64 << 10)


# --- thin LVM -------------------------------------------------------------------------------

# Run in the guest: write ranges of the mirror to the volume.
_COPY = """
import json, os, sys
mirror, device = (os.open(path, mode) for path, mode in zip(sys.argv[1:], (0, os.O_WRONLY)))
for begin, end in json.load(sys.stdin):
    data = os.pread(mirror, end - begin, begin)
    assert len(data) == end - begin == os.pwrite(device, data, begin)
os.fsync(device)
"""


@dataclass(slots=True)
class _LvmDisk:
    """A thin volume in the guest of the tests, which is the backup host too."""

    folder: Path
    guest: Guest
    grain: int

    def copy(self, ranges: Sequence[Range]) -> None:
        argv = [sys.executable, "-I", "-c", _COPY]
        argv += [f"{_inside(self.folder)}/mirror.raw", f"/dev/{_GROUP}/{SOURCE}"]
        pieces = json.dumps(list(_pieces(ranges))).encode()
        _in(self.guest, *argv, stdin=pieces)

    def back_up(self) -> Any:
        return _guest_snapvault(self.guest, "backup", SOURCE)[0]

    def bytes_read(self) -> int:
        # Sectors read from where the pool keeps its chunks; it counts none of its metadata.
        pool = ("--noheadings", "-o", "blkdevname", f"{_GROUP}-{_POOL}_tdata")
        device = _in(self.guest, "dmsetup", "info", "-c", *pool).decode().strip()
        return int(_in(self.guest, "cat", f"/sys/block/{device}/stat").split()[2]) * 512


@contextmanager
def _open_lvm(_: Path, size: int) -> Iterator[Disk]:
    grain = 64 << 10
    with ExitStack() as stack:
        # What a night changes is there twice, until the older snapshot goes.
        disk = size * 2 + 256 * _MIB
        guest = stack.enter_context(_translated(lambda: Guest(disks=[disk], memory_mib=2048)))
        shared = guest.share / "bench"
        shared.mkdir()
        _in(guest, "vgcreate", "-y", _GROUP, "/dev/vda")
        pool = ("-L", f"{disk - 128 * _MIB}b", "--type", "thin-pool", "--chunksize", f"{grain}b")
        _in(guest, "lvcreate", "-y", "-n", _POOL, *pool, "--poolmetadatasize", "16M", _GROUP)
        thin = ("-V", f"{size}b", "--thin", "-n", SOURCE, f"{_GROUP}/{_POOL}")
        _in(guest, "lvcreate", "-y", *thin)
        _set_up_guest(guest, shared)
        yield _LvmDisk(shared, guest, grain)


@contextmanager
def _translated(start: Callable[[], Guest]) -> Iterator[Guest]:
    try:
        with start() as guest:
            yield guest
    except GuestError as error:
        raise BenchmarkError(str(error)) from error


def _set_up_guest(guest: Guest, shared: Path) -> None:
    """Give the guest keys, settings and a policy; the vault is on the share."""
    host = shared / "host"
    host.mkdir()
    write_settings(host, {"store": f"file://{_inside(shared)}/vault"}, Path(_GUEST_HOME, "gnupg"))
    write_policy(host, SOURCE, {"lvm": {"volume": f"{_GROUP}/{SOURCE}"}})
    with keys.host_home() as home:
        keys.end_agent(home)
        shutil.copytree(home, host / "gnupg", ignore=shutil.ignore_patterns("S.*"))
    # QUIRK: SQLite's journal needs shared memory, which the share's file system (9p) lacks.
    _in(guest, "cp", "-r", f"{_inside(shared)}/host", _GUEST_HOME)
    _in(guest, "chmod", "700", f"{_GUEST_HOME}/gnupg")
    _guest_snapvault(guest, "init")


def _guest_snapvault(guest: Guest, *words: str) -> Any:
    return json.loads(_in(guest, *program(Path(_GUEST_HOME), *words), cwd=str(ROOT)))


def _in(guest: Guest, *argv: str, stdin: bytes = b"", cwd: str | None = None) -> bytes:
    return guest.must(argv, stdin=stdin, cwd=cwd, timeout=_GUEST_SECONDS)


def _inside(shared: Path) -> str:
    """Return what a folder of the share is called in the guest."""
    return f"/guest/{shared.name}"


def _pieces(ranges: Sequence[Range]) -> Iterator[Range]:
    for begin, end in ranges:
        for at in range(begin, end, _PIECE):
            yield at, min(end, at + _PIECE)


PLATFORMS = (
    Platform("thin LVM", _open_lvm, divisor=8, unit=4 * _MIB),
    Platform("EBS", _open_ebs, divisor=1, unit=GIB),
    Platform("QEMU, dirty bitmap", _open_qemu, divisor=1, unit=_MIB),
)
