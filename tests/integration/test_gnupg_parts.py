# SPDX-License-Identifier: Apache-2.0
"""Messages that GnuPG makes in other ways than SnapVault does are not opened in parts."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapvault.adapters.sealers.gnupg import open_sealer
from snapvault.ports.sealer import Parts, Sealer
from tests.support import keys

pytestmark = pytest.mark.integration

DATA = bytes(range(250)) * 800  # 200 KB
Seal = Callable[[Path], bytes]

ENCRYPT = ["--trust-model=always", "--recipient", keys.RECOVERY, "--cipher-algo=AES256"]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with keys.recovery_home() as home:
        yield home


@pytest.fixture(scope="module")
def sealer(home: Path) -> Sealer:
    return open_sealer(home, recipients=[keys.RECOVERY], signer=keys.HOST)


def parts_of(sealer: Sealer, sealed: bytes) -> Parts | None:
    return sealer.open_parts(len(sealed), lambda begin, end: sealed[begin:end])


def as_snapvault_does(home: Path) -> bytes:
    return keys.gpg(home, *ENCRYPT, "--compress-algo=none", "--encrypt", data=DATA)


def from_a_file(home: Path) -> bytes:
    path = home / "data"
    path.write_bytes(DATA)
    return keys.gpg(home, *ENCRYPT, "--compress-algo=none", "--output=-", "--encrypt", str(path))


def compressed(home: Path) -> bytes:
    return keys.gpg(home, *ENCRYPT, "--compress-algo=zlib", "--encrypt", data=DATA)


def armored(home: Path) -> bytes:
    return keys.gpg(home, *ENCRYPT, "--compress-algo=none", "--armor", "--encrypt", data=DATA)


def with_a_passphrase(home: Path) -> bytes:
    options = ["--pinentry-mode=loopback", "--passphrase=open", "--compress-algo=none"]
    return keys.gpg(home, *options, "--symmetric", data=DATA)


def signed_as_well(home: Path) -> bytes:
    options = [*ENCRYPT, "--compress-algo=none", "--sign", "--encrypt"]
    return keys.gpg(home, *options, data=DATA)


def of_another_cipher(home: Path) -> bytes:
    options = [*ENCRYPT[:-1], "--cipher-algo=TWOFISH", "--compress-algo=none", "--encrypt"]
    return keys.gpg(home, *options, data=DATA)


def as_text(home: Path) -> bytes:
    return keys.gpg(home, *ENCRYPT, "--compress-algo=none", "--textmode", "--encrypt", data=DATA)


def to_many(home: Path) -> bytes:
    many = ["--recipient", keys.RECOVERY2, "--recipient", keys.HOST]
    return keys.gpg(home, *ENCRYPT, *many, "--compress-algo=none", "--encrypt", data=DATA)


@pytest.mark.parametrize("seal", [as_snapvault_does, to_many])
def test_messages_like_ours_are_opened_in_parts(sealer: Sealer, home: Path, seal: Seal) -> None:
    parts = parts_of(sealer, seal(home))

    assert parts is not None
    assert parts.read(100_000, 100_500) == DATA[100_000:100_500]


@pytest.mark.parametrize(
    "seal",
    [
        from_a_file,
        compressed,
        armored,
        with_a_passphrase,
        signed_as_well,
        of_another_cipher,
        as_text,
    ],
)
def test_other_messages_are_left_to_gnupg(sealer: Sealer, home: Path, seal: Seal) -> None:
    sealed = seal(home)

    assert parts_of(sealer, sealed) is None


@pytest.mark.parametrize("cut", [1, 22, 3000, 100_000, 200_000])
def test_a_message_that_is_cut_off_is_left_to_gnupg(sealer: Sealer, home: Path, cut: int) -> None:
    assert parts_of(sealer, as_snapvault_does(home)[:-cut]) is None


def test_the_key_of_a_message_is_not_shown(
    sealer: Sealer, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sealed = as_snapvault_does(home)
    told = keys.gpg(
        home, "--status-fd=1", "--show-session-key", "--output=/dev/null", "-d", data=sealed
    )
    key = told.decode().partition("SESSION_KEY 9:")[2].split()[0]
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("gnupg").propagate = True
        try:
            parts = parts_of(sealer, sealed)
        finally:
            logging.getLogger("gnupg").propagate = False

    assert len(key) == 64
    assert "--show-session-key" in caplog.text  # what is logged of a run of gpg was seen
    assert key not in caplog.text
    assert key not in repr(parts)
