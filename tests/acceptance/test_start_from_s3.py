# SPDX-License-Identifier: Apache-2.0
"""Machines that were backed up to S3: started from there, and from a file that was restored."""

import os
import random
import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from snapvault.adapters.machines.qemu import QemuMachines
from snapvault.ports.machine import Firmware, MachineDisk, MachineSpec
from tests.acceptance.program import Host, image
from tests.acceptance.test_run import running
from tests.support import bootable, s3

pytestmark = pytest.mark.integration

MIB = 1 << 20
DATA = random.Random(23).randbytes(300_000)
LATER = timedelta(seconds=240)


@contextmanager
def short_folder() -> Iterator[Path]:
    """Make a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="svk-", dir="/tmp") as made:
        yield Path(made)


def test_machines_start_from_s3_and_with_uefi_from_a_restored_qcow2_file(
    tmp_path: Path, host_home: Path, recovery_home: Path, s3_store: dict[str, Any]
) -> None:
    environment = s3.server().environment()
    said = bootable.uefi_disk(tmp_path / "web01.raw", data=DATA)
    bootable.bios_disk(tmp_path / "waiting.raw", grub="echo GRUB waits here\nsleep 100000\n")
    host = Host(tmp_path / "host", host_home, s3_store, environment=environment).set_up()
    host.protect({name: image(tmp_path / f"{name}.raw") for name in ("web01", "waiting")})
    host.does("init")
    host.does("backup")
    recovery = Host(tmp_path / "recovery", recovery_home, s3_store, environment=environment)
    restored = tmp_path / "web01.qcow2"

    recovery.set_up().does("restore", "web01", "--to", str(restored), "--format", "qcow2")
    spec = MachineSpec((MachineDisk("root", os.fspath(restored), "qcow2"),), memory=512 * MIB)
    with short_folder() as folder, closing(QemuMachines().start(spec, folder)) as machine:
        machine.wait_for_console(bootable.LOGIN, LATER)
        console = machine.console()
    with running(recovery, "waiting") as served:
        served.sees("GRUB waits")
        served.process.send_signal(signal.SIGTERM)
        status = served.ends()

    assert machine.firmware is Firmware.UEFI
    assert said in console
    assert served.said["firmware"] == "bios"
    assert status == 128 + signal.SIGTERM
