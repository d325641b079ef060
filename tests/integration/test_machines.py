# SPDX-License-Identifier: Apache-2.0
"""Machines in a real QEMU: from a BIOS and from UEFI, and those that do not start."""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.machines.qemu import QemuMachines
from snapvault.adapters.machines.running import QemuMachine
from snapvault.errors import MachineError
from snapvault.ports.machine import Bus, Firmware, MachineDisk, MachineSpec
from tests.support import booting
from tests.support.qemu import until

pytestmark = pytest.mark.integration

MIB = 1 << 20
SOON = timedelta(milliseconds=100)
LATER = timedelta(seconds=300)
DATA = b"what was backed up"
WAITS = "echo GRUB waits here\nsleep 100000\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="svk-", dir="/tmp") as made:
        yield Path(made)


@contextmanager
def started(
    folder: Path,
    disk: Path,
    *,
    memory: int = 512 * MIB,
    overlay: Path | None = None,
    **more: object,
) -> Iterator[QemuMachine]:
    """Run a machine, and see that nothing of it is left afterwards."""
    disks = (MachineDisk("root", str(disk), overlay=overlay),)
    spec = MachineSpec(disks, memory=memory, **more)  # type: ignore[arg-type] # fields by name
    machine = QemuMachines().start(spec, folder)
    try:
        yield machine
    finally:
        machine.close()
    assert not Path(f"/proc/{machine.pid}").exists()
    assert list(folder.iterdir()) == []


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- machines that start ----------------------------------------------------------------------


def test_a_machine_with_a_bios_starts_answers_and_is_cut_off(folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    said = booting.bios_disk(disk, data=DATA)
    before = digest(disk)

    with started(folder, disk, forwards=(80, 81)) as machine:
        booted = machine.wait_for_console("^booted", LATER)
        machine.wait_for_console(booting.LOGIN, LATER)
        machine.wait_for_agent(LATER)
        machine.wait_for_port(80, LATER)
        host, port = machine.address_of(80)
        with urllib.request.urlopen(f"http://{host}:{port}/data", timeout=60) as answer:
            served = answer.read()
        with pytest.raises(MachineError, match="took no connection at port 81"):
            machine.wait_for_port(81, SOON)
        # A web server on this machine, at the address that a guest would reach it by.
        outside = machine.run(
            ["/bin/sh", "-c", f"echo out; echo err >&2; nc -w 3 10.0.2.2 {port} </dev/null"], LATER
        )
        with pytest.raises(MachineError, match="could not run"):
            machine.run(["/bin/no-such-program"], LATER)
        picture = machine.screenshot()
        machine.type(b"poweroff -f\n")
        has_ended = machine.wait(LATER.total_seconds())
        for _ in until():  # its last words may come after the news of its end
            if "Power down" in machine.console():
                break
        with pytest.raises(MachineError, match=r'powered off; its last line: ".*Power down"'):
            machine.wait_for_console("never", LATER)

    assert machine.firmware is Firmware.BIOS
    assert booted == said
    assert served == DATA
    assert (outside.output, outside.status) == ("out\n", 1)
    assert outside.errors.startswith("err\n")
    assert picture
    assert picture.startswith(b"\x89PNG")
    assert has_ended
    assert digest(disk) == before


def test_a_machine_with_uefi_starts_from_sata_and_keeps_what_it_writes(
    folder: Path, tmp_path: Path
) -> None:
    disk, overlay = tmp_path / "disk.raw", tmp_path / "kept.qcow2"
    said = booting.uefi_disk(disk, data=DATA)
    before = digest(disk)

    with started(
        folder, disk, overlay=overlay, bus=Bus.SATA, variables=tmp_path / "variables"
    ) as machine:
        booted = machine.wait_for_console("^booted", LATER)
        machine.fetching.start(0)
        deadline = clock.monotonic() + LATER.total_seconds()
        while not machine.fetching.state()[0].is_whole and clock.monotonic() < deadline:
            clock.sleep(0.05)
        machine.wait_for_console(booting.LOGIN, LATER)
    disk.rename(tmp_path / "away")
    raw = tmp_path / "kept.raw"
    subprocess.run(
        ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(overlay), str(raw)], check=True
    )

    assert machine.firmware is Firmware.UEFI
    assert booted == said
    assert digest(tmp_path / "away") == before
    assert (tmp_path / "variables").stat().st_size > 0
    # The count of its starts is in a file of its own, of one block.
    with raw.open("rb") as kept, (tmp_path / "away").open("rb") as old:
        pieces = iter(lambda: (kept.read(4096), old.read(4096)), (b"", b""))
        assert any(now.rstrip(b"\0") == b"1\n" != was.rstrip(b"\0") for now, was in pieces)


# --- machines that do not start ---------------------------------------------------------------


def test_a_kernel_that_panics_is_named_with_its_reason(folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    linux = (
        "search.file /boot/vmlinuz root\nlinux /boot/vmlinuz console=ttyS0 quiet panic=0\nboot\n"
    )
    booting.bios_disk(disk, grub=linux)

    with (
        started(folder, disk) as machine,
        pytest.raises(MachineError, match=r'did not find its disk: ".*VFS: Unable to mount root'),
    ):
        machine.wait_for_agent(LATER)


@pytest.mark.parametrize("firmware", [Firmware.BIOS, Firmware.UEFI])
def test_a_disk_without_a_system_is_named(folder: Path, tmp_path: Path, firmware: Firmware) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"data" * 4096)

    with (
        started(folder, disk, firmware=firmware, memory=128 * MIB) as machine,
        pytest.raises(MachineError, match="the machine found nothing to start") as caught,
    ):
        machine.wait_for_console("login:", LATER)

    assert "firmware" in str(caught.value.hint)


def test_a_boot_loader_that_restarts_for_ever_is_named(folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    booting.bios_disk(disk, grub="reboot\n")

    with (
        started(folder, disk, memory=128 * MIB) as machine,
        pytest.raises(MachineError, match="restarts again and again"),
    ):
        machine.wait_for_console("login:", LATER)


def test_a_machine_that_hangs_is_told_by_its_last_line_and_waits_end_when_it_is_closed(
    folder: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.raw"
    booting.bios_disk(disk, grub=WAITS)

    with started(folder, disk, memory=128 * MIB) as machine:
        machine.wait_for_console("GRUB waits her", LATER)
        with pytest.raises(MachineError, match=r"its last line: .GRUB waits her"):
            machine.wait_for_console("login:", SOON)
        with pytest.raises(MachineError, match="no guest agent that answers"):
            machine.wait_for_agent(SOON)
        with pytest.raises(MachineError, match="port 22 of the machine cannot be reached"):
            machine.wait_for_port(22, SOON)
        closer = threading.Timer(0.3, machine.close)
        closer.start()
        with pytest.raises(MachineError, match=r"was ended|ended with QEMU"):
            machine.wait_for_console("login:", LATER)
        closer.join()

    assert not machine.is_running
    assert machine.screenshot() is None


# --- what is left, and what is missing ----------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from snapvault.adapters.machines.qemu import QemuMachines
from snapvault.ports.machine import MachineDisk, MachineSpec
spec = MachineSpec((MachineDisk("root", sys.argv[1]),), memory=128 << 20)
print(QemuMachines().start(spec, Path(sys.argv[2])).pid, flush=True)
sys.stdin.read()
"""


def test_a_machine_ends_with_the_process_that_started_it(folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    booting.bios_disk(disk, grub=WAITS)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(disk), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdout
        machine = Path(f"/proc/{int(process.stdout.readline())}")
        was_there = machine.exists()

        process.send_signal(signal.SIGKILL)
        process.wait()

    deadline = clock.monotonic() + LATER.total_seconds()
    while machine.exists() and clock.monotonic() < deadline:
        clock.sleep(0.02)
    assert was_there
    assert not machine.exists()


def test_what_is_missing_is_named_with_what_installs_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = MachineSpec((MachineDisk("root", str(tmp_path / "none.raw")),))
    with pytest.raises(MachineError, match='could not read disk "root"'):
        QemuMachines().start(spec, folder)
    left = list(folder.iterdir())

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match='"qemu-system-x86_64" is missing') as caught:
        QemuMachines().start(spec, folder)

    assert "apt-get install --no-install-recommends qemu-system-x86" in str(caught.value.hint)
    assert left == list(folder.iterdir()) == []


def test_a_qemu_that_cannot_confine_itself_still_starts_machines(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, programs = tmp_path / "disk.raw", tmp_path / "bin"
    disk.write_bytes(bytes(MIB))
    programs.mkdir()
    # What QEMU says in a service that may not call seccomp(2).
    (programs / "qemu-system-x86_64").write_text(
        '#!/bin/sh\ncase "$*" in *-sandbox*) echo "There is no option group \'sandbox\'" >&2\n'
        f'exit 1 ;; esac\nexec {shutil.which("qemu-system-x86_64")} "$@"\n'
    )
    (programs / "qemu-system-x86_64").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    with started(folder, disk, memory=128 * MIB) as machine:
        line = machine.wait_for_console("SeaBIOS", LATER)

    assert "SeaBIOS" in line


def test_a_machine_that_qemu_refuses_is_told_in_its_words(folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(MIB))

    with (
        pytest.raises(MachineError, match=r"could not start QEMU: .*forwarding"),
        started(folder, disk, forwards=(70000,)),
    ):
        pass

    assert shutil.which("qemu-img")
    assert list(folder.iterdir()) == []


def test_more_memory_than_this_host_has_is_refused_before_anything_is_started(
    folder: Path, tmp_path: Path
) -> None:
    with (
        pytest.raises(MachineError, match=r"1\.0 EiB of memory .* this host has") as caught,
        started(folder, tmp_path / "none.raw", memory=1 << 60),
    ):
        pass

    assert caught.value.hint == "Give it less memory, or start it on a larger host."
    assert list(folder.iterdir()) == []


def test_a_machine_whose_overlay_cannot_be_hidden_does_not_run_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(MIB))
    unlink = Path.unlink

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == "overlay0":
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)

    with pytest.raises(MachineError, match="read-only"), started(folder, disk, memory=128 * MIB):
        pass

    assert not any(words.startswith(b"qemu-system") for words in children())
    assert list(folder.iterdir()) == []


def children() -> list[bytes]:
    """Return the command lines of our processes, and of theirs."""
    found, parents = [], {os.getpid()}
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with suppress(OSError):
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) in parents:
                parents.add(int(process.name))
                found.append((process / "cmdline").read_bytes())
    return found
