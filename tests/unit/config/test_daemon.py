# SPDX-License-Identifier: Apache-2.0
"""How the daemon runs, and what all runs may take."""

from collections.abc import Callable
from datetime import time, timedelta
from pathlib import Path

import pytest

from snapvault.config.settings import load_settings
from snapvault.errors import ConfigError
from snapvault.model.policy import Limits, UploadSpan, Window
from snapvault.model.settings import DaemonSettings, HostLimits, Settings

Write = Callable[[str, str], Path]

VAULTS = "vaults: {v: {store: 'file:///srv/v', recipients: [r], signer: s}}\n"


def read(write: Write, lines: str) -> Settings:
    return load_settings(write("s.yaml", VAULTS + lines + "\n"))


def refusal(write: Write, lines: str) -> ConfigError:
    with pytest.raises(ConfigError) as refused:
        read(write, lines)
    assert ", line 2, field " in str(refused.value)
    return refused.value


def test_without_a_word_the_daemon_is_as_the_manual_says(write: Write) -> None:
    settings = read(write, "")

    assert settings.daemon == DaemonSettings()
    assert settings.limits == HostLimits()
    assert settings.notify == {}


def test_every_key_of_the_daemon_is_read(write: Write, tmp_path: Path) -> None:
    settings = read(
        write,
        'daemon: {max_jobs: 4, listen: "0.0.0.0:80", token_file: token, stop_timeout: 2m,'
        " keep_history: 90d}",
    )

    assert settings.daemon == DaemonSettings(
        max_jobs=4,
        listen_host="0.0.0.0",
        listen_port=80,
        token_file=tmp_path / "token",
        stop_timeout=timedelta(minutes=2),
        keep_history=timedelta(days=90),
    )


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ('"127.0.0.1:9797"', ("127.0.0.1", 9797)),
        ('"127.9.9.9:0"', ("127.9.9.9", 0)),
        ('"[::1]:65535"', ("::1", 65535)),
        ("localhost:1", ("localhost", 1)),
        ("false", (None, 9797)),
        ("none", (None, 9797)),
    ],
)
def test_this_host_alone_needs_no_token(
    write: Write, written: str, place: tuple[str | None, int]
) -> None:
    daemon = read(write, f"daemon: {{listen: {written}}}").daemon

    assert (daemon.listen_host, daemon.listen_port) == place


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "[::]", "[2001:db8::1]"])
def test_a_network_needs_a_token(write: Write, address: str) -> None:
    refused = refusal(write, f'daemon: {{listen: "{address}:9797"}}')

    assert 'field "daemon.listen": expected a loopback address where there is' in str(refused)
    assert "token_file" in str(refused.hint)
    assert read(
        write, f'daemon: {{listen: "{address}:9797", token_credential: t}}'
    ).daemon.token_file


@pytest.mark.parametrize(
    "written",
    [
        *("true", "9797", '""', '":9797"', "host.example.org:9797", '"127.0.0.1:"', "127.0.0.1:x"),
        *('"::1:9797"', '"[127.0.0.1]:9797"', '"[localhost]:9797"', "127.0.0.1:123456", "1.2.3:80"),
        *('"http://127.0.0.1:9797"', '" 127.0.0.1:9797"', '"*:9797"', "null", "[]"),
    ],
)
def test_what_is_no_address_with_a_port_is_refused(write: Write, written: str) -> None:
    refused = refusal(write, f"daemon: {{listen: {written}}}")

    assert 'field "daemon.listen": expected an address and a port such as' in str(refused)


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("127.0.0.1", 'Add a port: "127.0.0.1:9797".'),
        ('"[::1]"', 'Add a port: "[::1]:9797".'),
        ('"::1"', 'Add a port: "[::1]:9797".'),
        ("localhost", 'Add a port: "localhost:9797".'),
        ("9000", 'Write "127.0.0.1:9000".'),
    ],
)
def test_an_address_without_a_port_or_a_port_alone_comes_with_both(
    write: Write, written: str, hint: str
) -> None:
    assert refusal(write, f"daemon: {{listen: {written}}}").hint == hint


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("max_jobs: 0", "expected a number of at least 1"),
        ("max_jobs: 1001", "expected a number of at most 1000"),
        ("max_jobs: two", 'expected a whole number, found "two"'),
        ('listen: "127.0.0.1:65536"', "expected a port from 1 to 65535, or 0 for a free one"),
        ("token_file: a, token_credential: b", 'at most one of "token_file" and "token_cred'),
        ("token_file: ''", "expected a path"),
        ("token_file: '~nobody-here/x'", "whose home folder is unknown"),
        ("stop_timeout: 0s", "expected a duration of at least 1s"),
        ("stop_timeout: 7h", "expected a duration of at most 6h"),
        ("keep_history: 23h", "expected a duration of at least 1d"),
        ("keep_history: 36501d", "expected a duration of at most 36500d"),
        ("token: abc", 'unknown key "token"'),
    ],
)
def test_wrong_values_of_the_daemon_are_refused(write: Write, written: str, message: str) -> None:
    assert message in str(refusal(write, f"daemon: {{{written}}}"))


def test_a_misspelled_key_comes_with_the_nearest(write: Write) -> None:
    assert refusal(write, "daemon: {maxjobs: 2}").hint == 'Did you mean "max_jobs"?'
    assert refusal(write, "daemonn: {}").hint == 'Did you mean "daemon"?'


def test_the_token_can_be_a_credential_of_systemd(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/creds")

    settings = read(write, "daemon: {token_credential: web-token}")

    assert settings.daemon.token_file == Path("/run/creds/web-token")


def test_every_limit_of_a_host_is_read(write: Write) -> None:
    settings = read(
        write,
        'limits: {upload: 50 MB/s, uploads: [{window: "08:00-18:00", upload: 5 MB/s},'
        ' {window: "22:00-05:00", upload: unlimited}], read: 200 MiB/s, nice: 10,'
        ' io: "best-effort:7"}',
    )

    assert settings.limits == HostLimits(
        upload=50_000_000,
        uploads=(
            UploadSpan(Window(time(8), time(18)), 5_000_000),
            UploadSpan(Window(time(22), time(5)), None),
        ),
        read=200 * 1024 * 1024,
        each=Limits(nice=10, io_class="best-effort", io_level=7),
    )


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        ("8 kbit/s", 1000),
        ("100 Mbit/s", 12_500_000),
        ("2.5Gbit/s", 312_500_000),
        ("1.5 MB/s", 1_500_000),
        ("1KiB/s", 1024),
        ("1000 B/s", 1000),
    ],
)
def test_rates_are_in_bytes_or_bits(write: Write, written: str, rate: int) -> None:
    assert read(write, f"limits: {{upload: {written}}}").limits.upload == rate


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("upload: 50", "expected a rate with its unit per second"),
        ("upload: 50 MB", "expected a rate with its unit per second"),
        ("upload: 50 Mb/s", "expected a rate with its unit per second"),
        ("upload: 50/s", "expected a rate with its unit per second"),
        ("upload: -1 MB/s", "expected a rate with its unit per second"),
        ("upload: 0 MB/s", "expected a rate of at least 1 kB/s"),
        ("upload: unlimited", "expected a rate with its unit per second"),
        ("read: 999 B/s", "expected a rate of at least 1 kB/s"),
        ("nice: -5", "expected a number of at least 0"),
        ("nice: 20", "expected a number of at most 19"),
        ("io: realtime", 'expected "idle", "best-effort" or'),
        ("io: idle:3", 'expected "idle", "best-effort" or'),
        ('io: "best-effort:8"', 'expected "idle", "best-effort" or'),
        ("uploads: [{window: 08:00-18:00}]", 'uploads[0].upload": expected a value'),
        ("uploads: [{window: 08:00-18:00, upload:}]", 'or "unlimited", found nothing'),
        ("uploads: [{window: 8-18, upload: unlimited}]", "expected a span of the day"),
        ("uploads: [{windw: 08:00-18:00, upload: 1 MB/s}]", 'unknown key "windw"'),
        ("uploads: {}", "expected a list, found a mapping"),
    ],
)
def test_wrong_limits_are_refused(write: Write, written: str, message: str) -> None:
    assert message in str(refusal(write, f"limits: {{{written}}}"))
