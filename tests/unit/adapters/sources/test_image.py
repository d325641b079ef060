# SPDX-License-Identifier: Apache-2.0
"""Raw images as sources: what only they can meet."""

import ctypes
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.sources.image import ImageSource
from snapvault.adapters.sources.reading import QuietReader
from snapvault.errors import ConfigError, SourceError
from snapvault.ports.source import Consistency

MIB = 1 << 20
DATA = random.Random(1).randbytes(MIB + 123)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "root disk.raw"
    path.write_bytes(DATA)
    return path


def source_of(path: Path) -> ImageSource:
    return ImageSource("web01", {"root": path})


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"!")


def overwrite_and_hide_it(path: Path) -> None:
    before = path.stat()
    # The times of a file system may pass in steps of milliseconds.
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        overwrite(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_file_that_nobody_touched_is_crash_consistent(path: Path) -> None:
    view = source_of(path).open()

    consistency = view.finish().consistency
    view.close()

    assert consistency is Consistency.CRASH


@pytest.mark.parametrize("change", [grow, overwrite, overwrite_and_hide_it])
def test_a_file_that_changes_while_it_is_read_is_worth_nothing(
    path: Path, change: Callable[[Path], None]
) -> None:
    os.utime(path, ns=(0, 0))
    view = source_of(path).open()

    change(path)
    size = view.streams[0].size
    consistency = view.finish().consistency
    view.close()

    assert consistency is Consistency.NONE
    assert size == len(DATA)


def test_one_changed_disk_of_two_weakens_the_whole_view(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"x")
    view = ImageSource("web01", {"root": path, "data": tmp_path / "other"}).open()

    grow(path)
    consistency = view.finish().consistency
    view.close()

    assert consistency is Consistency.NONE


def test_a_file_that_shrinks_while_it_is_read_makes_no_restore_point(path: Path) -> None:
    view = source_of(path).open()
    (disk,) = view.streams
    os.truncate(path, 4096)

    list(disk.data_ranges())
    with pytest.raises(SourceError, match="became smaller while it was read"):
        disk.read_into(8192, memoryview(mmap.mmap(-1, 4096)))
    with pytest.raises(SourceError, match="became smaller while it was read"):
        view.finish()

    view.close()


def test_a_file_replaced_by_another_is_still_read(path: Path, tmp_path: Path) -> None:
    view = source_of(path).open()
    (tmp_path / "new").write_bytes(bytes(len(DATA)))
    (tmp_path / "new").replace(path)
    buffer = memoryview(mmap.mmap(-1, 8192))

    view.streams[0].read_into(4096, buffer)
    view.close()

    assert buffer == DATA[4096 : 4096 + 8192]


def test_holes_punched_while_ranges_are_listed_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for number in range(20):
            file.seek(number * MIB)
            file.write(b"x" * 4096)
    view = source_of(path).open()
    ranges = view.streams[0].data_ranges()

    first = next(ranges)
    os.truncate(path, 3 * MIB)
    rest = list(ranges)
    view.close()

    assert first[0] == 0
    assert all(start < end <= 3 * MIB for start, end in rest)


def test_short_holes_are_read_rather_than_skipped(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for offset in (MIB, MIB + 32 * 1024, 2 * MIB):
            file.seek(offset)
            file.write(b"x" * 4096)
        file.truncate(3 * MIB)
    view = source_of(path).open()

    ranges = list(view.streams[0].data_ranges())
    view.close()

    assert ranges == [(MIB, MIB + 36 * 1024), (2 * MIB, 2 * MIB + 4096)]


def test_a_missing_file_is_named_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r'image ".*/gone\.raw": no such file') as caught:
        source_of(tmp_path / "gone.raw").open()

    assert caught.value.hint is not None


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="it is a folder") as caught:
        source_of(tmp_path).open()

    assert '"directory"' in str(caught.value.hint)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(SourceError, match="neither a file nor a block device"):
        source_of(tmp_path / "pipe").open()


def test_a_character_device_is_refused() -> None:
    with pytest.raises(SourceError, match="neither a file nor a block device"):
        source_of(Path("/dev/zero")).open()


def test_a_file_that_may_not_be_read_is_named_with_a_hint(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    # Root may read everything, so the refusal is the operating system's, played back.
    monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(SourceError, match="permission denied") as caught:
        source_of(path).open()

    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("magic", "name"), [(b"QFI\xfb\0\0\0\3", "qcow2"), (b"KDMV", "vmdk"), (b"vhdxfile", "vhdx")]
)
def test_an_image_that_is_not_raw_is_refused(tmp_path: Path, magic: bytes, name: str) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(magic.ljust(4096, b"\0"))

    with pytest.raises(SourceError, match=f"is not raw: it is in {name} format") as caught:
        source_of(path).open()

    assert f"qemu-img convert -f {name}" in str(caught.value.hint)


def test_a_failed_opening_closes_what_was_open(path: Path, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = ImageSource("web01", {"root": path, "data": tmp_path / "gone"})

    with pytest.raises(SourceError, match="gone"):
        source.open()

    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_a_source_without_disks_is_refused() -> None:
    with pytest.raises(ConfigError, match='source "web01" has no disks'):
        ImageSource("web01", {})


READ_AHEAD = 256 * 1024  # bytes; twice what Linux reads ahead of itself


def cached_pages(path: Path) -> bytes:
    """Return one byte a page, odd when it is in the page cache (mincore(2))."""
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        pages = bytearray(-(-size // mmap.PAGESIZE))
        with mmap.mmap(file.fileno(), size) as mapped:
            handle = ctypes.c_char.from_buffer(mapped)
            flags = (ctypes.c_ubyte * len(pages)).from_buffer(pages)
            address = ctypes.c_void_p(ctypes.addressof(handle))
            assert ctypes.CDLL(None).mincore(address, ctypes.c_size_t(size), flags) == 0
            del handle, flags
    return bytes(page & 1 for page in pages)


def make_cold(path: Path) -> None:
    """Take a file out of the page cache, however long the kernel holds on to it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        patience = clock.monotonic() + 60
        while any(cached_pages(path)) and clock.monotonic() < patience:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert not any(cached_pages(path))


def read_all(path: Path, skew: int) -> None:
    """Read a disk into memory that is aligned for direct reads, or not."""
    buffer = memoryview(mmap.mmap(-1, 128 * 1024))[skew:]
    view = source_of(path).open()
    for offset in range(0, len(DATA), 64 * 1024):
        view.streams[0].read_into(offset, buffer[: min(64 * 1024, len(DATA) - offset)])
    view.close()


@pytest.mark.parametrize("skew", [0, 1], ids=["direct", "buffered"])
def test_reading_leaves_what_is_in_the_page_cache(path: Path, skew: int) -> None:
    before, after = b"", b"?"

    # A kernel that needs memory meanwhile may drop some pages, whoever reads them.
    for _ in range(8):
        path.write_bytes(DATA)
        before = cached_pages(path)
        read_all(path, skew)
        after = cached_pages(path)
        if after == before:
            break

    assert any(before)
    assert after == before


@pytest.mark.parametrize("skew", [0, 1], ids=["direct", "buffered"])
def test_reading_puts_next_to_nothing_into_the_page_cache(path: Path, skew: int) -> None:
    pages = -(-len(DATA) // mmap.PAGESIZE)
    least = pages

    # QUIRK: one time in forty, on a busy machine, Linux 6.18 keeps pages that it is told to drop.
    for _ in range(8):
        make_cold(path)
        read_all(path, skew)
        least = min(least, sum(cached_pages(path)))
        if least <= READ_AHEAD // mmap.PAGESIZE:
            break

    # What the kernel still reads ahead while we drop the rest, nobody can drop.
    assert least <= READ_AHEAD // mmap.PAGESIZE < pages // 2


def test_a_reader_whose_direct_reads_are_refused_reads_through_the_cache(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv
    buffer = memoryview(mmap.mmap(-1, 8192))

    with path.open("rb") as file, QuietReader(file.fileno()) as reader:
        plain = file.fileno()

        def refuse(descriptor: int, views: list[memoryview], offset: int, flags: int = 0) -> int:
            if descriptor != plain:
                raise OSError(22, "Invalid argument")
            return preadv(descriptor, views, offset, flags)

        monkeypatch.setattr(os, "preadv", refuse)
        count = reader.read_into(4096, buffer)

    assert count == 8192
    assert buffer == DATA[4096 : 4096 + 8192]


def test_a_failing_disk_is_named_with_the_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    view = source_of(path).open()
    monkeypatch.setattr(os, "preadv", fail)

    with pytest.raises(SourceError, match=r'image ".*" at offset 4096: Input/output error'):
        view.streams[0].read_into(4096, memoryview(mmap.mmap(-1, 4096)))

    view.close()
