# SPDX-License-Identifier: Apache-2.0
"""Two writers and two readers of the format agree: the engine, the builder and the script."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.stores.directory import DirectoryStore
from snapvault.engine.vault import sync
from snapvault.engine.verify import Level
from snapvault.formats import emergency_kit
from snapvault.formats import vault as vault_format
from snapvault.model.point import Point
from tests.support import keys
from tests.support.vault_builder import VaultBuilder
from tests.support.vaults import MixedSource, VaultKit, gnupg_sealers

pytestmark = pytest.mark.integration

NIGHTS = 5
BLOCK = 4096


def test_the_script_restores_what_the_engine_stored(tmp_path: Path) -> None:
    chance = random.Random(7)
    folder = tmp_path / "vault"
    disk = bytearray(chance.randbytes(200_000) + bytes(100_000) + chance.randbytes(30_001))
    source = MixedSource(disks={"root": disk}, streams={"dump": chance.randbytes(60_000)})
    with gnupg_sealers() as sealers:
        store = DirectoryStore(folder)
        kit = VaultKit(tmp_path / "host", store=store, sealers=sealers, block_size=BLOCK)
        points = []
        for _ in range(NIGHTS):
            points.append(kit.night(source).point)
            at = chance.randrange(190_000)
            disk[at : at + 3_000] = chance.randbytes(3_000)
            disk[at // 2 : at // 2 + 2_000] = bytes(2_000)
            # These blocks change every night, so that only grains of them are stored.
            disk[195_000:195_010] = disk[320_000:320_010] = chance.randbytes(10)
            disk += chance.randbytes(700)
            source.disks = {"root": disk}
            dump = source.streams["dump"]
            source.streams = {"dump": dump[:30_000] + chance.randbytes(123) + dump[30_050:]}
        assert len(points[-1].streams[0].map_log) > 1
        starts = kit.contents(points[-1]).maps[0].starts()
        assert (starts % BLOCK != 0).any()

        with keys.recovery_home() as home:
            for point in points:
                target = tmp_path / point.point

                done = run_script(folder, home, target, point)

                assert done.returncode == 0, done.stderr
                restored = {path.name: path.read_bytes() for path in target.iterdir()}
                assert restored == source.at(point)


def run_script(
    folder: Path, home: Path, target: Path, point: Point
) -> subprocess.CompletedProcess[str]:
    script = target.with_suffix(".py")
    script.write_bytes(emergency_kit.script())
    at = clock.to_name(point.taken_at)
    options = ["--to", str(target), "--at", at, "--signer", keys.HOST]
    return subprocess.run(
        [sys.executable, "-I", "-S", str(script), str(folder), point.source, *options],
        env={**os.environ, "GNUPGHOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_engine_restores_and_verifies_what_the_builder_stored(tmp_path: Path) -> None:
    chance = random.Random(8)
    folder = tmp_path / "vault"
    disk = bytearray(chance.randbytes(150_000) + bytes(100_000) + chance.randbytes(5_001))
    dump = bytearray(chance.randbytes(9_000))
    history = []
    with gnupg_sealers() as sealers:
        with keys.host_home() as home:
            builder = VaultBuilder(folder, home, recipients=[keys.RECOVERY], signer=keys.HOST)
            for _ in range(NIGHTS):
                streams = {"root": bytes(disk), "dump": bytes(dump), "empty": b""}
                point = builder.commit("web01", streams, rolling=["dump"])
                history.append((point, streams))
                at = chance.randrange(140_000)
                disk[at : at + 3_000] = chance.randbytes(3_000)
                disk += chance.randbytes(4_000)
                dump[4_000:4_010] = chance.randbytes(99)
        kit = VaultKit(tmp_path / "host", sealers=sealers)
        kit.store = DirectoryStore(folder)
        kit.record = vault_format.decode((folder / "vault.json").read_bytes())

        report = kit.verify(Level.FULL)

        assert not sync(kit.recovery()).problems
        assert not report.findings
        for point, streams in history:
            assert kit.restored(point) == streams
