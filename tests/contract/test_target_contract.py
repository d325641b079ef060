# SPDX-License-Identifier: Apache-2.0
"""What every target does, wherever the bytes go."""

import mmap
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from snapvault.adapters.targets.device import DeviceTarget
from snapvault.adapters.targets.file import FileTarget
from snapvault.adapters.targets.qcow2 import Qcow2Target
from snapvault.ports.target import Target
from tests.support.targets import MemoryTarget
from tests.unit.adapters.targets.devices import block_device

MIB = 1 << 20
SIZE = 4 * MIB + 5000  # not a multiple of anything


@dataclass(frozen=True, slots=True)
class Made:
    """A target of SIZE bytes and the ways to look at what became of it."""

    target: Target
    content: Callable[[], bytes]
    leftovers: Callable[[], list[str]]


@pytest.fixture
def file_unnamed(tmp_path: Path) -> Iterator[Made]:
    yield from _file(tmp_path, unnamed=True)


@pytest.fixture
def file_named(tmp_path: Path) -> Iterator[Made]:
    yield from _file(tmp_path, unnamed=False)


def _file(folder: Path, *, unnamed: bool) -> Iterator[Made]:
    path = folder / "disk.img"
    target = FileTarget.create(path, SIZE, force=False, unnamed=unnamed)
    yield Made(target, path.read_bytes, lambda: [each.name for each in folder.iterdir()])
    target.abort()


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    with block_device(tmp_path / "backing", 8 * MIB, monkeypatch) as (path, _):
        target = DeviceTarget.open(path, SIZE, force=True)
        yield Made(target, lambda: path.read_bytes()[:SIZE], list)
        target.abort()


@pytest.fixture
def qcow2(tmp_path: Path) -> Iterator[Made]:
    path = tmp_path / "disk.qcow2"
    target = Qcow2Target.create(path, SIZE, force=False)

    def content() -> bytes:
        raw = tmp_path / "disk.raw"
        subprocess.run(["qemu-img", "check", "-q", path], check=True)
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw], check=True)
        return raw.read_bytes()[:SIZE]  # QEMU sees whole sectors

    yield Made(target, content, lambda: [each.name for each in tmp_path.iterdir()])
    target.abort()


@pytest.fixture
def memory() -> Made:
    target = MemoryTarget(SIZE)
    return Made(target, lambda: target.content or b"", list)


@pytest.fixture(params=["file_unnamed", "file_named", "device", "qcow2", "memory"])
def made(request: pytest.FixtureRequest) -> Made:
    found: Made = request.getfixturevalue(request.param)
    return found


def aligned(data: bytes) -> memoryview:
    """Return the bytes at the start of a page of memory."""
    memory = memoryview(mmap.mmap(-1, len(data)))
    memory[:] = data
    return memory


def pattern(length: int, seed: int) -> bytes:
    return bytes((each * 31 + seed) % 251 for each in range(4099)) * (length // 4099 + 1)


def piece(length: int, seed: int) -> memoryview:
    return aligned(pattern(length, seed)[:length])


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, MIB),
        (MIB, 16 << 10),
        (3 * MIB + 4096, 200 << 10),
        (1, MIB),
        (4096, MIB + 77),
        (SIZE - 5000, 5000),
        (SIZE - MIB, MIB),
        (12345, 1),
        (8192, 0),
    ],
)
def test_what_was_written_is_there_after_commit(made: Made, offset: int, length: int) -> None:
    data = piece(length, 1) if length else memoryview(b"")

    made.target.write(offset, data)
    made.target.commit()

    assert made.content()[offset : offset + length] == data


def test_memory_that_is_not_aligned_is_written_too(made: Made) -> None:
    data = piece(MIB + 4096, 3)[7 : MIB + 7]

    made.target.write(MIB, data)
    made.target.commit()

    assert made.content()[MIB : 2 * MIB] == data


def test_memory_that_is_read_only_is_written_too(made: Made) -> None:
    data = pattern(MIB, 4)[:MIB]

    made.target.write(0, memoryview(data))
    made.target.commit()

    assert made.content()[:MIB] == data


def test_a_target_written_in_pieces_from_several_threads_is_whole(made: Made) -> None:
    expected = pattern(SIZE, 5)[:SIZE]
    cuts = [0, 4096, 20480, 20481, MIB, MIB + 131072, 2 * MIB, 2 * MIB + 100, 3 * MIB, SIZE]

    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda pair: made.target.write(pair[0], aligned(expected[pair[0] : pair[1]])),
                pairwise(cuts),
            )
        )
    made.target.commit()

    assert made.content() == expected


def test_what_was_written_can_be_read_back_before_commit(made: Made) -> None:
    made.target.write(0, piece(MIB, 6))
    made.target.write(SIZE - 904, piece(904, 7))
    start, tail = aligned(bytes(MIB)), aligned(bytes(904))

    made.target.read_into(0, start)
    made.target.read_into(SIZE - 904, tail)

    assert start == piece(MIB, 6)
    assert tail == piece(904, 7)


@pytest.mark.parametrize(("offset", "length"), [(0, MIB), (1000, 2 * MIB), (MIB, 10), (0, 0)])
def test_zeroed_ranges_read_as_zeros_whatever_was_written(
    made: Made, offset: int, length: int
) -> None:
    expected = bytearray(pattern(SIZE, 8)[:SIZE])
    made.target.write(0, aligned(bytes(expected)))

    made.target.zero(offset, length)
    made.target.commit()

    expected[offset : offset + length] = bytes(length)
    assert made.content() == expected


def test_ranges_zeroed_before_anything_is_written_read_as_zeros(made: Made) -> None:
    made.target.zero(0, SIZE)

    made.target.write(MIB, piece(4096, 9))
    made.target.commit()

    assert made.content() == bytes(MIB) + piece(4096, 9) + bytes(SIZE - MIB - 4096)


def test_abort_leaves_nothing_under_any_name(made: Made) -> None:
    made.target.write(0, piece(MIB, 10))

    made.target.abort()

    assert made.leftovers() == []


def test_abort_can_be_repeated(made: Made) -> None:
    made.target.abort()

    made.target.abort()

    assert made.leftovers() == []


def test_abort_after_commit_has_no_effect(made: Made) -> None:
    made.target.zero(0, SIZE)
    made.target.commit()

    made.target.abort()

    assert made.content() == bytes(SIZE)


@pytest.mark.parametrize("kind", ["file_unnamed", "file_named", "qcow2"])
def test_ranges_of_a_file_that_were_never_written_read_as_zeros(
    request: pytest.FixtureRequest, kind: str
) -> None:
    made: Made = request.getfixturevalue(kind)

    made.target.write(MIB, piece(16 << 10, 11))
    made.target.commit()

    rest = bytes(SIZE - MIB - (16 << 10))
    assert made.content() == bytes(MIB) + piece(16 << 10, 11) + rest
