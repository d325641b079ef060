# SPDX-License-Identifier: Apache-2.0
"""The daemon rehearses what the policies say, when they say it, and tells when it goes wrong."""

from pathlib import Path

import pytest

from tests.acceptance.program import Host
from tests.support import keys
from tests.support.daemon import Daemon, at, with_daemon
from tests.support.moved_clock.moving import MovedClock

pytestmark = pytest.mark.integration


def test_drills_run_by_schedule_fail_loudly_and_are_seen(
    tmp_path: Path, host: Host, recovery_home: Path
) -> None:
    moved = MovedClock(tmp_path / "clock")
    moved.move_to(at(0, 3))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("web01\n")
    daemon = Daemon(with_daemon(host, moved), moved, tmp_path / "daemon.log")
    host.protect(
        {"etc": {"directory": {"path": str(tmp_path / "etc")}}},
        schedule={"cron": "0 1 * * *", "timezone": "UTC"},
        objectives={"drill": "8d"},
        drill={
            "schedule": {"cron": "0 5 * * *", "timezone": "UTC"},
            "gnupg_home": str(recovery_home),
            "steps": [{"etc": {"files": {"paths": ["hostname"]}}}],
        },
    )
    host.does("init")
    host.does("backup")

    with daemon:
        daemon.night(at(0, 5, 1))
        good = daemon.await_event("drill.over")
        for volume in (tmp_path / "vault").glob("volumes/*/*"):
            volume.write_bytes(volume.read_bytes()[:-40] + bytes(40))
        before = daemon.night(at(1, 5, 1))
        bad = daemon.await_event("drill.over", after=before)
        told = daemon.await_event("notice.breach", after=before, alarm="drill-failed")
        page = daemon.get()
        status = host.run("status")
        daemon.stop()
    listed = host.does("--json", "drill", "list").json

    assert (good["verdict"], bad["verdict"]) == ("passed", "failed")
    assert told["source"] == "etc"
    assert "Drill failed" in page or "drill failed" in page
    assert status.status == 17
    assert "drill" in status.stdout
    assert sorted(each["verdict"] for each in _drills(listed)) == ["failed", "passed"]
    assert not list(Path("/var/tmp").glob(f"snapvault-drills-*/drill-*{good['drill']}*"))
    keys.end_agent(recovery_home)


def _drills(listed: object) -> list[dict[str, str]]:
    if isinstance(listed, dict):
        return list(listed["drills"])
    assert isinstance(listed, list)
    return listed
