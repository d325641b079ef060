# SPDX-License-Identifier: Apache-2.0
"""What the doctor finds on the host itself."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.cli import doctor_host
from snapvault.cli.doctor_host import look_at_daemon, look_at_room
from snapvault.cli.findings import Finding
from snapvault.model.settings import DaemonSettings, Settings

TOKEN = "a long and random text"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    return Settings(
        path=tmp_path / "snapvault.yaml",
        state_dir=tmp_path / "state",
        policies_dir=tmp_path,
        vaults={},
        daemon=DaemonSettings(listen_host="127.0.0.1", listen_port=0, token_file=token),
    )


def token_of(settings: Settings) -> Finding:
    (found,) = [each for each in look_at_daemon(settings) if each.check == "status page: token"]
    return found


def test_a_token_and_a_free_port_are_all_that_a_status_page_needs(settings: Settings) -> None:
    found = list(look_at_daemon(settings))

    assert [(each.check, each.state) for each in found] == [
        ("status page: token", "ok"),
        ("status page: address", "ok"),
    ]
    assert TOKEN not in repr(found)


def test_a_status_page_that_is_not_served_needs_nothing(settings: Settings) -> None:
    daemon = replace(settings.daemon, listen_host=None, token_file=Path("/gone"))

    assert list(look_at_daemon(replace(settings, daemon=daemon))) == []


@pytest.mark.parametrize(
    ("text", "mode", "state", "message", "remedy"),
    [
        (None, 0o600, "fail", "no such file", "openssl rand"),
        ("\n", 0o600, "fail", "is empty", None),
        ("short", 0o600, "warn", "only 5 characters", "openssl rand"),
        (TOKEN, 0o640, "warn", "mode 0640", "chmod 600"),
        (TOKEN, 0o604, "warn", "mode 0604", "chmod 600"),
    ],
)
def test_a_token_that_is_none_short_or_for_everybody_is_named(
    text: str | None, mode: int, state: str, message: str, remedy: str | None, settings: Settings
) -> None:
    path = settings.path.with_name("token")
    path.unlink()
    if text is not None:
        path.write_text(text)
        path.chmod(mode)

    found = token_of(settings)

    assert found.state == state
    assert (found.exit_status != 0) == (state == "fail")
    assert message in found.message
    assert str(path) in found.message
    assert remedy is None or remedy in str(found.remedy)


def test_a_credential_that_systemd_will_give_is_one(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = (tmp_path / "credstore", tmp_path / "encrypted")
    monkeypatch.setattr(doctor_host, "_CREDENTIALS", tmp_path / "run")
    monkeypatch.setattr(doctor_host, "_CREDENTIAL_STORES", stores)
    daemon = replace(settings.daemon, token_file=tmp_path / "run" / "snapvault.service" / "page")
    settings = replace(settings, daemon=daemon)

    missing = token_of(settings)
    stores[1].mkdir()
    (stores[1] / "page").touch()
    there = token_of(settings)

    assert (missing.state, missing.exit_status) == ("fail", 10)
    assert str(missing.remedy).startswith(f'Put it into "{stores[0]}/page"')
    assert (there.state, str(stores[1]) in there.message) == ("ok", True)


def test_an_address_that_there_is_not_is_no_place_to_serve_at(settings: Settings) -> None:
    daemon = replace(settings.daemon, listen_host="no.such.host.invalid")

    *_, found = look_at_daemon(replace(settings, daemon=daemon))

    assert (found.state, found.exit_status) == ("fail", 10)
    assert "an address of this machine" in str(found.remedy)


def test_room_is_looked_for_where_we_write(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    plenty = list(look_at_room(settings))
    monkeypatch.setattr(doctor_host, "_LITTLE_ROOM", 1 << 20 * 4)
    monkeypatch.setattr(doctor_host, "_LITTLE_TEMPORARY_ROOM", 1 << 20 * 4)
    little = list(look_at_room(settings))
    monkeypatch.setattr(tempfile, "tempdir", str(settings.path / "nowhere"))
    settings.state_dir.rmdir()
    settings.state_dir.touch()
    none = list(look_at_room(settings))

    assert [each.check for each in plenty] == ["state folder", "temporary folder"]
    assert [each.state for each in little] == ["warn", "warn"]
    assert all("has only" in each.message and each.remedy for each in little)
    assert [(each.state, each.exit_status) for each in none] == [("fail", 10), ("fail", 20)]
    assert all(each.remedy for each in none)
