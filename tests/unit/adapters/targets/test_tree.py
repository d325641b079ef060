# SPDX-License-Identifier: Apache-2.0
"""Unpacking into folders: what is seen, when, and what is left."""

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snapvault.adapters.targets.tree import Taken, TreeTarget
from snapvault.errors import IntegrityError, RestoreError, TargetNotEmptyError
from tests.support.events import RecordedEvents

Content = dict[str, bytes | None]


def archive_of(members: Content) -> bytes:
    """Return an archive of files, and of folders where there is no content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            info.size = len(content or b"")
            info.uid, info.gid = os.getuid(), os.getgid()
            archive.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


TREE = archive_of({".": None, "./a": None, "./a/x": b"x" * 700_000, "./b": b"b"})


def target(folder: Path, *paths: str, force: bool = False) -> TreeTarget:
    return TreeTarget(folder, paths or (".",), force=force, events=RecordedEvents())


def unpack(folder: Path, *paths: str, archive: bytes = TREE, force: bool = False) -> RecordedEvents:
    events = RecordedEvents()
    with TreeTarget(folder, paths or (".",), force=force, events=events) as unpacking:
        unpacking.write(memoryview(archive))
        assert not unpacking.end_pass()
        unpacking.commit()
    return events


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_nothing_is_seen_before_the_commit_and_what_is_there_is_private(tmp_path: Path) -> None:
    with target(tmp_path / "out") as unpacking:
        unpacking.write(memoryview(TREE))
        unpacking.end_pass()
        (hidden,) = tmp_path.iterdir()
        mode = hidden.stat().st_mode
        unpacking.commit()
        after = names_in(tmp_path / "out")

    assert hidden.name.startswith(".snapvault-")
    assert mode & 0o777 == 0o700
    assert after == ["a", "a/x", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_was_unpacked_is_counted_and_what_was_left_out_is_not(tmp_path: Path) -> None:
    with target(tmp_path / "out", "a") as unpacking:
        unpacking.write(memoryview(TREE))
        unpacking.end_pass()
        taken = unpacking.taken

    assert taken == Taken(files=1, size=700_000)


@pytest.mark.parametrize(("path", "fits"), [("a", False), ("b", True)])
def test_a_file_that_has_no_room_is_not_begun(
    path: str, *, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.statvfs(tmp_path)
    room = os.statvfs_result((found[0], 512, *found[2:4], 1000, *found[5:]))  # 512,000 bytes
    monkeypatch.setattr(os, "statvfs", lambda _: room)
    head = memoryview(TREE)[: TREE.index(b"x" * 512)]  # and nothing of the file itself

    with target(tmp_path / "out", path) as unpacking:
        if fits:
            unpacking.write(memoryview(TREE))
            assert not unpacking.end_pass()
        else:
            with pytest.raises(RestoreError, match='for "a/x"') as told:
                unpacking.write(head)
            assert told.value.hint == "Free at least 183.6 KiB there, or restore elsewhere."

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [True, False])
def test_a_restore_that_is_given_up_leaves_nothing(*, there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    if there:
        folder.mkdir(parents=True)

    with target(folder) as unpacking:
        unpacking.write(memoryview(TREE)[:300_000])

    assert names_in(tmp_path) == (["new", "new/out"] if there else [])


def test_what_a_killed_restore_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    left = tmp_path / ".snapvault-0011223344556677.part"
    (left / "tree").mkdir(parents=True)
    (left / "tree/x").touch()

    with target(tmp_path):  # one that runs is left alone
        unpack(tmp_path)
        there = list(tmp_path.glob(".snapvault-*"))

    assert left not in there
    assert len(there) == 1
    assert names_in(tmp_path) == ["a", "a/x", "b"]


def test_a_file_in_the_way_is_found_when_the_archive_names_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_bytes(b"mine")

    with target(tmp_path) as unpacking, pytest.raises(TargetNotEmptyError, match="a/x"):
        unpacking.write(memoryview(TREE)[:5000])

    assert names_in(tmp_path) == ["a", "a/x"]


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with target(tmp_path) as unpacking:
        unpacking.write(memoryview(TREE))
        unpacking.end_pass()
        (tmp_path / "b").write_bytes(b"mine")
        with pytest.raises(TargetNotEmptyError, match="is there already"):
            unpacking.commit()

    assert names_in(tmp_path) == ["b"]
    assert (tmp_path / "b").read_bytes() == b"mine"


def test_a_folder_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with target(tmp_path / "out") as unpacking:
        unpacking.write(memoryview(TREE))
        unpacking.end_pass()
        (tmp_path / "out").mkdir()
        (tmp_path / "out/mine").touch()
        with pytest.raises(TargetNotEmptyError, match="is there already"):
            unpacking.commit()

    assert names_in(tmp_path) == ["out", "out/mine"]


@pytest.mark.parametrize(
    ("there", "members"),
    [
        ("folder", {"./b": b"b"}),
        ("file", {"./b": None, "./b/c": b"c"}),
        ("link", {"./b": None, "./b/c": b"c"}),
        ("link", {"./b/c": b"c"}),
    ],
)
def test_what_is_of_another_kind_is_in_the_way_with_force_too(
    there: str, members: Content, tmp_path: Path
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    if there == "folder":
        (out / "b").mkdir()
    elif there == "file":
        (out / "b").touch()
    else:
        (out / "b").symlink_to(elsewhere)

    with pytest.raises(TargetNotEmptyError, match="is in the way"):
        unpack(out, archive=archive_of(members), force=True)

    assert names_in(out) == ["b"]
    assert names_in(elsewhere) == []


def test_a_link_in_the_archive_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("./way")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "elsewhere")
        archive.addfile(link)
        inside = tarfile.TarInfo("./way/x")
        inside.size = 1
        archive.addfile(inside, io.BytesIO(b"x"))
    (tmp_path / "elsewhere").mkdir()

    with pytest.raises(RestoreError):
        unpack(tmp_path / "out", archive=buffer.getvalue())

    assert names_in(tmp_path) == ["elsewhere"]


@pytest.fixture
def deep_place() -> Iterator[Path]:
    """Return a folder that is removed by rm: Python, and so pytest, cannot remove a deep one."""
    folder = Path(tempfile.mkdtemp(prefix="svd-", dir="/tmp"))
    yield folder
    subprocess.run(["rm", "-rf", "--", str(folder)], check=True)


def test_a_path_that_is_too_long_is_told_in_a_short_line(deep_place: Path) -> None:
    name = "/".join(["d" * 10] * 500)
    folders: Content = {f"./{name[: number * 11 - 1]}": None for number in range(1, 501)}

    with pytest.raises(RestoreError, match="longer than the system allows") as caught:
        unpack(deep_place / "out", archive=archive_of({".": None, **folders}))

    assert len(str(caught.value)) < 300
    assert names_in(deep_place) == []


def test_a_very_deep_folder_is_removed_when_a_restore_is_given_up(deep_place: Path) -> None:
    names = ["/".join("d" * number) for number in range(1, 1501)]
    archive = archive_of({".": None, **{f"./{name}": None for name in names}})

    with target(deep_place / "out") as unpacking:
        unpacking.write(memoryview(archive))
        unpacking.end_pass()

    assert list(deep_place.iterdir()) == []


def test_a_very_deep_folder_is_added_to(deep_place: Path) -> None:
    names = ["/".join("d" * number) for number in range(1, 1001)]
    folders: Content = {f"./{name}": None for name in names}
    unpack(deep_place / "out", archive=archive_of({".": None, **folders}))

    unpack(deep_place / "out", archive=archive_of({".": None, **folders, f"./{names[-1]}/x": b"x"}))

    assert (deep_place / "out" / names[-1] / "x").read_bytes() == b"x"


def test_a_folder_of_ours_that_is_swapped_for_another_gives_nothing_away(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (elsewhere / "secret").write_bytes(b"secret")

    with target(out) as unpacking:
        (hidden,) = out.iterdir()
        unpacking.write(memoryview(TREE)[:600_000])
        hidden.rename(tmp_path / "stolen")
        hidden.mkdir()
        (hidden / "tree").symlink_to(elsewhere)
        unpacking.write(memoryview(TREE)[600_000:])
        unpacking.end_pass()
        unpacking.commit()

    assert names_in(elsewhere) == ["secret"]
    assert (out / "a/x").read_bytes() == b"x" * 700_000


def test_a_link_that_comes_while_files_are_moved_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (out / "a").mkdir(parents=True)
    elsewhere.mkdir()
    replace = os.replace

    def swap_and_replace(*arguments: Any, **more: Any) -> None:
        if (out / "a").is_dir() and not (out / "a").is_symlink():
            (out / "a").rename(out / "moved")
            (out / "a").symlink_to(elsewhere)
        replace(*arguments, **more)

    with target(out) as unpacking:
        unpacking.write(memoryview(TREE))
        unpacking.end_pass()
        monkeypatch.setattr(os, "replace", swap_and_replace)
        with pytest.raises(RestoreError):
            unpacking.commit()

    assert names_in(elsewhere) == []


def test_what_looks_like_ours_but_is_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / ".snapvault-0011223344556677.part"
    theirs.mkdir()
    if os.geteuid() == 0:
        os.chown(theirs, 12345, 12345)

    unpack(tmp_path)

    assert theirs.exists() == (os.geteuid() == 0)


@pytest.mark.parametrize("name", ["../out", "./a/../../out"])
def test_a_path_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()

    with pytest.raises(RestoreError, match=r"could not unpack .*'\.\.'"):
        unpack(tmp_path / "here", archive=archive_of({name: b"x"}))

    assert names_in(tmp_path) == ["here"]


def test_the_operators_own_options_for_tar_leave_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAR_OPTIONS", "--exclude=b")

    unpack(tmp_path / "out")

    assert names_in(tmp_path / "out") == ["a", "a/x", "b"]


def test_what_is_no_archive_is_told_at_its_end_only(tmp_path: Path) -> None:
    with target(tmp_path / "out") as unpacking:
        unpacking.write(memoryview(bytes(range(256)) * 8))
        unpacking.write(memoryview(TREE))

        with pytest.raises(IntegrityError, match="in the place of a header"):
            unpacking.end_pass()

    assert names_in(tmp_path) == []


def test_a_path_that_is_not_there_is_told_by_the_end(tmp_path: Path) -> None:
    with target(tmp_path / "out", "a/x", "c") as unpacking:
        unpacking.write(memoryview(TREE))

        assert not unpacking.end_pass()
        assert unpacking.missing() == ["c"]
        assert "b" in unpacking.near

    assert names_in(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(RestoreError, match="could not make a folder in"),
        target(tmp_path / "file/out"),
    ):
        pytest.fail("the context was entered")


def test_tar_that_fails_is_told_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tar").write_text("#!/bin/sh\necho 'tar: x: Cannot write' >&2\nexit 2\n")
    (tmp_path / "bin/tar").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    out = tmp_path / "out"

    with pytest.raises(RestoreError, match=f'could not unpack into "{out}": x: Cannot write$'):
        unpack(out)

    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]
