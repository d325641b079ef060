# SPDX-License-Identifier: Apache-2.0
"""What the tests that run inside the guest share; on any other machine they are not collected.

tests/guest/test_inside.py runs them and reports each as a test of its own.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guest import OUTCOMES

DISKS = ("/dev/vda", "/dev/vdb", "/dev/vdc")

collect_ignore_glob = [] if Path("/run/snapvault-guest").exists() else ["*"]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell the host how each part of each test ended, as soon as it has."""
    said = "\n".join(f"--- {title}\n{text}" for title, text in report.sections)
    outcome = {
        "test": report.nodeid,
        "outcome": report.outcome,
        "text": f"{report.when} {report.outcome}\n{report.longreprtext}\n{said}",
    }
    with Path(os.environ[OUTCOMES]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(outcome) + "\n")


@pytest.fixture
def share() -> Iterator[Path]:
    """An empty folder on the host's disk, for what is too large for the guest's memory."""
    folder = Path(tempfile.mkdtemp(dir="/guest"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def volume_group() -> Iterator[str]:
    """An empty volume group of three disks of 1 GiB, with a name that LVM has to escape."""
    name = "vg-guest"
    subprocess.run(["vgcreate", "-q", "-q", "-y", name, *DISKS], check=True)
    yield name
    # SAFETY: the guest's own disks. A test may have broken what vgremove would remove in order.
    if subprocess.run(["vgremove", "-q", "-q", "-ff", "-y", name], check=False).returncode != 0:
        subprocess.run(["dmsetup", "remove_all", "--force", "--deferred"], check=True)
        subprocess.run(["dmsetup", "remove_all", "--force"], check=True)
        for folder in (
            Path("/dev", name),
            *Path("/dev/mapper").glob(f"{name.replace('-', '--')}-*"),
        ):
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    for disk in DISKS:
        subprocess.run(["wipefs", "-q", "-a", "-f", disk], check=True)
