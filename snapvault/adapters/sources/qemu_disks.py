# SPDX-License-Identifier: Apache-2.0
"""The disks of a running machine, and the bitmaps of ours that they carry."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from snapvault.adapters.qmp import Qmp
from snapvault.errors import SourceError
from snapvault.model.policy import is_name

DEFINITION: Final = "definition"  # the stream that says what the machine is made of


@dataclass(frozen=True, slots=True)
class MachineDisk:
    """A disk as the machine has it. `names` are all that a policy may call it by.

    `own_name` is the stream's, fit for one and unique in the machine. `keeps_bitmaps` says that
    bitmaps outlive the QEMU process.
    """

    own_name: str
    node: str
    size: int
    names: tuple[str, ...]
    file: str
    format: str
    keeps_bitmaps: bool

    @property
    def identity(self) -> str:
        """A short text that differs when another image is behind the same name."""
        return hashlib.sha256(self.file.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A dirty bitmap of a node."""

    node: str
    name: str
    recording: bool
    inconsistent: bool
    busy: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """What a restore point keeps of a disk: its bitmap, its size then, and whose bitmap it is."""

    bitmap: str
    size: int
    identity: str

    def __str__(self) -> str:
        return f"{self.bitmap} {self.size} {self.identity}"

    @classmethod
    def parse(cls, text: str) -> "Mark | None":
        """Read a mark back; None for anything that is none."""
        match = re.fullmatch(r"(\S+) ([0-9]{1,19}) ([0-9a-f]{12})", text)
        return cls(match[1], int(match[2]), match[3]) if match else None


def tag_of(owner: str) -> str:
    """Return the beginning of every name that we give to anything in QEMU for this owner.

    LIMIT: a node's name has at most 31 characters (QEMU); this leaves 12.
    """
    return f"snapvault-{hashlib.sha256(owner.encode()).hexdigest()[:8]}-"


def choose(qmp: Qmp, wanted: Sequence[str]) -> list[MachineDisk]:
    """Return the disks that a policy wants, in its order; all writable ones if it names none.

    Raises:
        SourceError: the machine has no such disk, or none at all.
    """
    disks = _all_disks(qmp)
    if not wanted:
        writable = [disk for disk, is_read_only in disks if not is_read_only]
        if not writable:
            raise SourceError("the machine has no disk that can be written to")
        return writable
    chosen: list[MachineDisk] = []
    for name in wanted:
        found = [disk for disk, _ in disks if name in disk.names]
        if not found:
            known = sorted({known for disk, _ in disks for known in disk.names})
            near = get_close_matches(name, known, 1, 0.0) if known else []
            raise SourceError(
                f'the machine has no disk "{name}"',
                hint=f'Did you mean "{near[0]}"? It has: {", ".join(known)}.' if near else None,
            )
        if found[0] not in chosen:
            chosen.append(found[0])
    return chosen


def bitmaps(qmp: Qmp, tag: str) -> list[Bitmap]:
    """Return all bitmaps of ours, on whatever node."""
    return [
        Bitmap(
            str(node.get("node-name", "")),
            str(bitmap["name"]),
            bool(bitmap.get("recording")),
            bool(bitmap.get("inconsistent")),
            bool(bitmap.get("busy")),
        )
        for node in qmp.execute("query-named-block-nodes", {"flat": True})
        for bitmap in node.get("dirty-bitmaps", ())
        if str(bitmap.get("name", "")).startswith(tag)
    ]


def _all_disks(qmp: Qmp) -> list[tuple[MachineDisk, bool]]:
    """Return every disk, and whether it is read-only."""
    found: list[tuple[MachineDisk, bool]] = []
    taken = {DEFINITION}
    for block in qmp.execute("query-block"):
        inserted = block.get("inserted")
        if not isinstance(inserted, dict) or not inserted.get("node-name"):
            continue
        names = _names(block, inserted)
        own_name = _own_name(names, taken)
        taken.add(own_name)
        image = inserted.get("image", {})
        specific = image.get("format-specific", {})
        data = specific.get("data", {}) if isinstance(specific, dict) else {}
        disk = MachineDisk(
            own_name,
            str(inserted["node-name"]),
            int(image["virtual-size"]),
            names,
            str(inserted.get("file", "")),
            str(inserted.get("drv", "")),
            # QEMU keeps bitmaps in version 3 of the format only.
            inserted.get("drv") == "qcow2" and data.get("compat") == "1.1",
        )
        found.append((disk, bool(inserted.get("ro"))))
    return found


def _names(block: Mapping[str, Any], inserted: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the disk is called, best first: its device's id, its drive's, its node's."""
    device = str(block.get("qdev", ""))
    match = re.fullmatch(r"/machine/peripheral/([^/]+)(?:/.*)?", device)
    if match:
        device = match[1]
    elif device.startswith("/"):  # a path that depends on the order of devices
        device = ""
    node = str(inserted["node-name"])
    candidates = [device, str(block.get("device", "")), "" if node.startswith("#") else node]
    return tuple(dict.fromkeys(name for name in candidates if name))


def _own_name(names: Sequence[str], taken: set[str]) -> str:
    base = re.sub(r"[^a-z0-9._-]+", "-", names[0].lower()).lstrip("._-")[:40] if names else "disk"
    base = base if is_name(base) else "disk"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name
