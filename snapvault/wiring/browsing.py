# SPDX-License-Identifier: Apache-2.0
"""What lies in the file systems of disks, and folders that show it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from snapvault.errors import ConfigError, RestoreError, SnapVaultError
from snapvault.ports.browsing import Entry, FileSystem, Readable, Volume

if TYPE_CHECKING:
    from snapvault.adapters.fuse import Mount


def volumes_of(
    disks: Mapping[str, Readable], *, unreadable: Callable[[RestoreError], None]
) -> Sequence[Volume]:
    """Return what lies on the disks of a machine; as the adapter's.

    Raises:
        ConfigError: a Python package that is needed for it is not installed.
    """
    try:
        from snapvault.adapters.filesystems.volumes import find_volumes
    except ImportError as error:
        from snapvault.adapters.fuse import PACKAGES

        raise ConfigError(
            f"looking into file systems needs a Python package that is not installed: {error.name}",
            hint=PACKAGES,
        ) from error
    return find_volumes(disks, unreadable=unreadable)


def archive(
    files: FileSystem,
    path: str,
    entry: Entry,
    name: str,
    *,
    write: Callable[[memoryview], object],
    left_out: Callable[[str], None],
) -> tuple[int, int]:
    """Write a file or a folder as a tar archive, under a name; return its files and their bytes."""
    from snapvault.adapters.filesystems.archiving import Archive

    made = Archive(files, write, left_out=left_out)
    made.add(path, entry, name)
    made.finish()
    return made.written, made.bytes


def mount(
    volumes: Sequence[Volume],
    folder: Path,
    *,
    taken: float,
    failed: Callable[[SnapVaultError], None],
) -> "Mount":
    """Show volumes and their files at a folder; as the adapter's."""
    from snapvault.adapters.fuse import Mount, Shown

    disks = {volume.name: volume.data for volume in volumes}
    trees = {volume.name: volume.files for volume in volumes if volume.files is not None}
    return Mount(Shown(disks, trees, taken=taken, failed=failed), folder)
