# SPDX-License-Identifier: Apache-2.0
"""What becomes of an error: text, a hint and a status."""

import errno
import os
import signal
from collections.abc import Iterator

import pytest

from snapvault.cli import boundary
from snapvault.cli.failures import Outcomes
from snapvault.errors import (
    EXIT_BUG,
    EXIT_PARTIAL,
    ConfigError,
    LockHeldError,
    SnapVaultError,
    StateError,
    StoreError,
)


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in boundary._ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raising(error: BaseException) -> int:
    def command() -> int:
        raise error

    return boundary.run(command)


def test_an_error_is_one_line_with_its_hint_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    status = raising(LockHeldError('source "web01" is locked', hint="Wait."))

    assert status == 11
    assert capsys.readouterr().err == 'snapvault: source "web01" is locked\nhint: Wait.\n'


def test_notes_of_an_error_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    error = SnapVaultError("it failed")
    error.add_note("and the snapshot is left behind")

    raising(error)

    assert "note: and the snapshot is left behind" in capsys.readouterr().err


def test_a_bug_shows_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    status = raising(ZeroDivisionError("a bug"))

    said = capsys.readouterr().err
    assert status == EXIT_BUG
    assert "Traceback" in said
    assert "please report it" in said


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StateError),
        (errno.EROFS, StateError),
        (errno.EIO, StateError),
        (errno.EACCES, ConfigError),
    ],
)
def test_what_an_operating_system_may_refuse_is_no_bug(
    number: int,
    expected: type[SnapVaultError],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boundary, "_forget_output", lambda: None)

    status = raising(OSError(number, os.strerror(number), "/var/lib/x"))

    assert status == expected.exit_status
    assert '"/var/lib/x"' in capsys.readouterr().err


def test_a_signal_counts_whatever_it_broke_on_its_way(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        except boundary.Ended:
            raise StoreError("the connection broke") from None
        return 0

    status = boundary.run(command)

    assert status == 143
    assert capsys.readouterr().err == "snapvault: ended by SIGTERM\n"


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    assert boundary.run(lambda: 0) == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("done", "errors", "status"),
    [
        (2, [], 0),
        (1, [StoreError("x")], EXIT_PARTIAL),
        (0, [StoreError("x"), ConfigError("y")], 14),
    ],
)
def test_the_status_tells_all_from_some(
    done: int, errors: list[SnapVaultError], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = Outcomes(done=done)

    for error in errors:
        outcomes.fail(error)

    assert outcomes.status == status
