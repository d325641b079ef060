# SPDX-License-Identifier: Apache-2.0
"""A machine with a real Linux in it, backed up while it writes to a file system."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shutil import rmtree

import pytest

from snapvault.adapters.qmp import Agent
from snapvault.adapters.sources.qemu import QemuSource
from snapvault.model.policy import QemuSpec
from snapvault.ports.source import Consistency, Quiesce
from tests.support.events import RecordedEvents
from tests.support.guest import Guest
from tests.support.qemu import make_image, until
from tests.support.vaults import VaultKit

pytestmark = pytest.mark.integration

MIB = 1 << 20
SIZE = 64 * MIB

WRITER = """
n=0
while :; do
    n=$((n + 1))
    head -c $((n % 50 * 1000)) /dev/urandom > /srv/file$((n % 40))
    sync /srv/file$((n % 40))
    echo $n > /run/written
done
"""


@contextmanager
def copied(guest: Guest, to: Path) -> Iterator[Consistency]:
    """Have QEMU copy the disk by a job of its own, inside the freeze."""
    job = {"job-id": "reference", "device": "root", "target": str(to), "format": "raw"}
    guest.qmp("drive-backup", **job, sync="full", **{"auto-dismiss": False})
    for _ in until(300):
        found = next(job for job in guest.qmp("query-jobs") if job["id"] == "reference")
        assert "error" not in found, found
        if found["status"] == "concluded":
            break
    guest.qmp("job-dismiss", id="reference")
    yield Consistency.CRASH


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="svq-", dir="/tmp"))
    yield path
    rmtree(path)


@pytest.fixture
def guest(folder: Path, tmp_path: Path) -> Iterator[Guest]:
    """A Linux with the guest agent, that writes to /dev/vda's file system without end."""
    image = make_image(tmp_path / "root.qcow2", SIZE)
    node = {"driver": "qcow2", "node-name": "root", "discard": "unmap"}
    arguments = [
        *("-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"),
        *("-blockdev", json.dumps({**node, "file": {"driver": "file", "filename": str(image)}})),
        *("-device", "virtio-blk-pci,drive=root,id=root"),
        *("-chardev", f"socket,id=qga,path={folder / 'agent'},server=on,wait=off"),
        *("-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0"),
    ]
    with Guest(qemu_arguments=arguments) as running:
        running.must(["mkfs.ext4", "-q", "/dev/vda"])
        running.must(["mount", "/dev/vda", "/srv"])
        port = "/dev/virtio-ports/org.qemu.guest_agent.0"
        running.must(["qemu-ga", "-d", "-m", "virtio-serial", "-p", port, "-t", "/run"])
        running.must(["sh", "-c", f"setsid sh -c '{WRITER}' < /dev/null > /dev/null 2>&1 &"])
        yield running


def written(guest: Guest) -> int:
    return int(guest.run(["cat", "/run/written"]).out or b"0")


def test_a_guest_that_writes_is_backed_up_as_of_one_moment(
    guest: Guest, folder: Path, tmp_path: Path
) -> None:
    kit = VaultKit(tmp_path / "vault", block_size=16384, volume_size=4 * MIB)
    events = RecordedEvents()
    agent = Agent(folder / "agent")
    points, copies = [], []
    for number in range(3):
        copies.append(tmp_path / f"reference{number}.raw")
        quiesce: list[Quiesce] = [agent.frozen, partial(copied, guest, copies[-1])]
        source = QemuSource(
            "web01",
            QemuSpec(folder / "qmp"),
            prefix=None,
            owner="vault/web01",
            state=tmp_path / "state",
            quiesce=quiesce,
            events=events,
        )
        before = written(guest)
        points.append(kit.night(source).point)
        for _ in until(300):
            if written(guest) > before + 5:
                break

    for point, copy in zip(points, copies, strict=True):
        restored = kit.restored(point)

        assert restored["root"] == copy.read_bytes()
        (tmp_path / "restored.raw").write_bytes(restored["root"])
        # Frozen file systems are clean: nothing to replay, nothing to repair.
        subprocess.run(["/sbin/e2fsck", "-fn", tmp_path / "restored.raw"], check=True)
    assert [point.consistency for point in points] == ["file-system"] * 3
    assert events.warnings == []


def test_the_policys_own_agent_freezes_the_guest(
    guest: Guest, folder: Path, tmp_path: Path
) -> None:
    source = QemuSource(
        "web01",
        QemuSpec(folder / "qmp", agent=folder / "agent"),
        prefix=None,
        owner="vault/web01",
        state=tmp_path / "state",
        events=RecordedEvents(),
    )

    errors = [finding.error for finding in source.check()]
    view = source.open()
    outcome = view.finish()
    view.close()
    before = written(guest)
    for _ in until(300):
        if written(guest) > before + 3:
            break

    assert errors == [None] * len(errors)
    assert outcome.consistency is Consistency.FILE_SYSTEM
