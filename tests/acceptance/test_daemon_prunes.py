# SPDX-License-Identifier: Apache-2.0
"""Vaults are pruned by themselves, and whoever is at home hears when one refuses."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from tests.acceptance.program import Host, image
from tests.support.daemon import Daemon, at, with_daemon
from tests.support.moved_clock.moving import MovedClock

pytestmark = pytest.mark.integration

AT_SIX = {"cron": "30 6 * * *", "timezone": "UTC"}


def last_week(day: int, hour: int, minute: int = 0) -> datetime:
    """Return a time that is over: no host believes a date that its store has not seen."""
    return at(day - 9, hour, minute)


def test_a_vault_is_pruned_by_schedule_and_a_prune_that_refuses_is_told_once(
    tmp_path: Path, host: Host
) -> None:
    moved = MovedClock(tmp_path / "clock")
    moved.move_to(last_week(0, 3))
    daemon = Daemon(with_daemon(host, moved, prune=AT_SIX), moved, tmp_path / "daemon.log")
    disk = tmp_path / "disk.img"
    host.protect({"web01": image(disk)}, retention={"last": 2})
    host.does("init")
    for night in range(3):
        disk.write_bytes(bytes([night + 1]) * 50_000)
        host.does("backup")
    points = {path.stem[-16:]: path for path in (tmp_path / "vault/points/web01").iterdir()}
    first, second, third = (points[each] for each in host.ids("web01"))

    with daemon:
        daemon.night(last_week(0, 6, 31))
        daemon.await_event("prune.over", vault="offsite")
        left = [path.exists() for path in (first, second, third)]
        second.unlink()
        before = daemon.night(last_week(1, 6, 31))
        told = daemon.await_event("notice.breach", after=before, alarm="not-pruned")
        again = daemon.night(last_week(2, 6, 31))
        daemon.await_event("prune.refused", after=again)
        metrics = daemon.get("/metrics")
        daemon.stop()
    moved.move_to(last_week(3, 6, 31))
    round_due = host.run("run-due")
    status = host.run("status")
    host.does("prune", "--accept-gone", second.stem.rpartition("-")[2])
    document = json.loads(host.run("status", "--json").stdout)

    assert left == [False, True, True]
    assert told["vault"] == "offsite"
    assert daemon.named("notice.breach", after=again, alarm="not-pruned") == []
    assert 'snapvault_vault_last_prune_success{vault="offsite"} 0.0' in metrics
    assert round_due.status == 3
    assert status.status == 17
    assert 'alarms:\n  offsite: prune of vault "offsite" refuses: restore point ' in status.stdout
    assert document["vaults"][0]["last_prune"]["state"] == "done"
    assert document["alarms"] == []
