# SPDX-License-Identifier: Apache-2.0
"""Real folder trees through a vault and back, with everything that a file system can hold."""

import os
import stat
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from snapvault.adapters.sources.directory import DirectorySource
from snapvault.adapters.targets.tree import TreeTarget
from snapvault.engine import sequence
from snapvault.engine.contents import look_up
from snapvault.engine.vault import Held
from snapvault.model.policy import DirectorySpec
from tests.support.events import RecordedEvents
from tests.support.vaults import VaultKit

pytestmark = pytest.mark.integration

MIB = 1 << 20

# Version 2; then tag, permissions and id of: owner, user 65534, group, mask, others. See acl(5).
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in [
        (1, 6, 0xFFFFFFFF),
        (2, 4, 65534),
        (4, 4, 0xFFFFFFFF),
        (16, 4, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    ]
)


class Nights:
    """A folder that is backed up and restored."""

    def __init__(self, folder: Path, tree: Path) -> None:
        self.kit = VaultKit(folder / "kit", block_size=16 << 10, volume_size=4 * MIB)
        self.events = RecordedEvents()
        self.folder = folder
        self.spec = DirectorySpec(tree)

    def night(self) -> Held:
        return self.kit.night(DirectorySource("files", "tree", self.spec, events=self.events))

    def restore(self, held: Held, target: Path, *paths: str, force: bool = False) -> int:
        """Unpack a point; return how often its archive was read."""
        vault = self.kit.recovery()
        contents = look_up(vault, held.point, held.point.streams)
        order = sequence.arrange(contents)
        passes = 0
        with TreeTarget(target, paths or (".",), force=force, events=self.events) as unpacking:
            again = True
            while again:
                passes += 1
                spool = self.folder / "spool"
                sequence.stream_out(vault, contents, order, spool, unpacking.write)
                again = unpacking.end_pass()
            unpacking.commit()
        return passes


def seen(tree: Path) -> dict[str, dict[str, Any]]:
    """Return everything about a tree that a restore has to bring back, by relative path."""
    found: dict[str, dict[str, Any]] = {}
    links: dict[int, list[str]] = defaultdict(list)
    for path in (tree, *tree.rglob("*")):
        name = str(path.relative_to(tree))
        status = path.lstat()
        links[status.st_ino].append(name)
        about: dict[str, Any] = {
            "mode": oct(status.st_mode),
            "owner": (status.st_uid, status.st_gid),
            "changed": status.st_mtime_ns,
            "attributes": {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            },
        }
        if path.is_symlink():
            about["link"] = str(path.readlink())
        elif path.is_file():
            about["content"] = path.read_bytes()
            about["links"] = status.st_nlink
        elif not path.is_dir():
            about["device"] = status.st_rdev
        found[name] = about
    for names in links.values():
        for name in names:
            found[name]["same as"] = sorted(names)
    return found


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a folder with one of each thing there is."""
    folder = tmp_path / "tree"
    (folder / "a/b").mkdir(parents=True)
    (folder / "empty").mkdir(mode=0o1777)
    (folder / "a/file").write_bytes(b"content")
    (folder / "a/empty file").touch()
    os.link(folder / "a/file", folder / "a/b/hard")
    os.link(folder / "a/file", folder / "z hard")
    (folder / "link").symlink_to("a/file")
    (folder / "dangling").symlink_to("/nowhere/" + "long" * 60)
    (folder / "secret").write_bytes(b"secret")
    (folder / "secret").chmod(0o4711)
    os.mkfifo(folder / "pipe", 0o620)
    os.setxattr(folder / "a/file", "user.note", bytes(range(256)))
    os.setxattr(folder / "a/file", "user.a=b c", b"")
    os.setxattr(folder / "a", "user.of a folder", b"1")
    os.setxattr(folder / "secret", "system.posix_acl_access", ACL)
    os.setxattr(folder / "a", "system.posix_acl_default", ACL)
    with (folder / "sparse").open("wb") as file:
        for offset in range(0, 40 * MIB, 2 * MIB):
            file.seek(offset + MIB)
            file.write(os.urandom(5000))
        file.truncate(64 * MIB)
    with (folder / "hole alone").open("wb") as file:
        file.truncate(32 * MIB)
    for name in (b"\xff\xfe name", b"new\nline", b"back\\slash \\101", b"* [a] ?", b"-rf", b" "):
        (folder / os.fsdecode(name)).write_bytes(name)
    deep = folder / ("l" * 255) / ("m" * 255) / ("n" * 255)
    deep.mkdir(parents=True)
    (deep / ("o" * 255)).write_bytes(b"deep")
    (folder / "unwritable").mkdir()
    (folder / "unwritable/file").write_bytes(b"1")
    (folder / "unwritable").chmod(0o555)
    if os.geteuid() == 0:
        os.chown(folder / "a/file", 1234, 54321)
        os.chown(folder / "link", 4_000_000_000, 7, follow_symlinks=False)
        os.mknod(folder / "null", 0o640 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(folder / "disk", 0o600 | stat.S_IFBLK, os.makedev(259, 70_000))
        os.setxattr(folder / "secret", "trusted.note", b"t")
        raw = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
        os.setxattr(folder / "a/empty file", "security.capability", raw)
    for path in (folder / "a/b", folder / "a", folder / "pipe", folder):
        os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    os.utime(folder / "secret", ns=(1, -5_000_000_001))
    return folder


def test_everything_comes_back_into_a_new_folder(tree: Path, tmp_path: Path) -> None:
    nights = Nights(tmp_path, tree)
    expected = seen(tree)

    held = nights.night()
    passes = nights.restore(held, tmp_path / "out")

    assert seen(tmp_path / "out") == expected
    assert passes == 1
    assert nights.events.warnings == nights.kit.events.warnings == []
    assert held.point.streams[0].facts == {"format": "tar", "path": str(tree)}
    assert held.point.consistency == "crash"
    for name in ("sparse", "hole alone"):
        for path in (tree / name, tmp_path / "out" / name):
            with path.open("rb") as file:
                os.fsync(file)  # or what a file system writes down of it comes later
        taken = (tmp_path / "out" / name).stat().st_blocks
        assert taken <= (tree / name).stat().st_blocks
    assert names_in(tmp_path) == ["kit", "out", "tree"]


def test_everything_comes_back_over_what_was_there_with_force(tree: Path, tmp_path: Path) -> None:
    nights = Nights(tmp_path, tree)
    expected = seen(tree)
    held = nights.night()
    nights.restore(held, tmp_path / "out")
    (tmp_path / "out/a/file").write_bytes(b"something else")
    (tmp_path / "out/secret").unlink()
    (tmp_path / "out/unwritable").chmod(0o755)  # only root could add to it

    nights.restore(held, tmp_path / "out", force=True)

    again = seen(tmp_path / "out")
    for name, about in expected.items():
        # Folders that are there stay as they are.
        if "content" in about or "link" in about:
            assert again[name] == about
    assert set(again) == set(expected)


def test_names_that_are_no_text_are_paths_too(tree: Path, tmp_path: Path) -> None:
    nights = Nights(tmp_path, tree)
    held = nights.night()
    wanted = [os.fsdecode(b"\xff\xfe name"), "* [a] ?", "back\\slash \\101", "new\nline", "-rf"]

    nights.restore(held, tmp_path / "out", *wanted)

    assert names_in(tmp_path / "out") == sorted(wanted)


def test_part_of_the_hard_links_are_one_file_and_the_archive_is_read_twice(
    tree: Path, tmp_path: Path
) -> None:
    nights = Nights(tmp_path, tree)
    held = nights.night()

    passes = nights.restore(held, tmp_path / "out", "a/file", "z hard")

    assert passes == 2
    assert (tmp_path / "out/a/file").samefile(tmp_path / "out/z hard")
    assert (tmp_path / "out/z hard").stat().st_nlink == 2
    assert (tmp_path / "out/z hard").read_bytes() == b"content"
    # The name under which the archive has the content is none of those that were asked for.
    assert not (tmp_path / "out/a/b").exists()
    assert (tmp_path / "out/a").stat().st_mtime_ns == (tree / "a").stat().st_mtime_ns


def test_a_big_tree_that_changed_in_the_middle_costs_a_small_night(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(10_000):
        path = tree / f"{number % 100:02}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d " % number * 100)
    nights = Nights(tmp_path, tree)
    first = nights.night()

    (tree / "50/file 5050").write_bytes(b"longer than it was before" * 1000)
    (tree / "51/new").write_bytes(b"new")
    (tree / "52/file 5052").unlink()
    second = nights.night()
    third = nights.night()
    nights.restore(second, tmp_path / "out")

    assert first.point.size > 10_000_000
    assert second.point.counters["changed_bytes"] < 300_000
    assert third.point.counters["changed_bytes"] == 0
    assert seen(tmp_path / "out") == seen(tree)
