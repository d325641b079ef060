# SPDX-License-Identifier: Apache-2.0
"""What only the directory store has to take care of."""

import errno
import hashlib
import os
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.stores.directory import DirectoryStore
from snapvault.errors import (
    IntegrityError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreMissingError,
    StoreUnavailableError,
)
from snapvault.ports.throttle import GivenUp
from tests.support.throttles import RecordedThrottle


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "vault"


class KilledError(BaseException):
    """The process ends here."""


def test_a_run_killed_before_the_name_exists_leaves_nothing_to_see(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(root)

    def killed(*_: object) -> None:
        raise KilledError

    monkeypatch.setattr(os, "link", killed)
    monkeypatch.setattr(Path, "unlink", killed)  # a dead process cleans nothing up

    with pytest.raises(KilledError):
        store.put("vault.json", b"{}")

    monkeypatch.undo()
    assert len(list((root / ".incoming").iterdir())) == 1
    assert list(DirectoryStore(root).names()) == []
    with pytest.raises(ObjectMissingError):
        DirectoryStore(root).get("vault.json")


def test_what_a_killed_run_left_does_not_hinder_the_next_and_is_swept_after_a_week(
    root: Path,
) -> None:
    DirectoryStore(root).put("first", b"1")
    old, young = root / ".incoming" / "old", root / ".incoming" / "young"
    for path in (old, young):
        path.write_bytes(b"half")
    long_ago = (clock.now() - timedelta(days=8)).timestamp()
    os.utime(old, (long_ago, long_ago))

    DirectoryStore(root).put("second", b"2")

    assert [item.name for item in DirectoryStore(root).names()] == ["first", "second"]
    assert (old.exists(), young.exists()) == (False, True)


def test_bytes_are_synced_before_their_name_and_the_name_before_put_returns(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(root)
    store.put("warm/up", b"")
    steps: list[str] = []
    sync, link = os.fsync, os.link

    def recording_sync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append("sync name" if target == root / "warm" else f"sync {target.parent.name}")
        sync(descriptor)

    def recording_link(source: Path, target: Path) -> None:
        steps.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", recording_sync)
    monkeypatch.setattr(os, "link", recording_link)

    store.put("warm/object", b"sealed")

    assert steps == ["sync .incoming", "link", "sync name"]


def test_new_folders_are_synced_into_their_parents(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DirectoryStore(root).put("warm", b"")
    synced: list[Path] = []
    sync = os.fsync

    def recording_sync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", recording_sync)

    DirectoryStore(root).put("volumes/ab/x.vol", b"sealed")

    assert {root, root / "volumes", root / "volumes" / "ab"} <= set(synced)


def test_without_hard_links_objects_still_are_never_replaced(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    store = DirectoryStore(root)
    store.put("x", b"sealed")
    store.put("x", b"sealed")

    with pytest.raises(IntegrityError):
        store.put("x", b"forged")

    assert store.get("x") == b"sealed"
    assert [item.name for item in store.names()] == ["x"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreError),
        (errno.EROFS, StoreDeniedError),
        (errno.EACCES, StoreDeniedError),
        (errno.ESTALE, StoreUnavailableError),
        (errno.EIO, StoreUnavailableError),
        (errno.EFBIG, StoreError),
    ],
)
def test_a_put_that_fails_says_why_and_leaves_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StoreError]
) -> None:
    store = DirectoryStore(root)
    store.put("warm", b"")

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(StoreError, match='could not store "x" in "file://') as caught:
        store.put("x", b"sealed")

    monkeypatch.undo()
    assert type(caught.value) is kind
    assert os.strerror(number).lower() in str(caught.value).lower()
    assert [item.name for item in store.names()] == ["warm"]
    assert list((root / ".incoming").iterdir()) == []


def test_an_object_that_shrinks_while_it_is_read_is_no_shorter_object(root: Path) -> None:
    store = DirectoryStore(root)
    store.put("x", bytes(100_000))

    with store.open("x") as readable:
        readable.read(10)
        os.truncate(root / "x", 20)
        readable.read(10)

        with pytest.raises(IntegrityError, match='"x" lost 99980 bytes'):
            readable.read(10)


def test_a_folder_that_is_not_mounted_is_no_empty_vault(root: Path) -> None:
    with pytest.raises(StoreMissingError, match="does not exist") as caught:
        list(DirectoryStore(root).names())

    assert caught.value.hint is not None


def test_foreign_files_are_not_listed(root: Path) -> None:
    store = DirectoryStore(root)
    store.put("x", b"sealed")
    (root / "lost+found").mkdir()
    (root / "notes for me.txt").write_text("mine")

    assert [item.name for item in store.names()] == ["x"]


def test_a_file_that_cannot_be_read_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="spooled"):
        DirectoryStore(root).put_file("x", tmp_path / "spooled", size=1, sha256="")


def test_what_is_written_passes_the_throttle_and_nothing_is_left_of_what_was_given_up(
    root: Path, tmp_path: Path
) -> None:
    data = b"x" * 600_000
    (tmp_path / "spooled").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    throttle = RecordedThrottle()

    DirectoryStore(root, throttle).put_file(
        "volumes/a.vol", tmp_path / "spooled", size=600_000, sha256=sha256
    )
    DirectoryStore(root, throttle).put("points/a.point", b"signed")
    with pytest.raises(GivenUp):
        DirectoryStore(root, RecordedThrottle(limit=300_000)).put_file(
            "volumes/b.vol", tmp_path / "spooled", size=600_000, sha256=sha256
        )

    assert throttle.total == 600_006
    assert max(throttle.taken) == 1 << 18
    stored = sorted(path.name for path in root.rglob("*") if path.is_file())
    assert stored == ["a.point", "a.vol"]
