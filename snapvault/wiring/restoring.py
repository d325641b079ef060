# SPDX-License-Identifier: Apache-2.0
"""What streams are restored to: files, block devices, folders, LVM and EBS."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from snapvault.ports.events import Events
from snapvault.ports.target import Target

if TYPE_CHECKING:
    from snapvault.adapters.targets.domain import RestoredDisk, Rewritten
    from snapvault.adapters.targets.ebs import EbsRestore
    from snapvault.adapters.targets.ebs_service import EbsPlace
    from snapvault.adapters.targets.lvm import LvmRestore
    from snapvault.adapters.targets.lvm_address import LvmPlace
    from snapvault.adapters.targets.tree import TreeTarget


def target_kind(path: Path) -> str:
    """Tell what a path stands for: `file`, `block device`, `folder`, `stream` or `missing`.

    Raises:
        RestoreError: that cannot be found out.
    """
    from snapvault.adapters.targets.opening import kind_of

    return kind_of(path).value


def target_of(
    path: Path, size: int, data_bytes: int, *, force: bool, image_format: str = "raw"
) -> Target:
    """Open the file or block device that a stream is restored to; as `open_target`."""
    from snapvault.adapters.targets.opening import open_target

    return open_target(path, size, data_bytes, force=force, image_format=image_format)


def require_free(path: Path, *, force: bool) -> None:
    """Refuse a file that a restore would replace; as the adapter's."""
    from snapvault.adapters.targets import file

    file.require_free(path, force=force)


def write_domain(
    text: bytes, disks: "Sequence[RestoredDisk]", path: Path, *, force: bool
) -> "Rewritten | None":
    """Write a libvirt domain's XML with disks that were restored; None if it is no XML.

    Raises:
        RestoreError: it is none that libvirt writes, or cannot be written to `path`.
    """
    from snapvault.adapters.targets import domain
    from snapvault.adapters.targets.file import FileTarget

    if not domain.is_domain(text):
        return None
    rewritten = domain.rewrite(text, disks)
    target = FileTarget.create(path, len(rewritten.text), force=force)
    try:
        target.write(0, memoryview(rewritten.text))
        target.commit()
    finally:
        target.abort()
    return rewritten


def tree_target(folder: Path, paths: Sequence[str], *, force: bool, events: Events) -> "TreeTarget":
    """Return what unpacks paths of an archive into a folder; as the adapter's."""
    from snapvault.adapters.targets.tree import TreeTarget

    return TreeTarget(folder, paths, force=force, events=events)


def require_room(folder: Path, needed: int, *, what: str) -> None:
    """Make sure that a folder has room; as the adapter's."""
    from snapvault.adapters.targets import opening

    opening.require_room(folder, needed, what=what)


def ebs_place(address: str) -> "EbsPlace":
    """Read where in AWS disks are restored to: `ebs:REGION?key=value`; as the adapter's.

    Raises:
        ConfigError: it makes no sense.
    """
    from snapvault.adapters.targets.ebs_address import parse

    return parse(address)


def ebs_restore(place: "EbsPlace") -> "EbsRestore":
    """Return what makes EBS snapshots there; closed by the caller."""
    from snapvault.adapters.targets.ebs import EbsRestore

    return EbsRestore(place)


def lvm_place(address: str) -> "LvmPlace":
    """Read where new logical volumes are made: `lvm:GROUP[/NAME][?key=value]`; as the adapter's.

    Raises:
        ConfigError: it makes no sense.
    """
    from snapvault.adapters.targets.lvm_address import parse

    return parse(address)


def lvm_restore(place: "LvmPlace") -> "LvmRestore":
    """Return what makes logical volumes there; as the adapter's."""
    from snapvault.adapters.targets.lvm import LvmRestore

    return LvmRestore.open(place)
