# SPDX-License-Identifier: Apache-2.0
"""Messages that are decrypted as they stream by, against messages that gpg made."""

import io
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from snapvault.adapters.sealers.gnupg import GnupgSealer, open_sealer
from snapvault.adapters.sealers.message_stream import HEAD, PIECE, MessageStream
from snapvault.adapters.sealers.passphrase import Secret
from snapvault.errors import IntegrityError, KeyMissingError
from snapvault.ports.sealer import Readers
from tests.support import keys

LONG = random.Random(5).randbytes(3 * PIECE + 12_345)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with keys.gnupg_home(secret=["recovery", "host"]) as home:
        yield home


@pytest.fixture(scope="module")
def sealer(home: Path) -> GnupgSealer:
    return open_sealer(home, recipients=[keys.RECOVERY], signer=keys.HOST)


@pytest.fixture(scope="module")
def sealed(sealer: GnupgSealer) -> bytes:
    return sealer.seal(LONG, Readers.RECOVERY)


def begun(sealer: GnupgSealer, sealed: bytes) -> MessageStream:
    stream = MessageStream.begin(sealed[:HEAD], sealer._told_key)
    assert stream is not None
    return stream


def passed_on(stream: MessageStream, sealed: bytes, cuts: list[int]) -> bytes:
    """Pass a message on in pieces that end at the cuts, and return what it holds."""
    opened: list[bytes] = []
    bounds = [0, *sorted(cuts), len(sealed)]
    pieces = (sealed[begin:end] for begin, end in pairwise(bounds))
    stream.pass_on(pieces, opened.append)
    assert all(opened)
    return b"".join(opened)


@pytest.mark.parametrize("seed", range(8))
def test_a_message_comes_out_whole_however_it_was_cut(
    sealer: GnupgSealer, sealed: bytes, seed: int
) -> None:
    chance = random.Random(seed)
    cuts = [chance.randrange(len(sealed)) for _ in range(chance.randrange(40))]
    # The lengths and the first and last packets are cut everywhere.
    cuts += range(200) if seed % 2 else range(len(sealed) - 200, len(sealed))

    assert passed_on(begun(sealer, sealed), sealed, cuts) == LONG


@pytest.mark.parametrize(
    "size", [HEAD, HEAD + 1, 8192 * 9 - 40, *range(8192 * 20 - 3, 8192 * 20 + 4)]
)
def test_every_length_comes_out_whole(sealer: GnupgSealer, size: int) -> None:
    data = LONG[:size]
    opened: list[bytes] = []

    message = io.BytesIO(sealer.seal(data, Readers.RECOVERY_AND_HOST))
    sealer.open_stream(message, opened.append, vouched=True)

    assert b"".join(opened) == data


@pytest.mark.parametrize("missing", [1, 21, 22, 23, 5000, len(LONG) - HEAD])
def test_a_message_that_ends_early_is_refused(
    sealer: GnupgSealer, sealed: bytes, missing: int
) -> None:
    with pytest.raises(IntegrityError, match="damaged"):
        passed_on(begun(sealer, sealed), sealed[:-missing], [])


@pytest.mark.parametrize("more", [b"x", b"\xd3\x14" + bytes(20), bytes(100_000)])
def test_a_message_that_goes_on_is_refused(sealer: GnupgSealer, sealed: bytes, more: bytes) -> None:
    with pytest.raises(IntegrityError, match="something follows its end"):
        passed_on(begun(sealer, sealed), sealed + more, [])


@pytest.mark.parametrize(
    "options",
    [
        ["--compress-algo=zlib"],
        ["--compress-algo=none", "--cipher-algo=CAMELLIA256"],
        ["--compress-algo=none", "--textmode"],
    ],
)
def test_gpg_is_asked_where_a_message_is_made_otherwise(
    home: Path, sealer: GnupgSealer, options: list[str]
) -> None:
    text = b"\n".join(LONG[at : at + 40].hex().encode() for at in range(0, len(LONG), 40))
    arguments = ["--trust-model=always", "--recipient", keys.RECOVERY, "--encrypt"]
    message = keys.gpg(home, *options, *arguments, data=text)
    opened: list[bytes] = []

    stream = MessageStream.begin(message[:HEAD], sealer._told_key)
    sealer.open_stream(io.BytesIO(message), opened.append, vouched=True)

    assert stream is None
    assert b"".join(opened) == text


def test_a_message_without_a_key_here_is_refused_as_gpg_refuses_it(sealed: bytes) -> None:
    with keys.host_home() as home:
        host = open_sealer(home, recipients=[keys.RECOVERY], signer=keys.HOST)

        with pytest.raises(KeyMissingError, match="no secret key that opens it is here"):
            host.open_stream(io.BytesIO(sealed), lambda _: None, vouched=True)


def test_another_messages_key_does_not_open_it(sealed: bytes) -> None:
    wrong = Secret("9:" + "00" * 32)

    assert MessageStream.begin(sealed[:HEAD], lambda _: wrong) is None


def test_a_session_key_is_not_shown(sealer: GnupgSealer, sealed: bytes) -> None:
    told = sealer._told_key(sealed[:HEAD])

    assert told is not None
    assert told.reveal() not in repr(told)
