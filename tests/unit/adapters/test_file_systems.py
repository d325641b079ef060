# SPDX-License-Identifier: Apache-2.0
"""File systems and volume groups that somebody made to do harm."""

from collections.abc import Sequence

import pytest

from snapvault.adapters.filesystems import volumes
from snapvault.adapters.filesystems.archiving import Archive
from snapvault.errors import RestoreError
from snapvault.ports.browsing import Entry, EntryKind

FOLDER = Entry("d", EntryKind.FOLDER, 2, 0, 0o755, 0, 0, 0.0)


class HoldsItself:
    """A file system whose only folder lies in itself."""

    kind = "ext4"

    def find(self, path: str) -> Entry | None:
        return FOLDER

    def list(self, path: str) -> Sequence[Entry]:
        return [FOLDER]

    def read(self, entry: Entry, offset: int, length: int) -> bytes:
        return b""


class Library:
    """What the library tells of a group with one volume."""

    def __init__(self, group: str, volume: str) -> None:
        self._names = [volume, group]

    def get_volume_group(self) -> "Library":
        return self

    def get_number_of_logical_volumes(self) -> int:
        return 1

    def get_logical_volume(self, index: int) -> "Library":
        return Library(self._names[0], self._names[0])

    def get_name(self) -> str:
        return self._names[1]

    def get_size(self) -> int:
        return 4096


def test_folders_in_each_other_without_end_are_an_error() -> None:
    archive = Archive(HoldsItself(), lambda data: None, left_out=lambda path: None)

    with pytest.raises(RestoreError, match="folders lie in each other without end"):
        archive.add("", FOLDER, "out")


@pytest.mark.parametrize(
    ("group", "volume", "name"),
    [
        ("vg0", "data-x_1.2+", "lvm:vg0-data-x_1.2+"),
        ("../../etc", "x", "lvm:.._.._etc-x"),
        ("a\x1b[2J", "b\0\n", "lvm:a__2J-b__"),
    ],
)
def test_a_volumes_name_is_a_name_alone(group: str, volume: str, name: str) -> None:
    (found,) = volumes._of_group(Library(group, volume))

    assert found.name == name
