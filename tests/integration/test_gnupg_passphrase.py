# SPDX-License-Identifier: Apache-2.0
"""Unattended work with keys that have a passphrase, and what is said when it is wrong."""

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvault.adapters.sealers.gnupg import GnupgSealer, open_sealer
from snapvault.errors import SealError
from snapvault.ports.sealer import Readers
from tests.support.keys import (
    PASSPHRASE,
    PROTECTED,
    empty_home,
    end_agent,
    generate_key,
    gnupg_home,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def home() -> Iterator[Path]:
    with gnupg_home(secret=["protected"]) as path:
        # Whatever pinentry this machine has must not ask the person who runs the tests.
        with (path / "gpg-agent.conf").open("a") as settings:
            settings.write("pinentry-program /nonexistent\n")
        end_agent(path)
        yield path


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_text(PASSPHRASE + "\n")
    return path


def sealer(home: Path, passphrase_file: str | None) -> GnupgSealer:
    return open_sealer(
        home, recipients=[PROTECTED], signer=PROTECTED, passphrase_file=passphrase_file
    )


def test_a_passphrase_file_signs_and_opens_unattended(home: Path, passphrase_file: Path) -> None:
    unattended = sealer(home, str(passphrase_file))

    unattended.check()
    opened = unattended.open(unattended.seal(b"data" * 100_000, Readers.RECOVERY))

    assert opened == b"data" * 100_000


def test_a_systemd_credential_signs(
    home: Path, passphrase_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passphrase_file.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(passphrase_file.parent))

    sealer(home, str(passphrase_file)).check()


def test_the_agents_own_knowledge_is_enough(home: Path, passphrase_file: Path) -> None:
    sealer(home, str(passphrase_file)).check()  # gpg-agent remembers it for some minutes

    sealer(home, None).check()


def test_a_wrong_passphrase_is_found_by_the_check(home: Path, passphrase_file: Path) -> None:
    passphrase_file.write_text("battery staple\n")

    with pytest.raises(SealError, match=r"could not sign with key .*: wrong passphrase") as caught:
        sealer(home, str(passphrase_file)).check()

    assert caught.value.hint == "Correct what passphrase_file holds."


def test_a_wrong_passphrase_is_no_damage(home: Path, passphrase_file: Path) -> None:
    sealed = sealer(home, None).seal(b"data", Readers.RECOVERY)
    passphrase_file.write_text("battery staple\n")

    with pytest.raises(SealError, match="could not use the secret key: wrong passphrase"):
        sealer(home, str(passphrase_file)).open(sealed)


def test_a_missing_passphrase_is_told_apart(home: Path) -> None:
    without = sealer(home, None)

    with pytest.raises(SealError, match="no passphrase, and nobody to ask") as caught:
        without.check()
    with pytest.raises(SealError, match="no passphrase, and nobody to ask"):
        without.open(without.seal(b"data", Readers.RECOVERY))

    assert caught.value.hint is not None


def test_a_passphrase_of_any_script_works(tmp_path: Path) -> None:
    phrase = "pässwörd Ωmega 鍵"
    (tmp_path / "passphrase").touch(mode=0o600)
    (tmp_path / "passphrase").write_text(phrase)
    with empty_home() as home:
        fingerprint = generate_key(home, "Ünïcode <unicode@example.org>", phrase)

        open_sealer(
            home,
            recipients=["Ünïcode"],
            signer=fingerprint,
            passphrase_file=str(tmp_path / "passphrase"),
        ).check()


def test_the_passphrase_shows_nowhere(
    home: Path,
    passphrase_file: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("gnupg").addHandler(caplog.handler)
    command_lines: list[bytes] = []
    trace = ""

    def chunks() -> Iterator[bytes]:
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command_lines.append(line.read_bytes())
            except OSError:
                continue
        yield b"data"
        raise OSError("broken")

    unattended = sealer(home, str(passphrase_file))
    try:
        unattended.check()
        unattended._gpg.run(["--decrypt"], chunks(), lambda _piece: None, unlock=True)
    except OSError as error:
        trace = "".join(
            traceback.TracebackException.from_exception(error, capture_locals=True).format()
        )
    finally:
        logging.getLogger("gnupg").removeHandler(caplog.handler)

    shown = [trace, caplog.text, repr(unattended._gpg.__dict__), *capfd.readouterr()]
    assert command_lines
    assert not any(PASSPHRASE in text for text in shown)
    assert not any(PASSPHRASE.encode() in line for line in command_lines)
