# SPDX-License-Identifier: Apache-2.0
"""The daemon as an administrator has it: left alone for nights, and on bad days."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapvault import clock
from snapvault.adapters.histories.sqlite import SqliteHistory
from tests.acceptance.program import Host, image, shell
from tests.support.daemon import Daemon, at, with_daemon
from tests.support.http_sink import HttpSink, http_sink
from tests.support.mail_server import MailServer
from tests.support.moved_clock.moving import MovedClock

AT_ONE = {"cron": "0 1 * * *", "timezone": "UTC"}
# A dump that waits as long as `hang` is there, and fails as long as `broken` is.
DUMP = 'while [ -e "$0/hang" ]; do sleep 0.05; done; [ ! -e "$0/broken" ] || exit 9; cat "$0/rows"'


@pytest.fixture
def moved(tmp_path: Path) -> MovedClock:
    found = MovedClock(tmp_path / "clock")
    found.move_to(at(0, 0, 50))
    return found


@pytest.fixture
def daemon(tmp_path: Path, host: Host, moved: MovedClock) -> Daemon:
    return Daemon(with_daemon(host, moved), moved, tmp_path / "daemon.log")


@pytest.fixture
def hook() -> Iterator[HttpSink]:
    sink = http_sink()
    yield sink
    sink.server.stop()


def dump(folder: Path) -> dict[str, Any]:
    (folder / "rows").write_text("one\ntwo\n")
    return {"command": {"run": ["sh", "-c", DUMP, str(folder)]}}


def points(host: Host, source: str) -> list[dict[str, Any]]:
    """Return the points of a source, which may have none."""
    ended = host.run("list", "--json", source)
    assert ended.status == 0 or "there is no restore point" in ended.stderr
    return list(ended.json) if ended.status == 0 else []


def titles(server: MailServer) -> list[str]:
    return [str(mail.message["Subject"]) for mail in server.mails]


def test_nights_pass_unattended_and_what_fails_is_told_tried_again_and_mended(  # noqa: PLR0915 - one story
    tmp_path: Path, host: Host, moved: MovedClock, hook: HttpSink
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"night 0" * 10_000)
    with MailServer() as server:
        with_daemon(
            host,
            moved,
            notify={
                "people": {
                    "mail": {
                        "host": "127.0.0.1",
                        "port": server.port,
                        "security": "none",
                        "from": "backup@host1.example.org",
                        "to": ["ops@example.org"],
                    }
                },
                "pings": {"ping": {"url": hook.url + "/{source}"}},
            },
        )
        host.protect(
            {"web01": image(disk), "shop": dump(tmp_path)},
            schedule=AT_ONE,
            objectives={"rpo": "26h"},
            retry={"attempts": 3, "delay": "5m"},
        )
        host.does("init")
        with Daemon(host, moved, tmp_path / "log") as daemon:
            # The first night: all is well.
            before = daemon.night(at(0, 1, 0, 1))
            for source in ("web01", "shop"):
                daemon.await_event("notice.success", after=before, source=source)
            daemon.shows("rpo_breached", "shop", 0)
            assert server.mails == []

            # The second: the dump's process is killed, which is told, and tried again.
            disk.write_bytes(b"night 1" * 10_000)
            (tmp_path / "hang").touch()
            before = daemon.night(at(1, 1, 0, 1))
            daemon.await_event("notice.success", after=before, source="web01")
            daemon.until(lambda: bool(daemon.children()), "the dump to be at work")
            daemon.shows("running", "shop", 1)
            os.kill(daemon.children()[0], signal.SIGKILL)
            failed = daemon.await_event("notice.failure", after=before, source="shop")
            assert "SIGKILL" in failed["message"]
            assert failed["retry_at"] > failed["at"]
            daemon.until(lambda: of(host, "shop")["retry_at"] == failed["retry_at"], "the retry")
            (tmp_path / "hang").unlink()
            before = daemon.night(at(1, 1, 5, 10))
            daemon.await_event("notice.success", after=before, source="shop")
            assert server.mails == []  # nobody is woken for what mends itself

            # The third: the dump fails in a way that trying again cannot mend.
            (tmp_path / "broken").touch()
            before = daemon.night(at(2, 1, 0, 1))
            daemon.await_event("notice.failure", after=before, source="shop")
            daemon.await_event("notice.success", after=before, source="web01")
            daemon.until(lambda: bool(server.mails), "a mail")
            assert "shop" in titles(server)[0]
            assert "exit status 9" in server.mails[0].text
            daemon.shows("last_run_success", "shop", 0)
            assert "exit status 9" in daemon.get()
            told = host.run("status")
            assert told.status == 17
            assert "exit status 9" in told.stdout

            # The objective is breached while nobody looks, and met again a night later.
            before = daemon.night(at(2, 4, 0))
            daemon.await_event("notice.breach", after=before, source="shop", alarm="rpo")
            daemon.shows("rpo_breached", "shop", 1)
            (tmp_path / "broken").unlink()
            before = daemon.night(at(3, 1, 0, 1))
            daemon.await_event("notice.success", after=before, source="shop")
            daemon.await_event("notice.recovery", after=before, source="shop", alarm="rpo")
            daemon.shows("rpo_breached", "shop", 0)
            daemon.until(lambda: len(server.mails) >= 3, "mails of the breach and the recovery")
            assert host.does("status").status == 0
            daemon.until(lambda: len(pings(hook, "shop")) == 10, "the pings")
            daemon.until(lambda: heard(host) == {"people": 4, "pings": 18}, "who was told")
            assert 'snapvault_notifier_up{notifier="pings"} 1.0' in daemon.get("/metrics")
            assert daemon.stop() == 0
    with SqliteHistory(host.state / "history.sqlite") as history:
        assert history.following() is None
        assert all(each.is_up for each in history.notifiers())

    good, bad = ["start", ""], ["start", "fail"]
    assert pings(hook, "shop") == [*good, *bad, *good, *bad, *good]
    assert len(host.points("shop")) == 3
    assert len(host.points("web01")) == 4


def of(host: Host, source: str) -> Any:
    """Return what the status for programs, asked of another process, says of a source."""
    sources = host.run("status", "--json").json["sources"]
    return next(each for each in sources if each["source"] == source)


def heard(host: Host) -> dict[str, int]:
    """Return how many notices each notifier was told, as another process sees it."""
    notifiers = host.run("status", "--json").json["notifiers"]
    return {each["name"]: each["delivered"] for each in notifiers}


def pings(hook: HttpSink, source: str) -> list[str]:
    """Return what was pinged for a source: `start`, `fail`, or nothing for a success."""
    paths = [request.target.partition("?")[0] for request in hook.requests]
    return [path.removeprefix(f"/{source}").strip("/") for path in paths if f"/{source}" in path]


# --- being killed, stopped and started again ------------------------------------------------


def test_a_night_that_a_power_cut_ended_is_made_up_for_at_the_next_start(
    tmp_path: Path, host: Host, moved: MovedClock, daemon: Daemon
) -> None:
    host.protect({"shop": dump(tmp_path)}, schedule=AT_ONE, retry={"attempts": 2, "delay": "1s"})
    host.does("init")
    (tmp_path / "hang").touch()
    with daemon:
        daemon.night(at(0, 1, 0, 1))
        daemon.until(lambda: bool(daemon.children()), "the dump to be at work")

        daemon.kill()

        daemon.until(lambda: not daemon.children(), "the job to end with its daemon")
        (tmp_path / "hang").unlink()
        before = daemon.night(at(0, 1, 10))
        daemon.start()
        daemon.await_event("notice.success", after=before, source="shop")
        assert daemon.stop() == 0
    (point,) = host.points("shop")
    runs = host.does("status", "--json").json["runs"]
    assert [(run["state"], run["attempt"]) for run in runs] == [
        ("succeeded", 2),
        ("interrupted", 1),
    ]
    assert runs[0]["point"] == point["id"]


def test_a_stop_ends_what_runs_and_the_next_start_makes_up_for_it(
    tmp_path: Path, host: Host, moved: MovedClock, daemon: Daemon
) -> None:
    host.protect({"shop": dump(tmp_path)}, schedule=AT_ONE, retry={"attempts": 2, "delay": "1s"})
    host.does("init")
    (tmp_path / "hang").touch()
    with daemon:
        daemon.night(at(0, 1, 0, 1))
        daemon.until(lambda: bool(daemon.children()), "the dump to be at work")

        assert daemon.stop() == 0

        assert daemon.children() == []
        (tmp_path / "hang").unlink()
        before = daemon.night(at(0, 1, 10))
        daemon.start()
        daemon.await_event("notice.success", after=before, source="shop")
        daemon.stop()
    assert len(host.points("shop")) == 1


def test_a_job_that_will_not_end_is_killed_when_the_time_for_a_stop_is_over(
    tmp_path: Path, host: Host, moved: MovedClock
) -> None:
    with_daemon(host, moved, daemon={"stop_timeout": "1s"})
    script = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    host.protect({"shop": shell(script)}, schedule=AT_ONE)
    host.does("init")
    with Daemon(host, moved, tmp_path / "log") as daemon:
        daemon.night(at(0, 1, 0, 1))
        daemon.until(lambda: bool(daemon.children()), "the job to be at work")

        assert daemon.stop() == 0

        assert daemon.children() == []
    assert points(host, "shop") == []


def test_nights_missed_while_the_machine_was_off_are_made_up_for_once(
    tmp_path: Path, host: Host, moved: MovedClock, daemon: Daemon
) -> None:
    host.protect({"shop": dump(tmp_path)}, schedule=AT_ONE)
    host.does("init")
    with daemon:
        daemon.stop()

        before = daemon.night(at(5, 9, 0))
        daemon.start()

        daemon.await_event("notice.success", after=before, source="shop")
        missed = daemon.await_event("notice.missed", after=before, source="shop")
        assert "5" in missed["message"]
        daemon.stop()
    assert len(host.points("shop")) == 1


def test_a_history_that_is_lost_or_damaged_stops_no_backup(
    tmp_path: Path, host: Host, moved: MovedClock, daemon: Daemon
) -> None:
    damages: list[Callable[[Path], object]] = [
        Path.unlink,
        lambda path: path.write_bytes(b"no database at all" * 1000),
        lambda path: os.truncate(path, path.stat().st_size // 2),
    ]
    host.protect({"shop": dump(tmp_path)}, schedule=AT_ONE)
    host.does("init")
    with daemon:
        before = daemon.night(at(0, 1, 0, 1))
        daemon.await_event("notice.success", after=before, source="shop")
        for night, damage in enumerate(damages, start=1):
            daemon.stop()
            files = list(host.state.glob("history.sqlite*"))
            assert files
            for path in files:
                damage(path)

            daemon.start()

            assert daemon.metric("rpo_breached", "shop") in (0, None)
            before = daemon.night(at(night, 1, 0, 1))
            daemon.await_event("notice.success", after=before, source="shop")
        daemon.stop()
    assert len(host.points("shop")) == 4


def test_a_second_daemon_on_the_same_state_is_refused(daemon: Daemon, host: Host) -> None:
    with daemon:
        said = host.fails(11, "daemon")
        also = host.fails(11, "run-due")

    assert f'another daemon works on state folder "{host.state}"' in said
    assert "hint:" in said
    assert "another daemon" in also


# --- files that are wrong -------------------------------------------------------------------


def test_a_policy_that_gets_broken_keeps_its_old_self_and_alarms_until_it_is_mended(
    tmp_path: Path, host: Host, daemon: Daemon
) -> None:
    host.protect({"shop": dump(tmp_path)}, schedule=AT_ONE)
    path = host.folder / "policies" / "nightly.yaml"
    sound = path.read_text()
    host.does("init")
    with daemon:
        path.write_text(sound.replace("schedule", "shedule"))
        daemon.reload()
        alarm = daemon.await_event("notice.breach", alarm="broken-policy")
        assert 'unknown key "shedule"' in alarm["message"]
        assert of(host, "shop")["next_start"] == clock.to_text(at(0, 1, 0))

        before = daemon.night(at(0, 1, 0, 1))

        daemon.await_event("notice.success", after=before, source="shop")
        path.write_text(sound)
        before = len(daemon.events())
        daemon.reload()
        daemon.await_event("notice.recovery", after=before, alarm="broken-policy")


def test_settings_that_get_broken_keep_their_old_selves(
    tmp_path: Path, host: Host, daemon: Daemon
) -> None:
    host.protect({"shop": dump(tmp_path)}, schedule=AT_ONE)
    host.does("init")
    with daemon:
        host.settings.write_text(host.settings.read_text().replace("vaults", "faults"))
        daemon.reload()

        before = daemon.night(at(0, 1, 0, 1))

        daemon.await_event("notice.success", after=before, source="shop")
        assert "faults" in daemon.named("policy.broken")[0]["message"]


def test_a_reload_touches_no_run_and_follows_new_policies(
    tmp_path: Path, host: Host, daemon: Daemon
) -> None:
    host.protect({"shop": dump(tmp_path)}, schedule=AT_ONE)
    host.does("init")
    (tmp_path / "hang").touch()
    with daemon:
        before = daemon.night(at(0, 1, 0, 1))
        daemon.until(lambda: bool(daemon.children()), "the dump to be at work")
        (job,) = daemon.children()

        host.protect(
            {"etc": shell("echo etc")},
            name="other",
            schedule={"cron": "5 1 * * *", "timezone": "UTC"},
        )
        daemon.reload()

        assert daemon.children() == [job]
        daemon.night(at(0, 1, 5, 1))
        daemon.await_event("notice.success", after=before, source="etc")
        (tmp_path / "hang").unlink()
        daemon.await_event("notice.success", after=before, source="shop")


def test_a_folder_of_policies_that_is_empty_or_gone_is_an_alarm_and_no_end(
    host: Host, daemon: Daemon
) -> None:
    folder = host.folder / "policies"
    with daemon:
        daemon.await_event("notice.breach", alarm="policy-without-sources")
        folder.rmdir()

        daemon.reload()

        assert "there is no such folder" in daemon.named("policy.broken")[-1]["message"]
        assert daemon.stop() == 0


def test_wrong_settings_are_told_at_the_start(host: Host) -> None:
    host.settings.write_text(host.settings.read_text().replace("vaults", "faults"))

    assert "faults" in host.fails(10, "daemon")


def test_a_port_that_is_taken_is_told_with_a_way_out(host: Host, moved: MovedClock) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with_daemon(host, moved, daemon={"listen": f"127.0.0.1:{port}"})

        said = host.fails(20, "daemon")

    assert f"127.0.0.1:{port}" in said
    assert "hint:" in said


# --- without a daemon -----------------------------------------------------------------------


def test_run_due_runs_what_is_due_once(
    tmp_path: Path, host: Host, moved: MovedClock, daemon: Daemon
) -> None:
    host.protect({"shop": dump(tmp_path)}, schedule=AT_ONE)
    host.does("init")
    host.does("run-due")
    assert points(host, "shop") == []

    moved.move_to(at(0, 1, 4))
    host.does("run-due")
    moved.move_to(at(0, 1, 9))
    host.does("run-due")

    assert len(host.points("shop")) == 1
    moved.move_to(at(1, 1, 4))
    host.does("run-due")
    assert len(host.points("shop")) == 2
    with SqliteHistory(host.state / "history.sqlite") as history:
        left = history.following()
    assert left is not None
    assert left.is_round
    assert [each.next_start for each in left.sources] == [at(2, 1, 0)]


def test_run_due_tells_of_failures_by_its_exit_status_and_tries_again_when_it_is_time(
    tmp_path: Path, host: Host, moved: MovedClock, daemon: Daemon
) -> None:
    host.protect({"shop": dump(tmp_path)}, schedule=AT_ONE)
    host.does("init")
    host.does("run-due")
    (tmp_path / "broken").touch()
    moved.move_to(at(0, 1, 4))

    ended = host.run("run-due")

    assert ended.status == 3
    assert "exit status 9" in ended.stderr
    assert "Traceback" not in ended.stderr
    (tmp_path / "broken").unlink()
    moved.move_to(at(1, 1, 4))
    host.does("run-due")
    assert len(host.points("shop")) == 1
