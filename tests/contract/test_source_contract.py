# SPDX-License-Identifier: Apache-2.0
"""The contract of sources, over every source: what the engine relies on."""

import mmap
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeGuard

import pytest

from snapvault.adapters.sources.combined import CombinedSource
from snapvault.adapters.sources.command import CommandSource
from snapvault.adapters.sources.directory import DirectorySource
from snapvault.adapters.sources.hooked import HookedSource, hook_environment
from snapvault.adapters.sources.image import ImageSource
from snapvault.adapters.sources.qcow2 import Qcow2Source
from snapvault.errors import SourceError
from snapvault.model.policy import DirectorySpec, HookSpec, HooksSpec
from snapvault.ports.source import ByteStream, Consistency, DiskStream, Source
from tests.support.events import RecordedEvents
from tests.support.qemu import qemu_img
from tests.support.sources import MemoryByteSource, MemoryDiskSource

KIB = 1 << 10
BLOCK = 16 * KIB

SPARSE = (
    random.Random(1).randbytes(5000)
    + bytes(300 * KIB)
    + random.Random(2).randbytes(70_001)
    + bytes(200 * KIB)
)
ODD = random.Random(3).randbytes(3 * 4096 + 7)
DISKS = {"root": SPARSE, "swap ä ö/½ 'x\"": ODD, "empty": b"", "holes": bytes(150 * KIB)}
DUMP = random.Random(4).randbytes(3_000_001)


@dataclass(frozen=True, slots=True)
class Case:
    """A source, and the bytes of its streams in their order."""

    source: Source
    expected: dict[str, bytes]


def write_sparse(path: Path, data: bytes) -> Path:
    """Write a file whose pages of zeros are holes."""
    with path.open("wb") as file:
        for offset in range(0, len(data), 4096):
            page = data[offset : offset + 4096]
            if any(page):
                file.seek(offset)
                file.write(page)
        file.truncate(len(data))
    return path


def images_in(folder: Path) -> ImageSource:
    return ImageSource(
        "web01",
        {
            name: write_sparse(folder / f"disk {number} ü.raw", data)
            for number, (name, data) in enumerate(DISKS.items())
        },
    )


def command_source(folder: Path) -> CommandSource:
    path = folder / "dump of the day"
    path.write_bytes(DUMP)
    return CommandSource("shop", "dump", ["cat", str(path)])


def image(folder: Path) -> Case:
    return Case(images_in(folder), DISKS)


def image_in_memory(folder: Path) -> Case:
    return Case(images_in(folder), DISKS)


def qcow2(folder: Path) -> Case:
    # QEMU's disks are whole sectors.
    disks = {name: data + bytes(-len(data) % 512) for name, data in DISKS.items()}
    images = {}
    for number, (name, data) in enumerate(disks.items()):
        raw = write_sparse(folder / f"disk {number}.raw", data)
        images[name] = folder / f"disk {number} ü.qcow2"
        qemu_img("convert", "-f", "raw", "-O", "qcow2", str(raw), str(images[name]))
    return Case(Qcow2Source("web01", images), disks)


def command(folder: Path) -> Case:
    return Case(command_source(folder), {"dump": DUMP})


def combined(folder: Path) -> Case:
    parts: list[Source] = [
        images_in(folder),
        command_source(folder),
        MemoryByteSource("m", {"xml": b"<a/>"}),
    ]
    return Case(CombinedSource("web01", parts), {**DISKS, "dump": DUMP, "xml": b"<a/>"})


def memory_disks(_: Path) -> Case:
    return Case(MemoryDiskSource("web01", DISKS), DISKS)


def memory_bytes(_: Path) -> Case:
    return Case(MemoryByteSource("shop", {"dump": DUMP}, piece=10_000), {"dump": DUMP})


def directory(folder: Path) -> Case:
    tree = folder / "tree"
    (tree / "below").mkdir(parents=True)
    write_sparse(tree / "below/disk.raw", SPARSE)
    (tree / "dump").write_bytes(DUMP)
    source = DirectorySource("etc", "tree", DirectorySpec(tree), events=RecordedEvents())
    view = source.open()
    archive = read_bytes(view.streams[0])
    view.close()
    return Case(source, {"tree": archive})


def hooked(folder: Path) -> Case:
    hook = HookSpec(("sh", "-c", "echo said"))
    source = HookedSource(
        images_in(folder),
        HooksSpec(before=hook, after=hook),
        hook_environment(source="web01", vault="offsite", policy="nightly"),
        RecordedEvents(),
    )
    return Case(source, DISKS)


MAKERS: list[Callable[[Path], Case]] = [
    image,
    image_in_memory,
    qcow2,
    command,
    combined,
    directory,
    hooked,
    memory_disks,
    memory_bytes,
]


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    maker: Callable[[Path], Case] = request.param
    if maker is not image_in_memory:
        yield maker(tmp_path)
        return
    # A file system in memory is one that knows no direct reads, or only by name.
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        yield maker(folder)
    finally:
        shutil.rmtree(folder)


def read_disk(disk: DiskStream, buffer: memoryview) -> bytes:
    """Read the ranges through a buffer; what lies between them is zeros."""
    content = bytearray(disk.size)
    for start, end in disk.data_ranges():
        for offset in range(start, end, len(buffer)):
            piece = buffer[: min(len(buffer), end - offset)]
            disk.read_into(offset, piece)
            content[offset : offset + len(piece)] = piece
    return bytes(content)


def read_bytes(stream: ByteStream, size: int = 100_000) -> bytes:
    with stream.open() as readable:
        pieces = list(iter(lambda: readable.read(size), b""))
    assert all(len(piece) <= size for piece in pieces)
    return b"".join(pieces)


def is_disk(stream: DiskStream | ByteStream) -> TypeGuard[DiskStream]:
    return hasattr(stream, "read_into")


def is_bytes(stream: DiskStream | ByteStream) -> TypeGuard[ByteStream]:
    return not is_disk(stream)


def read_stream(stream: DiskStream | ByteStream) -> bytes:
    if is_bytes(stream):
        return read_bytes(stream)
    assert is_disk(stream)
    return read_disk(stream, memoryview(mmap.mmap(-1, BLOCK)))


def disks_of(streams: tuple[DiskStream | ByteStream, ...]) -> list[DiskStream]:
    return [stream for stream in streams if is_disk(stream)]


def open_files() -> set[tuple[str, str]]:
    """Return what this process has open, by descriptor.

    Sources are asked what came to it alone: others close theirs when they like, and what nobody
    holds any more is closed when Python collects it.
    """
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of this listing
            found.add((descriptor.name, str(descriptor.readlink())))
    return found


def test_every_stream_gives_its_bytes_in_the_order_that_was_asked_for(case: Case) -> None:
    view = case.source.open()

    content = {stream.name: read_stream(stream) for stream in view.streams}
    consistency = view.finish().consistency
    view.close()

    assert list(content) == list(case.expected)
    assert content == case.expected
    assert consistency is not Consistency.NONE


def test_the_moment_of_a_view_is_in_utc(case: Case) -> None:
    view = case.source.open()

    taken_at = view.taken_at
    view.close()

    assert taken_at.utcoffset() == timedelta(0)


def test_a_view_that_was_read_leaves_no_file_open(case: Case) -> None:
    before = open_files()

    view = case.source.open()
    for stream in view.streams:
        read_stream(stream)
    view.finish()
    view.close()

    assert open_files() - before == set()


def test_a_view_is_closed_unread_and_closed_twice(case: Case) -> None:
    before = open_files()
    view = case.source.open()

    view.close()
    view.close()

    assert open_files() - before == set()


def test_a_source_is_opened_again_after_its_view_was_closed(case: Case) -> None:
    case.source.open().close()

    view = case.source.open()
    content = [read_stream(stream) for stream in view.streams]
    view.close()

    assert content == list(case.expected.values())


def test_a_byte_stream_left_in_the_middle_leaves_nothing_open(case: Case) -> None:
    before = open_files()
    view = case.source.open()

    for stream in view.streams:
        if is_bytes(stream):
            with stream.open() as readable:
                readable.read(1)
    view.close()

    assert open_files() - before == set()


def test_data_ranges_are_sorted_disjoint_and_miss_nothing_but_zeros(case: Case) -> None:
    view = case.source.open()

    for disk in disks_of(view.streams):
        ranges = list(disk.data_ranges())
        bounds = [bound for start, end in ranges for bound in (start, end)]
        rest = bytearray(case.expected[disk.name])
        for start, end in ranges:
            rest[start:end] = bytes(end - start)

        assert bounds == sorted(set(bounds))
        assert not bounds or bounds[-1] <= disk.size == len(rest)
        assert not any(rest)
    view.close()


@pytest.mark.parametrize("skew", [0, 1, 512])
def test_any_range_is_read_into_any_buffer(case: Case, skew: int) -> None:
    view = case.source.open()

    for disk in disks_of(view.streams):
        buffer = memoryview(mmap.mmap(-1, 1 << 20))[skew:]
        for offset in (0, 1, 4096, 4097, 8192, disk.size - 1, disk.size - 4096, disk.size):
            for length in (0, 1, 512, 4096, 5000, 12_288, disk.size - offset):
                if min(offset, length) >= 0 and offset + length <= disk.size:
                    disk.read_into(offset, buffer[:length])

                    assert buffer[:length] == case.expected[disk.name][offset : offset + length]
    view.close()


def test_reading_past_the_end_of_a_disk_is_refused(case: Case) -> None:
    view = case.source.open()

    for disk in disks_of(view.streams):
        with pytest.raises(SourceError, match=f"ends at {disk.size} bytes"):
            disk.read_into(disk.size - disk.size % 4096, memoryview(bytearray(8192)))
    view.close()


def test_two_threads_read_one_disk_at_once(case: Case) -> None:
    view = case.source.open()
    disks = disks_of(view.streams)
    contents: list[list[bytes]] = [[], []]

    def work(number: int) -> None:
        buffer = memoryview(mmap.mmap(-1, BLOCK))
        for _ in range(5):
            contents[number] = [read_disk(disk, buffer) for disk in disks]

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    view.close()

    assert contents[0] == contents[1] == [case.expected[disk.name] for disk in disks]
