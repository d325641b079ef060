# SPDX-License-Identifier: Apache-2.0
"""Promise 1: what GnuPG wrote names the readers that were asked for, and nobody else."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from snapvault.adapters.sealers.gnupg import GnupgSealer, open_sealer
from snapvault.errors import IntegrityError
from snapvault.ports.sealer import Readers
from tests.support.keys import HOST, RECOVERY, RECOVERY2, gnupg_home, gpg, host_home, recovery_home

pytestmark = pytest.mark.integration


@pytest.fixture
def home() -> Iterator[Path]:
    with host_home() as path:
        yield path


@pytest.fixture
def sealer(home: Path) -> GnupgSealer:
    return open_sealer(home, recipients=[RECOVERY, RECOVERY2], signer=HOST)


def readers(home: Path, sealed: bytes) -> set[str]:
    """Return the ids of the keys that a message names as its readers; zeros are a hidden one."""
    listing = gpg(home, "--list-only", "--list-packets", data=sealed).decode()
    return set(re.findall(r"^:pubkey enc packet: .* keyid ([0-9A-F]{16})$", listing, re.MULTILINE))


def subkey(home: Path, fingerprint: str) -> str:
    """Return the id of a key's encryption subkey."""
    listing = gpg(home, "--list-keys", "--with-colons", fingerprint).decode()
    return next(line.split(":")[4] for line in listing.splitlines() if line.startswith("sub:"))


def test_data_is_sealed_to_the_recovery_keys_alone(
    home: Path, sealer: GnupgSealer, tmp_path: Path
) -> None:
    sealer.seal_to_file([b"data"], tmp_path / "volume", Readers.RECOVERY)

    sealed = (tmp_path / "volume").read_bytes()

    assert readers(home, sealed) == {subkey(home, RECOVERY), subkey(home, RECOVERY2)}
    assert subkey(home, HOST) not in readers(home, sealed)


def test_metadata_is_sealed_to_the_host_too(home: Path, sealer: GnupgSealer) -> None:
    sealed = sealer.seal(b"map", Readers.RECOVERY_AND_HOST)

    assert readers(home, sealed) == {subkey(home, key) for key in (RECOVERY, RECOVERY2, HOST)}


def test_a_persons_gpg_conf_adds_no_reader(home: Path, sealer: GnupgSealer) -> None:
    (home / "gpg.conf").write_text(
        f"encrypt-to {HOST}\nhidden-encrypt-to {HOST}\ndefault-recipient-self\n"
        f"group {RECOVERY}={HOST}\nthrow-keyids\ncompress-algo bzip2\narmor\n"
    )

    sealed = sealer.seal(b"data", Readers.RECOVERY)

    assert readers(home, sealed) == {subkey(home, RECOVERY), subkey(home, RECOVERY2)}


def test_gnupg_compresses_nothing(sealer: GnupgSealer) -> None:
    zeros = bytes(300_000)

    sealed = sealer.seal(zeros, Readers.RECOVERY)
    signed = sealer.sign(zeros)

    assert 300_000 < len(sealed) < 302_000
    assert 300_000 < len(signed) < 302_000


def test_the_cipher_is_aes256_with_integrity_protection(sealer: GnupgSealer) -> None:
    with recovery_home() as recovery:
        listing = gpg(
            recovery,
            "--list-packets",
            "--show-session-key",
            data=sealer.seal(b"data", Readers.RECOVERY),
        )

    assert b":compressed packet:" not in listing
    assert b"mdc_method: 2" in listing or b":aead encrypted packet:" in listing


def test_a_message_without_integrity_protection_is_refused() -> None:
    with gnupg_home(secret=["recovery", "host"]) as home:
        both = open_sealer(home, recipients=[RECOVERY], signer=HOST)
        old = ("--rfc2440", "--cipher-algo", "3DES", "--disable-mdc", "--trust-model", "always")
        sealed = gpg(home, *old, "--recipient", RECOVERY, "--encrypt", data=b"data")

        with pytest.raises(IntegrityError):
            both.open(sealed)


def test_no_plaintext_lies_on_the_disk(
    home: Path, sealer: GnupgSealer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = b"only in memory, ever"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    seen: list[bytes] = []

    def chunks() -> Iterator[bytes]:
        for _ in range(5):
            yield marker * 50_000
            for place in (*tmp_path.rglob("*"), *home.rglob("*")):
                with suppress(FileNotFoundError):  # a lock of gpg's, which is gone since
                    if place.is_file():
                        seen.append(place.read_bytes())

    sealer.seal_to_file(chunks(), tmp_path / "volume", Readers.RECOVERY)

    assert seen
    assert not any(marker in content for content in seen)
