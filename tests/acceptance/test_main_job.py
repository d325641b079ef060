# SPDX-License-Identifier: Apache-2.0
"""What a user does on good days and on the day of the disaster, through the command line."""

import os
import random
import re
import shlex
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from snapvault import clock
from tests.acceptance.program import ROOT, Host, image, shell
from tests.support import keys, s3
from tests.support.moved_clock.moving import MovedClock

pytestmark = pytest.mark.integration

CHANCE = random.Random(7)
MIB = 1 << 20


def test_every_night_comes_back_byte_for_byte(
    store: dict[str, Any], tmp_path: Path, host_home: Path, recovery_home: Path
) -> None:
    environment = s3.server().environment() if "endpoint_url" in store else {}
    host = Host(tmp_path / "host", host_home, store, environment=environment).set_up()
    recovery = Host(tmp_path / "recovery", recovery_home, store, environment=environment).set_up()
    (recovery.folder / "policies").rmdir()
    disk, dump = tmp_path / "disk.img", tmp_path / "dump.sql"
    content = bytearray(CHANCE.randbytes(MIB) + bytes(2 * MIB) + CHANCE.randbytes(500_001))
    text = CHANCE.randbytes(400_000)
    host.protect(
        {"web01": {"streams": {"root": image(disk), "dump": shell(f"cat '{dump}'")}}},
    )
    host.does("init")
    nights = []
    for night in range(3):
        content[night * 300_000 : night * 300_000 + 20_000] = CHANCE.randbytes(20_000)
        text = text[: night * 1000] + b"insert" + text[night * 1000 :]
        disk.write_bytes(content)
        dump.write_bytes(text)
        (made,) = host.does("backup", "--json").json
        nights.append((made, bytes(content), text))

    listed = host.points("web01")
    for number, (made, root, dumped) in enumerate(nights):
        target = tmp_path / f"restored {number}"
        recovery.does("restore", "web01", "--to", str(target), "--point", made["id"])
        assert (target / "root").read_bytes() == root
        assert (target / "dump").read_bytes() == dumped

    assert [point["id"] for point in listed] == [made["id"] for made, _, _ in nights]
    assert nights[1][0]["stored_bytes"] < 100_000
    assert recovery.does("verify", "--level", "full", "--json").json[0]["findings"] == []
    # On the host that made them, everything can be checked and nothing can be read.
    assert host.does("verify", "--level", "data", "--json").json[0]["findings"] == []
    assert "--level data" in host.fails(12, "verify", "--level", "full")
    refusal = host.fails(12, "restore", "web01", "--to", str(tmp_path / "stolen"))
    assert "recovery key" in refusal
    assert keys.RECOVERY in refusal
    assert not (tmp_path / "stolen").exists()


def test_reports_have_the_fields_that_programs_rely_on(host: Host, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(b"x" * 50_000)
    host.protect({"web01": image(tmp_path / "disk.img")})
    host.does("init")

    (made,) = host.does("backup", "--json").json
    (listed,) = host.points()
    shown = host.does("show", made["id"][:6], "--json").json

    assert re.fullmatch(r"[0-9a-f]{16}", made["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", made["taken_at"])
    assert made["size_bytes"] == 50_000
    assert made["error"] is None
    for key in ("id", "source", "taken_at", "size_bytes", "stored_bytes", "streams"):
        assert listed[key] == made[key]
    assert shown["signer"] == keys.HOST
    assert shown["parent"] is None
    assert shown["counters"]["read_bytes"] == 50_000
    assert shown["streams"][0]["engine"] == "blocks"


def test_text_reports_are_for_people(host: Host, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(CHANCE.randbytes(50_000))
    host.protect({"web01": image(tmp_path / "disk.img")})
    host.environment = {"TZ": "Europe/Paris"}

    created = host.does("init")
    made = host.does("backup")
    listed = host.does("list")
    quiet = host.does("backup", "--quiet")
    events = host.does("backup", "-v")

    assert "created vault" in created.stdout
    assert keys.RECOVERY in created.stdout.replace(" ", "")
    assert "on paper" in created.stdout
    assert "restore point" in made.stdout
    assert 'backing up source "web01"' in made.stderr
    assert re.search(r"web01 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d CE", listed.stdout)
    assert quiet.stderr == ""
    assert re.search(r"^event=point\.committed source=web01 point=", events.stderr, re.MULTILINE)


def test_a_stream_comes_back_through_stdout_and_through_a_pipe(
    host: Host, recovery: Host, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    content = bytearray(CHANCE.randbytes(2 * MIB))
    host.protect({"web01": image(disk)}, volume_size="1 MiB")
    host.does("init")
    for at in (1_500_000, 100_000):
        content[at : at + 40_000] = CHANCE.randbytes(40_000)
        disk.write_bytes(content)
        host.does("backup")
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))

    through_stdout = recovery.does("restore", "web01", "--to", "-")
    reader.start()
    recovery.does("restore", "web01", "--to", str(fifo))
    reader.join(60)

    assert through_stdout.raw == content
    assert "of room in" in through_stdout.stderr
    assert "content digest verified" in through_stdout.stderr
    assert read == [bytes(content)]


def test_one_stream_of_several_comes_back_as_a_file(
    host: Host, recovery: Host, tmp_path: Path
) -> None:
    host.protect({"web01": {"streams": {"a": shell("echo one"), "b": shell("echo two")}}})
    host.does("init")
    host.does("backup")

    recovery.does("restore", "web01", "--stream", "b", "--to", str(tmp_path / "b"))

    assert (tmp_path / "b").read_bytes() == b"two\n"


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 5 * 16384 + 7])
def test_a_disk_of_any_size_comes_back(
    size: int, host: Host, recovery: Host, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(CHANCE.randbytes(size))
    host.protect({"web01": image(disk)})
    host.does("init")
    host.does("backup")

    recovery.does("restore", "web01", "--to", str(tmp_path / "restored"))

    assert (tmp_path / "restored").read_bytes() == disk.read_bytes()


def test_paths_may_hold_spaces_and_any_unicode(
    tmp_path: Path, host_home: Path, recovery_home: Path
) -> None:
    strange = tmp_path / "Ünïcode und Leerzeichen 雪 ' \" $HOME"
    strange.mkdir()
    store = {"store": f"file://{strange}/vault"}
    host = Host(strange / "host", host_home, store).set_up()
    recovery = Host(strange / "recovery", recovery_home, store).set_up()
    disk = strange / "the disk.img"
    disk.write_bytes(b"content" * 1000)
    host.protect({"web01": image(disk)})
    host.does("init")
    host.does("backup")

    recovery.does("restore", "web01", "--to", str(strange / "back again"))

    assert (strange / "back again").read_bytes() == disk.read_bytes()


def test_each_of_several_recipients_can_restore(host: Host, recovery: Host, tmp_path: Path) -> None:
    host.recipients = [keys.RECOVERY, keys.RECOVERY2]
    host.set_up()
    (tmp_path / "disk.img").write_bytes(CHANCE.randbytes(100_000))
    host.protect({"web01": image(tmp_path / "disk.img")})
    host.does("init")
    host.does("backup")

    with keys.gnupg_home(secret=["recovery2"], public=["recovery", "host"]) as second:
        recovery.does("restore", "web01", "--to", str(tmp_path / "first"))
        recovery.home = second
        recovery.set_up().does("restore", "web01", "--to", str(tmp_path / "second"))

    assert (tmp_path / "first").read_bytes() == (tmp_path / "disk.img").read_bytes()
    assert (tmp_path / "second").read_bytes() == (tmp_path / "disk.img").read_bytes()


def test_a_recovery_key_with_a_passphrase_restores_unattended(
    host: Host, recovery: Host, tmp_path: Path
) -> None:
    host.recipients = [keys.PROTECTED]
    passphrase = tmp_path / "passphrase"
    passphrase.write_text(keys.PASSPHRASE + "\n")
    passphrase.chmod(0o600)
    (tmp_path / "disk.img").write_bytes(CHANCE.randbytes(100_000))
    with (
        keys.gnupg_home(secret=["host"], public=["protected"]) as sealing,
        keys.gnupg_home(secret=["protected"], public=["host"]) as opening,
    ):
        host.home = sealing
        host.set_up().protect({"web01": image(tmp_path / "disk.img")})
        host.does("init")
        host.does("backup")
        recovery.recipients, recovery.home = [keys.PROTECTED], opening
        recovery.passphrase_file = passphrase

        recovery.set_up().does("restore", "web01", "--to", str(tmp_path / "restored"))

    assert (tmp_path / "restored").read_bytes() == (tmp_path / "disk.img").read_bytes()


def test_init_shouts_when_the_recovery_key_is_on_the_backup_host(host: Host) -> None:
    with keys.gnupg_home(secret=["host", "recovery"]) as careless:
        host.home = careless
        host.set_up()

        ended = host.does("init")
        looked = host.does("doctor")

    assert f"THE SECRET KEY OF {keys.RECOVERY}" in ended.stderr
    assert "is on this host" in looked.stdout


def test_a_host_that_names_its_own_key_as_recovery_key_is_told_so(host: Host) -> None:
    host.recipients = (keys.HOST,)
    host.set_up()

    ended = host.does("init")
    looked = host.does("doctor")

    assert f"THIS HOST'S OWN KEY {keys.HOST}" in ended.stderr
    assert "own key must not be among the recipients" in looked.stdout


def test_nobody_reading_any_more_is_no_failure_to_shout_about(host: Host, tmp_path: Path) -> None:
    host.does("init")
    script = shlex.join(host.command("policy", "schema"))

    ended = subprocess.run(
        ["bash", "-c", f"{script} | true; echo ${{PIPESTATUS[0]}}"],
        env=host.surroundings(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert ended.stdout.strip() in {"141", "0"}
    assert ended.stderr == ""


def test_times_are_taken_as_people_type_them(host: Host, recovery: Host, tmp_path: Path) -> None:
    moved = MovedClock(tmp_path / "clock")
    moved.move_to(clock.now().astimezone().replace(hour=12))  # no midnight passes
    path = os.pathsep.join([moved.environment["PYTHONPATH"], str(ROOT)])
    host.environment = recovery.environment = {**moved.environment, "PYTHONPATH": path}
    host.protect({"etc": shell("echo state")})
    host.does("init")
    host.does("backup")
    target = tmp_path / "restored"

    for typed in ("today", "now", "2 seconds ago"):
        ended = recovery.run("restore", "etc", "--to", str(target), "--at", typed, "--force")
        if typed == "2 seconds ago":
            assert ended.status in {0, 16}
        else:
            assert ended.status == 0, ended.stderr

    before = recovery.fails(16, "restore", "etc", "--to", str(target), "--at", "yesterday")
    assert "oldest" in before


def test_a_second_host_joins_the_vault_and_both_can_be_restored(
    host: Host, recovery: Host, tmp_path: Path
) -> None:
    host.protect({"web01": shell("echo of the first")})
    host.does("init")
    host.does("backup")
    with keys.gnupg_home(secret=["host2"], public=["recovery", "host"]) as home:
        second = Host(tmp_path / "host2", home, host.store, signer=keys.HOST2, trusted=[keys.HOST])
        second.set_up().protect({"web02": shell("echo of the second")})

        joined = second.does("init", "--json").json
        second.does("backup")
        listed = second.points()

    recovery.trusted = [keys.HOST2]
    recovery.set_up().does("restore", "web02", "--to", str(tmp_path / "restored"))

    assert joined["joined"] is True
    assert {point["source"] for point in listed} == {"web01", "web02"}
    assert (tmp_path / "restored").read_bytes() == b"of the second\n"


def test_policies_are_shown_in_plain_words_without_secrets(host: Host) -> None:
    host.protect(
        {"shop": shell("dump", environment={"PASSWORD": "hunter2"})},
        schedule={"cron": "30 1 * * *", "timezone": "Europe/Paris"},
        retention={"last": 3, "within": "2d"},
    )

    shown = host.does("policy", "show", "nightly").stdout
    document = host.does("policy", "show", "nightly", "--json").stdout
    listed = host.does("policy", "list").stdout

    assert 'cron "30 1 * * *" (Europe/Paris)' in shown
    assert "3 last, everything of the last 2d" in shown
    assert "PASSWORD" in shown
    assert "hunter2" not in shown + document + listed
    assert host.does("policy", "check").stdout.startswith("the settings and 1 policy")
    assert "properties" in host.does("policy", "schema").json
