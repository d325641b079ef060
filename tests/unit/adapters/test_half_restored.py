# SPDX-License-Identifier: Apache-2.0
"""Marks of half-restored disks, and the sources that refuse what is marked."""

from pathlib import Path

import pytest

from snapvault.adapters.half_restored import mark_of
from snapvault.adapters.sources.image import ImageSource
from snapvault.adapters.sources.whole import WholeSource
from snapvault.errors import RestoreError, SourceError

WORDS = {"source": "web01", "point": "5a5a5a5a5a5a5a5a", "target": "/srv/disk.img"}


def test_a_mark_lies_beside_its_file_and_says_what_it_was_told(tmp_path: Path) -> None:
    mark = mark_of(tmp_path / "disk.img", tmp_path / "devices")

    mark.set(WORDS)

    assert [each.name for each in tmp_path.iterdir()] == [".disk.img.snapvault-restoring"]
    assert mark.read() == WORDS
    mark.clear()
    assert mark.read() is None
    assert list(tmp_path.iterdir()) == []


def test_a_mark_is_found_through_a_symbolic_link_too(tmp_path: Path) -> None:
    (tmp_path / "disk.img").touch()
    (tmp_path / "link").symlink_to("disk.img")
    mark_of(tmp_path / "disk.img", tmp_path).set(WORDS)

    assert mark_of(tmp_path / "link", tmp_path).read() == WORDS


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_mark_that_cannot_be_read_is_one(tmp_path: Path, content: bytes) -> None:
    mark = mark_of(tmp_path / "disk.img", tmp_path)
    mark.file.write_bytes(content)

    assert mark.read() == {}


def test_marks_can_be_cleared_and_set_again_and_again(tmp_path: Path) -> None:
    mark = mark_of(tmp_path / "disk.img", tmp_path)
    mark.clear()
    mark.set(WORDS)

    mark.set({**WORDS, "point": "6b"})

    assert mark.read() == {**WORDS, "point": "6b"}


def test_names_of_any_length_have_marks_of_their_own(tmp_path: Path) -> None:
    marks = [mark_of(tmp_path / ("ü" * 120 + end), tmp_path) for end in ("one", "two")]

    for mark in marks:
        mark.set({"target": mark.file.name})

    assert [mark.read() for mark in marks] == [{"target": mark.file.name} for mark in marks]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_mark_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(RestoreError, match="could not write mark"):
        mark_of(tmp_path / "file" / "disk.img", tmp_path).set(WORDS)


def test_a_half_restored_disk_is_not_backed_up(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"half")
    source = WholeSource(ImageSource("web01", {"root": disk}), [disk], devices=tmp_path)
    mark = mark_of(disk, tmp_path)
    mark.set(WORDS)

    with pytest.raises(SourceError, match="it is half restored") as caught:
        source.open()

    assert "--in-place" in (caught.value.hint or "")
    assert str(mark.file) in (caught.value.hint or "")
    assert [finding.error is None for finding in source.check()] == [False, True]


def test_a_disk_without_a_mark_is_backed_up_as_ever(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"whole")
    source = WholeSource(ImageSource("web01", {"root": disk}), [disk], devices=tmp_path)

    view = source.open()

    assert source.name == "web01"
    assert [stream.name for stream in view.streams] == ["root"]
    assert all(finding.error is None for finding in source.check())
    view.close()
