# SPDX-License-Identifier: Apache-2.0
"""Folders as archives, read with GNU tar."""

import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from snapvault.adapters.sources.directory import DirectorySource
from snapvault.errors import SourceError
from snapvault.model.policy import DirectorySpec
from snapvault.ports.source import Consistency, Outcome
from tests.support.events import RecordedEvents

MIB = 1 << 20


class Night:
    """One reading of a folder."""

    def __init__(self, folder: Path, *, exclude: tuple[str, ...] = ()) -> None:
        self.events = RecordedEvents()
        spec = DirectorySpec(folder, exclude)
        self.source = DirectorySource("files", "archive", spec, events=self.events)

    def read(self) -> bytes:
        view = self.source.open()
        try:
            (stream,) = view.streams
            with stream.open() as readable:
                archive = b"".join(iter(lambda: readable.read(MIB), b""))
            self.outcome = view.finish()
        finally:
            view.close()
        return archive


def names_in(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        return [member.name for member in found]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "a tree"
    for name in ("etc/ssl/key", "etc/hosts", "var/log/a.tmp", "b.tmp", "cache/x", "var/cache/y"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def fake_tar(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put another program in the place of tar."""
    folder.mkdir()
    (folder / "tar").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "tar").chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_paths_are_relative_to_the_folder_and_sorted(tree: Path) -> None:
    night = Night(tree)

    names = names_in(night.read())

    assert names[:4] == [".", "./b.tmp", "./cache", "./cache/x"]
    assert names[4:] == [
        "./etc",
        "./etc/hosts",
        "./etc/ssl",
        "./etc/ssl/key",
        "./var",
        "./var/cache",
        "./var/cache/y",
        "./var/log",
        "./var/log/a.tmp",
    ]
    assert night.outcome == Outcome(
        Consistency.CRASH, facts={"archive": {"format": "tar", "path": str(tree)}}
    )
    assert night.events.warnings == []


def test_a_tree_that_did_not_change_gives_the_same_bytes(tree: Path) -> None:
    with (tree / "sparse").open("wb") as file:
        file.seek(5 * MIB)
        file.write(b"data")
        file.truncate(9 * MIB)
    os.link(tree / "etc/hosts", tree / "hosts too")
    os.setxattr(tree / "b.tmp", "user.note", b"a\0b")
    first = Night(tree).read()

    for path in tree.rglob("*"):  # times of access and of status change say nothing
        before = path.lstat()
        path.chmod(before.st_mode)
        os.utime(path, ns=(before.st_atime_ns + 10**12, before.st_mtime_ns))
    second = Night(tree).read()

    assert first == second
    assert len(first) < 2 * MIB


def test_the_operators_own_options_for_tar_change_nothing(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Night(tree).read()
    monkeypatch.setenv("TAR_OPTIONS", "--exclude=hosts --format=gnu")

    assert Night(tree).read() == expected


def test_what_changed_in_an_attribute_alone_is_seen(tree: Path) -> None:
    first = Night(tree).read()

    (tree / "etc/hosts").chmod(0o600)

    assert Night(tree).read() != first


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        ("cache", {"./cache", "./cache/x"}),
        ("/cache/", {"./cache", "./cache/x"}),
        ("./cache", {"./cache", "./cache/x"}),
        ("cache/*", {"./cache/x"}),
        ("*.tmp", {"./b.tmp", "./var/log/a.tmp"}),
        ("*/cache", {"./var/cache", "./var/cache/y"}),
        ("[bc].tmp", {"./b.tmp"}),
        ("tmp", set()),
    ],
)
def test_patterns_are_of_paths_below_the_folder(
    pattern: str, left_out: set[str], tree: Path
) -> None:
    everything = set(names_in(Night(tree).read()))

    kept = set(names_in(Night(tree, exclude=(pattern,)).read()))

    assert everything - kept == left_out


def test_sockets_are_left_out_without_a_word(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        night = Night(tree)

        names = names_in(night.read())

    assert "./socket" not in names
    assert night.outcome.consistency is Consistency.CRASH
    assert night.events.events == []


def test_files_that_change_or_vanish_meanwhile_are_named_and_nothing_is_promised(
    tree: Path,
) -> None:
    (tree / "aaa").write_bytes(bytes(range(256)) * (8 * MIB // 256))
    night = Night(tree)
    view = night.source.open()
    (stream,) = view.streams

    with stream.open() as readable:
        readable.read(1)
        with (tree / "aaa").open("ab") as file:
            file.write(b"more")
        (tree / "b.tmp").unlink()
        while readable.read(MIB):
            pass
    outcome = view.finish()
    view.close()

    assert outcome.consistency is Consistency.NONE
    (warning,) = night.events.warnings
    assert "./aaa: file changed as we read it" in warning
    assert "./b.tmp: File removed before we read it" in warning


def test_what_cannot_be_read_fails_the_backup_and_is_named(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "\n".join(f"echo 'tar: ./f{n}: Cannot open: Permission denied' >&2" for n in range(5))
    closing = "echo 'tar: Exiting with failure status due to previous errors' >&2; exit 2"
    fake_tar(tmp_path / "bin", f"echo part\n{said}\n{closing}", monkeypatch)

    with pytest.raises(SourceError) as caught:
        Night(tree).read()

    assert str(caught.value) == (
        f'could not read all of folder "{tree}": ./f0: Cannot open: Permission denied; ./f1: '
        "Cannot open: Permission denied; ./f2: Cannot open: Permission denied; and 2 more"
    )
    assert caught.value.hint is not None


def test_of_very_many_complaints_the_last_ones_are_counted(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tar(
        tmp_path / "bin",
        'for n in $(seq 1000); do echo "tar: ./file $n: file changed as we read it" >&2; done\n'
        "exit 1",
        monkeypatch,
    )
    night = Night(tree)

    night.read()

    assert night.outcome.consistency is Consistency.NONE
    assert "read: ./file" in night.events.warnings[0]
    assert night.events.warnings[0].endswith(" more")


def test_attributes_that_cannot_be_read_are_a_warning(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tar(tmp_path / "bin", "echo 'tar: x: Warning: Cannot llistxattrat' >&2", monkeypatch)
    night = Night(tree)

    night.read()

    assert night.outcome.consistency is Consistency.CRASH
    assert "x: Warning: Cannot llistxattrat" in night.events.warnings[0]


def test_an_archive_that_was_not_read_to_its_end_is_no_outcome(tree: Path) -> None:
    view = Night(tree).source.open()
    (stream,) = view.streams

    with stream.open() as readable:
        readable.read(1)
    with pytest.raises(SourceError, match='stream "archive" was not read to its end'):
        view.finish()
    view.close()


def test_a_tar_that_is_killed_fails_the_backup(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tar(tmp_path / "bin", "kill -9 $$", monkeypatch)

    with pytest.raises(SourceError, match=r'program "tar" was killed by SIGKILL$'):
        Night(tree).read()


def test_a_folder_that_is_missing_or_none_is_named(tree: Path) -> None:
    missing = DirectorySource("x", "s", DirectorySpec(tree / "no"), events=RecordedEvents())
    file = DirectorySource("x", "s", DirectorySpec(tree / "b.tmp"), events=RecordedEvents())

    with pytest.raises(SourceError, match=f'folder "{tree}/no" is not there'):
        missing.open()
    with pytest.raises(SourceError, match=f'"{tree}/b.tmp" is not a folder'):
        file.open()

    assert [finding.error is None for finding in missing.check()] == [False, True]


def test_check_finds_the_folder_and_gnu_tar(tree: Path) -> None:
    findings = list(Night(tree).source.check())

    assert [finding.error for finding in findings] == [None, None]
    assert findings[0].message == f'folder "{tree}" can be read'
    assert "GNU tar" in findings[1].message


def test_another_tar_is_found_out(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tar(tmp_path / "bin", "echo bsdtar 3.6.2", monkeypatch)

    *_, finding = Night(tree).source.check()

    assert str(finding.error) == 'program "tar" is not GNU tar, but "bsdtar 3.6.2"'
