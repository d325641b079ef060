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


@pytest.fixture(scope="session")
def _volume_group() -> Iterator["_VolumeGroup"]:
    group = _VolumeGroup()
    yield group
    group.destroy()


@pytest.fixture
def volume_group(_volume_group: "_VolumeGroup") -> Iterator[str]:
    """An empty volume group on /dev/vda, with a name that LVM has to escape."""
    _volume_group.create()
    yield _volume_group.name
    _volume_group.clear()


class _VolumeGroup:
    """One volume group for all tests: each command of LVM's takes a while in here."""

    name = "vg-guest"

    def __init__(self) -> None:
        self._is_there = False

    def create(self) -> None:
        if not self._is_there:
            _run("vgcreate", "-q", "-q", "-y", self.name, DISKS[0])
            self._is_there = True

    def clear(self) -> None:
        if subprocess.run(["lvremove", "-q", "-q", "-ff", "-y", self.name], check=False).returncode:
            self.destroy()  # a test broke what lvremove would remove in order

    def destroy(self) -> None:
        # SAFETY: device-mapper holds nothing but the guest's own volumes.
        _run("dmsetup", "remove_all", "--force", "--deferred")
        _run("dmsetup", "remove_all", "--force")
        shutil.rmtree(Path("/dev", self.name), ignore_errors=True)
        for node in Path("/dev/mapper").glob(f"{self.name.replace('-', '--')}-*"):
            node.unlink()
        _run("wipefs", "-q", "-a", "-f", DISKS[0])
        self._is_there = False


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)
