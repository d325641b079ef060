# SPDX-License-Identifier: Apache-2.0
"""What LVM's programs say and how they are run, over one that says what it is told to."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from snapvault.adapters.sources.lvm_commands import list_volumes
from tests.support.qemu import until

ROW = {
    "lv_uuid": "u1",
    "lv_name": "root",
    "lv_size": "1073741824",
    "lv_dm_path": "/dev/mapper/vg0-root",
    "lv_kernel_major": "253",
    "lv_kernel_minor": "7",
    "lv_layout": "linear",
    "lv_role": "public",
    "lv_tags": "",
    "lv_permissions": "writeable",  # codespell:ignore writeable
    "lv_suspended": "0",
    "lv_merging": "0",
    "lv_snapshot_invalid": "0",
    "lv_check_needed": "-1",
    "lv_health_status": "",
    "data_percent": "",
    "metadata_percent": "",
    "pool_lv_uuid": "",
    "thin_id": "",
    "chunk_size": "0",
    "metadata_lv_uuid": "",
    "vg_name": "vg0",
    "vg_free": "4194304",
    "vg_extent_size": "4194304",
}


def install(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("layout", "pool"),
    [("thin,sparse", "u-pool"), ("cache", None), ("vdo", None), ("linear", None)],
)
def test_only_thin_volumes_live_in_a_pool_whatever_else_lvm_calls_one(
    layout: str, pool: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {**ROW, "lv_layout": layout, "pool_lv_uuid": "" if layout == "linear" else "u-pool"}
    report = json.dumps({"report": [{"lv": [row]}]})
    install(tmp_path, "lvs", f"echo '{report}'", monkeypatch)

    (volume,) = list_volumes()

    assert (volume.pool, volume.is_thin) == (pool, pool is not None)
    assert (volume.full_name, volume.device) == ("vg0/root", (253, 7))


DIES = """
import os, sys
from snapvault.adapters.sources import lvm_commands
origin = lvm_commands.Volume("vg0", "root", "u1", 1 << 30, "/dev/mapper/vg0-root", (253, 7))
lvm_commands.create_thick_snapshot(origin, "snapshot", 1 << 20, ["tag"])
"""


def test_a_snapshot_in_the_making_is_finished_when_our_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, finished = tmp_path / "suspended", tmp_path / "resumed"
    script = f"touch {begun}; sleep 0.5; touch {finished}"
    install(tmp_path, "lvcreate", script, monkeypatch)

    with subprocess.Popen([sys.executable, "-c", DIES]) as process:
        for _ in until():
            if begun.exists():
                break
        process.send_signal(signal.SIGKILL)

    for _ in until():
        if finished.exists():
            break
