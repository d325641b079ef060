# SPDX-License-Identifier: Apache-2.0
"""What every sealer does (snapvault/ports/sealer.py), between a host and a recovery key."""

import io
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from snapvault.adapters.sealers.gnupg import open_sealer
from snapvault.errors import IntegrityError, KeyMissingError, SealError
from snapvault.ports.sealer import Readers, Sealer
from tests.support.keys import HOST, HOST2, RECOVERY, RECOVERY2, host_home, recovery_home

pytestmark = pytest.mark.integration

SMALL = b"sixteen by bytes" * 4
PIECE = bytes(range(256)) * 4096  # 1 MiB


class BrokenError(Exception):
    """What a broken producer or consumer raises."""


class Broken:
    """Yields the start of a sealed object, then fails."""

    def __init__(self, start: bytes) -> None:
        self._start = io.BytesIO(start)

    def read(self, size: int, /) -> bytes:
        piece = self._start.read(size)
        if not piece:
            raise BrokenError
        return piece


@pytest.fixture(scope="module")
def gnupg_host() -> Iterator[Sealer]:
    with host_home() as home:
        yield open_sealer(
            home,
            recipients=["recovery@example.org", "recovery2@example.org"],
            signer="backup@host1.example.org",
            trusted_signers=["backup@host2.example.org"],
        )


@pytest.fixture(scope="module")
def gnupg_recovery() -> Iterator[Sealer]:
    with recovery_home() as home:
        yield open_sealer(home, recipients=["recovery@example.org"], signer=HOST)


@pytest.fixture(params=["gnupg"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def host(kind: str, request: pytest.FixtureRequest) -> Sealer:
    sealer: Sealer = request.getfixturevalue(f"{kind}_host")
    return sealer


@pytest.fixture
def recovery(kind: str, request: pytest.FixtureRequest) -> Sealer:
    sealer: Sealer = request.getfixturevalue(f"{kind}_recovery")
    return sealer


def test_keys_are_full_primary_fingerprints(host: Sealer) -> None:
    assert host.recipients == tuple(sorted([RECOVERY, RECOVERY2]))
    assert host.signer == HOST
    assert host.trusted == {HOST, HOST2}


def test_check_accepts_keys_that_can_do_their_part(host: Sealer) -> None:
    host.check()


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
def test_the_recovery_key_opens_what_the_host_sealed(
    host: Sealer, recovery: Sealer, size: int
) -> None:
    data = (PIECE * 3)[:size]

    sealed = host.seal(data, Readers.RECOVERY)

    assert recovery.open(sealed) == data


def test_the_host_cannot_open_what_only_recovery_may_read(host: Sealer) -> None:
    sealed = host.seal(SMALL, Readers.RECOVERY)

    with pytest.raises(KeyMissingError, match="no secret key"):
        host.open(sealed)


def test_the_host_opens_what_is_sealed_to_it_too(host: Sealer, recovery: Sealer) -> None:
    sealed = host.seal(SMALL, Readers.RECOVERY_AND_HOST)

    assert host.open(sealed) == SMALL
    assert recovery.open(sealed) == SMALL


def test_a_file_sealed_in_chunks_opens_in_pieces(
    host: Sealer, recovery: Sealer, tmp_path: Path
) -> None:
    chunks = [PIECE[index:] for index in range(20)]
    opened: list[bytes] = []

    host.seal_to_file(iter(chunks), tmp_path / "volume", Readers.RECOVERY)
    with (tmp_path / "volume").open("rb") as sealed:
        recovery.open_stream(sealed, opened.append)

    assert b"".join(opened) == b"".join(chunks)
    assert max(map(len, opened)) <= len(PIECE)


def test_no_chunks_make_an_empty_message(host: Sealer, recovery: Sealer, tmp_path: Path) -> None:
    host.seal_to_file(iter([]), tmp_path / "volume", Readers.RECOVERY)

    assert recovery.open((tmp_path / "volume").read_bytes()) == b""


# gpg writes parts of 8192 bytes, and what is around the data takes some of the first and last.
@pytest.mark.parametrize(
    "size", [0, 1, 5000, 8125, 8137, 8140, 8146, 8192, 16_383, 16_384, 65_536 - 45, 3_000_000]
)
def test_any_part_of_what_was_sealed_opens_without_the_rest(
    host: Sealer, recovery: Sealer, tmp_path: Path, size: int
) -> None:
    chance = random.Random(size)
    data = chance.randbytes(size)
    host.seal_to_file([data[:70_000], data[70_000:]], tmp_path / "volume", Readers.RECOVERY)
    sealed = (tmp_path / "volume").read_bytes()
    fetched: list[int] = []

    def fetch(begin: int, end: int) -> bytes:
        fetched.append(end - begin)
        return sealed[begin:end]

    parts = recovery.open_parts(len(sealed), fetch)

    assert parts is not None
    assert parts.size == size
    assert sum(fetched) < 50_000
    places = [sorted(chance.choices(range(size + 1), k=2)) for _ in range(20)]
    for begin, end in [(0, size), (0, 0), (0, min(size, 1)), (max(0, size - 1), size), *places]:
        fetched.clear()
        assert parts.read(begin, end) == data[begin:end]
        assert len(fetched) <= 1
        assert sum(fetched) <= (end - begin) * 1.001 + 100


def test_the_host_opens_no_parts_of_what_only_recovery_may_read(host: Sealer) -> None:
    sealed = host.seal(PIECE, Readers.RECOVERY)

    with pytest.raises(KeyMissingError, match="no secret key"):
        host.open_parts(len(sealed), lambda begin, end: sealed[begin:end])


def test_what_fetching_parts_raises_is_passed_on(host: Sealer, recovery: Sealer) -> None:
    sealed = host.seal(PIECE, Readers.RECOVERY)
    is_broken = False

    def fetch(begin: int, end: int) -> bytes:
        if is_broken:
            raise BrokenError
        return sealed[begin:end]

    parts = recovery.open_parts(len(sealed), fetch)
    is_broken = True

    assert parts is not None
    with pytest.raises(BrokenError):
        parts.read(300_000, 400_000)
    with pytest.raises(BrokenError):
        recovery.open_parts(len(sealed), fetch)


def test_sealing_never_replaces_a_file(host: Sealer, tmp_path: Path) -> None:
    path = tmp_path / "volume"
    path.write_bytes(b"precious")

    with pytest.raises(SealError, match="it exists"):
        host.seal_to_file([SMALL], path, Readers.RECOVERY)

    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("good_chunks", [0, 1, 5])
def test_an_exception_of_the_chunks_is_passed_on_and_leaves_no_file(
    host: Sealer, tmp_path: Path, good_chunks: int
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(good_chunks):
            yield PIECE
        raise BrokenError

    with pytest.raises(BrokenError):
        host.seal_to_file(chunks(), tmp_path / "volume", Readers.RECOVERY)

    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_sealing_leaves_no_file(host: Sealer, tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield PIECE
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.seal_to_file(chunks(), tmp_path / "volume", Readers.RECOVERY)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("good_pieces", [0, 1])
def test_an_exception_of_the_sink_is_passed_on(
    host: Sealer, recovery: Sealer, good_pieces: int
) -> None:
    sealed = host.seal(PIECE * 6, Readers.RECOVERY)
    taken: list[bytes] = []

    def sink(piece: bytes) -> None:
        if len(taken) == good_pieces:
            raise BrokenError
        taken.append(piece)

    with pytest.raises(BrokenError):
        recovery.open_stream(io.BytesIO(sealed), sink)

    assert len(taken) == good_pieces


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_an_exception_of_the_sealed_stream_is_passed_on(
    host: Sealer, recovery: Sealer, share: float
) -> None:
    sealed = host.seal(PIECE * 4, Readers.RECOVERY)

    with pytest.raises(BrokenError):
        recovery.open_stream(Broken(sealed[: int(len(sealed) * share)]), _drop)


def test_the_sink_is_called_from_the_callers_thread(host: Sealer, recovery: Sealer) -> None:
    sealed = host.seal(PIECE * 2, Readers.RECOVERY)
    threads: set[int] = set()

    recovery.open_stream(io.BytesIO(sealed), lambda _piece: threads.add(threading.get_ident()))

    assert threads == {threading.get_ident()}


def test_any_flipped_bit_of_a_sealed_object_is_found(recovery: Sealer) -> None:
    sealed = recovery.seal(SMALL, Readers.RECOVERY)
    own_key_id = range(3, 11)  # of the only session key packet; RFC 4880, section 5.1

    def attempt(at: int) -> bytes | type[Exception]:
        try:
            return recovery.open(_flipped(sealed, at, 1 << at % 8))
        except (IntegrityError, KeyMissingError) as error:
            return type(error)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(attempt, range(len(sealed))))

    for at, result in enumerate(results):
        # A few bits mean nothing, such as the highest one of a Curve25519 point (RFC 7748).
        allowed = {KeyMissingError} if at in own_key_id else {IntegrityError, SMALL}
        assert result in allowed, f"byte {at}"
    assert results.count(IntegrityError) > len(sealed) * 0.9


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999999])
def test_a_flipped_bit_of_a_stream_is_found(host: Sealer, recovery: Sealer, share: float) -> None:
    sealed = host.seal(PIECE * 3, Readers.RECOVERY)

    with pytest.raises(IntegrityError):
        recovery.open_stream(io.BytesIO(_flipped(sealed, int(len(sealed) * share), 0x10)), _drop)


@pytest.mark.parametrize("missing", [1, 20, 22, 1000, 1_000_000])
def test_a_sealed_object_that_ends_early_is_found(
    host: Sealer, recovery: Sealer, missing: int
) -> None:
    sealed = host.seal(PIECE * 2, Readers.RECOVERY)

    with pytest.raises(IntegrityError):
        recovery.open(sealed[:-missing])


def _twice(sealed: bytes) -> bytes:
    return sealed + sealed


def _with_junk(sealed: bytes) -> bytes:
    return sealed + b"junk" * 20


def _empty(_sealed: bytes) -> bytes:
    return b""


def _text(_sealed: bytes) -> bytes:
    return b"this is no sealed object at all\n" * 30


@pytest.mark.parametrize("change", [_twice, _with_junk, _empty, _text])
def test_what_is_not_one_sealed_object_is_refused(
    host: Sealer, recovery: Sealer, change: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(IntegrityError):
        recovery.open(change(host.seal(SMALL, Readers.RECOVERY)))


def test_a_signed_object_is_no_sealed_one(host: Sealer, recovery: Sealer) -> None:
    with pytest.raises(IntegrityError, match="not a sealed object"):
        recovery.open(host.sign(SMALL))


@pytest.mark.parametrize("size", [0, 1, 500, 300_000])
def test_a_signed_message_tells_what_it_holds_and_who_signed(
    host: Sealer, recovery: Sealer, size: int
) -> None:
    content = PIECE[:size]

    signed = recovery.read_signed(host.sign(content))

    assert signed.content == content
    assert signed.fingerprint == HOST


def test_a_signed_message_is_readable_as_it_stands(host: Sealer) -> None:
    assert SMALL in host.sign(SMALL)


def test_any_flipped_bit_of_a_signed_message_is_found(host: Sealer) -> None:
    message = host.sign(SMALL)

    def attempt(at: int) -> bytes | type[Exception]:
        try:
            return host.read_signed(_flipped(message, at, 1 << at % 8)).content
        except IntegrityError as error:
            return type(error)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(attempt, range(len(message))))

    # The date of the literal packet and unhashed hints are not part of what is signed.
    assert set(results) <= {IntegrityError, SMALL}
    content_at = message.index(SMALL)
    assert set(results[content_at : content_at + len(SMALL)]) == {IntegrityError}
    assert set(results[-64:]) == {IntegrityError}


@pytest.mark.parametrize("change", [_twice, _with_junk, _empty, _text])
def test_what_is_not_one_signed_message_is_refused(
    host: Sealer, change: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(IntegrityError):
        host.read_signed(change(host.sign(SMALL)))


@pytest.mark.parametrize("kept", [1, 15, 30, 90, -1])
def test_a_signed_message_that_ends_early_is_refused(host: Sealer, kept: int) -> None:
    with pytest.raises(IntegrityError):
        host.read_signed(host.sign(SMALL)[:kept])


def test_a_sealed_object_is_no_signed_one(host: Sealer) -> None:
    with pytest.raises(IntegrityError):
        host.read_signed(host.seal(SMALL, Readers.RECOVERY_AND_HOST))


def test_an_exported_key_is_armored(host: Sealer) -> None:
    assert host.export(RECOVERY).startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")


def test_exporting_an_unknown_key_names_it(host: Sealer) -> None:
    with pytest.raises(KeyMissingError, match="0" * 40):
        host.export("0" * 40)


def test_several_threads_seal_and_open_at_once(
    host: Sealer, recovery: Sealer, tmp_path: Path
) -> None:
    def round_trip(number: int) -> bool:
        data = bytes([number]) * 700_000
        path = tmp_path / str(number)
        host.seal_to_file([data], path, Readers.RECOVERY)
        return recovery.open(path.read_bytes()) == data

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(round_trip, range(16)))

    assert results == [True] * 16


def _flipped(data: bytes, at: int, mask: int) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def _drop(_piece: bytes) -> None:
    pass
