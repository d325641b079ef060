# SPDX-License-Identifier: Apache-2.0
"""What every catalog does (snapvault/ports/catalog.py)."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.adapters.catalogs.sqlite import SqliteCatalog
from snapvault.ports.catalog import Catalog, CatalogRow

NIGHT = "points/web01/20261120T013000Z-{0}.point"
ROW = CatalogRow(
    name=NIGHT.format("aa"),
    source="web01",
    point="aa",
    taken_at="2026-11-20T01:30:00.000000Z",
    size=1234,
    sha256="0f" * 32,
    signer="A" * 40,
    content=b'{"format": 1, "name": "\xc3\xbc\x00"}',
)
LATER = replace(ROW, name=NIGHT.format("bb"), point="bb", taken_at="2026-11-21T01:30:00.000000Z")
OTHER = replace(ROW, name="points/shop/x.point", source="shop", point="cc")


@pytest.fixture
def sqlite_catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = SqliteCatalog(tmp_path / "catalog.sqlite")
    yield catalog
    catalog.close()


@pytest.fixture(params=["sqlite_catalog"])
def catalog(request: pytest.FixtureRequest) -> Catalog:
    adapter: Catalog = request.getfixturevalue(request.param)
    return adapter


def test_a_new_catalog_is_empty(catalog: Catalog) -> None:
    assert catalog.rows() == []


def test_rows_come_back_as_they_were_added(catalog: Catalog) -> None:
    catalog.add([ROW])

    assert catalog.rows() == [ROW]


def test_rows_come_by_time_then_name(catalog: Catalog) -> None:
    same_time = replace(ROW, name=NIGHT.format("ab"))

    catalog.add([LATER, same_time, ROW])

    assert catalog.rows() == [ROW, same_time, LATER]


def test_rows_of_one_source_leave_the_others_out(catalog: Catalog) -> None:
    catalog.add([ROW, OTHER, LATER])

    assert catalog.rows("web01") == [ROW, LATER]
    assert catalog.rows("shop") == [OTHER]
    assert catalog.rows("nobody") == []


def test_adding_a_name_again_replaces_its_row(catalog: Catalog) -> None:
    catalog.add([ROW, LATER])

    catalog.add([replace(ROW, size=9)])

    assert catalog.rows() == [replace(ROW, size=9), LATER]


def test_adding_nothing_is_allowed(catalog: Catalog) -> None:
    catalog.add([])

    assert catalog.rows() == []


def test_a_batch_with_a_bad_row_adds_none(catalog: Catalog) -> None:
    impossible = replace(LATER, content=None)  # type: ignore[arg-type]  # that is the fault

    with pytest.raises(sqlite3.IntegrityError):
        catalog.add([ROW, impossible])

    assert catalog.rows() == []


def test_missing_marks_are_set_and_cleared(catalog: Catalog) -> None:
    catalog.add([ROW, LATER])

    catalog.mark_missing([ROW.name, "points/never/heard.point"], missing=True)
    marked = catalog.rows()
    catalog.mark_missing([ROW.name], missing=False)

    assert marked == [replace(ROW, missing=True), LATER]
    assert catalog.rows() == [ROW, LATER]


def test_a_missing_mark_is_kept_by_add(catalog: Catalog) -> None:
    catalog.add([replace(ROW, missing=True)])

    assert catalog.rows() == [replace(ROW, missing=True)]


def test_clear_forgets_everything(catalog: Catalog) -> None:
    catalog.add([ROW, OTHER])

    catalog.clear()

    assert catalog.rows() == []


def test_thousands_of_rows_fit_in_one_call(catalog: Catalog) -> None:
    rows = [replace(ROW, name=f"points/web01/{number:06}.point") for number in range(5_000)]

    catalog.add(rows)
    catalog.mark_missing([row.name for row in rows], missing=True)

    assert catalog.rows() == [replace(row, missing=True) for row in rows]
