# SPDX-License-Identifier: Apache-2.0
"""Where a passphrase comes from, and that it stays out of sight."""

from pathlib import Path

import pytest

from snapvault.adapters.sealers.passphrase import Secret, read_passphrase
from snapvault.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "passphrase"
    file.touch(mode=0o600)
    return file


@pytest.mark.parametrize(
    ("content", "passphrase"),
    [
        (b"correct horse", "correct horse"),
        (b"correct horse\n", "correct horse"),
        (b"correct horse\r\n", "correct horse"),
        (b" spaces count \n", " spaces count "),
        ("Ωmega\n".encode(), "Ωmega"),
    ],
)
def test_one_newline_at_the_end_is_not_part_of_it(
    path: Path, content: bytes, passphrase: str
) -> None:
    path.write_bytes(content)

    assert read_passphrase(str(path)).reveal() == passphrase


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"two\nlines\n", "has more than one line"),
        (b"nul\0", "has more than one line"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_what_is_not_one_line_of_text_is_refused(
    path: Path, content: bytes, complaint: str
) -> None:
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=f'^passphrase file "{path}" {complaint}') as told:
        read_passphrase(str(path))

    assert told.value.hint is not None


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could not read passphrase file .*: no such") as told:  # noqa: RUF043
        read_passphrase(str(tmp_path / "nowhere"))

    assert 'correct "passphrase_file" in the settings' in str(told.value.hint)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(path: Path, mode: int) -> None:
    path.write_text("correct horse")
    path.chmod(mode)

    with pytest.raises(ConfigError, match="can be read by others") as caught:
        read_passphrase(str(path))

    assert caught.value.hint == f'Run "chmod 600 {path}".'


def test_a_systemd_credential_is_read_whatever_its_mode(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text("correct horse\n")
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))

    assert read_passphrase(str(path)).reveal() == "correct horse"


def test_a_credential_that_is_not_there_is_told_with_where_it_belongs() -> None:
    with pytest.raises(ConfigError, match="could not read passphrase credential") as caught:
        read_passphrase("/run/credentials/snapvault.service/snapvault-passphrase")

    assert caught.value.hint is not None
    assert '"/etc/credstore/snapvault-passphrase"' in caught.value.hint


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret("correct horse")

    assert "correct" not in f"{secret} {secret!r} {[secret]}"
