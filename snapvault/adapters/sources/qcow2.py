# SPDX-License-Identifier: Apache-2.0
"""qcow2 images at rest, read as the disks they hold.

QEMU's own code reads them, behind `qemu-nbd`: backing files, compressed clusters and all.
It keeps its lock on an image while that is read, so no machine starts to write into it meanwhile.
"""

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from snapvault import clock
from snapvault.adapters import command
from snapvault.adapters.sources import nbd
from snapvault.errors import ConfigError, SourceError
from snapvault.ports.source import NO_MARKS, Changes, Consistency, Finding, Outcome
from snapvault.units import format_size

_START_TIMEOUT: Final = 60.0  # seconds for qemu-nbd to listen
_INFO_TIMEOUT: Final = 60.0
_CONNECTIONS: Final = "64"  # at once, to one image


class Qcow2Source:
    """Disks by stream name, each a qcow2 image that no machine uses."""

    def __init__(self, name: str, disks: Mapping[str, Path]) -> None:
        if not disks:
            raise ConfigError(f'source "{name}" has no disks')
        self._name = name
        self._disks = dict(disks)

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self._name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> "_View":
        """Open every image, or none; nothing tells what changed, so marks mean nothing."""
        with ExitStack() as stack:
            taken_at = clock.now()
            disks = tuple(_open(stream, path, stack) for stream, path in self._disks.items())
            return _View(disks, taken_at, stack.pop_all())

    def check(self) -> Iterator[Finding]:
        """See that the programs are there, and what each image is."""
        for stream, path in self._disks.items():
            try:
                command.require(["qemu-nbd"])
                _Image.look_at(path)
            except SourceError as error:
                yield Finding(stream, str(error), error)
            else:
                size = format_size(_virtual_size(path))
                yield Finding(stream, f'image "{path}", {size}, can be read')


@dataclass(frozen=True, slots=True)
class _Image:
    """An image and its backing files, and what shows that somebody wrote to one of them."""

    path: Path
    states: tuple[tuple[str, int, int, int], ...]

    @classmethod
    def look_at(cls, path: Path) -> "_Image":
        """Look at an image and at all that is below it.

        Raises:
            SourceError: there is none, it is in use, damaged, encrypted or no qcow2 image.
        """
        chain = _chain(path)
        for layer in chain:
            _require_sound(path, layer)
        files = [str(path), *(str(layer.get("filename", "")) for layer in chain[1:])]
        return cls(path, tuple(_state(file) for file in files))

    def is_unchanged(self) -> bool:
        """Tell whether all files are as they were."""
        return self.states == tuple(_state(file) for file, *_ in self.states)


class _Disk:
    """One image, while its qemu-nbd runs."""

    def __init__(self, name: str, image: _Image, disk: nbd.Disk) -> None:
        self._name = name
        self._image = image
        self._disk = disk

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        return self._disk.size

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield what is allocated, in the image or below it, and not as zeros."""
        return self._disk.ranges(nbd.ALLOCATION, nbd.IS_ZERO, is_set=False)

    def changes(self) -> Changes | None:
        return None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._disk.read_into(offset, buffer)

    @property
    def facts(self) -> dict[str, str]:
        """Where it is: the definition of its machine knows it by that."""
        return {"file": str(self._image.path)}

    def is_unchanged(self) -> bool:
        return self._image.is_unchanged()


class _View:
    """Open images."""

    def __init__(self, disks: tuple[_Disk, ...], taken_at: datetime, stack: ExitStack) -> None:
        self._disks = disks
        self._taken_at = taken_at
        self._stack = stack

    @property
    def taken_at(self) -> datetime:
        return self._taken_at

    @property
    def streams(self) -> tuple[_Disk, ...]:
        return self._disks

    def finish(self) -> Outcome:
        still = all(disk.is_unchanged() for disk in self._disks)
        consistency = Consistency.CRASH if still else Consistency.NONE
        return Outcome(consistency, facts={disk.name: disk.facts for disk in self._disks})

    def committed(self, point: str) -> None:
        pass

    def close(self) -> None:
        self._stack.close()


def _open(stream: str, path: Path, stack: ExitStack) -> _Disk:
    """Serve one image and connect to it; `stack` takes both down."""
    image = _Image.look_at(path)
    label = f'image "{path}"'
    address = stack.enter_context(nbd.socket_folder()) / "nbd"
    argv = [
        "qemu-nbd",
        "--read-only",
        "--persistent",
        f"--shared={_CONNECTIONS}",
        "--format=qcow2",
        f"--socket={address}",
        str(path),
    ]
    program = stack.enter_context(command.stream(argv, parsed=True))
    deadline = clock.monotonic() + _START_TIMEOUT
    while not _listens(address):
        # It writes only when it gives up; what it said then is worth a moment to be complete.
        if program.stderr or clock.monotonic() > deadline:
            clock.sleep(0.2)
            raise _refused(path, program.stderr.decode(errors="replace"))
        clock.sleep(0.01)
    disk = nbd.Disk(address, "", label)
    stack.callback(disk.close)
    return _Disk(stream, image, disk)


def _listens(address: Path) -> bool:
    """Tell whether a server takes connections; its socket's file is there a moment earlier."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(address))
        except OSError:
            return False
        return True


def _chain(path: Path) -> Sequence[Mapping[str, object]]:
    """Return what qemu-img tells of an image and of its backing files, topmost first."""
    if not path.is_file() and not path.is_block_device():
        raise SourceError(
            f'could not open image "{path}": it is not there, or no file',
            hint="Correct the path, or mount or activate what it is on.",
        )
    finished = command.run(
        ["qemu-img", "info", "--backing-chain", "--output=json", "--format=qcow2", str(path)],
        timeout=_INFO_TIMEOUT,
        check=False,
    )
    if finished.status:
        raise _refused(path, finished.stderr.decode(errors="replace"))
    try:
        chain = json.loads(finished.stdout)
    except ValueError as error:
        raise SourceError(f'could not understand qemu-img on image "{path}"') from error
    if not isinstance(chain, list) or not chain or not all(isinstance(x, dict) for x in chain):
        raise SourceError(f'could not understand qemu-img on image "{path}"')
    return chain


def _virtual_size(path: Path) -> int:
    size = _chain(path)[0].get("virtual-size")
    return size if isinstance(size, int) else 0


def _require_sound(path: Path, layer: Mapping[str, object]) -> None:
    """Refuse what would not give its disk back."""
    if layer.get("encrypted"):
        raise SourceError(
            f'image "{path}" is encrypted, or a backing file of it is',
            hint="Back up the running machine with qemu, or decrypt a copy with qemu-img convert.",
        )
    specific = layer.get("format-specific")
    data = specific.get("data") if isinstance(specific, dict) else None
    if isinstance(data, dict) and data.get("corrupt"):
        raise SourceError(
            f'image "{path}" is marked as corrupt, or a backing file of it is',
            hint="Look at it with qemu-img check.",
        )


def _state(file: str) -> tuple[str, int, int, int]:
    try:
        found = Path(file).stat()
    except OSError:  # not a file, a disk of another server perhaps: nothing to hold against it
        return (file, -1, -1, -1)
    return (file, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _refused(path: Path, stderr: str) -> SourceError:
    """Return the error for what QEMU's programs said of an image."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = lines[0] if lines else "it did not answer"
    for prefix in ("qemu-img: ", "qemu-nbd: ", "Could not open ", "Failed to blk_new_open "):
        said = said.removeprefix(prefix)
    said = said.removeprefix(f"'{path}'").removeprefix(": ")
    if "lock" in said:
        return SourceError(
            f'image "{path}" is in use',
            hint="Back up the running machine that uses it with qemu, or stop it first.",
        )
    hint = "Name a qcow2 image, or leave format out for a raw one." if "not in" in said else None
    return SourceError(f'could not open image "{path}": {said[:1].lower()}{said[1:]}', hint=hint)
