# SPDX-License-Identifier: Apache-2.0
"""Files are found on disks as any partitioning tool and any mkfs lays them."""

import gzip
import os
import random
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from snapvault.adapters.filesystems.archiving import Archive
from snapvault.adapters.filesystems.volumes import find_volumes
from snapvault.errors import RestoreError, StoreUnavailableError
from snapvault.ports.browsing import EntryKind, FileSystem, Volume
from tests.support import file_systems as made

LVM_HEAD = Path(__file__).parent / "data/lvm-vg0.gz"
"""The first MiB of a physical volume of 120 MiB: group vg0, volumes root (40 MiB) and data-x."""


class Image:
    """A disk in a file, that can break."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size
        self.broken_from = self.size

    def read(self, offset: int, length: int) -> bytes:
        if offset + length > self.broken_from:
            raise StoreUnavailableError("the store is gone")
        assert offset >= 0
        assert offset + length <= self.size
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), length, offset)


def no_problem(error: RestoreError) -> None:
    raise error


def volumes(*disks: tuple[str, Path]) -> dict[str, Volume]:
    images = {name: Image(path) for name, path in disks}
    return {each.name: each for each in find_volumes(images, unreadable=no_problem)}


def files_of(volume: Volume) -> FileSystem:
    assert volume.files is not None
    return volume.files


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.make_tree(tmp_path_factory.mktemp("tree") / "root")


@pytest.mark.parametrize("maker", [made.ext4, made.xfs])
def test_a_file_system_of_linux_shows_what_was_put_into_it(
    tree: Path, tmp_path: Path, maker: Callable[[Path, Path], Path]
) -> None:
    image = maker(tmp_path / "image", tree)

    (volume,) = volumes(("root", image)).values()

    files = files_of(volume)
    assert (volume.name, volume.kind) == ("root", maker.__name__)
    hostname, link = files.find("etc/hostname"), files.find("etc/link")
    assert hostname is not None
    assert link is not None
    assert (hostname.kind, hostname.mode, hostname.size) == (EntryKind.FILE, 0o600, 6)
    assert files.read(hostname, 0, 100) == b"web01\n"
    assert (link.kind, link.target) == (EntryKind.LINK, "hostname")
    assert [entry.name for entry in files.list("etc")] == ["empty", "hostname", "link"]
    large = files.find("srv/large.bin")
    assert large is not None
    data = made.CONTENT["srv/large.bin"]
    assert files.read(large, 0, large.size) == data
    assert files.read(large, 70_000, 1000) == data[70_000:71_000]
    assert files.read(large, large.size - 3, 100) == data[-3:]
    assert files.find("etc/nothing") is None
    assert files.find("etc/hostname/below") is None


@pytest.mark.parametrize(("maker", "folder"), [(made.ntfs, ""), (made.vfat, "srv")])
def test_a_file_system_of_windows_shows_its_files_and_none_of_its_own(
    tree: Path, tmp_path: Path, maker: Callable[[Path, Path], Path], folder: str
) -> None:
    image = maker(tmp_path / "image", tree)

    (volume,) = volumes(("c", image)).values()

    files = files_of(volume)
    assert volume.kind == maker.__name__
    assert [entry.name for entry in files.list(folder)] == [
        "large.bin",
        "odd näme.txt",
        "second name.bin",
    ]
    assert next(entry.name for entry in files.list("")) in {"large.bin", "srv"}
    large = files.find(f"{folder}/large.bin".lstrip("/"))
    assert large is not None
    assert files.read(large, 0, large.size) == made.CONTENT["srv/large.bin"]


@pytest.mark.parametrize(
    ("label", "parts", "names"),
    [
        ("gpt", ["size=20M", "size=8M", "size=20M"], ["root:1", "root:2", "root:3"]),
        (
            "dos",
            ["1: size=18M", "2: size=40M, type=5", "5: size=17M", "6: size=17M"],
            ["root:1", "root:5", "root:6"],
        ),
    ],
)
def test_partitions_have_the_numbers_that_linux_gives_them(
    tree: Path, tmp_path: Path, label: str, parts: list[str], names: list[str]
) -> None:
    file_system = made.ext4(tmp_path / "ext4", tree)
    disk = made.partitioned(tmp_path / "disk", label, parts, {1: file_system})

    found = volumes(("root", disk))

    assert list(found) == names
    assert found["root:1"].kind == "ext4"
    assert files_of(found["root:1"]).find("etc/hostname") is not None
    assert [found[name].files for name in names[1:]] == [None, None]


def test_logical_volumes_are_found_in_their_group(tree: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(gzip.decompress(LVM_HEAD.read_bytes()))
    os.truncate(disk, 120 * made.MIB)
    made.put(disk, made.MIB, made.ext4(tmp_path / "ext4", tree))

    found = volumes(("sda", disk))

    assert [(name, each.kind) for name, each in found.items()] == [
        ("sda", "lvm"),
        ("lvm:vg0-root", "ext4"),
        ("lvm:vg0-data-x", None),
    ]
    root = files_of(found["lvm:vg0-root"])
    assert root.read(root.find("etc/hostname"), 0, 10) == b"web01\n"  # type: ignore[arg-type]
    assert found["lvm:vg0-data-x"].data.size == 20 * made.MIB


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    images = {}
    for kind, at, sign in [
        ("btrfs", 0x10040, b"_BHRfS_M"),
        ("luks", 0, b"LUKS\xba\xbe"),
        ("swap", 4086, b"SWAPSPACE2"),
    ]:
        images[kind] = tmp_path / kind
        images[kind].write_bytes(bytes(at) + sign + bytes(made.MIB))
    images["noise"] = tmp_path / "noise"
    images["noise"].write_bytes(random.Random(1).randbytes(made.MIB))
    images["tiny"] = tmp_path / "tiny"
    images["tiny"].write_bytes(b"x")

    found = volumes(*images.items())

    assert {name: each.kind for name, each in found.items()} == {
        "btrfs": "btrfs",
        "luks": "luks",
        "swap": "swap",
        "noise": None,
        "tiny": None,
    }
    assert all(each.files is None for each in found.values())


def test_bytes_that_cannot_be_had_are_told_and_come_back_with_the_store(
    tree: Path, tmp_path: Path
) -> None:
    image = Image(made.ext4(tmp_path / "image", tree))
    (volume,) = find_volumes({"root": image}, unreadable=no_problem)
    files = files_of(volume)
    large = files.find("srv/large.bin")
    assert large is not None
    image.broken_from = 0

    with pytest.raises(StoreUnavailableError, match="the store is gone"):
        files.read(large, 0, large.size)
    image.broken_from = image.size

    assert files.read(large, 0, large.size) == made.CONTENT["srv/large.bin"]


def test_an_unreadable_beginning_is_no_disk_without_file_systems(
    tree: Path, tmp_path: Path
) -> None:
    image = Image(made.ext4(tmp_path / "image", tree))
    image.broken_from = 0

    with pytest.raises(StoreUnavailableError):
        find_volumes({"root": image}, unreadable=no_problem)


@pytest.mark.parametrize("maker", [made.ext4, made.xfs, made.ntfs, made.vfat])
def test_a_damaged_file_system_never_ends_the_program(
    tree: Path, tmp_path: Path, maker: Callable[[Path, Path], Path]
) -> None:
    whole = maker(tmp_path / "image", tree).read_bytes()[: 16 * made.MIB]
    told: list[RestoreError] = []
    seen = 0
    for seed in range(12):
        chance = random.Random(seed)
        damaged = bytearray(whole)
        for _ in range(40):
            at = chance.randrange(len(damaged) // 8) & ~511
            damaged[at : at + 512] = chance.randbytes(512)
        image = tmp_path / "damaged"
        image.write_bytes(damaged)
        for volume in find_volumes({"root": Image(image)}, unreadable=told.append):
            if volume.files is not None:
                seen += _walk(volume.files, "")

    assert seen + len(told) >= 0  # that we are here is what counts


def _walk(files: FileSystem, path: str, depth: int = 0) -> int:
    """Read all that can be read; return how many names were seen."""
    if depth > 5:
        return 0
    try:
        entries = files.list(path)
    except RestoreError:
        return 0
    for entry in entries:
        name = f"{path}/{entry.name}".lstrip("/")
        assert "/" not in entry.name
        try:
            if entry.kind is EntryKind.FOLDER:
                _walk(files, name, depth + 1)
            else:
                files.read(entry, 0, 1 << 16)
        except RestoreError:
            pass
    return len(entries)


def test_an_archive_has_the_tree_with_its_links_modes_and_times(tree: Path, tmp_path: Path) -> None:
    (volume,) = volumes(("root", made.ext4(tmp_path / "image", tree))).values()
    written = BytesIO()
    archive = Archive(files_of(volume), written.write, left_out=pytest.fail)

    for name in ("etc", "srv"):
        archive.add(name, files_of(volume).find(name), name)  # type: ignore[arg-type]
    archive.finish()

    written.seek(0)
    with tarfile.open(fileobj=written) as tar:
        members = {member.name: member for member in tar}
        data = {
            name: file.read() for name in made.CONTENT if (file := tar.extractfile(members[name]))
        }
    assert data == made.CONTENT
    assert (members["etc/hostname"].mode, members["etc/hostname"].mtime) == (0o600, 1_700_000_000)
    assert members["etc/link"].linkname == "hostname"
    linked = members["srv/second name.bin"]
    assert (linked.islnk(), linked.linkname) == (True, "srv/large.bin")
    assert archive.bytes == sum(map(len, made.CONTENT.values()))
