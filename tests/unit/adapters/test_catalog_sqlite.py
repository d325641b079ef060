# SPDX-License-Identifier: Apache-2.0
"""The catalog's file: it is shared, and it is replaced when it cannot be trusted."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from snapvault.adapters.catalogs.sqlite import SqliteCatalog
from snapvault.ports.catalog import CatalogRow


def row(number: int) -> CatalogRow:
    name = f"points/web01/{number:06}.point"
    return CatalogRow(name, "web01", str(number), f"{number:06}", 1, "00", "A", b"{}" * 500)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "catalog.sqlite"


def test_a_missing_file_is_no_reset(path: Path) -> None:
    with closing(SqliteCatalog(path)) as catalog:
        assert not catalog.was_reset
        assert catalog.reset_reason is None


def test_rows_outlive_the_object(path: Path) -> None:
    with closing(SqliteCatalog(path)) as catalog:
        catalog.add([row(1)])

    with closing(SqliteCatalog(path)) as catalog:
        assert catalog.rows() == [row(1)]
        assert not catalog.was_reset


def test_two_objects_see_each_others_rows(path: Path) -> None:
    with closing(SqliteCatalog(path)) as one, closing(SqliteCatalog(path)) as other:
        one.add([row(1)])
        other.add([row(2)])

        assert one.rows() == other.rows() == [row(1), row(2)]


def test_many_threads_may_use_one_object(path: Path) -> None:
    with closing(SqliteCatalog(path)) as catalog:
        threads = [threading.Thread(target=catalog.add, args=([row(n)],)) for n in range(20)]

        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert catalog.rows() == [row(n) for n in range(20)]


def test_closing_twice_is_allowed(path: Path) -> None:
    catalog = SqliteCatalog(path)

    catalog.close()
    catalog.close()


def test_the_file_is_in_wal_mode_and_names_its_program(path: Path) -> None:
    SqliteCatalog(path).close()

    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert raw.execute("PRAGMA user_version").fetchone() == (1,)
        assert raw.execute("PRAGMA application_id").fetchone() == (0x53564C54,)
