# SPDX-License-Identifier: Apache-2.0
"""The NBD server, byte by byte: with our own client, and with what no client should send."""

import errno
import random
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from snapvault.adapters import nbd_protocol as protocol
from snapvault.adapters import nbd_server
from snapvault.adapters.nbd_server import NbdServer, listen_tcp, listen_unix
from snapvault.adapters.sources import nbd
from snapvault.errors import ConfigError, SourceError, VolumeError
from tests.support.events import RecordedEvents

SIZE = 1 << 20
CONTENT = bytes(300_000) + random.Random(1).randbytes(SIZE - 300_000)
DEADLINE = 60.0  # seconds


class MemoryDisk:
    """A disk whose first 300,000 bytes are zeros; reads wait for `go`, and fail at `broken`."""

    block_size = 4096

    def __init__(self, name: str = "root", size: int = SIZE) -> None:
        self.name = name
        self.size = size
        self.go = threading.Event()
        self.go.set()
        self.broken = -1
        self.bug = False
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> memoryview:
        assert self.go.wait(DEADLINE)
        self.reads.append((offset, length))
        if self.bug:
            raise ZeroDivisionError
        if offset <= self.broken < offset + length:
            raise VolumeError('volume "x" is damaged')
        return memoryview(CONTENT)[offset : offset + length]

    def extents(self, offset: int, length: int, limit: int) -> Sequence[tuple[int, bool]]:
        runs = [(0, 300_000, True), (300_000, self.size, False)]
        found = []
        for begin, end, is_zero in runs:
            at, stop = max(begin, offset), min(end, offset + length)
            if at < stop:
                found.append((stop - at, is_zero))
        return found[:limit]


@contextmanager
def serving(*disks: MemoryDisk, events: RecordedEvents | None = None) -> Iterator[Path]:
    with nbd.socket_folder() as folder, ExitStack() as stack:
        listener = listen_unix(folder / "s")
        stack.enter_context(NbdServer(listener, disks, events or RecordedEvents()))
        yield folder / "s"


class Raw:
    """A client that says what it is told to."""

    def __init__(self, path: Path, flags: int = 3) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(str(path))
        self.hello = self.take(18)
        self.socket.sendall(struct.pack(">I", flags))

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def option(self, number: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Send an option and return its replies, to the last."""
        self.send_option(number, data)
        replies = []
        while True:
            magic, answered, kind, size = struct.unpack(">QIII", self.take(20))
            assert (magic, answered) == (protocol.OPTION_REPLY_MAGIC, number)
            replies.append((kind, self.take(size)))
            if kind == protocol.REPLY_ACK or kind >> 31:
                return replies

    def send_option(self, number: int, data: bytes = b"") -> None:
        head = struct.pack(">QII", protocol.OPTION_MAGIC, number, len(data))
        self.socket.sendall(head + data)

    def go(self, name: str = "", wanted: Sequence[int] = ()) -> list[tuple[int, bytes]]:
        return self.option(protocol.OPTION_GO, sized(name) + numbers(">H", wanted))

    def request(
        self, kind: int, offset: int, length: int, *, flags: int = 0, cookie: int = 7
    ) -> None:
        head = (protocol.REQUEST_MAGIC, flags, kind, cookie, offset, length)
        self.socket.sendall(protocol.REQUEST.pack(*head))

    def simple(self) -> tuple[int, int]:
        """Return error and cookie of a simple reply."""
        magic, error, cookie = struct.unpack(">IIQ", self.take(16))
        assert magic == protocol.SIMPLE_REPLY_MAGIC
        return error, cookie

    def chunk(self) -> tuple[int, int, int, bytes]:
        """Return flags, type, cookie and payload of a structured reply's chunk."""
        magic, flags, kind, cookie, size = struct.unpack(">IHHQI", self.take(20))
        assert magic == protocol.STRUCTURED_REPLY_MAGIC
        return flags, kind, cookie, self.take(size)

    def is_left(self) -> bool:
        """Tell whether the server hung up."""
        return self.socket.recv(1) == b""


def sized(text: str) -> bytes:
    return struct.pack(">I", len(text.encode())) + text.encode()


def numbers(form: str, wanted: Sequence[int]) -> bytes:
    return struct.pack(form, len(wanted)) + b"".join(struct.pack(form, each) for each in wanted)


def contexts(name: str, *queries: str) -> bytes:
    return sized(name) + struct.pack(">I", len(queries)) + b"".join(map(sized, queries))


@contextmanager
def client(path: Path, flags: int = 3) -> Iterator[Raw]:
    found = Raw(path, flags)
    with found.socket:
        yield found


def test_our_own_client_reads_the_disk_and_its_zeros() -> None:
    with serving(MemoryDisk()) as path:
        disk = nbd.Disk(path, "root", 'disk "root"', timeout=DEADLINE)
        buffer = bytearray(SIZE)

        disk.read_into(0, memoryview(buffer))
        data = list(disk.ranges(nbd.ALLOCATION, nbd.IS_ZERO, is_set=False))
        disk.close()

    assert bytes(buffer) == CONTENT
    assert data == [(300_000, SIZE)]


def test_zeros_are_told_without_a_read_and_without_sending_them() -> None:
    disk = MemoryDisk()
    with serving(disk) as path, client(path) as raw:
        raw.option(protocol.OPTION_STRUCTURED_REPLY)
        raw.go()
        raw.request(protocol.READ, 1000, 200_000)

        flags, kind, cookie, payload = raw.chunk()

    assert (flags, kind, cookie) == (protocol.DONE, protocol.CHUNK_HOLE, 7)
    assert payload == struct.pack(">QI", 1000, 200_000)
    assert disk.reads == []


def test_a_client_of_the_old_ways_is_served_too() -> None:
    with serving(MemoryDisk()) as path, client(path, flags=0) as raw:
        raw.send_option(protocol.OPTION_EXPORT_NAME, b"root")
        size, flags = struct.unpack(">QH", raw.take(10))
        padding = raw.take(124)
        raw.request(protocol.READ, 299_990, 100, cookie=9)
        answer = raw.simple()
        data = raw.take(100)

    assert size == SIZE
    assert flags & protocol.READ_ONLY
    assert not flags & protocol.SEND_DF
    assert padding == bytes(124)
    assert answer == (0, 9)
    assert data == CONTENT[299_990:300_090]


def test_an_old_client_that_asks_for_an_unknown_export_is_left() -> None:
    with serving(MemoryDisk()) as path, client(path) as raw:
        raw.send_option(protocol.OPTION_EXPORT_NAME, b"nothing")

        assert raw.is_left()


def test_exports_are_listed_and_only_a_single_one_is_the_default() -> None:
    with serving(MemoryDisk("root"), MemoryDisk("data")) as path, client(path) as raw:
        listed = raw.option(protocol.OPTION_LIST)
        default = raw.go("")
        named = raw.go("data")

    assert [payload[4:] for kind, payload in listed[:-1]] == [b"root", b"data"]
    assert default[-1][0] == protocol.REPLY_ERROR_UNKNOWN
    assert named[-1][0] == protocol.REPLY_ACK


def test_an_export_tells_its_size_flags_name_and_block_sizes() -> None:
    wanted = [protocol.INFO_NAME, protocol.INFO_BLOCK_SIZE, 2]
    with serving(MemoryDisk()) as path, client(path) as raw:
        raw.option(protocol.OPTION_STRUCTURED_REPLY)
        data = sized("") + numbers(">H", wanted)
        told = {payload[:2]: payload for _, payload in raw.option(protocol.OPTION_INFO, data)[:-1]}
        again = raw.go()

    _, size, flags = struct.unpack(">HQH", told[b"\0\0"])
    assert size == SIZE
    assert flags == (
        protocol.HAS_FLAGS
        | protocol.READ_ONLY
        | protocol.SEND_DF
        | protocol.CAN_MULTI_CONN
        | protocol.SEND_CACHE
    )
    assert told[b"\0\1"][2:] == b"root"
    assert struct.unpack(">HIII", told[b"\0\3"])[1:] == (1, 4096, 32 << 20)
    assert len(again) == 2


@pytest.mark.parametrize(
    ("option", "data", "refusal"),
    [
        (5, b"", protocol.REPLY_ERROR_UNSUPPORTED),  # TLS
        (99, b"", protocol.REPLY_ERROR_UNSUPPORTED),
        (protocol.OPTION_LIST, b"x", protocol.REPLY_ERROR_INVALID),
        (protocol.OPTION_GO, b"", protocol.REPLY_ERROR_INVALID),
        (protocol.OPTION_GO, b"\xff\xff\xff\xff", protocol.REPLY_ERROR_INVALID),
        (protocol.OPTION_GO, b"\0\0\0\1\xff\0\0", protocol.REPLY_ERROR_INVALID),
        (protocol.OPTION_GO, sized("") + b"\0\5", protocol.REPLY_ERROR_INVALID),
        (protocol.OPTION_INFO, sized("nothing") + b"\0\0", protocol.REPLY_ERROR_UNKNOWN),
        (protocol.OPTION_GO, bytes(100_000), protocol.REPLY_ERROR_TOO_BIG),
        (
            protocol.OPTION_SET_META_CONTEXT,
            contexts("", protocol.ALLOCATION),
            protocol.REPLY_ERROR_INVALID,  # structured replies come first
        ),
    ],
)
def test_what_cannot_be_granted_is_refused_and_the_talk_goes_on(
    option: int, data: bytes, refusal: int
) -> None:
    with serving(MemoryDisk()) as path, client(path) as raw:
        (answer,) = raw.option(option, data)
        then = raw.go()

    assert answer[0] == refusal
    assert then[-1][0] == protocol.REPLY_ACK


def test_contexts_are_listed_and_only_the_one_there_is_is_granted() -> None:
    with serving(MemoryDisk()) as path, client(path) as raw:
        raw.option(protocol.OPTION_STRUCTURED_REPLY)
        every = raw.option(protocol.OPTION_LIST_META_CONTEXT, contexts(""))
        base = raw.option(protocol.OPTION_LIST_META_CONTEXT, contexts("", "base:"))
        none = raw.option(protocol.OPTION_SET_META_CONTEXT, contexts("", "qemu:x", "base:"))
        queries = contexts("", "qemu:x", protocol.ALLOCATION)
        granted = raw.option(protocol.OPTION_SET_META_CONTEXT, queries)

    assert [payload[4:] for _, payload in every] == [b"base:allocation", b""]
    assert every == base
    assert none == [(protocol.REPLY_ACK, b"")]
    assert granted[0] == (protocol.REPLY_META_CONTEXT, b"\0\0\0\1base:allocation")


def test_extents_are_told_of_the_export_that_they_were_asked_for_alone() -> None:
    with serving(MemoryDisk("root"), MemoryDisk("data")) as path, client(path) as raw:
        raw.option(protocol.OPTION_STRUCTURED_REPLY)
        raw.option(protocol.OPTION_SET_META_CONTEXT, contexts("root", protocol.ALLOCATION))
        raw.go("data")
        raw.request(protocol.BLOCK_STATUS, 0, 1000)

        _, kind, _, payload = raw.chunk()

    assert kind == protocol.CHUNK_ERROR_TOLD
    assert payload[:4] == struct.pack(">I", errno.EINVAL)


@pytest.mark.parametrize(
    ("flags", "told"),
    [(0, [(200_000, 3), (100_000, 0)]), (protocol.REQUEST_ONE, [(200_000, 3)])],
)
def test_extents_are_told_one_or_all(flags: int, told: list[tuple[int, int]]) -> None:
    with serving(MemoryDisk()) as path, client(path) as raw:
        raw.option(protocol.OPTION_STRUCTURED_REPLY)
        raw.option(protocol.OPTION_SET_META_CONTEXT, contexts("", protocol.ALLOCATION))
        raw.go()
        raw.request(protocol.BLOCK_STATUS, 100_000, 300_000, flags=flags)

        _, kind, _, payload = raw.chunk()

    assert kind == protocol.CHUNK_STATUS
    assert payload[:4] == struct.pack(">I", 1)
    assert list(struct.iter_unpack(">II", payload[4:])) == told


@pytest.mark.parametrize(
    ("kind", "offset", "length", "flags", "error"),
    [
        (protocol.TRIM, 0, 4096, 0, errno.EPERM),
        (protocol.WRITE_ZEROES, 0, 4096, 0, errno.EPERM),
        (protocol.READ, SIZE - 1, 2, 0, errno.EINVAL),
        (protocol.READ, 1 << 63, 1, 0, errno.EINVAL),
        (protocol.READ, 0, 0, 0, errno.EINVAL),
        (protocol.READ, 0, 1, 1 << 9, errno.EINVAL),
        (protocol.READ, 0, 1, protocol.DO_NOT_FRAGMENT, errno.EINVAL),
        (protocol.BLOCK_STATUS, 0, 1, 0, errno.EINVAL),
        (3, 0, 0, 0, errno.EINVAL),  # flush
        (99, 0, 0, 0, errno.EINVAL),
    ],
)
def test_requests_that_cannot_be_met_are_refused_and_the_next_one_is_met(
    kind: int, offset: int, length: int, flags: int, error: int
) -> None:
    with serving(MemoryDisk()) as path, client(path) as raw:
        raw.go()
        raw.request(kind, offset, length, flags=flags)
        refused = raw.simple()
        raw.request(protocol.READ, 400_000, 4)
        met = raw.simple()
        data = raw.take(4)

    assert refused == (error, 7)
    assert met == (0, 7)
    assert data == CONTENT[400_000:400_004]


def test_more_than_the_protocol_promises_is_too_much() -> None:
    with serving(MemoryDisk(size=1 << 30)) as path, client(path) as raw:
        raw.go()
        raw.request(protocol.READ, 0, (32 << 20) + 1)

        assert raw.simple() == (75, 7)


def test_a_write_is_refused_and_its_data_are_not_taken_for_requests() -> None:
    disk = MemoryDisk()
    with serving(disk) as path, client(path) as raw:
        raw.go()
        raw.request(protocol.WRITE, 0, 200_000)
        raw.socket.sendall(b"\x25\x60\x95\x13" * 50_000)
        refused = raw.simple()
        raw.request(protocol.READ, 0, 4)
        met = raw.simple()

    assert refused == (errno.EPERM, 7)
    assert met == (0, 7)


def test_a_client_that_talks_nonsense_is_left_and_others_are_served() -> None:
    with serving(MemoryDisk()) as path:
        with client(path, flags=1 << 9) as raw:
            assert raw.is_left()
        with client(path) as raw:
            raw.socket.sendall(bytes(16))
            assert raw.is_left()
        with client(path) as raw:
            raw.go()
            raw.socket.sendall(bytes(28))
            assert raw.is_left()
        with client(path) as raw:
            assert raw.option(protocol.OPTION_ABORT) == [(protocol.REPLY_ACK, b"")]
            assert raw.is_left()
        with client(path) as raw:
            assert raw.go()[-1][0] == protocol.REPLY_ACK


def test_a_failing_read_is_an_error_of_its_own_and_says_why() -> None:
    disk = MemoryDisk()
    disk.broken = 500_000
    with serving(disk) as path, client(path) as raw:
        raw.option(protocol.OPTION_STRUCTURED_REPLY)
        raw.go()
        raw.request(protocol.READ, 499_999, 10)
        _, kind, _, payload = raw.chunk()
        raw.request(protocol.READ, 600_000, 10)
        _, after, _, data = raw.chunk()

    assert kind == protocol.CHUNK_ERROR_TOLD
    assert payload[:4] == struct.pack(">I", errno.EIO)
    assert payload[6:] == b'volume "x" is damaged'
    assert (after, data[8:]) == (protocol.CHUNK_DATA, CONTENT[600_000:600_010])


def test_a_bug_ends_one_request_and_is_told() -> None:
    disk, events = MemoryDisk(), RecordedEvents()
    disk.bug = True
    with serving(disk, events=events) as path, client(path) as raw:
        raw.go()
        raw.request(protocol.READ, 400_000, 10)

        assert raw.simple() == (errno.EIO, 7)

    assert events.warnings == ["could not answer an NBD client: ZeroDivisionError()"]


def test_requests_of_one_connection_do_not_wait_for_each_other() -> None:
    disk = MemoryDisk()
    disk.go.clear()
    with serving(disk) as path, client(path) as raw:
        raw.option(protocol.OPTION_STRUCTURED_REPLY)
        raw.option(protocol.OPTION_SET_META_CONTEXT, contexts("", protocol.ALLOCATION))
        raw.go()
        raw.request(protocol.READ, 400_000, 10, cookie=1)
        raw.request(protocol.BLOCK_STATUS, 0, 1, cookie=2)
        first = raw.chunk()[2]
        disk.go.set()
        second = raw.chunk()[2]

    assert (first, second) == (2, 1)


def test_cache_reads_and_sends_nothing() -> None:
    disk = MemoryDisk()
    with serving(disk) as path, client(path) as raw:
        raw.option(protocol.OPTION_STRUCTURED_REPLY)
        raw.go()
        raw.request(protocol.CACHE, 400_000, 4096)

        assert raw.chunk() == (protocol.DONE, protocol.CHUNK_NONE, 7, b"")

    assert disk.reads == [(400_000, 4096)]


def test_a_client_that_is_gone_before_its_answer_hurts_nobody() -> None:
    disk, events = MemoryDisk(), RecordedEvents()
    with serving(disk, events=events) as path:
        for _ in range(3):
            disk.go.clear()
            with client(path) as raw:
                raw.go()
                for cookie in range(40):
                    raw.request(protocol.READ, 300_000, 700_000, cookie=cookie)
            disk.go.set()
        with client(path) as raw:
            raw.go()
            raw.request(protocol.READ, 400_000, 4)

            assert raw.simple() == (0, 7)

    assert events.warnings == []


def test_more_clients_than_there_is_room_for_are_turned_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nbd_server, "CONNECTIONS", 1)
    with serving(MemoryDisk()) as path, client(path) as first:
        first.go()
        with socket.socket(socket.AF_UNIX) as second:
            second.settimeout(DEADLINE)
            second.connect(str(path))

            assert second.recv(1) == b""


def test_ending_leaves_clients_that_wait() -> None:
    with serving(MemoryDisk()) as path:
        raw = Raw(path)
        raw.go()

    with raw.socket:
        assert raw.is_left()


def test_a_port_of_this_machine_is_served_too() -> None:
    listener = listen_tcp("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with NbdServer(listener, [MemoryDisk()], RecordedEvents()):
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as peer:
            assert peer.recv(8) == b"NBDMAGIC"

        with pytest.raises(ConfigError, match="address already in use"):
            listen_tcp("127.0.0.1", port)


def test_a_socket_is_private_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    with nbd.socket_folder() as folder:
        path = folder / "s"
        listen_unix(path).close()
        with listen_unix(path):
            mode = path.stat().st_mode & 0o777

            with pytest.raises(ConfigError, match="somebody serves there already"):
                listen_unix(path)

    assert mode == 0o600


def test_a_file_in_the_way_of_a_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")

    with pytest.raises(ConfigError, match="no socket"):
        listen_unix(path)

    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or directory"):
        listen_unix(tmp_path / "x" / "s")


def test_our_client_hears_why_a_read_failed() -> None:
    disk = MemoryDisk()
    disk.broken = 500_000
    with serving(disk) as path:
        reader = nbd.Disk(path, "", 'disk "root"', timeout=DEADLINE)

        with pytest.raises(SourceError, match='volume "x" is damaged'):
            reader.read_into(500_000, memoryview(bytearray(10)))

        reader.close()
