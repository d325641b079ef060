# SPDX-License-Identifier: Apache-2.0
"""Vaults of format 1, written by the first release, restore for ever."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from snapvault.adapters.librsync import LibRsync
from snapvault.adapters.sealers.gnupg import open_sealer
from snapvault.adapters.stores.directory import DirectoryStore
from snapvault.engine import sequence
from snapvault.engine.backup import BackupJob, BackupOptions
from snapvault.engine.contents import look_up
from snapvault.engine.restore import restore
from snapvault.engine.vault import Held, Vault, read_record, sync
from snapvault.engine.verify import Level, Verification
from snapvault.formats import emergency_kit
from tests.support.catalogs import MemoryCatalog
from tests.support.events import RecordedEvents
from tests.support.keys import HOST, RECOVERY, empty_home, gpg
from tests.support.sources import MemoryByteSource
from tests.support.targets import MemoryTarget

FOLDER = Path(__file__).with_name("data") / "v1"
Expected = dict[str, list[dict[str, object]]]


@pytest.fixture(scope="module")
def expected() -> Expected:
    return cast(Expected, json.loads((FOLDER / "expected.json").read_text("ascii")))


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with empty_home() as folder:
        gpg(folder, "--import", *(str(path) for path in sorted((FOLDER / "keys").iterdir())))
        yield folder


@pytest.fixture
def vault(tmp_path: Path, home: Path) -> Vault:
    # A copy: nothing that a test does may touch what is never edited.
    store = DirectoryStore(shutil.copytree(FOLDER / "vault", tmp_path / "vault"))
    record = read_record(store)
    assert record is not None
    return Vault(
        "golden",
        record,
        store,
        open_sealer(home, recipients=[RECOVERY], signer=HOST),
        MemoryCatalog(),
        RecordedEvents(),
        tmp_path / "state",
    )


def digests(streams: dict[str, bytes]) -> dict[str, list[object]]:
    return {
        name: [len(content), hashlib.sha256(content).hexdigest()]
        for name, content in streams.items()
    }


def restored_streams(vault: Vault, held: Held) -> dict[str, bytes]:
    contents = look_up(vault, held.point, held.point.streams)
    targets = [MemoryTarget(stream.size) for stream in contents.streams]
    restore(vault, contents, targets)
    return {
        stream.name: target.content or b""
        for stream, target in zip(contents.streams, targets, strict=True)
    }


def test_every_point_restores_to_its_exact_bytes(vault: Vault, expected: Expected) -> None:
    inventory = sync(vault)

    restored: Expected = {source: [] for source in expected}
    for held in inventory.held:
        found = restored_streams(vault, held)
        restored[held.point.source].append({"point": held.point.point, "streams": digests(found)})

    assert inventory.problems == ()
    assert restored == expected


def test_every_stream_comes_back_in_order_too(
    vault: Vault, expected: Expected, tmp_path: Path
) -> None:
    restored: Expected = {source: [] for source in expected}

    for held in sync(vault).held:
        contents = look_up(vault, held.point, held.point.streams)
        found = {}
        for number, stream in enumerate(contents.streams):
            one = contents.only([index == number for index in range(len(contents.streams))])
            out = bytearray()
            sequence.stream_out(vault, one, sequence.arrange(one), tmp_path, out.extend)
            found[stream.name] = bytes(out)
        restored[held.point.source].append({"point": held.point.point, "streams": digests(found)})

    assert restored == expected


@pytest.mark.parametrize("level", list(Level))
def test_verify_finds_nothing_wrong(vault: Vault, level: Level, tmp_path: Path) -> None:
    verification = Verification(vault, sync(vault), level, 100, tmp_path, random.Random(1))

    report = verification.run()

    assert report.findings == ()
    assert report.points == 7


def test_a_backup_goes_on_from_it(vault: Vault, tmp_path: Path) -> None:
    newest = sync(vault).of("shop")[-1]
    dump = restored_streams(vault, newest)["dump"]
    changed = b"one more row\n" + dump
    job = BackupJob(
        vault,
        MemoryByteSource("shop", {"dump": changed}, taken_at=newest.point.taken_at),
        LibRsync(),
        tmp_path / "shop",
        BackupOptions(1 << 20, 3, "host.example.org", "snapvault test"),
    )

    held = job.run()

    assert restored_streams(vault, held) == {"dump": changed}
    assert held.point.sequence == newest.point.sequence + 1
    assert held.point.counters["changed_bytes"] < len(dump) // 10


def _scripts() -> list[Path]:
    return [FOLDER / "vault" / "restore.py", Path("today")]


@pytest.mark.integration
@pytest.mark.parametrize("script", _scripts(), ids=["the vault's own", "today's"])
def test_the_emergency_script_restores_every_point(
    script: Path, expected: Expected, home: Path, tmp_path: Path
) -> None:
    if not script.is_absolute():
        script = tmp_path / "restore.py"
        script.write_bytes(emergency_kit.script())
    newest = {source: points[-1] for source, points in expected.items()}

    for source, point in newest.items():
        target = tmp_path / source
        done = subprocess.run(
            [sys.executable, script, FOLDER / "vault", source, "--to", target, "--signer", HOST],
            env={**os.environ, "GNUPGHOME": str(home)},
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 0, done.stderr
        found = (
            {path.name: path.read_bytes() for path in target.iterdir()}
            if target.is_dir()
            else {"dump": target.read_bytes()}
        )
        assert digests(found) == point["streams"]
