# SPDX-License-Identifier: Apache-2.0
"""Addressees of sealed objects, read from packets of every shape: RFC 4880 and RFC 9580, 5.1."""

from collections.abc import Iterator

import pytest

from snapvault.adapters.sealers.addressees import GnupgAddressees
from snapvault.errors import IntegrityError
from tests.support.keys import RECOVERY, RECOVERY2, gnupg_home

ONE, OTHER = "0123456789ABCDEF", "FEDCBA9876543210"


@pytest.fixture(scope="module")
def addressees() -> Iterator[GnupgAddressees]:
    with gnupg_home(public=["recovery"]) as home:
        yield GnupgAddressees(home)


def session_key(key_id: str, size: int = 40) -> bytes:
    """Return the body of a version 3 packet with a session key."""
    return b"\x03" + bytes.fromhex(key_id) + bytes(size - 9)


def old(body: bytes) -> bytes:
    return bytes([0x80 | 1 << 2 | 1]) + len(body).to_bytes(2, "big") + body


def new(body: bytes) -> bytes:
    return bytes([0xC1, len(body)]) + body


def test_every_reader_is_found_in_headers_of_both_kinds(addressees: GnupgAddressees) -> None:
    head = old(session_key(ONE, 600)) + new(session_key(OTHER)) + b"\xd2\xff" + bytes(50)

    assert addressees.ids(head) == {ONE, OTHER}


def test_a_reader_by_fingerprint_is_found(addressees: GnupgAddressees) -> None:
    fingerprint = "AB" * 32

    head = new(b"\x06\x21\x06" + bytes.fromhex(fingerprint) + bytes(20)) + b"\xd2\xff"

    assert addressees.ids(head) == {fingerprint}


@pytest.mark.parametrize(
    "head",
    [b"", b"plain text", b"\xd2\xff" + bytes(40), new(session_key(ONE))[:20], b"\xc1\x03\x03\x00"],
)
def test_what_is_not_sealed_has_no_readers(addressees: GnupgAddressees, head: bytes) -> None:
    with pytest.raises(IntegrityError, match="no readers"):
        addressees.ids(head)


def test_keys_are_known_by_their_owner_or_else_by_their_id(addressees: GnupgAddressees) -> None:
    assert addressees.owner(RECOVERY[-16:]) == RECOVERY
    assert addressees.owner(RECOVERY2[-16:]) == RECOVERY2[-16:]
