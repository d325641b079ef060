# SPDX-License-Identifier: Apache-2.0
"""The disks of a machine, as QEMU takes them: overlays over what is never written to."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from snapvault.adapters import command
from snapvault.adapters.machines.firmware import HEAD_SIZE, Layout, layout_of
from snapvault.errors import MachineError, SourceError
from snapvault.ports.machine import Bus, MachineDisk, OnError

IMAGE_TOOL: Final = "qemu-img"

_LIMIT = 120.0  # seconds for one call of it
_SATA_PORTS = 6  # LIMIT: of one controller of a q35 machine (QEMU)


def look_at(disk: MachineDisk, folder: Path) -> Layout:
    """Read the beginning of a disk, and tell what starts it; `folder` takes a copy of it.

    Raises:
        MachineError: it cannot be read.
    """
    copy = folder / "head"
    overlay = disk.overlay if disk.overlay is not None and disk.overlay.exists() else None
    location, kind = (
        (disk.location, disk.format)
        if overlay is None or backing_of(overlay)
        else (str(overlay), "qcow2")
    )
    count = HEAD_SIZE // 512
    words = ["dd", "-U", "-f", kind, "-O", "raw", "bs=512", f"count={count}", f"if={location}"]
    try:
        _image_tool([*words, f"of={copy}"], f'could not read disk "{disk.name}"')
        return layout_of(copy.read_bytes())
    finally:
        copy.unlink(missing_ok=True)


def make_overlay(disk: MachineDisk, path: Path) -> None:
    """Make an overlay over a disk.

    Raises:
        MachineError: it cannot be made.
    """
    words = ["create", "-q", "-f", "qcow2", "-F", disk.format, "-b", disk.location, str(path)]
    _image_tool(words, f'could not make an overlay of disk "{disk.name}"')
    path.chmod(0o600)


def backing_of(overlay: Path) -> str | None:
    """Return the address of what an overlay lies over; None: it has everything.

    Raises:
        MachineError: it is no qcow2 image.
    """
    words = ["info", "-U", "-f", "qcow2", "--output=json", str(overlay)]
    try:
        told = json.loads(_image_tool(words, f'could not use overlay "{overlay}"'))
    except MachineError as error:
        error.hint = error.hint or "Remove its folder, or name another one."
        raise
    backing = told.get("backing-filename")
    return str(backing) if backing else None


def block_nodes(
    disks: Sequence[tuple[MachineDisk, Path]], *, lasting: Sequence[bool]
) -> list[dict[str, Any]]:
    """Return what to give to -blockdev: of each disk the overlay, named disk0, disk1 and so on.

    `lasting` overlays are written as the guest asks for; others may be lost in a power cut.
    """
    nodes: list[dict[str, Any]] = []
    for number, ((disk, overlay), lasts) in enumerate(zip(disks, lasting, strict=True)):
        node: dict[str, Any] = {
            "driver": "qcow2",
            "node-name": f"disk{number}",
            "discard": "unmap",
            "file": {"driver": "file", "filename": str(overlay)},
            "cache": {"direct": False, "no-flush": not lasts},
        }
        if backing_of(overlay) is not None:
            # Where the disk is now, which need not be where it was when the overlay was made.
            base = {
                "driver": disk.format,
                "node-name": f"base{number}",
                "read-only": True,
                "file": protocol_of(disk.location),
            }
            nodes.append(base)
            node["backing"] = f"base{number}"
        nodes.append(node)
    return nodes


def protocol_of(location: str) -> Mapping[str, object]:
    """Return how QEMU gets at an absolute path, or an address of NBD."""
    if location.startswith("/"):
        return {"driver": "file", "filename": location}
    url = urlsplit(location)
    export = unquote(url.path.removeprefix("/"))
    if url.scheme == "nbd+unix":
        path = parse_qs(url.query)["socket"][0]
        return {"driver": "nbd", "server": {"type": "unix", "path": path}, "export": export}
    if url.scheme == "nbd":
        server = {"type": "inet", "host": url.hostname or "", "port": str(url.port or 10809)}
        return {"driver": "nbd", "server": server, "export": export}
    raise ValueError(f'not the location of a disk: "{location}"')


def device_words(
    count: int, bus: Bus, on_error: OnError, *, first: int, sector: int = 512
) -> list[str]:
    """Return QEMU's options for disks on a bus; number `first` is the one that is started."""
    words: list[str] = []
    action = "stop" if on_error is OnError.WAIT else "report"
    for number in range(count):
        device: dict[str, object] = {
            "id": f"disk{number}-device",
            "drive": f"disk{number}",
            "rerror": action,
            "werror": action,
            "logical_block_size": sector,
            "physical_block_size": sector,
        }
        if number == first:
            device["bootindex"] = 0
        if bus is Bus.SATA:
            controller, port = divmod(number, _SATA_PORTS)
            if controller and not port:
                words += ["-device", f"ahci,id=sata{controller}"]
            where = f"sata{controller}" if controller else "ide"
            device |= {"driver": "ide-hd", "bus": f"{where}.{port}"}
        else:
            device["driver"] = "virtio-blk-pci"
        words += ["-device", json.dumps(device)]
    return words


def _image_tool(words: Sequence[str], failure: str) -> bytes:
    try:
        return command.run([IMAGE_TOOL, *words], timeout=_LIMIT).stdout
    except SourceError as error:
        raise MachineError(f"{failure}: {error}", hint=error.hint) from error
