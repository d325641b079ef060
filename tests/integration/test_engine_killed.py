# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed for real, over a folder and GnuPG, and the run that comes after them."""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from snapvault.adapters.sealers.gnupg import open_sealer
from snapvault.adapters.stores.directory import DirectoryStore
from snapvault.engine.verify import Level
from snapvault.formats import names
from tests.support.keys import HOST, RECOVERY, host_home, recovery_home
from tests.support.vaults import VaultKit

pytestmark = pytest.mark.integration

DISK = 3_000_000
DUMP = 1_500_000
VOLUME = 256 << 10


@pytest.fixture(scope="module")
def homes() -> Iterator[tuple[Path, Path]]:
    with host_home() as host, recovery_home() as recovery:
        yield host, recovery


@pytest.fixture
def kit(tmp_path: Path, homes: tuple[Path, Path]) -> VaultKit:
    host, recovery = (open_sealer(home, recipients=[RECOVERY], signer=HOST) for home in homes)
    return VaultKit(
        tmp_path,
        store=DirectoryStore(tmp_path / "vault"),
        sealers=(host, recovery),
        block_size=4096,
        volume_size=VOLUME,
    )


def start(kit: VaultKit, home: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.support.backup_driver", str(home)]
    command += [str(kit.folder / name) for name in ("vault", "state", "source")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_after(running: "subprocess.Popen[str]", kit: VaultKit, volumes: int) -> None:
    """Kill a run as soon as the vault holds so many volumes: that is no matter of speed."""
    assert running.stdout is not None
    with running.stdout:
        assert running.stdout.readline() == "started\n"
        while running.poll() is None and len(kit.objects(names.VOLUMES)) < volumes:
            with suppress(subprocess.TimeoutExpired):
                running.wait(timeout=0.002)
        running.kill()
        running.wait()


def identities(kit: VaultKit) -> dict[str, tuple[int, int]]:
    """Return which file each volume is, and when it was written."""
    found = {}
    for name in kit.objects(names.VOLUMES):
        stat = (kit.folder / "vault" / name).stat()
        found[name] = (stat.st_ino, stat.st_mtime_ns)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_again_and_again_sends_each_volume_once(
    kit: VaultKit, homes: tuple[Path, Path], seed: int
) -> None:
    chance = random.Random(seed)
    folder = kit.folder / "source"
    folder.mkdir()
    content = {"root": chance.randbytes(DISK), "dump": chance.randbytes(DUMP)}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    kills = 0
    kept: dict[str, tuple[int, int]] = {}

    for _ in range(3):
        running = start(kit, homes[0])
        kill_after(running, kit, len(kept) + chance.randrange(4))
        kills += running.returncode != 0
        after = identities(kit)
        assert {name: after[name] for name in kept} == kept
        kept = after
    last = start(kit, homes[0])
    out, _ = last.communicate(timeout=300)

    assert out == "started\ndone\n"
    after = identities(kit)
    assert {name: after[name] for name in kept} == kept
    points = [held.point for held in kit.inventory().held]
    used = {name for each in kit.contents(points[0]).maps for name in each.volumes}
    stored = sum(kit.objects(names.VOLUMES).values())
    assert set(kept) <= {names.volume(name) for name in used}
    # Where runs broke off, a block of the dump and a message's frame are paid again.
    assert stored <= DISK + DUMP + len(after) * 4096 + VOLUME
    assert all(kit.restored(point) == content for point in points)
    assert kit.verify(Level.FULL).findings == ()
    assert kills
