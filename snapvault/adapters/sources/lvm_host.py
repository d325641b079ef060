# SPDX-License-Identifier: Apache-2.0
"""What this host itself runs from, and what lies on what, as /proc and /sys tell.

A device that is suspended stops everybody who reads or writes through it. Were it one that this
process or the programs that resume it need, nobody would be left to resume it.
"""

import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

Device = tuple[int, int]  # major and minor number

_SYSTEM = (
    *("/", "/bin", "/boot", "/boot/efi", "/dev", "/dev/mapper", "/etc", "/etc/lvm", "/lib"),
    *("/root", "/run", "/run/lock", "/run/lvm", "/sbin", "/usr", "/usr/local", "/var"),
    *("/var/lib", "/var/lock", "/var/log", "/tmp", "/var/tmp"),  # noqa: S108 - only looked at
    *("/bin/sh", "/usr/sbin/dmsetup", "/sbin/dmsetup", "/usr/sbin/lvm", "/sbin/lvm"),
)
_LAYERS = re.compile(r"(?:lowerdir|upperdir|workdir)=([^,]+)")  # of overlayfs
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo: proc_pid_mountinfo(5)."""

    device: Device
    point: str
    file_system: str
    source: str
    options: str


class Host:
    """Looks at a host once; `proc` and `sys` are where its kernel tells of itself."""

    def __init__(self, proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> None:
        self._proc = proc
        self._sys = sysfs
        # Of the first process too: a service may have mounts of its own.
        self._mounts = [*self._read_mounts("self"), *self._read_mounts("1")]

    def is_mounted(self, device: Device) -> bool:
        """Tell whether a device carries a mounted file system, by itself."""
        return any(mount.device == device for mount in self._mounts)

    def needed(self, paths: Iterable[Path] = ()) -> set[Device]:
        """Return the devices that the host, this process and `paths` need, all the way down."""
        found: set[Device] = set()
        for path in (*map(Path, _SYSTEM), *self._own_paths(), *paths):
            found |= self._devices_of(path)
        for mount in self._mounts:
            if mount.point in _SYSTEM:
                found |= self._devices_of_mount(mount)
        for line in self._lines("swaps")[1:]:
            found |= self._devices_of(Path(_unescaped(line.split()[0])))
        return self.below(found)

    def below(self, devices: Iterable[Device]) -> set[Device]:
        """Return the devices, and those that they lie on, all the way down."""
        found: set[Device] = set()
        waiting = list(devices)
        while waiting:
            device = waiting.pop()
            if device not in found:
                found.add(device)
                waiting += self._directly_below(device)
        return found

    def _own_paths(self) -> Iterator[Path]:
        """Yield what this process has open, runs from or may look into next."""
        yield from (Path(__file__), Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix))
        for place in (Path.cwd, Path.home, lambda: Path(tempfile.gettempdir())):
            with suppress(OSError, RuntimeError):  # there may be none
                yield place()
        yield from (Path(entry) for entry in sys.path if entry)
        for folder in ("fd", "map_files"):
            with suppress(OSError):
                entries = list((self._proc / "self" / folder).iterdir())
                # A disk that is open is one that somebody reads, and not what anybody runs from.
                yield from (entry for entry in entries if not entry.is_block_device())

    def _devices_of(self, path: Path) -> set[Device]:
        """Return the devices of a path, or of the nearest folder above it that is there."""
        for candidate in (path, *path.parents):
            try:
                found = candidate.stat()
            except OSError:
                continue
            if stat.S_ISBLK(found.st_mode):
                return {_device(found.st_rdev)}
            device = _device(found.st_dev)
            devices = {device}
            for mount in self._mounts:
                if mount.device == device:
                    devices |= self._devices_of_mount(mount)
            return devices
        return set()

    def _devices_of_mount(self, mount: Mount) -> set[Device]:
        """Return a mount's devices; a file system without one of its own tells by its source."""
        found = {mount.device}
        if mount.device[0] != 0:
            return found
        with suppress(OSError, ValueError):
            source = Path(mount.source).stat()
            if mount.source.startswith("/") and stat.S_ISBLK(source.st_mode):
                found.add(_device(source.st_rdev))
        if mount.file_system == "btrfs":
            found |= self._members_of_btrfs(found)
        if mount.file_system == "overlay":
            for layers in _LAYERS.findall(mount.options):
                for layer in layers.split(":"):
                    with suppress(OSError):
                        below = _device(Path(layer).stat().st_dev)
                        if below != mount.device:
                            found |= self._devices_of(Path(layer))
        return found

    def _members_of_btrfs(self, some: set[Device]) -> set[Device]:
        for folder in self._sys.glob("fs/btrfs/*/devices"):
            members = {
                device
                for path in folder.iterdir()
                if (device := _parsed(_first_line(path / "dev"))) is not None
            }
            if members & some:
                return members
        return set()

    def _directly_below(self, device: Device) -> set[Device]:
        entry = self._sys / "dev" / "block" / f"{device[0]}:{device[1]}"
        paths = [*entry.glob("slaves/*/dev")]
        if (entry / "partition").exists():
            paths.append(entry.resolve().parent / "dev")
        found = {below for path in paths if (below := _parsed(_first_line(path))) is not None}
        backing = _first_line(entry / "loop" / "backing_file")
        if backing:
            found |= self._devices_of(Path(backing))
        return found

    def _read_mounts(self, process: str) -> list[Mount]:
        return [
            mount
            for line in self._lines(f"{process}/mountinfo")
            if (mount := _parsed_mount(line)) is not None
        ]

    def _lines(self, name: str) -> list[str]:
        try:
            return (self._proc / name).read_text(errors="surrogateescape").splitlines()
        except OSError:
            return []


def _parsed_mount(line: str) -> Mount | None:
    before, _, after = line.partition(" - ")
    left, right = before.split(" "), after.split(" ")
    if len(left) < 6 or len(right) < 3:
        return None
    device = _parsed(left[2])
    if device is None:
        return None
    return Mount(device, _unescaped(left[4]), right[0], _unescaped(right[1]), _unescaped(right[2]))


def _parsed(text: str) -> Device | None:
    major, _, minor = text.partition(":")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _first_line(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape").rstrip("\n")
    except OSError:
        return ""


def _device(number: int) -> Device:
    return os.major(number), os.minor(number)
