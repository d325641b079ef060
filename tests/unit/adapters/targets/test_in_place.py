# SPDX-License-Identifier: Apache-2.0
"""Files that are overwritten where they lie."""

import fcntl
import os
import struct
from pathlib import Path

import pytest

from snapvault.adapters.targets.in_place import InPlaceTarget, open_in_place
from snapvault.errors import RestoreError

KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"\x55" * MIB)
    return path


def opened(path: Path, size: int = MIB, *, force: bool = False) -> InPlaceTarget:
    words = {"target": str(path)}
    return open_in_place(path, size, words, devices=path.parent / "devices", force=force)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_nothing_changes_before_it_begins(disk: Path) -> None:
    target = opened(disk, 100)

    with pytest.raises(ValueError, match="not marked"):
        target.write(0, memoryview(b"x"))
    with pytest.raises(ValueError, match="not marked"):
        target.zero(0, 10)
    with pytest.raises(ValueError, match="not marked"):
        target.reserve(0, 10)

    target.abort()
    assert disk.read_bytes() == b"\x55" * MIB
    assert names(disk.parent) == ["disk.img"]


def test_it_is_marked_from_the_beginning_to_the_commit(disk: Path) -> None:
    target = opened(disk)
    target.begin(0)
    target.write(4096, memoryview(b"new" * 100))

    marked = names(disk.parent)
    target.commit()

    assert marked == [".disk.img.snapvault-restoring", "disk.img"]
    assert names(disk.parent) == ["disk.img"]
    assert disk.read_bytes()[4096:4396] == b"new" * 100


def test_it_stays_marked_when_given_up_and_the_next_one_finds_it(disk: Path) -> None:
    first = opened(disk)
    first.begin(0)
    first.abort()
    first.abort()

    second = opened(disk)

    assert first.found_mark is None
    assert second.found_mark == {"target": str(disk)}
    second.commit()
    assert names(disk.parent) == ["disk.img"]


@pytest.mark.parametrize("size", [0, 1, 500_000, MIB, MIB + 1, 3 * MIB])
def test_a_file_gets_the_size_of_its_stream_and_is_zeros_beyond_its_end(
    disk: Path, size: int
) -> None:
    target = opened(disk, size)
    expected = (b"\x55" * MIB)[:size].ljust(size, b"\0")
    seen = memoryview(bytearray(b"\xaa" * size))

    target.read_into(0, seen)
    target.begin(0)
    target.commit()

    assert seen == expected
    assert disk.read_bytes() == expected


def test_owner_mode_and_hard_links_stay(disk: Path) -> None:
    disk.chmod(0o644)
    (disk.parent / "other").hardlink_to(disk)
    target = opened(disk)

    target.begin(0)
    target.write(0, memoryview(b"new"))
    target.commit()

    assert disk.stat().st_mode & 0o777 == 0o644
    assert (disk.parent / "other").read_bytes()[:3] == b"new"


def test_holes_are_told_and_zeroed_ranges_become_holes(disk: Path) -> None:
    target = opened(disk, 4 * MIB)
    before = list(target.data_ranges())

    target.begin(0)
    target.zero(256 * KIB, 512 * KIB)
    target.zero(5, 5)
    target.commit()

    assert before == [(0, MIB)]
    content = disk.read_bytes()
    assert content[256 * KIB : 768 * KIB] == bytes(512 * KIB)
    assert content[:12] == b"\x55" * 5 + bytes(5) + b"\x55" * 2
    assert disk.stat().st_blocks * 512 <= 600 * KIB


def test_a_file_that_is_locked_is_in_use(disk: Path) -> None:
    # As QEMU does with each image of a machine that runs.
    shared = struct.pack("@hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, 100, 1, 0)
    with disk.open("rb") as machine:
        fcntl.fcntl(machine.fileno(), fcntl.F_OFD_SETLK, shared)

        with pytest.raises(RestoreError, match="it is in use"):
            opened(disk)

    opened(disk).abort()


def test_two_restores_never_write_to_one_file(disk: Path) -> None:
    first = opened(disk)

    with pytest.raises(RestoreError, match="it is in use") as caught:
        opened(disk)

    assert "the other restore" in (caught.value.hint or "")
    first.abort()


def test_a_symbolic_link_is_followed_with_force_only(disk: Path) -> None:
    link = disk.parent / "link"
    link.symlink_to(disk)

    with pytest.raises(RestoreError, match="is a symbolic link"):
        opened(link)
    target = opened(link, force=True)
    target.begin(0)

    assert ".disk.img.snapvault-restoring" in names(disk.parent)
    target.commit()


def test_an_image_of_another_format_is_not_made_raw_by_mistake(disk: Path) -> None:
    disk.write_bytes(b"QFI\xfb" + bytes(1000))

    with pytest.raises(RestoreError, match="qcow2 format"):
        opened(disk)

    opened(disk, force=True).abort()
    assert disk.read_bytes() == b"QFI\xfb" + bytes(1000)


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "does not exist"), ("folder", "neither file nor"), ("pipe", "neither file nor")],
)
def test_what_is_no_disk_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(RestoreError, match=message):
        opened(tmp_path / name)
