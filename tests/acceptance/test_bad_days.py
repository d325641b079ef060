# SPDX-License-Identifier: Apache-2.0
"""Kills, signals, losses, damage, stores that say no, and disks that are full."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapvault import clock
from tests.acceptance.program import ROOT, Host, shell
from tests.support import keys, s3

pytestmark = pytest.mark.integration

CHANCE = random.Random(11)
MIB = 1 << 20


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = clock.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert clock.monotonic() < deadline, "it did not happen in time"
        clock.sleep(0.02)


def volumes(vault: Path) -> set[str]:
    return {path.name for path in vault.glob("volumes/*/*.vol")}


@pytest.fixture
def slow(host: Host, tmp_path: Path) -> Host:
    """Return a host with a source that stops after 4 MiB until the file `go` is there."""
    (tmp_path / "dump").write_bytes(CHANCE.randbytes(4 * MIB))
    script = (
        f"cat '{tmp_path}/dump'; while ! test -e '{tmp_path}/go'; do sleep 0.05; done; echo end"
    )
    host.protect({"shop": shell(script)}, volume_size="1 MiB")
    host.does("init")
    return host


# --- interrupted work -----------------------------------------------------------------------


def test_a_killed_backup_is_finished_by_the_next_without_sending_volumes_again(
    slow: Host, recovery: Host, tmp_path: Path
) -> None:
    vault = tmp_path / "vault"
    process = slow.start("backup")
    wait_until(lambda: len(volumes(vault)) >= 3, process)
    process.kill()
    process.communicate()
    sent = volumes(vault)
    assert slow.points() == []
    (tmp_path / "go").touch()

    ended = slow.does("backup", "-v")

    assert "event=run.resumed" in ended.stderr
    assert sent < volumes(vault)
    # Five volumes hold the whole stream: not one of those sent before the kill is there twice.
    assert len(volumes(vault)) <= 6
    assert slow.does("verify", "--level", "data", "--json").json[0]["findings"] == []
    recovery.does("restore", "shop", "--to", str(tmp_path / "restored"))
    assert (tmp_path / "restored").read_bytes() == (tmp_path / "dump").read_bytes() + b"end\n"


def test_two_runs_at_once_the_second_names_the_holder(slow: Host, tmp_path: Path) -> None:
    process = slow.start("backup")
    wait_until(lambda: len(volumes(tmp_path / "vault")) >= 1, process)

    said = slow.fails(11, "backup")

    (tmp_path / "go").touch()
    out, _ = process.communicate(timeout=90)
    assert f"process {process.pid}" in said
    assert process.returncode == 0
    assert b"backed up" in out


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_a_backup_cleanly(
    number: signal.Signals, status: int, slow: Host, tmp_path: Path
) -> None:
    process = slow.start("backup")
    wait_until(lambda: len(volumes(tmp_path / "vault")) >= 1, process)

    process.send_signal(number)
    _, said = process.communicate(timeout=90)

    assert process.returncode == status
    assert b"Traceback" not in said
    left = {path.suffix for path in slow.state.rglob("*") if path.is_file() and "run" in path.parts}
    # What is left is hashes; the next run removes it.
    assert left <= {".journal", ".rsync"}
    (tmp_path / "go").touch()
    slow.does("backup")


def test_a_signal_ends_a_restore_and_leaves_nothing(used: Host, recovery: Host) -> None:
    target = used.folder / "restored"
    # A pipe that nobody reads keeps the program waiting, wherever it is.
    fifo = used.folder / "pipe"
    subprocess.run(["mkfifo", str(fifo)], check=True)
    process = recovery.start("restore", "web01", "--to", str(fifo))
    wait_until(recovery.state.exists, process)

    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=90)

    assert process.returncode == 143
    assert b"Traceback" not in said
    assert not target.exists()


# --- losses ---------------------------------------------------------------------------------


def test_a_host_that_lost_its_state_goes_on_incrementally(used: Host, tmp_path: Path) -> None:
    subprocess.run(["rm", "-rf", str(used.state)], check=True)

    made = used.does("backup", "--json").json

    assert [each["new_volumes"] for each in made] == [0, 0]
    assert len(used.points()) == 4


def test_a_damaged_catalog_is_rebuilt_by_itself(used: Host) -> None:
    before = used.points()
    (catalog,) = used.state.glob("*/catalog.sqlite")
    catalog.write_bytes(b"garbage" * 1000)

    ended = used.does("list", "--json")

    assert ended.json == before
    assert "catalog" in ended.stderr
    rebuilt = used.does("catalog", "rebuild", "--json").json
    assert rebuilt == [
        {"vault": "offsite", "points": 2, "sources": ["shop", "web01"], "problems": []}
    ]


# --- damage ---------------------------------------------------------------------------------


def test_a_flipped_bit_is_found_named_and_never_restored(used: Host, recovery: Host) -> None:
    for volume in (used.folder.parent / "vault").glob("volumes/*/*.vol"):
        content = bytearray(volume.read_bytes())
        content[len(content) // 2] ^= 1
        volume.chmod(0o644)
        volume.write_bytes(content)
    point = used.points("web01")[0]["id"]
    target = used.folder / "restored"

    unnoticed = used.run("verify")
    found = used.run("verify", "web01", "--level", "data")
    report = used.run("verify", "web01", "--level", "data", "--json")
    said = recovery.fails(13, "restore", "web01", "--to", str(target))

    assert unnoticed.status == 0  # sizes are right: that is all the level promises
    assert found.status == report.status == 13
    assert 'volume "volumes/' in found.stderr
    assert point in found.stderr
    assert report.json[0]["findings"][0]["points"] == [point]
    assert "is damaged" in said
    assert not target.exists()


def test_what_is_newest_is_not_guessed_when_a_manifest_is_gone(
    host: Host, recovery: Host, tmp_path: Path
) -> None:
    host.protect({"etc": shell("date +%N")})
    host.does("init")
    for _ in range(2):
        host.does("backup")
    recovery.does("list")
    first, last = recovery.points()
    (manifest,) = (tmp_path / "vault").glob(f"points/etc/*{last['id']}.point")
    manifest.unlink()
    target = str(tmp_path / "restored")

    said = recovery.fails(13, "restore", "etc", "--to", target)
    recovery.does("restore", "etc", "--to", target, "--point", first["id"])

    assert last["id"] in said
    assert "--point" in said
    assert host.run("verify").status == 13


# --- stores ---------------------------------------------------------------------------------


@pytest.fixture
def s3_host(tmp_path: Path, host_home: Path, s3_store: dict[str, Any]) -> Host:
    found = Host(tmp_path / "host", host_home, s3_store, environment=s3.server().environment())
    return found.set_up()


def test_wrong_credentials_are_refused_at_once(s3_host: Host) -> None:
    s3_host.environment = {**s3_host.environment, "AWS_SECRET_ACCESS_KEY": "wrong"}
    started = clock.monotonic()

    said = s3_host.fails(14, "init")

    assert clock.monotonic() - started < 60
    assert s3.BUCKET in said
    assert "secret key is wrong" in said


def test_missing_credentials_are_named(s3_host: Host) -> None:
    s3_host.environment = {
        name: value
        for name, value in s3_host.environment.items()
        if not name.endswith(("KEY_ID", "ACCESS_KEY"))
    }

    said = s3_host.fails(14, "list")

    assert "credentials" in said


def test_a_missing_bucket_is_named_and_is_not_a_missing_vault(s3_host: Host) -> None:
    s3_host.store = {**s3_host.store, "store": "s3://no-such-bucket/v"}
    s3_host.set_up()

    for command in ("init", "list"):
        said = s3_host.fails(14, command)

        assert "no-such-bucket" in said
        assert "snapvault init" not in said


def test_no_network_is_an_error_of_its_own_in_seconds(s3_host: Host) -> None:
    # Nothing listens there.
    s3_host.store = {**s3_host.store, "endpoint_url": "http://127.0.0.1:9"}
    s3_host.set_up()
    started = clock.monotonic()

    said = s3_host.fails(14, "list")

    assert clock.monotonic() - started < 60
    assert "127.0.0.1:9" in said


# --- room -----------------------------------------------------------------------------------


def test_a_file_over_the_limit_of_the_process_is_an_error_without_a_file(
    used: Host, recovery: Host
) -> None:
    target = used.folder / "restored"
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000));"
        "sys.argv = sys.argv[1:]; runpy.run_module('snapvault', run_name='__main__')"
    )
    command = recovery.command("restore", "web01", "--to", str(target))
    recovery.does("list")  # so that the catalog itself needs no more room

    done = subprocess.run(
        [sys.executable, "-c", limited, "snapvault", *command[3:]],
        env=recovery.surroundings(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 16, done.stderr
    assert "Traceback" not in done.stderr
    assert not target.exists()


def test_a_state_folder_that_cannot_be_is_named(used: Host) -> None:
    subprocess.run(["rm", "-rf", str(used.state)], check=True)
    used.state.write_text("a file")

    for command in ("list", "backup"):
        said = used.fails(10, command)

        assert str(used.state) in said
        assert "state_dir" in said


@pytest.mark.parametrize("command", ["backup", "run-due", "daemon"])
def test_a_state_folder_without_room_is_no_fault_of_the_settings(used: Host, command: str) -> None:
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
        "sys.argv = sys.argv[1:]; runpy.run_module('snapvault', run_name='__main__')"
    )

    done = subprocess.run(
        [sys.executable, "-c", limited, "snapvault", *used.command(command)[3:]],
        env=used.surroundings(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 20, done.stderr
    assert f'"{used.state}' in done.stderr
    assert "hint: Look for room in" in done.stderr
    assert "Traceback" not in done.stderr


def test_stdout_on_a_full_disk_is_an_error(used: Host, recovery: Host) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            recovery.command("restore", "web01", "--to", "-"),
            env=recovery.surroundings(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 16
    assert "no space left on device" in done.stderr
    assert "Traceback" not in done.stderr


# --- the doctor -----------------------------------------------------------------------------


def test_the_doctor_finds_nothing_on_a_healthy_host(used: Host) -> None:
    report = used.does("doctor", "--json").json

    assert {each["state"] for each in report} == {"ok"}
    assert {"settings", "policies", "librsync", "state folder"} <= {
        each["check"] for each in report
    }


def test_the_doctor_names_what_is_wrong_with_a_remedy(used: Host, tmp_path: Path) -> None:
    used.protect({"web01": {"imge": {}}})
    (tmp_path / "vault").rename(tmp_path / "elsewhere")

    ended = used.run("doctor")

    assert ended.status == 10
    assert "fail  policies" in ended.stdout
    assert "fail  offsite: vault" in ended.stdout
    assert 'Run "snapvault init offsite"' in ended.stdout


def test_the_doctor_looks_at_every_source(used: Host, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x")
    used.protect(
        {
            "web01": {"streams": {"root": {"image": {"path": str(tmp_path / "disk")}}}},
            "web02": {"image": {"path": str(tmp_path / "no such disk")}},
            "shop": {"command": {"run": ["no-such-program"]}},
        }
    )

    ended = used.run("doctor")

    assert ended.status == 15
    assert f'ok    web01: root: image "{tmp_path}/disk", 1 B, can be read' in ended.stdout
    assert f'fail  web02: image: could not open image "{tmp_path}/no such disk"' in ended.stdout
    assert "Correct the path, or mount or activate what it is on." in ended.stdout
    assert 'fail  shop: command: could not start program "no-such-program"' in ended.stdout


def test_the_doctor_knows_a_host_that_only_restores(used: Host, recovery: Host) -> None:
    ended = recovery.run("doctor")

    assert "this host can restore, but not back up" in ended.stdout


def test_a_key_that_is_not_here_is_refused_before_anything_is_written(
    host: Host, tmp_path: Path
) -> None:
    with keys.gnupg_home(secret=["host"]) as home:
        host.home, host.recipients = home, ["nobody@example.org"]
        host.set_up()

        said = host.fails(12, "init")

    assert "nobody@example.org" in said
    assert not (tmp_path / "vault").exists()
