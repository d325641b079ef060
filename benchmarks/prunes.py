# SPDX-License-Identifier: Apache-2.0
"""What it costs to prune one restore point among 1,000, with 100,000 volumes."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.lab import make_surroundings, program, surroundings, write_settings
from benchmarks.measure import BenchmarkError, Runner, Usage
from snapvault import clock
from snapvault.adapters.catalogs.sqlite import SqliteCatalog
from snapvault.adapters.histories.sqlite import SqliteHistory
from snapvault.formats import manifest, names, volume_list
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.point import LogEntry, ObjectRecord, Point, StreamRecord
from snapvault.model.usage import NOTHING
from snapvault.model.usage import Usage as Asked
from snapvault.ports.catalog import CatalogRow
from tests.support import keys

Document = dict[str, Any]

SOURCES = 10
POINTS = 100  # of each source
OLD_VOLUMES = 9_000  # of each source, which all of its points need
NEW_VOLUMES = 5  # of each point, which later ones need
OWN_VOLUMES = 5  # of each point, which it alone needs
NEEDED_LISTS = 15  # of the nights before, as volume_list.arrange leaves them
LOG_LENGTH = 64  # maps and signatures that a point needs at the most, each
VOLUME_SIZE = 60 << 20
SIGNATURE_SIZE = 800  # what signing adds to a manifest
FIRST_NIGHT = datetime(2026, 1, 1, 1, 30, tzinfo=UTC)


def measure(folder: Path, *, say: Callable[[str], None]) -> Document:
    """Make a vault of names and sizes, with the catalog of a host that knows it, and prune it.

    Prune reads no volumes and no metadata, and knows the manifests; so none of them is real.

    Raises:
        BenchmarkError: something did not work.
    """
    make_surroundings(folder)
    with keys.host_home() as home:
        write_settings(folder, {"store": f"file://{folder / 'vault'}"}, home)
        (folder / "policies").mkdir()
        say(f"prune: a vault of {SOURCES * POINTS:,} points")
        done = subprocess.run(
            program(folder, "init"), env=surroundings(folder), capture_output=True, check=False
        )
        if done.returncode != 0:
            raise BenchmarkError(f"snapvault init failed: {done.stderr.decode()[-500:]}")
        volumes = _fill(folder)
        # What expired once is deleted by the second: 1 point and 1 point's objects each time.
        first = _prune(folder, kept=POINTS - 1, say=say)
        second = _prune(folder, "--grace", "0s", kept=POINTS - 2, say=say)
    return {
        "points": SOURCES * POINTS,
        "volumes": volumes,
        "objects": sum(1 for _ in _files(folder / "vault")),
        "first": first,
        "second": second,
    }


def _fill(folder: Path) -> int:
    """Make objects and catalog; return how many volumes there are."""
    vault = json.loads((folder / "vault" / "vault.json").read_text())["vault"]
    count = 0
    state = folder / "state" / vault
    state.mkdir(parents=True, exist_ok=True)
    catalog = SqliteCatalog(state / "catalog.sqlite")
    try:
        for number in range(SOURCES):
            rows = []
            source = f"disk{number}"
            old = _lists(folder, [_volume() for _ in range(OLD_VOLUMES)])
            count += OLD_VOLUMES + POINTS * (NEW_VOLUMES + OWN_VOLUMES)
            recent: list[ObjectRecord] = []
            made: list[ObjectRecord] = []
            for night in range(POINTS):
                recent += _lists(folder, [_volume() for _ in range(NEW_VOLUMES)])
                point = names.new_point_id()
                made += [
                    _sparse(folder, each(source, point), 40_000)
                    for each in (names.map_of, names.signature_of)
                ]
                needed = made[-2 * (night % LOG_LENGTH + 1) :]
                own = _lists(folder, [_volume() for _ in range(OWN_VOLUMES)])
                lists = (*old, *recent[-NEEDED_LISTS:], *own)
                rows.append(_row(folder, vault, source, night, point, needed, lists))
            catalog.add(rows)
    finally:
        catalog.close()
    return count


def _volume() -> VolumeRecord:
    return VolumeRecord(names.new_volume_id(), VOLUME_SIZE, hashlib.sha256(b"").hexdigest())


def _lists(folder: Path, volumes: list[VolumeRecord]) -> list[ObjectRecord]:
    """Store volumes and their lists, and return the lists."""
    found = []
    for start in range(0, len(volumes), volume_list.LIST_LENGTH):
        part = volumes[start : start + volume_list.LIST_LENGTH]
        for each in part:
            _sparse(folder, names.volume(each.volume), each.size)
        encoded = volume_list.encode(part)
        record = ObjectRecord(
            names.volume_list(volume_list.digest(encoded)),
            len(encoded),
            volume_list.digest(encoded),
        )
        _path(folder, record.name).write_bytes(encoded)
        found.append(record)
    return found


def _row(
    folder: Path,
    vault: str,
    source: str,
    night: int,
    point: str,
    objects: list[ObjectRecord],
    lists: tuple[ObjectRecord, ...],
) -> CatalogRow:
    taken_at = FIRST_NIGHT + timedelta(days=night)
    log = tuple(
        LogEntry(each.name.rpartition("/")[2].partition(".")[0], 90_000) for each in objects[::2]
    )
    digest = hashlib.sha256(point.encode()).hexdigest()
    stream = StreamRecord("disk", "disk", "blocks", 4 << 40, 16 << 10, digest, log, log)
    content = manifest.encode(
        Point(
            vault=vault,
            source=source,
            point=point,
            sequence=night + 1,
            taken_at=taken_at,
            finished_at=taken_at,
            parent=None,
            consistency="crash",
            streams=(stream,),
            hash_key=ObjectRecord(names.hash_key("0" * 40), 900, digest),
            objects=tuple(objects),
            lists=lists,
            host="bench",
            tool="bench",
            counters={"stored_bytes": 600 << 20},
        )
    )
    name = names.point(source, taken_at, point)
    size = len(content) + SIGNATURE_SIZE
    _sparse(folder, name, size)
    return CatalogRow(
        name, source, point, clock.to_text(taken_at), size, digest, keys.HOST, content
    )


def _sparse(folder: Path, name: str, size: int) -> ObjectRecord:
    """Store an object that has a size and takes no room."""
    with _path(folder, name).open("wb") as file:
        file.truncate(size)
    return ObjectRecord(name, size, hashlib.sha256(name.encode()).hexdigest())


def _path(folder: Path, name: str) -> Path:
    path = folder / "vault" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _files(folder: Path) -> Iterator[str]:
    for _, _, found in os.walk(folder):
        yield from found


def _prune(folder: Path, *words: str, kept: int, say: Callable[[str], None]) -> Document:
    """Prune with a policy that keeps all points but one."""
    for number in range(SOURCES):
        policy = {
            "vault": "bench",
            "retention": {"last": kept if number == 0 else POINTS},
            "sources": {f"disk{number}": {"image": {"path": "/dev/null"}}},
        }
        (folder / "policies" / f"p{number}.yaml").write_text(json.dumps(policy))
    say(f"prune: down to {kept} points of one source")
    before = _asked(folder)
    usage: Usage = Runner(surroundings(folder)).run(program(folder, "prune", *words), cwd=folder)
    asked = _asked(folder) - before
    (report,) = json.loads(usage.output)
    if report["removed_points"] != 1:
        raise BenchmarkError(f"{report['removed_points']} points expired: {report['problems']}")
    return {
        **usage.document(),
        "removed": report["removed_points"],
        "deleted": report["deleted"]["objects"],
        "waiting": report["waiting"]["objects"],
        "list_and_put_requests": asked.puts,
        "get_requests": asked.gets,
        "delete_requests": asked.deletes,
    }


def _asked(folder: Path) -> Asked:
    with SqliteHistory(folder / "state" / "history.sqlite") as history:
        return sum(history.usage().get("bench", {}).values(), NOTHING)
