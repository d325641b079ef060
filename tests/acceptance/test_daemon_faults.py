# SPDX-License-Identifier: Apache-2.0
"""The daemon where what it stands on is taken away: signals, its state, its log."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from datetime import datetime
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from snapvault import clock
from snapvault.adapters.histories.sqlite import SqliteHistory
from tests.acceptance.program import Host, shell
from tests.support.daemon import PATIENCE, Daemon, at, looks, with_daemon
from tests.support.http_sink import hang, http_sink
from tests.support.moved_clock.moving import MovedClock

AT_ONE = {"cron": "0 1 * * *", "timezone": "UTC"}


@pytest.fixture
def moved(tmp_path: Path) -> MovedClock:
    found = MovedClock(tmp_path / "clock")
    found.move_to(at(0, 0, 50))
    return found


@pytest.fixture
def daemon(tmp_path: Path, host: Host, moved: MovedClock) -> Daemon:
    with_daemon(host, moved)
    host.protect({"shop": shell("echo rows")}, schedule=AT_ONE, objectives={"rpo": "26h"})
    host.does("init")
    return Daemon(host, moved, tmp_path / "daemon.log")


def test_a_storm_of_signals_harms_nothing(daemon: Daemon) -> None:
    with daemon:
        assert daemon.process is not None
        begun = len(daemon.events())
        for _ in range(300):
            daemon.process.send_signal(signal.SIGHUP)
            clock.sleep(0.001)  # a storm has a length
        daemon.await_event("daemon.ready", after=begun)
        daemon.process.send_signal(signal.SIGSTOP)
        before = daemon.night(at(0, 1, 0, 1))
        daemon.process.send_signal(signal.SIGCONT)
        daemon.await_event("notice.success", after=before, source="shop")

        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.stop() == 0

    assert len(daemon.host.points("shop")) == 1


def test_a_signal_during_the_start_is_heeded(daemon: Daemon) -> None:
    # The lock is the first thing that a daemon makes.
    lock = daemon.host.state / "daemon.lock"
    with daemon.log.open("ab") as stream:
        process = subprocess.Popen(
            daemon.host.command("--json", "daemon"),
            env=daemon.host.surroundings(),
            stdout=stream,
            stderr=stream,
        )
    daemon.until(lambda: lock.exists() and lock.stat().st_size > 0, "the lock")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)

    assert process.wait(PATIENCE) == 0
    assert lock.stat().st_size == 0  # given back


# --- stopping -------------------------------------------------------------------------------


def test_a_stop_waits_no_longer_than_it_may_for_notifiers_that_hang(
    host: Host, moved: MovedClock, tmp_path: Path
) -> None:
    sink = http_sink(hang)
    port, patience = sink.server.port, {"timeout": "10m"}
    mail = {"host": "127.0.0.1", "port": port, "security": "none", "from": "a@b.c", "to": ["d@e.f"]}
    notify = {
        "hook": {"webhook": {"url": sink.url}, **patience},
        "mail": {"mail": mail, **patience},
        "ping": {"ping": {"url": sink.url}, **patience},
    }
    with_daemon(host, moved, daemon={"stop_timeout": "1s"}, notify=notify)
    host.environment = {**host.environment, "SNAPVAULT_TEST_TELLING": "0.5"}
    host.protect({"shop": shell("exit 1")}, schedule=AT_ONE)
    host.does("init")
    try:
        with Daemon(host, moved, tmp_path / "log") as daemon:
            before = daemon.night(at(0, 1, 0, 1))
            daemon.await_event("notice.failure", after=before, source="shop")
            daemon.until(lambda: len(sink.requests) == 2, "hook and ping to be told")

            assert daemon.stop() == 0
    finally:
        sink.server.stop()

    assert {each["notifier"] for each in daemon.named("notice.dropped")} == set(notify)
    assert daemon.named("notice.failed") == []  # their own time is not over yet


def test_who_asks_twice_ends_the_daemon_at_once_and_harms_nothing(
    host: Host, moved: MovedClock, tmp_path: Path
) -> None:
    up, hold, tidying, slow = (tmp_path / name for name in ("up", "hold", "tidying", "slow"))
    wait = 'touch "$0"; while [ -e "$1" ]; do sleep 0.05; done'
    source = {
        "command": {"run": ["sh", "-c", f"{wait}; echo rows", str(up), str(hold)]},
        "hooks": {"after": {"run": ["sh", "-c", wait, str(tidying), str(slow)]}},
    }
    with_daemon(host, moved, daemon={"stop_timeout": "1h"})
    host.protect({"shop": source}, schedule=AT_ONE, retry={"attempts": 5, "delay": "1s"})
    host.does("init")
    hold.touch()
    with Daemon(host, moved, tmp_path / "log") as daemon:
        daemon.night(at(0, 1, 0, 1))
        for number in (signal.SIGTERM, signal.SIGINT):
            slow.touch()
            daemon.until(up.exists, "the dump to be at work")
            assert daemon.process is not None

            daemon.process.send_signal(number)
            daemon.until(tidying.exists, "the job to tidy up")
            daemon.process.send_signal(number)

            assert daemon.process.wait(PATIENCE) == -number
            assert len(daemon.children()) == 1
            slow.unlink()
            daemon.until(lambda: not daemon.children(), "the job to end with its daemon")
            up.unlink()
            tidying.unlink()
            if number is signal.SIGINT:
                hold.unlink()
            daemon.start()
        daemon.await_event("notice.success", source="shop")
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.texts()
    assert len(host.points("shop")) == 1


# --- clocks ---------------------------------------------------------------------------------

# In Paris, in UTC: 02:30 is skipped, and due at 03:00; it is shown twice, and due the first time.
SPRING = {
    "2027-03-28 00:59": 0,
    "2027-03-28 01:00": 1,
    "2027-03-28 01:30": 1,
    "2027-03-29 00:29": 1,
}
AUTUMN = {
    "2027-10-31 00:29": 0,
    "2027-10-31 00:30": 1,
    "2027-10-31 01:30": 1,
    "2027-11-01 01:29": 1,
}


@pytest.mark.parametrize("nights", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_what_is_due_when_clocks_are_changed_runs_once(
    host: Host, moved: MovedClock, tmp_path: Path, nights: dict[str, int]
) -> None:
    with_daemon(host, moved)
    host.protect(
        {"shop": shell("echo rows")}, schedule={"cron": "30 2 * * *", "timezone": "Europe/Paris"}
    )
    host.does("init")
    first, *_ = nights
    moved.move_to(utc(first))
    with looks(host) as looked, Daemon(host, moved, tmp_path / "log") as daemon:
        for moment, runs in nights.items():
            daemon.night(utc(moment))
            looked()
            daemon.until(lambda: not daemon.children(), "what was started to end")
            # Its process is gone before the daemon has heard what it said.
            daemon.until(partial(succeeded, daemon, runs), f"{runs} runs by {moment}")
            looked()
            assert len(daemon.named("notice.success")) == runs, moment
        assert daemon.stop() == 0

    assert len(host.points("shop")) == 1
    assert daemon.named("notice.missed") == []


def test_a_clock_that_goes_back_and_forth_while_a_job_works_runs_what_is_due_once(
    host: Host, moved: MovedClock, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    with_daemon(host, moved)
    host.protect(
        {"shop": shell(f"while [ -e {hold} ]; do sleep 0.05; done; echo rows")}, schedule=AT_ONE
    )
    host.does("init")
    with looks(host) as looked, Daemon(host, moved, tmp_path / "log") as daemon:

        def held(moment: datetime) -> list[int]:
            """Begin a run that goes on."""
            hold.touch()
            daemon.night(moment)
            daemon.until(lambda: bool(daemon.children()), "the job to be at work")
            return daemon.children()

        job = held(at(0, 1, 0, 1))
        daemon.night(at(0, 0, 0, 1))
        daemon.await_event("clock.set_back")
        assert daemon.children() == job
        hold.unlink()
        daemon.await_event("notice.success", source="shop")
        for moment in (at(0, 1, 0, 2), at(0, 2, 0)):  # the hour that was there already
            daemon.night(moment)
            looked()
            assert daemon.children() == []

        job = held(at(1, 1, 0, 1))
        daemon.night(at(2, 1, 0, 1))
        looked()
        assert daemon.children() == job
        hold.unlink()
        daemon.until(
            lambda: len(daemon.named("notice.success")) == 3, "the runs of all three nights"
        )
        assert daemon.stop() == 0

    assert len(host.points("shop")) == 3


def succeeded(daemon: Daemon, runs: int) -> bool:
    """Tell whether the daemon has heard of so many runs that went well."""
    return len(daemon.named("notice.success")) >= runs


def utc(moment: str) -> datetime:
    """Return the second after a minute, as whoever starts things then sees it."""
    return datetime.fromisoformat(f"{moment}:01+00:00")


# --- its state ------------------------------------------------------------------------------


def test_a_state_folder_that_is_removed_is_made_again_and_nothing_is_forgotten_that_counts(
    daemon: Daemon, tmp_path: Path
) -> None:
    with daemon:
        before = daemon.night(at(0, 1, 0, 1))
        daemon.await_event("notice.success", after=before, source="shop")
        daemon.host.protect({"shop": shell("exit 1")}, schedule=AT_ONE, objectives={"rpo": "26h"})
        daemon.reload()
        before = daemon.night(at(1, 4, 0))
        daemon.await_event("notice.breach", after=before, alarm="rpo")

        # Moved away first: the daemon may be making something in it.
        shutil.rmtree(daemon.host.state.rename(tmp_path / "removed"), ignore_errors=True)

        daemon.await_event("lock.replaced")
        assert "another daemon" in daemon.host.fails(11, "daemon")
        daemon.get()  # whoever looks finds that the history is gone
        daemon.await_event("history.reset")
        daemon.until(lambda: "rpo" in alarms(daemon), "the alarm to be up again")
        daemon.host.protect({"shop": shell("echo rows")}, schedule=AT_ONE)
        daemon.reload()
        before = daemon.night(at(2, 1, 0, 1))
        daemon.await_event("notice.success", after=before, source="shop")
        assert daemon.stop() == 0
    assert len(daemon.host.points("shop")) == 2


def test_systemd_is_told_how_the_daemon_stands(daemon: Daemon) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(f"{folder}/notify")
        manager.settimeout(PATIENCE)
        daemon.host.environment = {
            **daemon.host.environment,
            "NOTIFY_SOCKET": f"{folder}/notify",
            "WATCHDOG_USEC": "300000",
        }

        def await_told(*wanted: str) -> None:
            left = list(wanted)
            while left:
                told = manager.recv(4096).decode().splitlines()[0]
                left = left[1:] if told == left[0] else left

        with daemon:
            assert daemon.process is not None
            # More often than every five seconds, which it would look at its clock by itself.
            await_told("READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1")
            daemon.process.send_signal(signal.SIGHUP)
            await_told("RELOADING=1", "READY=1", "WATCHDOG=1")
            assert daemon.stop() == 0
            await_told("STOPPING=1")


def test_a_job_leaves_processor_and_disks_to_others_as_its_policy_says(
    daemon: Daemon, tmp_path: Path
) -> None:
    wait = 'while [ ! -e "$0" ]; do sleep 0.05; done'
    up = tmp_path / "up"
    source = {"command": {"run": ["sh", "-c", f'touch "$0.begun"; {wait}; echo rows', str(up)]}}
    daemon.host.protect({"shop": source}, schedule=AT_ONE, limits={"nice": 7, "io": "idle"})
    with daemon:
        before = daemon.night(at(0, 1, 0, 1))
        daemon.until(Path(f"{up}.begun").exists, "the job to be at work")
        (job,) = daemon.children()

        said = subprocess.run(["ionice", "-p", str(job)], capture_output=True, check=True)

        assert os.getpriority(os.PRIO_PROCESS, job) == 7
        assert said.stdout.strip() == b"idle"
        assert daemon.process is not None
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, daemon.process.pid) == ours
        up.touch()
        daemon.await_event("notice.success", after=before, source="shop")


def test_old_history_is_forgotten_and_a_new_token_counts_after_a_reload(
    host: Host, moved: MovedClock, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("the-first-token-of-this-host")
    with_daemon(host, moved, daemon={"keep_history": "30d", "token_file": str(token)})
    host.protect({"shop": shell("exit 1")}, schedule=AT_ONE)
    host.does("init")
    with Daemon(host, moved, tmp_path / "log") as daemon:
        before = daemon.night(at(0, 1, 0, 1))
        failed = daemon.await_event("notice.failure", after=before)["run"]
        log = host.state / "runs" / f"{failed[:4]}-{failed[4:6]}" / f"{failed}.jsonl"
        assert log.exists()
        assert shown(daemon, "the-first-token-of-this-host") == 200

        token.write_text("the-second-token-of-this-host")
        daemon.reload()

        assert shown(daemon, "the-first-token-of-this-host") == 401
        assert shown(daemon, "the-second-token-of-this-host") == 200
        daemon.stop()
        daemon.night(at(60, 0, 0))
        daemon.start()
        daemon.until(lambda: not log.exists(), "the log to be forgotten")


def shown(daemon: Daemon, token: str) -> int:
    """Return the status of the answer to somebody who shows a token."""
    address = daemon.named("status.served")[-1]["address"]
    request = Request(f"http://{address}/metrics", headers={"Authorization": f"Bearer {token}"})
    try:
        with urlopen(request, timeout=PATIENCE) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


def alarms(daemon: Daemon) -> set[str]:
    return {alarm["kind"] for alarm in daemon.host.run("status", "--json").json["alarms"]}


def test_a_log_that_nobody_reads_holds_up_no_backup(daemon: Daemon) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    lock = daemon.host.state / "daemon.lock"
    process = subprocess.Popen(
        daemon.host.command("daemon"), env=daemon.host.surroundings(), stderr=writer
    )
    os.close(writer)
    try:
        daemon.until(lambda: lock.exists() and lock.stat().st_size > 0, "the lock")
        daemon.until(lambda: is_followed(daemon.host), "the daemon to be up")
        daemon.night(at(0, 1, 0, 1))
        daemon.until(lambda: has_point(daemon.host), "a restore point")

        process.terminate()

        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)


def is_followed(host: Host) -> bool:
    """Tell whether the daemon has looked at its sources: their history says since when."""
    path = host.state / "history.sqlite"
    if not path.exists():
        return False
    with SqliteHistory(path) as history:
        return bool(history.seen())


def has_point(host: Host) -> bool:
    return host.run("list", "--json", "shop").status == 0
