# SPDX-License-Identifier: Apache-2.0
"""The system's librsync, through our binding."""

import gc
import hashlib
import random
import resource
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapvault.adapters import librsync
from snapvault.adapters.librsync import LibRsync
from snapvault.errors import ConfigError, SignatureError, SourceError
from snapvault.formats.delta import Copy, DeltaReader

pytestmark = pytest.mark.integration

MIB = 1 << 20
HEADER_SIZE = 12


def sign(path: Path, data: bytes, *, block_length: int = 2048, strong_length: int = 12) -> Path:
    with path.open("wb") as file:
        job = LibRsync().signature(
            lambda piece: void(file.write(piece)),
            block_length=block_length,
            strong_length=strong_length,
        )
        job.feed(data)
        job.finish()
    return path


def void(_: int) -> None:
    """Drop a count, so that a write can be a sink."""


def delta_of(signature: Path, data: bytes, cuts: tuple[int, ...] = ()) -> list[bytes]:
    pieces: list[bytes] = []
    job = LibRsync().sums(signature).delta(pieces.append)
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut <= len(data))})
    for start, end in pairwise(bounds):
        job.feed(memoryview(data)[start:end])
    job.finish()
    return pieces


def patch(old: bytes, delta: list[bytes]) -> bytes:
    reader = DeltaReader()
    new = bytearray()
    for piece in delta:
        for command in reader.feed(piece):
            if isinstance(command, Copy):
                assert command.offset + command.length <= len(old)
                new += old[command.offset : command.offset + command.length]
            else:
                new += command
    reader.finish()
    return bytes(new)


edits = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "overwrite", "move"]),
        st.integers(0, 20_000),
        st.binary(max_size=300),
    ),
    max_size=6,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    size=st.integers(0, 20_000),
    seed=st.integers(0, 3),
    edits=edits,
    block_length=st.sampled_from([1, 7, 128, 2048, 40_000]),
    strong_length=st.sampled_from([8, 12, 32]),
    cuts=st.lists(st.integers(0, 20_000), max_size=4),
)
def test_any_delta_patches_back_the_exact_bytes(
    tmp_path: Path,
    size: int,
    seed: int,
    edits: list[tuple[str, int, bytes]],
    block_length: int,
    strong_length: int,
    cuts: list[int],
) -> None:
    old = random.Random(seed).randbytes(size)
    new = edit(old, edits)
    signature = sign(
        tmp_path / "old.sig", old, block_length=block_length, strong_length=strong_length
    )

    delta = delta_of(signature, new, tuple(cuts))

    assert patch(old, delta) == new


def edit(old: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    new = bytearray(old)
    for verb, position, data in edits:
        at = min(position, len(new))
        if verb == "insert":
            new[at:at] = data
        elif verb == "delete":
            del new[at : at + 10 * len(data)]
        elif verb == "overwrite":
            new[at : at + len(data)] = data
        else:
            new += new[:at]
            del new[:at]
    return bytes(new)


def test_a_signature_has_the_documented_layout(tmp_path: Path) -> None:
    data = b"0123456789" * 1000

    raw = sign(tmp_path / "sig", data, block_length=4096, strong_length=9).read_bytes()

    assert raw[:HEADER_SIZE] == bytes.fromhex("727301470000100000000009")
    assert len(raw) == HEADER_SIZE + 3 * (4 + 9)
    strong = hashlib.blake2b(data[:4096], digest_size=32).digest()
    assert raw[HEADER_SIZE + 4 : HEADER_SIZE + 13] == strong[:9]


def test_the_signature_does_not_depend_on_how_the_stream_is_cut(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(3 * MIB + 12_345)
    whole = sign(tmp_path / "whole.sig", data).read_bytes()
    pieces: list[bytes] = []

    job = LibRsync().signature(pieces.append, block_length=2048, strong_length=12)
    for start in range(0, len(data), 100_003):
        job.feed(data[start : start + 100_003])
    job.finish()

    assert b"".join(pieces) == whole


def test_an_unchanged_stream_is_all_copies(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(3 * MIB + 77)
    signature = sign(tmp_path / "sig", data)

    delta = delta_of(signature, data)

    assert patch(data, delta) == data
    assert sum(map(len, delta)) < 2000


def test_everything_is_literal_against_an_empty_signature(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(5 * MIB + 1)
    signature = sign(tmp_path / "sig", b"")

    delta = delta_of(signature, data)

    assert patch(b"", delta) == data


def test_a_feed_larger_than_the_buffers_is_taken_whole(tmp_path: Path) -> None:
    old = random.Random(4).randbytes(MIB)
    new = random.Random(5).randbytes(7 * MIB) + old
    signature = sign(tmp_path / "sig", old)

    delta = delta_of(signature, new)

    assert patch(old, delta) == new


def test_two_jobs_run_at_once_in_two_threads(tmp_path: Path) -> None:
    old = random.Random(6).randbytes(4 * MIB)
    signature = sign(tmp_path / "sig", old)
    results: dict[int, bytes] = {}

    def work(number: int) -> None:
        results[number] = patch(old, delta_of(signature, old[number:]))

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == {1: old[1:], 2: old[2:]}


def cut_header(raw: bytes) -> bytes:
    return raw[:11]


def cut_sum(raw: bytes) -> bytes:
    return raw[:-1]


def other_magic(raw: bytes) -> bytes:
    return b"rs\x026" + raw[4:]


def no_blocks(raw: bytes) -> bytes:
    return raw[:4] + bytes(4) + raw[8:]


def long_sums(raw: bytes) -> bytes:
    return raw[:8] + b"\x00\x00\x00\x21" + raw[12:]


@pytest.mark.parametrize("damage", [cut_header, cut_sum, other_magic, no_blocks, long_sums])
def test_a_file_that_is_no_signature_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = sign(tmp_path / "sig", b"x" * 5000)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(SignatureError, match='"'):
        LibRsync().sums(path)


def test_a_missing_signature_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r'missing\.sig": No such file'):
        LibRsync().sums(tmp_path / "missing.sig")


def test_a_job_that_is_over_takes_no_more(tmp_path: Path) -> None:
    signature = sign(tmp_path / "sig", b"old")
    job = LibRsync().sums(signature).delta(lambda _: None)
    job.feed(b"new")
    job.close()

    job.close()

    with pytest.raises(ValueError, match="over"):
        job.feed(b"more")
    with pytest.raises(ValueError, match="over"):
        job.finish()


def test_an_error_of_the_sink_is_passed_on_and_ends_the_job() -> None:
    def full(_: bytes) -> None:
        raise OSError("disk full")

    job = LibRsync().signature(full, block_length=2048, strong_length=12)

    with pytest.raises(OSError, match="disk full"):
        job.feed(bytes(2 * MIB))
    with pytest.raises(ValueError, match="over"):
        job.feed(b"more")


@pytest.mark.parametrize(("block", "strong"), [(0, 12), (-1, 12), (2**31, 12), (1, 0), (1, 33)])
def test_lengths_that_librsync_cannot_use_are_mistakes(block: int, strong: int) -> None:
    with pytest.raises(ValueError, match="not a"):
        LibRsync().signature(lambda _: None, block_length=block, strong_length=strong)


def test_jobs_dropped_on_the_way_leave_no_memory_behind(tmp_path: Path) -> None:
    signature = sign(tmp_path / "sig", random.Random(7).randbytes(8 * MIB), block_length=128)

    def drop(times: int) -> int:
        for number in range(times):
            job = LibRsync().sums(signature).delta(lambda _: None)
            job.feed(bytes(10_000))
            if number % 2:
                job.close()
            del job
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = drop(4)
    after = drop(30)

    # One signature of 65,536 blocks is a good megabyte in memory.
    assert after - before < 8 * 1024


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    librsync._library.cache_clear()
    monkeypatch.setattr(librsync, "LIBRARY", "librsync-of-nowhere.so.2")
    yield
    librsync._library.cache_clear()


@pytest.mark.usefixtures("no_library")
def test_a_missing_library_is_named_with_the_package_that_has_it() -> None:
    with pytest.raises(ConfigError, match=r'"librsync-of-nowhere\.so\.2"') as caught:
        LibRsync().signature(lambda _: None, block_length=2048, strong_length=12)

    assert caught.value.hint is not None
    assert "apt-get install librsync2" in caught.value.hint


def test_the_version_is_the_library_s_own() -> None:
    assert LibRsync().version().startswith("2.")
