# SPDX-License-Identifier: Apache-2.0
"""The name of a restored file: when it appears, what it replaces, what it never does."""

import mmap
import os
import stat
from pathlib import Path

import pytest

from snapvault.adapters.targets.file import FileTarget
from snapvault.errors import RestoreError, TargetNotEmptyError

MIB = 1 << 20

both_ways = pytest.mark.parametrize("unnamed", [True, False])


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@both_ways
def test_the_name_appears_at_the_commit(tmp_path: Path, *, unnamed: bool) -> None:
    target = FileTarget.create(tmp_path / "disk.img", 10, force=False, unnamed=unnamed)
    before = names(tmp_path)

    target.commit()

    assert "disk.img" not in before
    assert names(tmp_path) == ["disk.img"]


def test_a_file_in_the_making_has_no_name_where_the_file_system_allows(tmp_path: Path) -> None:
    target = FileTarget.create(tmp_path / "disk.img", 10, force=False)

    found = names(tmp_path)

    target.abort()
    assert found == []


def test_a_hidden_name_tells_what_it_is(tmp_path: Path) -> None:
    target = FileTarget.create(tmp_path / "disk.img", 10, force=False, unnamed=False)

    [found] = names(tmp_path)

    target.abort()
    assert found.startswith(".disk.img.")
    assert found.endswith(".snapvault-part")


@both_ways
def test_a_restored_file_is_for_its_owner_alone_and_sparse(
    tmp_path: Path, *, unnamed: bool
) -> None:
    target = FileTarget.create(tmp_path / "disk.img", 64 * MIB, force=False, unnamed=unnamed)
    target.write(MIB, memoryview(b"x"))

    target.commit()

    found = (tmp_path / "disk.img").stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_size == 64 * MIB
    assert found.st_blocks * 512 < MIB


@both_ways
def test_an_existing_file_is_refused_without_force(tmp_path: Path, *, unnamed: bool) -> None:
    (tmp_path / "disk.img").write_bytes(b"old")

    with pytest.raises(TargetNotEmptyError, match=r'disk\.img" exists already') as caught:
        FileTarget.create(tmp_path / "disk.img", 10, force=False, unnamed=unnamed)

    assert "--force" in (caught.value.hint or "")
    assert (tmp_path / "disk.img").read_bytes() == b"old"


@both_ways
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path, *, unnamed: bool) -> None:
    target = FileTarget.create(tmp_path / "disk.img", 10, force=False, unnamed=unnamed)
    (tmp_path / "disk.img").write_bytes(b"other")

    with pytest.raises(TargetNotEmptyError, match="appeared"):
        target.commit()

    target.abort()
    assert names(tmp_path) == ["disk.img"]
    assert (tmp_path / "disk.img").read_bytes() == b"other"


@both_ways
def test_force_keeps_the_old_file_until_the_commit_replaces_it(
    tmp_path: Path, *, unnamed: bool
) -> None:
    (tmp_path / "disk.img").write_bytes(b"old")
    target = FileTarget.create(tmp_path / "disk.img", 3, force=True, unnamed=unnamed)
    target.write(0, memoryview(b"new"))
    before = (tmp_path / "disk.img").read_bytes()

    target.commit()

    assert before == b"old"
    assert (tmp_path / "disk.img").read_bytes() == b"new"
    assert names(tmp_path) == ["disk.img"]


@both_ways
def test_a_commit_that_cannot_replace_leaves_nothing_hidden(
    tmp_path: Path, *, unnamed: bool
) -> None:
    target = FileTarget.create(tmp_path / "disk.img", 3, force=True, unnamed=unnamed)
    (tmp_path / "disk.img").mkdir()

    with pytest.raises(RestoreError, match="is a directory"):
        target.commit()

    target.abort()
    assert names(tmp_path) == ["disk.img"]


@both_ways
@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "with space and ünicode", "a{}%s.[b]"])
def test_any_name_a_file_may_have_is_fine(tmp_path: Path, *, unnamed: bool, name: str) -> None:
    target = FileTarget.create(tmp_path / name, 3, force=True, unnamed=unnamed)

    target.commit()

    assert names(tmp_path) == [name]


def test_a_folder_is_refused_and_a_name_in_it_suggested(tmp_path: Path) -> None:
    with pytest.raises(RestoreError, match="is a folder, a file is meant") as caught:
        FileTarget.create(tmp_path, 3, force=True)

    assert str(tmp_path / "disk.img") in (caught.value.hint or "")


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RestoreError, match=r'folder ".*/missing".* does not exist') as caught:
        FileTarget.create(tmp_path / "missing" / "disk.img", 3, force=False)

    assert "mkdir -p" in (caught.value.hint or "")


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()

    with pytest.raises(RestoreError, match="plain"):
        FileTarget.create(tmp_path / "plain" / "disk.img", 3, force=False)


def test_a_pipe_is_refused_also_with_force(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(RestoreError, match="is not a file"):
        FileTarget.create(tmp_path / "pipe", 3, force=True)


@pytest.mark.parametrize("target_exists", [True, False])
def test_a_link_is_never_followed_without_force(tmp_path: Path, *, target_exists: bool) -> None:
    if target_exists:
        (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    before = names(tmp_path)

    with pytest.raises(TargetNotEmptyError, match='symbolic link to "real"'):
        FileTarget.create(tmp_path / "link", 3, force=False)

    assert names(tmp_path) == before


@both_ways
@pytest.mark.parametrize("target_exists", [True, False])
def test_force_writes_what_a_link_points_to_and_keeps_the_link(
    tmp_path: Path, *, unnamed: bool, target_exists: bool
) -> None:
    (tmp_path / "elsewhere").mkdir()
    if target_exists:
        (tmp_path / "elsewhere" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("elsewhere/real")
    target = FileTarget.create(tmp_path / "link", 3, force=True, unnamed=unnamed)
    target.write(0, memoryview(b"new"))

    target.commit()

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "real").read_bytes() == b"new"


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")

    with pytest.raises(RestoreError, match="loop"):
        FileTarget.create(tmp_path / "loop", 3, force=True)


@both_ways
def test_hidden_files_of_dead_runs_are_removed_and_those_of_live_ones_kept(
    tmp_path: Path, *, unnamed: bool
) -> None:
    (tmp_path / ".disk.img.0123abcd.snapvault-part").write_bytes(b"dead")
    (tmp_path / ".disk.img.0123abcd.other").touch()
    (tmp_path / ".other.img.0123abcd.snapvault-part").touch()
    alive = FileTarget.create(tmp_path / "disk.img", 3, force=False, unnamed=False)

    second = FileTarget.create(tmp_path / "disk.img", 3, force=False, unnamed=unnamed)
    second.abort()

    found = names(tmp_path)
    alive.commit()
    assert ".disk.img.0123abcd.snapvault-part" not in found
    assert len(found) == 3
    assert "disk.img" in names(tmp_path)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (8, 3), (11, 0)])
def test_a_range_beyond_the_size_is_a_mistake_of_the_caller(
    tmp_path: Path, offset: int, length: int
) -> None:
    target = FileTarget.create(tmp_path / "disk.img", 10, force=False)

    with pytest.raises(ValueError, match="not within 10 bytes"):
        target.write(offset, memoryview(bytes(length)))
    with pytest.raises(ValueError, match="not within 10 bytes"):
        target.zero(offset, length)
    with pytest.raises(ValueError, match="not within 10 bytes"):
        target.read_into(offset, memoryview(bytearray(length)))

    target.abort()


def test_a_file_of_no_bytes_is_made(tmp_path: Path) -> None:
    target = FileTarget.create(tmp_path / "empty", 0, force=False)

    target.commit()

    assert (tmp_path / "empty").read_bytes() == b""


def test_a_file_on_memory_is_restored_without_direct_writes() -> None:
    folder = Path("/dev/shm")  # where O_DIRECT or punching may be missing
    path = folder / f"snapvault-test-{os.getpid()}"
    target = FileTarget.create(path, 2 * MIB, force=False)
    data = memoryview(mmap.mmap(-1, 2 * MIB))
    data[:] = b"\x01" * (2 * MIB)
    try:
        target.write(0, data)
        target.zero(MIB, MIB)
        target.commit()

        assert path.read_bytes() == b"\x01" * MIB + bytes(MIB)
    finally:
        path.unlink(missing_ok=True)
