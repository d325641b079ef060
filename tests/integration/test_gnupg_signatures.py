# SPDX-License-Identifier: Apache-2.0
"""Which signed messages count: one good signature, by a key that was in force."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvault.adapters.sealers.gnupg import GnupgSealer, open_sealer
from snapvault.errors import IntegrityError
from tests.support.keys import (
    FINGERPRINTS,
    HOST,
    HOST2,
    RECOVERY,
    empty_home,
    generate_key,
    gnupg_home,
    gpg,
)

pytestmark = pytest.mark.integration

CONTENT = b'{"format": 1}'
BEFORE_EXPIRY = ("--faked-system-time", "20200301T000000")
PLAIN = ("--compress-algo", "none")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with gnupg_home(secret=["host", "host2", "expired"], public=["recovery"]) as path:
        yield path


@pytest.fixture(scope="module")
def sealer(home: Path) -> GnupgSealer:
    return open_sealer(home, recipients=[RECOVERY], signer=HOST)


def signed(home: Path, *arguments: str) -> bytes:
    return gpg(home, *PLAIN, *arguments, "--sign", data=CONTENT)


def test_gnupgs_own_signed_message_counts(home: Path, sealer: GnupgSealer) -> None:
    message = signed(home, "--local-user", HOST2)

    assert sealer.read_signed(message).fingerprint == HOST2


def test_a_key_that_expired_since_still_vouches(home: Path, sealer: GnupgSealer) -> None:
    message = signed(home, *BEFORE_EXPIRY, "--local-user", FINGERPRINTS["expired"])

    assert sealer.read_signed(message).fingerprint == FINGERPRINTS["expired"]


def test_a_signature_made_after_its_keys_end_is_refused(home: Path, sealer: GnupgSealer) -> None:
    # A key that still seems in force to whoever signs, and that has ended for everybody else.
    with gnupg_home(secret=["expired"]) as forger:
        gpg(forger, *BEFORE_EXPIRY, "--quick-set-expire", FINGERPRINTS["expired"], "0")
        message = signed(forger, "--local-user", FINGERPRINTS["expired"])

    with pytest.raises(IntegrityError, match="its key had expired before"):
        sealer.read_signed(message)


def test_a_key_revoked_after_it_signed_is_refused() -> None:
    with gnupg_home(["host"], ["recovery"]) as home, empty_home() as other:
        fingerprint = generate_key(other, "Stolen <stolen@example.org>")
        message = signed(other)
        revocation = other / "openpgp-revocs.d" / f"{fingerprint}.rev"
        certificate = revocation.read_text().replace(":-----BEGIN", "-----BEGIN")
        gpg(home, "--quiet", "--import", data=gpg(other, "--export"))
        gpg(home, "--quiet", "--import", data=certificate.encode())

        with pytest.raises(IntegrityError, match="its key is revoked"):
            open_sealer(home, recipients=[RECOVERY], signer=HOST).read_signed(message)


def test_an_unknown_key_is_refused_by_its_id() -> None:
    with gnupg_home(secret=["host"], public=["recovery"]) as one, gnupg_home(["host2"]) as other:
        message = signed(other)

        with pytest.raises(IntegrityError, match=f'key "{HOST2[-16:]}" is not in the key ring'):
            open_sealer(one, recipients=[RECOVERY], signer=HOST).read_signed(message)


def test_two_signatures_are_refused(home: Path, sealer: GnupgSealer) -> None:
    message = signed(home, "--local-user", HOST, "--local-user", HOST2)

    with pytest.raises(IntegrityError):
        sealer.read_signed(message)


def test_a_signature_inside_an_encrypted_message_is_refused(
    home: Path, sealer: GnupgSealer
) -> None:
    layer = ("--trust-model", "always", "--recipient", HOST, "--encrypt")
    message = signed(home, "--local-user", HOST, *layer)

    with pytest.raises(IntegrityError, match="no single OpenPGP signed message"):
        sealer.read_signed(message)


@pytest.mark.parametrize("form", ["--armor", "--clear-sign", "--detach-sign", "--store"])
def test_any_other_form_is_refused(home: Path, sealer: GnupgSealer, form: str) -> None:
    how = ["--armor", "--sign"] if form == "--armor" else [form]
    message = gpg(home, *PLAIN, "--local-user", HOST, *how, data=CONTENT)

    with pytest.raises(IntegrityError):
        sealer.read_signed(message)


def test_a_compressed_signed_message_is_refused(home: Path, sealer: GnupgSealer) -> None:
    message = gpg(home, "--compress-algo", "zlib", "-u", HOST, "--sign", data=CONTENT)

    with pytest.raises(IntegrityError):
        sealer.read_signed(message)


def test_a_text_put_before_a_signed_one_is_refused(home: Path, sealer: GnupgSealer) -> None:
    unsigned = gpg(home, *PLAIN, "--store", data=b"forged")
    message = sealer.sign(CONTENT)

    with pytest.raises(IntegrityError):
        sealer.read_signed(unsigned + message)


def test_a_text_put_after_a_signed_one_is_refused(home: Path, sealer: GnupgSealer) -> None:
    unsigned = gpg(home, *PLAIN, "--store", data=b"forged")
    message = sealer.sign(CONTENT)

    with pytest.raises(IntegrityError):
        sealer.read_signed(message + unsigned)


def test_harmless_packets_after_a_signed_text_are_refused(sealer: GnupgSealer) -> None:
    marker = b"\xca\x03PGP"

    with pytest.raises(IntegrityError):
        sealer.read_signed(sealer.sign(CONTENT) + marker)
