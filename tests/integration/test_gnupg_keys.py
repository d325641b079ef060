# SPDX-License-Identifier: Apache-2.0
"""Which keys the GnuPG sealer takes, and what it says of those it refuses."""

from collections.abc import Iterator
from pathlib import Path

import gnupg
import pytest

from snapvault.adapters.sealers.gnupg import GnupgSealer, open_sealer
from snapvault.errors import ConfigError, KeyMissingError, SealError
from snapvault.ports.sealer import Readers
from tests.support.keys import (
    FINGERPRINTS,
    HOST,
    RECOVERY,
    RECOVERY2,
    generate_key,
    gnupg_home,
    gpg,
)

pytestmark = pytest.mark.integration

RECOVERY_SUBKEY = "6D6D6C8F490ED2237E685F999A7E156CB4601CF8"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    own = ["host", "encrypt-only", "sign-only"]
    others = ["recovery", "recovery2", "expired", "revoked", "shared-a", "shared-b"]
    with gnupg_home(secret=own, public=others) as path:
        yield path


def sealer(home: Path, recipient: str = RECOVERY, signer: str = HOST) -> GnupgSealer:
    return open_sealer(home, recipients=[recipient], signer=signer)


@pytest.mark.parametrize(
    "typed",
    [
        "recovery@example.org",
        "<recovery@example.org>",
        "RECOVERY@Example.Org",
        "Recovery <recovery@example.org>",
        RECOVERY,
        RECOVERY.lower(),
        f"0x{RECOVERY}",
        " ".join(RECOVERY[at : at + 4] for at in range(0, 40, 4)),
        RECOVERY[-16:],
        RECOVERY[-8:],
        RECOVERY_SUBKEY,
        RECOVERY_SUBKEY[-16:],
    ],
)
def test_whatever_a_person_types_becomes_one_fingerprint(home: Path, typed: str) -> None:
    assert sealer(home, typed).recipients == (RECOVERY,)


def test_a_part_of_a_user_id_names_a_key(home: Path) -> None:
    assert sealer(home, "second rec").recipients == (RECOVERY2,)


def test_naming_a_key_twice_counts_once(home: Path) -> None:
    twice = open_sealer(home, recipients=["recovery@example.org", RECOVERY], signer=HOST)

    assert twice.recipients == (RECOVERY,)


def test_two_keys_of_one_address_are_refused_with_both_named(home: Path) -> None:
    with pytest.raises(KeyMissingError, match="is ambiguous, 2 keys match") as caught:
        sealer(home, "shared@example.org")

    assert FINGERPRINTS["shared-a"] in str(caught.value)
    assert FINGERPRINTS["shared-b"] in str(caught.value)
    assert caught.value.hint == "Name the key by its full fingerprint."


@pytest.mark.parametrize("typed", ["nobody@example.org", "0123456789ABCDEF", ""])
def test_a_name_that_no_key_answers_to_is_refused(home: Path, typed: str) -> None:
    with pytest.raises(
        KeyMissingError, match=f'recipient key "{typed}" is not in the key ring'
    ) as told:
        sealer(home, typed)

    assert f'"gpg --homedir {home} --import FILE"' in str(told.value.hint)


@pytest.mark.parametrize("typed", ["covery@example.org", "@example.org", "recovery@example"])
def test_a_part_of_an_address_names_nobody(home: Path, typed: str) -> None:
    with pytest.raises(KeyMissingError, match="is not in the key ring"):
        sealer(home, typed)


def test_a_fingerprint_in_a_user_id_names_nobody() -> None:
    absent = "0" * 40
    with gnupg_home(secret=["host"]) as home:
        generate_key(home, f"{absent} <mallory@example.org>")

        assert sealer(home, absent).recipients == (absent,)


def test_a_key_imported_after_the_start_passes_the_check() -> None:
    with gnupg_home(secret=["host"]) as home, gnupg_home(secret=["recovery"]) as elsewhere:
        chosen = sealer(home, RECOVERY)
        gpg(home, "--quiet", "--import", data=gpg(elsewhere, "--export"))

        chosen.check()


def test_relative_paths_mean_the_folder_at_hand(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.parent)
    relative = sealer(Path(home.name))
    monkeypatch.chdir(tmp_path)

    relative.seal_to_file([b"data"], Path("-"), Readers.RECOVERY)

    assert (tmp_path / "-").stat().st_size > 0


def test_no_recipients_are_refused(home: Path) -> None:
    with pytest.raises(KeyMissingError, match="no recipient key is named"):
        open_sealer(home, recipients=[], signer=HOST)


def test_a_full_fingerprint_stands_for_itself_until_the_check(home: Path) -> None:
    unknown = "0" * 40

    with pytest.raises(
        KeyMissingError, match=f'recipient key "{unknown}" is not in the key ring'
    ) as told:
        sealer(home, unknown).check()

    assert f"--homedir {home} " in str(told.value.hint)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("expired", "has expired"),
        ("revoked", "is revoked"),
        ("sign-only", "cannot encrypt"),
    ],
)
def test_a_recipient_that_cannot_read_is_refused_by_the_check(
    home: Path, name: str, complaint: str
) -> None:
    chosen = sealer(home, FINGERPRINTS[name])

    with pytest.raises(KeyMissingError, match=f"^recipient key .*{complaint}"):
        chosen.check()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("expired", "has expired"),
        ("revoked", "is revoked"),
        ("sign-only", "cannot encrypt"),  # maps and signatures are sealed to the host too
        ("encrypt-only", "cannot sign: "),
        ("shared-a", "cannot sign here: its secret key is not in this GnuPG home"),
    ],
)
def test_a_signer_that_cannot_do_its_part_is_refused_by_the_check(
    home: Path, name: str, complaint: str
) -> None:
    chosen = sealer(home, signer=FINGERPRINTS[name])

    with pytest.raises(KeyMissingError, match=f"^signer key .*{complaint}") as caught:
        chosen.check()

    assert caught.value.hint is not None


def test_sealing_to_an_expired_recipient_says_so(home: Path, tmp_path: Path) -> None:
    chosen = sealer(home, FINGERPRINTS["expired"])

    with pytest.raises(KeyMissingError, match="has expired"):
        chosen.seal_to_file([b"data"], tmp_path / "volume", Readers.RECOVERY)

    assert list(tmp_path.iterdir()) == []


def test_a_disabled_recipient_is_refused_by_the_check() -> None:
    with gnupg_home(secret=["host"], public=["recovery"]) as home:
        gpg(home, "--quiet", "--command-fd", "0", "--edit-key", RECOVERY, data=b"disable\nsave\n")

        with pytest.raises(KeyMissingError, match="is disabled"):
            sealer(home).check()


def test_signing_without_the_secret_key_says_so(home: Path) -> None:
    with pytest.raises(KeyMissingError, match="its secret key is not in this GnuPG home"):
        sealer(home, signer=FINGERPRINTS["shared-a"]).sign(b"content")


def test_a_host_that_only_restores_needs_no_signing_key() -> None:
    with gnupg_home(secret=["recovery"], public=["host"]) as home:
        restoring = sealer(home)

        assert restoring.open(restoring.seal(b"data", Readers.RECOVERY_AND_HOST)) == b"data"


def test_a_home_that_is_not_there_is_the_operators_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="is not a folder") as missing:
        sealer(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is not a folder") as wrong:
        sealer(tmp_path / "file")

    assert f'"mkdir -m 700 {tmp_path}/nowhere"' in str(missing.value.hint)
    assert str(wrong.value.hint).startswith('Correct "gnupg_home"')


def test_a_machine_without_gpg_is_told_what_to_install(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SealError, match="could not run gpg") as caught:
        sealer(home)

    assert caught.value.hint == 'Install it with "apt-get install gnupg".'


def test_opening_and_checking_a_sealer_runs_gpg_three_times(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[list[str]] = []
    run = gnupg.GPG._open_subprocess

    def counting(self: object, arguments: list[str], passphrase: bool = False) -> object:  # noqa: FBT001, FBT002 -- python-gnupg's own signature
        runs.append(arguments)
        return run(self, arguments, passphrase)

    monkeypatch.setattr(gnupg.GPG, "_open_subprocess", counting)

    sealer(home).check()

    assert len(runs) == 3
