# SPDX-License-Identifier: Apache-2.0
"""The NBD client against servers that say anything."""

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.adapters.sources import nbd
from snapvault.errors import SourceError

SIZE = 1 << 16
HELLO = b"NBDMAGIC" + struct.pack(">QH", 0x49484156454F5054, 3)

Answer = Callable[[int, int, int, int], bytes]  # of command, handle, offset, length


def reply(option: int, kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(payload)) + payload


def chunk(handle: int, kind: int, payload: bytes = b"", *, done: bool = True) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, int(done), kind, handle, len(payload)) + payload


NEGOTIATION = {
    8: reply(8, 1),
    10: reply(10, 4, struct.pack(">I", 7) + b"base:allocation") + reply(10, 1),
    7: reply(7, 3, struct.pack(">HQH", 0, SIZE, 3)) + reply(7, 1),
}


def take(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = peer.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def serve(peer: socket.socket, answer: Answer, options: dict[int, bytes], hello: bytes) -> None:
    with peer, suppress(OSError, EOFError):
        peer.sendall(hello)
        take(peer, 4)
        option = 0
        while option != 7:
            _, option, length = struct.unpack(">QII", take(peer, 16))
            take(peer, length)
            peer.sendall(options[option])
        while True:
            _, _, command, handle, offset, length = struct.unpack(">IHHQQI", take(peer, 28))
            if command == 2:
                return
            peer.sendall(answer(command, handle, offset, length))


@contextmanager
def server(
    answer: Answer = lambda *_: b"",
    options: dict[int, bytes] = NEGOTIATION,
    hello: bytes = HELLO,
) -> Iterator[Path]:
    """Serve on a socket, each connection in a thread, until the context is left."""
    threads: list[threading.Thread] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                peer, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(peer, answer, options, hello)))
                threads[-1].start()

    with nbd.socket_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = folder / "s"
        listener.bind(str(path))
        listener.listen()
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(60)
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in [acceptor, *threads])


def read(answer: Answer, offset: int = 0, length: int = 64) -> bytes:
    with server(answer) as path:
        disk = nbd.Disk(path, "", 'image "x"', timeout=60)
        try:
            buffer = memoryview(bytearray(length))
            disk.read_into(offset, buffer)
            return bytes(buffer)
        finally:
            disk.close()


def ranges(answer: Answer) -> list[tuple[int, int]]:
    with server(answer) as path:
        disk = nbd.Disk(path, "", 'image "x"', timeout=60)
        try:
            return list(disk.ranges(nbd.ALLOCATION, nbd.IS_ZERO, is_set=False))
        finally:
            disk.close()


def data_at(place: int, data: bytes) -> bytes:
    return struct.pack(">Q", place) + data


def test_data_and_holes_are_put_together_in_any_order() -> None:
    def answer(_command: int, handle: int, offset: int, length: int) -> bytes:
        return (
            chunk(handle, 1, data_at(offset + 48, b"d" * 16), done=False)
            + chunk(handle, 2, struct.pack(">QI", offset + 16, 32), done=False)
            + chunk(handle, 1, data_at(offset, b"a" * 16), done=False)
            + chunk(handle, 0)
        )

    assert read(answer, 100) == b"a" * 16 + bytes(32) + b"d" * 16


@pytest.mark.parametrize(
    "payloads",
    [
        [(1, data_at(0, bytes(63)))],
        [(1, data_at(1, bytes(64)))],
        [(1, data_at(0, bytes(64))), (1, data_at(0, bytes(64)))],
        [(1, data_at(0, bytes(32))), (1, data_at(16, bytes(48)))],
        [(1, data_at(1 << 63, bytes(64)))],
        [(1, data_at(0, b""))],
        [(1, b"short")],
        [(2, struct.pack(">QI", 0, 65))],
        [(2, b"short")],
        [(3, b"what")],
        [(5, struct.pack(">III", 7, 64, 0))],
        [],
    ],
)
def test_a_read_that_is_not_answered_byte_for_byte_is_refused(
    payloads: list[tuple[int, bytes]],
) -> None:
    def answer(_command: int, handle: int, _offset: int, _length: int) -> bytes:
        chunks = [chunk(handle, kind, payload, done=False) for kind, payload in payloads]
        return b"".join(chunks) + chunk(handle, 0)

    with pytest.raises(SourceError, match='could not read image "x" at offset 0: NBD server'):
        read(answer)


@pytest.mark.parametrize(
    "answer",
    [
        lambda _c, handle, _o, n: chunk(handle + 1, 1, data_at(0, bytes(n))),
        lambda _c, handle, _o, n: struct.pack(">IIQ", 0x67446698, 0, handle) + bytes(n),
        lambda _c, handle, _o, n: chunk(handle, 0, done=False),
        lambda _c, handle, _o, n: chunk(handle, 0, b"x"),
        lambda _c, handle, _o, n: chunk(handle, 1 << 15, b"x"),
    ],
    ids=["handle", "simple", "empty", "filled", "error"],
)
def test_a_reply_that_the_protocol_does_not_know_is_refused(answer: Answer) -> None:
    with pytest.raises(SourceError, match="NBD server"):
        read(answer)


def test_an_error_that_the_server_tells_is_passed_on_in_one_line() -> None:
    def answer(_command: int, handle: int, _offset: int, _length: int) -> bytes:
        return chunk(handle, 0x8001, struct.pack(">IH", 28, 9) + b"no\nmore\x07!")

    with pytest.raises(SourceError) as caught:
        read(answer)

    assert str(caught.value) == (
        'could not read image "x" at offset 0: no space left on device (no more?!)'
    )


def test_extents_are_merged_and_cut_at_the_end() -> None:
    def answer(_command: int, handle: int, offset: int, length: int) -> bytes:
        first = [(100, 0), (50, 1), (1000, 2)]
        told = first if offset == 0 else [(length - 10, 0), (1 << 20, 0)]
        data = b"".join(struct.pack(">II", *extent) for extent in told)
        return chunk(handle, 5, struct.pack(">I", 7) + data)

    assert ranges(answer) == [(0, 150), (1150, SIZE)]


@pytest.mark.parametrize(
    "payload",
    [
        struct.pack(">I", 7),
        struct.pack(">III", 8, 64, 0),
        struct.pack(">III", 7, 0, 0),
        struct.pack(">IIIII", 7, 1 << 17, 0, 1, 0),
        struct.pack(">IIB", 7, 64, 0),
    ],
    ids=["none", "context", "empty", "beyond", "size"],
)
def test_extents_that_make_no_sense_are_refused(payload: bytes) -> None:
    with pytest.raises(SourceError, match="NBD server"):
        ranges(lambda _c, handle, _o, _n: chunk(handle, 5, payload))


@given(noise=st.binary(max_size=200), seed=st.integers(0, 1 << 32))
def test_whatever_a_server_says_is_bytes_or_a_named_error(noise: bytes, seed: int) -> None:
    whole = bytearray(
        b"".join(
            [
                chunk(1, 1, data_at(0, b"a" * 32), done=False),
                chunk(1, 2, struct.pack(">QI", 32, 32), done=False),
                chunk(1, 0),
            ]
        )
    )
    generator = random.Random(seed)
    position = generator.randrange(len(whole))
    whole[position : position + len(noise)] = noise
    left, right = socket.socketpair()
    with left, right:
        connection = nbd.Connection.__new__(nbd.Connection)
        connection._socket, connection._handle, connection._timeout = left, 0, 5.0
        right.sendall(bytes(whole))
        right.shutdown(socket.SHUT_WR)
        buffer = memoryview(bytearray(64))

        with suppress(SourceError):
            connection.read_into(0, buffer)


@pytest.mark.parametrize(
    ("options", "hello", "said"),
    [
        (NEGOTIATION, b"x" * 18, "no NBD server"),
        (NEGOTIATION, HELLO[:-2] + b"\0\0", "too old"),
        ({**NEGOTIATION, 8: reply(8, 0x80000001, b"never")}, HELLO, "refused option 8: never"),
        ({**NEGOTIATION, 8: reply(9, 1)}, HELLO, "nobody sent"),
        ({**NEGOTIATION, 7: reply(7, 1)}, HELLO, "did not tell the export's size"),
        ({**NEGOTIATION, 7: reply(7, 3, b"\0\0abc") + reply(7, 1)}, HELLO, "strange way"),
        (
            {**NEGOTIATION, 7: struct.pack(">QIII", 0x3E889045565A9, 7, 3, 1 << 30)},
            HELLO,
            "too long",
        ),
        ({**NEGOTIATION, 7: b""}, HELLO, "did not answer within 1 second"),
    ],
)
def test_a_server_that_does_not_negotiate_is_refused(
    options: dict[int, bytes], hello: bytes, said: str
) -> None:
    with (
        server(options=options, hello=hello) as path,
        pytest.raises(SourceError, match=said) as caught,
    ):
        nbd.Disk(path, "", 'image "x"', timeout=1 if "1 second" in said else 60)

    assert str(caught.value).startswith('could not open image "x": ')


@pytest.mark.parametrize(
    "granted", [reply(10, 1), reply(10, 4, struct.pack(">I", 7) + b"other:one") + reply(10, 1)]
)
def test_a_context_that_was_not_granted_is_named(granted: bytes) -> None:
    with server(options={**NEGOTIATION, 10: granted}) as path:
        disk = nbd.Disk(path, "", 'image "x"', timeout=60)
        with pytest.raises(SourceError, match=r"context|base:allocation"):
            list(disk.ranges(nbd.ALLOCATION, nbd.IS_ZERO, is_set=False))
        disk.close()


def test_nobody_who_listens_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r'could not connect to NBD socket ".*": no such file'):
        nbd.Disk(tmp_path / "s", "", 'image "x"')


def test_a_socket_folder_is_private_short_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 100)))

    with nbd.socket_folder() as folder:
        mode = folder.stat().st_mode & 0o777
        length = len(str(folder))

    assert mode == 0o700
    assert length < 60
    assert not folder.exists()
