# SPDX-License-Identifier: Apache-2.0
"""What is read of a source passes a throttle, and nothing else about it changes."""

from snapvault.adapters.sources.throttled import ThrottledSource
from snapvault.ports.source import DiskStream
from tests.support.sources import MemoryByteSource, MemoryDiskSource
from tests.support.throttles import RecordedThrottle


def test_all_that_is_read_of_a_disk_passes_the_throttle_first() -> None:
    inner = MemoryDiskSource("web01", {"root": bytes(range(256)) * 64})
    throttle = RecordedThrottle(piece=1000)
    buffer = bytearray(4096)

    view = ThrottledSource(inner, throttle).open()
    (disk,) = view.streams
    assert isinstance(disk, DiskStream)
    throttle.on_take = lambda: inner.record.bytes_read
    disk.read_into(4096, memoryview(buffer))
    view.close()

    assert bytes(buffer) == bytes(range(256)) * 16
    assert throttle.taken == [1000, 1000, 1000, 1000, 96]
    assert throttle.noted == [0] * 5
    assert (disk.name, disk.size, inner.record.left_open) == ("root", 256 * 64, 0)


def test_a_pipe_counts_for_what_it_gave_not_for_what_was_asked() -> None:
    content = b"a dump\n" * 1000
    inner = MemoryByteSource("shop", {"dump": content})
    throttle = RecordedThrottle(piece=1 << 20)

    view = ThrottledSource(inner, throttle).open({"dump": "mark"})
    (stream,) = view.streams
    assert not isinstance(stream, DiskStream)
    with stream.open() as readable:
        read = b"".join(iter(lambda: readable.read(1 << 20), b""))
    view.finish()
    view.committed("5a")
    view.close()

    assert read == content
    assert sum(throttle.taken) == len(content)
    assert inner.record.marks_given == [{"dump": "mark"}]
    assert inner.record.committed == ["5a"]
    assert inner.record.left_open == 0
