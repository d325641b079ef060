# SPDX-License-Identifier: Apache-2.0
"""Hooks through the command line."""

import signal
from pathlib import Path

import pytest

from snapvault import clock
from tests.acceptance.program import Host, shell

pytestmark = pytest.mark.integration

PATIENCE = 90.0  # seconds


def note(journal: Path, script: str = "true") -> list[str]:
    """Return a hook that writes into a journal, and then runs a script."""
    words = '"$SNAPVAULT_HOOK" "$SNAPVAULT_SOURCE" "$SNAPVAULT_POLICY" "$SNAPVAULT_RESULT"'
    return ["sh", "-c", f"echo {words} $SNAPVAULT_POINT >>'{journal}'; {script}"]


def lines(journal: Path) -> list[str]:
    return [line.rstrip() for line in journal.read_text().splitlines()] if journal.exists() else []


def test_hooks_run_around_a_backup_and_what_they_say_is_in_the_log(
    host: Host, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    hooks = {"before": note(journal, "echo stopping the shop"), "after": note(journal)}
    host.protect({"shop": {**shell("echo dump"), "hooks": hooks}})
    host.does("init")

    done = host.does("backup", "--verbose")

    (point,) = host.points()
    assert lines(journal) == ["before shop nightly", f"after shop nightly committed {point['id']}"]
    assert 'event=hook.output hook=before source=shop line="stopping the shop"' in done.stderr


def test_a_failing_hook_ends_in_a_clear_line_and_the_next_run_works(
    host: Host, tmp_path: Path
) -> None:
    journal, fails = tmp_path / "journal", tmp_path / "fails"
    fails.touch()
    script = f"test ! -e '{fails}' || {{ echo the shop hangs; exit 3; }}"
    hooks = {"before": note(journal, script), "after": note(journal)}
    host.protect({"shop": {**shell("echo dump"), "hooks": hooks}})
    host.does("init")

    ended = host.run("backup")
    fails.unlink()
    host.does("backup")

    assert ended.status == 15
    assert (
        'hook "before" of source "shop" failed: program "sh" failed with exit status 3: '
        "the shop hangs"
    ) in ended.stderr
    assert lines(journal)[:2] == ["before shop nightly", "after shop nightly failed"]
    assert len(host.points()) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_after_runs_when_a_backup_is_killed(
    number: signal.Signals, host: Host, tmp_path: Path
) -> None:
    journal, started = tmp_path / "journal", tmp_path / "started"
    slow = f"echo begin; touch '{started}'; exec sleep 600"
    hooks = {"before": note(journal), "after": note(journal)}
    host.protect({"shop": {**shell(slow), "hooks": hooks}})
    host.does("init")
    process = host.start("backup")
    deadline = clock.monotonic() + PATIENCE
    while not started.exists() and clock.monotonic() < deadline:
        clock.sleep(0.05)

    process.send_signal(number)
    process.communicate()

    while len(lines(journal)) < 2 and clock.monotonic() < deadline:
        clock.sleep(0.05)
    assert lines(journal) == ["before shop nightly", "after shop nightly failed"]
    assert host.points() == []
