# SPDX-License-Identifier: Apache-2.0
"""gpg that is killed, that has no room, that stops early: never a part taken for the whole."""

import io
import os
import resource
import signal
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from snapvault.adapters.sealers.gnupg import GnupgSealer, open_sealer
from snapvault.errors import IntegrityError, SealError, SnapVaultError
from snapvault.ports.sealer import Readers
from tests.support.keys import HOST, RECOVERY, gnupg_home

pytestmark = pytest.mark.integration

PIECE = bytes(1 << 20)


@pytest.fixture(scope="module")
def sealer() -> Iterator[GnupgSealer]:
    with gnupg_home(secret=["host", "recovery"]) as home:
        yield open_sealer(home, recipients=[RECOVERY], signer=HOST)


def children() -> list[int]:
    """Return the processes that this one started and that still run."""
    found: list[int] = []
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended since
            found += map(int, task.read_text().split())
    return found


def kill_all_but(spared: set[int]) -> None:
    for pid in set(children()) - spared:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_gpg_killed_while_sealing_leaves_no_file(sealer: GnupgSealer, tmp_path: Path) -> None:
    before = set(children())

    def chunks() -> Iterator[bytes]:
        yield PIECE
        kill_all_but(before)
        for _ in range(8):
            yield PIECE

    with pytest.raises(SealError, match="could not encrypt"):
        sealer.seal_to_file(chunks(), tmp_path / "volume", Readers.RECOVERY)

    assert list(tmp_path.iterdir()) == []


def test_gpg_killed_while_opening_is_never_success(sealer: GnupgSealer) -> None:
    sealed = sealer.seal(PIECE * 8, Readers.RECOVERY)
    before = set(children())

    def sink(_piece: bytes) -> None:
        kill_all_but(before)

    with pytest.raises(SnapVaultError):
        sealer.open_stream(io.BytesIO(sealed), sink)


@pytest.mark.parametrize("room", [0, 5_000, 3_000_000])
def test_a_file_that_cannot_grow_is_an_error_and_is_removed(
    sealer: GnupgSealer, tmp_path: Path, room: int
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # gpg inherits it: writing fails
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(SealError, match="could not encrypt"):
            sealer.seal_to_file([PIECE] * 6, tmp_path / "volume", Readers.RECOVERY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error(sealer: GnupgSealer, tmp_path: Path) -> None:
    with pytest.raises(SealError, match="could not encrypt: .*No such file or directory"):  # noqa: RUF043
        sealer.seal_to_file([PIECE], tmp_path / "nowhere" / "volume", Readers.RECOVERY)


def test_an_endless_stream_of_junk_is_refused_without_reading_it_all(sealer: GnupgSealer) -> None:
    class Junk:
        reads = 0

        def read(self, size: int, /) -> bytes:
            self.reads += 1
            return b"\0" * size if self.reads < 1000 else b""

    junk = Junk()

    with pytest.raises(IntegrityError):
        sealer.open_stream(junk, lambda _piece: None)

    assert junk.reads < 100


def test_nothing_is_left_running_after_failures(sealer: GnupgSealer, tmp_path: Path) -> None:
    threads, processes = set(threading.enumerate()), set(children())
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- their number is all we need

    def broken() -> Iterator[bytes]:
        yield PIECE
        raise EOFError

    for number in range(3):
        with pytest.raises(EOFError):
            sealer.seal_to_file(broken(), tmp_path / str(number), Readers.RECOVERY)
        with pytest.raises(IntegrityError):
            sealer.open(b"junk")

    assert set(threading.enumerate()) <= threads
    assert set(children()) <= processes
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # noqa: PTH208 -- as above


def test_memory_does_not_grow_with_what_is_sealed_and_opened(
    sealer: GnupgSealer, tmp_path: Path
) -> None:
    pieces = 96
    tracemalloc.start()

    sealer.seal_to_file((PIECE for _ in range(pieces)), tmp_path / "volume", Readers.RECOVERY)
    opened = 0

    def count(piece: bytes) -> None:
        nonlocal opened
        opened += len(piece)

    with (tmp_path / "volume").open("rb") as sealed:
        sealer.open_stream(sealed, count)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert opened == pieces * len(PIECE)
    assert peak < 8 << 20
