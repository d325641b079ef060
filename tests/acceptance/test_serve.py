# SPDX-License-Identifier: Apache-2.0
"""`snapvault serve`, as those use it who serve: QEMU's programs, libnbd's, and a machine."""

import hashlib
import json
import random
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from snapvault.adapters.sources import nbd
from snapvault.errors import SourceError
from tests.acceptance.program import Host, image, shell
from tests.support import booting, keys

pytestmark = pytest.mark.integration

MIB = 1 << 20
DEADLINE = 60.0  # seconds
SIZE = 12 * MIB


def make_content() -> bytes:
    """Return a disk with data, text, holes, and data at its end."""
    chance = random.Random(1)
    begin = chance.randbytes(3 * MIB) + bytes(4 * MIB) + b"text" * MIB
    return begin + bytes(SIZE - 4096 - len(begin)) + chance.randbytes(4096)


DISK = make_content()


@dataclass
class Served:
    """A program that serves, and what it said when it began."""

    process: "subprocess.Popen[bytes]"
    said: dict[str, Any]
    lines: list[str]

    @property
    def uri(self) -> str:
        return str(self.said["exports"][0]["uri"])

    @property
    def socket(self) -> Path:
        return Path(self.said["socket"])

    def fetched(self) -> int:
        """Of how many volumes anything was fetched, once it is over."""
        (line,) = (line for line in self.lines if "point.fetched" in line)
        found = re.search(r" volumes=([0-9]+)", line)
        assert found, line
        return int(found[1])


@contextmanager
def serving(host: Host, *words: str) -> Iterator[Served]:
    """Serve until the context is left, which ends it as systemd does."""
    process = host.start("-v", "--json", "serve", *words)
    lines: list[str] = []
    assert process.stdout
    assert process.stderr

    def listen() -> None:
        assert process.stderr
        lines.extend(line.decode() for line in process.stderr)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline().decode()
            assert line, lines
            text += line
        yield Served(process, json.loads(text), lines)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            listener.join(DEADLINE)
            process.stdout.close()
            process.stderr.close()
    assert not any("Traceback" in line for line in lines), lines


def run(*command: str) -> str:
    """Run a client to its end, and return what it says."""
    assert shutil.which(command[0]), (
        f"{command[0]} is missing: apt-get install qemu-utils libnbd-bin"
    )
    done = subprocess.run(command, capture_output=True, check=False, timeout=DEADLINE)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def read(served: Served, offset: int, length: int, export: str = "") -> bytes:
    disk = nbd.Disk(served.socket, export, "disk", timeout=DEADLINE)
    buffer = bytearray(length)
    try:
        disk.read_into(offset, memoryview(buffer))
    finally:
        disk.close()
    return bytes(buffer)


@pytest.fixture(scope="session")
def two_nights(tmp_path_factory: pytest.TempPathFactory, host_home: Path) -> Path:
    """Make a vault with two nights of a disk, `web01`, and one of a machine with two, `db01`."""
    folder = tmp_path_factory.mktemp("nights")
    disk = folder / "disk.raw"
    disk.write_bytes(DISK)
    (folder / "small.raw").write_bytes(DISK[:100_000])
    host = Host(folder / "host", host_home, {"store": f"file://{folder}/vault"}).set_up()
    streams = {
        "root": image(disk),
        "data": image(folder / "small.raw"),
        "dump": shell("echo dump"),
    }
    host.protect({"web01": image(disk), "db01": {"streams": streams}}, volume_size="1MiB")
    host.does("init")
    host.does("backup")
    disk.write_bytes(DISK[:MIB] + b"changed" + DISK[MIB + 7 :])
    host.does("backup", "web01")
    return folder


@pytest.fixture
def nights(two_nights: Path, recovery: Host, tmp_path: Path) -> Host:
    """Return the recovery host, with a vault of its own of two nights."""
    shutil.copytree(two_nights / "vault", tmp_path / "vault")
    return recovery


def test_the_programs_of_qemu_and_libnbd_see_the_disk(nights: Host, tmp_path: Path) -> None:
    first, _ = nights.ids("web01")
    reference, copy = tmp_path / "reference", tmp_path / "copy"
    reference.write_bytes(DISK)

    with serving(nights, first[:8]) as served:
        info = json.loads(run("nbdinfo", "--json", served.uri))
        listed = run("nbdinfo", "--list", served.uri)
        allocation = json.loads(run("nbdinfo", "--map", "--json", served.uri))
        compared = run("qemu-img", "compare", "-f", "raw", "-F", "raw", served.uri, str(reference))
        run("nbdcopy", served.uri, str(copy))
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", served.uri, f"{copy}.qcow2")
        io = run("qemu-io", "-r", "-f", "raw", "-c", "read -v 1048570 32", served.uri)
        (export,) = info["exports"]

    assert "Images are identical" in compared
    assert copy.read_bytes() == DISK
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", f"{copy}.qcow2", str(reference))
    assert 'export="image"' in listed
    assert export["export-size"] == SIZE
    assert export["is_read_only"]
    assert export["can_multi_conn"]
    assert sum(each["length"] for each in allocation if each["type"] == 3) >= 4 * MIB
    assert "read 32/32 bytes" in io
    assert list(nights.state.glob("serve-*")) == []
    assert served.process.returncode == 128 + signal.SIGTERM


def test_two_serve_at_once_the_newest_point_and_the_one_at_a_time(nights: Host) -> None:
    first, second = nights.ids("web01")
    taken = next(p["taken_at"] for p in nights.points("web01") if p["id"] == first)

    with serving(nights, "web01") as one, serving(nights, "web01", "--at", taken) as other:
        newest = one.said["id"], read(one, MIB, 7)
        oldest = other.said["id"], read(other, MIB, 7)

    assert newest == (second, b"changed")
    assert oldest == (first, DISK[MIB : MIB + 7])


def test_every_disk_is_an_export_and_what_is_no_disk_is_none(nights: Host) -> None:
    with serving(nights, "db01") as served:
        names = [export["name"] for export in served.said["exports"]]
        both = [read(served, 0, 100, name) for name in names]
        with pytest.raises(SourceError, match="no such export"):
            read(served, 0, 100)
    with serving(nights, "db01", "--stream", "data") as served:
        alone = read(served, 100_000 - 50, 50)

    assert sorted(names) == ["data", "root"]
    assert both == [DISK[:100]] * 2
    assert alone == DISK[100_000 - 50 : 100_000]


def test_reading_a_little_fetches_a_little(nights: Host) -> None:
    with serving(nights, "web01") as served:
        read(served, 0, 4096)
        read(served, SIZE - 4096, 4096)

    assert served.said["volumes"] >= 8
    assert served.fetched() <= 2


def test_a_small_cache_serves_everything_too(nights: Host, tmp_path: Path) -> None:
    with serving(nights, "web01", "--cache", "1MiB") as served:
        run("nbdcopy", "--connections=1", "--requests=1", served.uri, str(tmp_path / "copy"))

    assert (tmp_path / "copy").read_bytes() == DISK[:MIB] + b"changed" + DISK[MIB + 7 :]


def test_a_port_of_this_machine_serves_and_writing_is_refused(nights: Host) -> None:
    with serving(nights, "web01", "--listen", "127.0.0.1:0") as served:
        info = run("nbdinfo", served.uri)
        done = subprocess.run(
            ["qemu-io", "-f", "raw", "-c", "write 0 512", served.uri],
            capture_output=True,
            check=False,
            timeout=DEADLINE,
        )

    assert f"export-size: {SIZE}" in info
    assert served.said["socket"] is None
    assert b"ermission denied" in done.stderr


def test_a_socket_lies_where_it_is_told_to_and_is_private(nights: Host) -> None:
    with nbd.socket_folder() as folder:
        path = folder / "my nbd,socket"
        with serving(nights, "web01", "--listen", f"unix:{path}") as served:
            mode = path.stat().st_mode & 0o777
            run("nbdinfo", served.uri)
            taken = nights.fails(10, "serve", "web01", "--listen", f"unix:{path}")
        gone = not path.exists()

    assert mode == 0o600
    assert "," not in served.uri
    assert "somebody serves there already" in taken
    assert gone


def test_a_killed_one_leaves_nothing_that_harms_and_the_next_cleans_up(nights: Host) -> None:
    with serving(nights, "web01") as served:
        read(served, 0, 2 * MIB)
        served.process.kill()
        served.process.wait()
        left = [path.name for path in nights.state.glob("serve-*/*")]
        with serving(nights, "web01"):
            folders = list(nights.state.glob("serve-*"))

    assert left == ["nbd"]
    assert len(folders) == 1
    assert not any(path.is_file() for path in nights.state.glob("serve-*/*"))


def test_the_program_tells_how_to_use_it(nights: Host) -> None:
    process = nights.start("serve", "db01")
    assert process.stdout
    said = ""
    while "nbd-client -unix" not in said.rpartition("\n\n")[2] or said.count('disk "') < 2:
        line = process.stdout.readline().decode()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=DEADLINE)

    assert 'serving source "db01" as of ' in said
    assert "qemu-system-x86_64 -m 2048 -drive 'file=nbd+unix:///root?socket=" in said
    assert ",format=raw,if=virtio,snapshot=on'" in said
    assert "nbdcopy 'nbd+unix:///data?socket=" in said
    assert "/dev/nbd0 -N data -readonly" in said
    assert b" of 1 of " in told
    assert process.returncode == 128 + signal.SIGINT


# --- faults -----------------------------------------------------------------------------------


def test_without_the_recovery_key_nothing_is_served(nights: Host, host: Host) -> None:
    told = host.fails(12, "serve", "web01")

    assert 'cannot open the data of vault "offsite" on this machine' in told
    assert keys.RECOVERY in told
    assert list(host.state.glob("serve-*")) == []


def test_what_is_not_there_is_named(nights: Host) -> None:
    assert "Or name a source: db01, web01." in nights.fails(16, "serve", "ffffffff")
    assert 'Did you mean "web01"?' in nights.fails(16, "serve", "wbe01")
    assert 'no disk "dump"' in nights.fails(16, "serve", "db01", "--stream", "dump")
    assert "too small" in nights.fails(16, "serve", "web01", "--cache", "4KiB")


def test_a_damaged_volume_is_an_error_that_names_it_and_the_rest_is_served(
    nights: Host, tmp_path: Path
) -> None:
    good: list[bool] = []
    failed: list[str] = []
    # The large ones hold what does not compress: the disk's first three mebibytes.
    volumes = (tmp_path / "vault" / "volumes").rglob("*.vol")
    damaged = [path for path in volumes if path.stat().st_size > MIB // 2]
    for path in damaged:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    with serving(nights, "db01", "--stream", "root") as served:
        for offset in range(0, SIZE, 16384):
            try:
                good.append(read(served, offset, 16384) == DISK[offset : offset + 16384])
            except SourceError as error:
                failed.append(str(error))

    assert all(good)
    assert len(good) > (SIZE - 3 * MIB) // 16384
    assert 0 < len(failed) <= 3 * MIB // 16384
    named = {path.name for path in damaged if any(path.name in each for each in failed)}
    assert all(any(name in each for name in named) for each in failed)
    assert all(any(name in line for line in served.lines if "warning:" in line) for name in named)


def test_a_store_that_is_gone_is_an_error_until_it_is_back(nights: Host, tmp_path: Path) -> None:
    with serving(nights, "web01") as served:
        read(served, 0, 100)
        (tmp_path / "vault").rename(tmp_path / "away")
        with pytest.raises(SourceError, match="input/output error"):
            read(served, SIZE - 100, 100)
        (tmp_path / "away").rename(tmp_path / "vault")
        back = read(served, SIZE - 100, 100)

    assert back == DISK[-100:]
    assert any("warning:" in line for line in served.lines)


# --- a machine --------------------------------------------------------------------------------


def test_a_machine_starts_from_its_backup_and_fetches_little_of_it(
    host: Host, recovery: Host, tmp_path: Path
) -> None:
    data = random.Random(5).randbytes(300_000)
    disk = tmp_path / "machine.raw"
    booting.make_disk(disk, size=64 * MIB, data=data, filler=40 * MIB)
    host.protect({"web01": image(disk)}, volume_size="2MiB")
    host.does("init")
    host.does("backup")

    with serving(recovery, "web01") as served:
        drive = f"file={served.uri},format=raw,if=virtio,snapshot=on"
        console = booting.boot(drive, tmp_path)
    with serving(recovery, "web01") as again:
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", again.uri, str(disk))

    assert f"booted data={hashlib.sha256(data).hexdigest()} written" in console
    assert served.fetched() < served.said["volumes"] * 0.3
