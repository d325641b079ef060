# SPDX-License-Identifier: Apache-2.0
"""What is known of vaults without asking them: their ids, and their restore points."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.catalogs import summaries
from snapvault.adapters.catalogs.known import KnownVaults
from snapvault.adapters.catalogs.sqlite import SqliteCatalog
from snapvault.adapters.catalogs.summaries import CatalogPoints
from snapvault.errors import ConfigError
from snapvault.formats import manifest, names
from snapvault.model.point import Point
from snapvault.model.runs import PointSummary, SourceKey
from snapvault.model.settings import VaultSettings
from snapvault.ports.catalog import CatalogRow
from tests.support.points import POINT

VAULT = "0123456789abcdef" * 2
SETTINGS = VaultSettings("offsite", "s3://bucket", ("recovery",), "host")


def numbered(number: int, source: str = "web01") -> Point:
    taken_at = POINT.taken_at.replace(day=number)
    return replace(POINT, source=source, point=f"{number:016x}", taken_at=taken_at)


def row(point: Point) -> CatalogRow:
    return CatalogRow(
        name=names.point(point.source, point.taken_at, point.point),
        source=point.source,
        point=point.point,
        taken_at=clock.to_text(point.taken_at),
        size=5,
        sha256="0f" * 32,
        signer="A" * 40,
        content=manifest.encode(point),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def catalog(path: Path) -> Iterator[SqliteCatalog]:
    with closing(SqliteCatalog(path)) as catalog:
        yield catalog


@pytest.fixture
def points(path: Path) -> CatalogPoints:
    return CatalogPoints(path, "offsite")


def test_points_come_by_source_and_time_without_those_that_are_gone(
    catalog: SqliteCatalog, points: CatalogPoints
) -> None:
    rows = [row(numbered(3)), row(numbered(2)), row(numbered(1, "shop")), row(numbered(4))]
    catalog.add(rows)
    catalog.mark_missing([rows[3].name], missing=True)

    found = points.read()

    assert [(each.key.source, each.point) for each in found] == [
        ("shop", f"{1:016x}"),
        ("web01", f"{2:016x}"),
        ("web01", f"{3:016x}"),
    ]
    assert found[2] == PointSummary(
        SourceKey("offsite", "web01"), f"{3:016x}", numbered(3).taken_at, 700, 25, "crash"
    )


def test_what_is_added_later_is_seen_and_the_rest_not_read_again(
    catalog: SqliteCatalog, points: CatalogPoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = manifest.decode_as

    def counted(name: str, content: bytes) -> Point:
        decoded.append(name)
        return decode(name, content)

    monkeypatch.setattr(manifest, "decode_as", counted)
    catalog.add([row(numbered(1))])
    points.read()
    points.read()
    catalog.add([row(numbered(2))])

    found = points.read()

    assert len(found) == 2
    assert decoded == [row(numbered(1)).name, row(numbered(2)).name]


def test_an_unchanged_catalog_is_not_opened(
    catalog: SqliteCatalog, points: CatalogPoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.add([row(numbered(1))])
    catalog.close()
    first = points.read()
    monkeypatch.setattr(summaries, "_open", lambda path: pytest.fail("it was opened"))

    assert points.read() is first


def test_a_catalog_that_is_missing_says_so_and_what_was_known_stays(
    catalog: SqliteCatalog, points: CatalogPoints, path: Path
) -> None:
    catalog.add([row(numbered(1))])
    points.read()
    catalog.close()
    path.unlink()

    with pytest.raises(ConfigError, match="missing"):
        points.read()

    assert [each.point for each in points.last] == [f"{1:016x}"]
    assert not path.exists()


def test_a_damaged_catalog_says_so_and_is_left_as_it_is(
    catalog: SqliteCatalog, points: CatalogPoints, path: Path
) -> None:
    catalog.add([row(numbered(1))])
    catalog.close()
    raw = bytearray(path.read_bytes())
    raw[raw.index(b'"crash"') + 1] ^= 1
    path.write_bytes(raw)

    with pytest.raises(ConfigError, match="has changed") as caught:
        points.read()

    assert caught.value.hint
    assert path.read_bytes() == raw


@pytest.mark.parametrize("content", [b"", b"no database" * 400])
def test_what_is_no_catalog_says_so(path: Path, points: CatalogPoints, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(ConfigError, match="could not read catalog"):
        points.read()


def test_points_are_read_while_another_writes(
    catalog: SqliteCatalog, points: CatalogPoints, path: Path
) -> None:
    catalog.add([row(numbered(1))])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE manifest SET missing = 1")

        found = points.read()

        other.execute("ROLLBACK")

    assert len(found) == 1


@pytest.mark.integration
def test_reading_loads_nothing_heavy() -> None:
    code = (
        "import importlib, pkgutil, sys, snapvault.adapters.catalogs.summaries, snapvault.wiring\n"
        "for module in pkgutil.iter_modules(snapvault.wiring.__path__, 'snapvault.wiring.'):\n"
        "    importlib.import_module(module.name)\n"
        "import snapvault.adapters.recording, snapvault.adapters.histories.sqlite\n"
        "heavy = {'numpy', 'boto3', 'gnupg', 'zstandard', 'blake3', 'typer', 'rich'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""


# --- ids of vaults --------------------------------------------------------------------------


def test_a_vault_that_was_opened_is_known(tmp_path: Path) -> None:
    KnownVaults(tmp_path / "vaults").remember(SETTINGS, VAULT)

    assert KnownVaults(tmp_path / "vaults").find(SETTINGS) == VAULT
    assert [path.name for path in (tmp_path / "vaults").iterdir()] == ["offsite.json"]


@pytest.mark.parametrize(
    "other",
    [
        replace(SETTINGS, name="onsite"),
        replace(SETTINGS, store="s3://other"),
        replace(SETTINGS, endpoint_url="http://127.0.0.1"),
    ],
)
def test_a_vault_elsewhere_is_another(tmp_path: Path, other: VaultSettings) -> None:
    known = KnownVaults(tmp_path)
    known.remember(SETTINGS, VAULT)

    assert known.find(other) is None


def test_a_vault_made_anew_replaces_the_old(tmp_path: Path) -> None:
    known = KnownVaults(tmp_path)
    known.remember(SETTINGS, VAULT)

    known.remember(SETTINGS, VAULT[::-1])

    assert known.find(SETTINGS) == VAULT[::-1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"5",
        b"{}",
        b"\xff",
        json.dumps({"store": "s3://bucket", "endpoint": None, "vault": "../.."}).encode(),
        json.dumps({"store": "s3://bucket", "endpoint": None, "vault": 5}).encode(),
    ],
)
def test_a_damaged_memory_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "offsite.json").write_bytes(content)
    known = KnownVaults(tmp_path)

    found = known.find(SETTINGS)
    known.remember(SETTINGS, VAULT)

    assert found is None
    assert known.find(SETTINGS) == VAULT


def test_a_folder_that_cannot_be_made_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "vaults").write_text("a file where a folder is meant")
    known = KnownVaults(tmp_path / "vaults")

    known.remember(SETTINGS, VAULT)

    assert known.find(SETTINGS) is None
