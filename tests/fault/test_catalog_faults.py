# SPDX-License-Identifier: Apache-2.0
"""A catalog file that is damaged, foreign, newer, locked, or has no room."""

import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.adapters import database
from snapvault.adapters.catalogs import sqlite
from snapvault.adapters.catalogs.sqlite import SqliteCatalog
from snapvault.errors import ConfigError, LockHeldError, StateError
from snapvault.ports.catalog import CatalogRow

ROWS = [
    CatalogRow(f"points/a/{n:06}.point", "a", str(n), f"{n:06}", 1, "00", "A", b"{}" * 900)
    for n in range(200)
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a catalog with rows in it."""
    path = tmp_path / "catalog.sqlite"
    with closing(SqliteCatalog(path)) as catalog:
        catalog.add(ROWS)
    return path


def junk(path: Path) -> None:
    path.write_bytes(b"this was never a database " * 400)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20_000])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def flipped_page(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[4096 * 2 : 4096 * 4] = b"\xa5" * 8192
    path.write_bytes(raw)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE bookmarks (address TEXT)")
        raw.commit()


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 999")


def wrong_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("ALTER TABLE manifest DROP COLUMN signer")
        raw.commit()


@pytest.mark.parametrize(
    "spoil", [junk, truncated, cut_in_the_header, flipped_page, foreign, newer, wrong_schema]
)
def test_a_file_that_cannot_be_trusted_is_set_aside(
    path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(path)
    spoiled = path.read_bytes()

    with closing(SqliteCatalog(path)) as catalog:
        assert catalog.was_reset
        assert catalog.reset_reason
        assert catalog.rows() == []
        catalog.add(ROWS)

    with closing(SqliteCatalog(path)) as catalog:
        assert not catalog.was_reset
        assert catalog.rows() == ROWS
    assert path.with_name("catalog.sqlite.damaged-1").read_bytes() == spoiled


def test_an_empty_file_is_a_new_catalog(path: Path) -> None:
    path.write_bytes(b"")

    with closing(SqliteCatalog(path)) as catalog:
        assert not catalog.was_reset


def test_only_the_last_damaged_file_is_kept(path: Path) -> None:
    for _ in range(3):
        junk(path)
        SqliteCatalog(path).close()

    names = sorted(entry.name for entry in path.parent.iterdir())

    assert names == ["catalog.sqlite", "catalog.sqlite.damaged-3"]


def test_damage_that_shows_later_resets_the_catalog_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_CHECKED_BYTES", 0)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2))

    with closing(SqliteCatalog(path)) as catalog:
        found = catalog.rows()

        assert found == []
        assert catalog.was_reset
        catalog.add(ROWS)
        assert catalog.rows() == ROWS


def test_a_flipped_bit_in_a_row_resets_the_catalog(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"{}{}{}{}") + 3] ^= 1
    path.write_bytes(raw)

    with closing(SqliteCatalog(path)) as catalog:
        assert catalog.rows() == []
        assert catalog.was_reset


def test_two_who_find_the_same_damage_make_one_new_catalog(path: Path) -> None:
    junk(path)

    with ThreadPoolExecutor(8) as pool:
        catalogs = list(pool.map(SqliteCatalog, [path] * 8))
    resets = [catalog.was_reset for catalog in catalogs]
    for catalog in catalogs:
        catalog.close()

    assert resets.count(True) == 1
    assert [entry.name for entry in path.parent.glob("*.damaged-*")] == ["catalog.sqlite.damaged-1"]


def test_what_another_process_has_made_anew_is_kept(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"{}{}{}{}") + 3] ^= 1
    path.write_bytes(raw)
    late = SqliteCatalog(path)
    with closing(SqliteCatalog(path)) as first:
        first.rows()
        first.add(ROWS)

    with closing(late):
        found = late.rows()

    assert late.was_reset
    assert found == ROWS
    assert len(list(path.parent.glob("*.damaged-*"))) == 1


def test_a_process_killed_while_it_writes_leaves_whole_calls(path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from dataclasses import replace\n"
        "from snapvault.adapters.catalogs.sqlite import SqliteCatalog\n"
        "catalog = SqliteCatalog(Path(sys.argv[1])); rows = catalog.rows()\n"
        "catalog.add([replace(row, size=2) for row in rows])\n"
        "catalog._file._database.execute('BEGIN IMMEDIATE')\n"
        "catalog._file._database.execute('UPDATE manifest SET size = 3')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    ended = subprocess.run([sys.executable, "-c", program, str(path)], check=False)

    assert ended.returncode == -signal.SIGKILL
    with closing(SqliteCatalog(path)) as catalog:
        assert {row.size for row in catalog.rows()} == {2}
        assert not catalog.was_reset


def test_a_state_directory_that_cannot_be_made_is_the_operators_to_mend(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a folder is meant")

    with pytest.raises(ConfigError, match="could not use catalog") as caught:
        SqliteCatalog(tmp_path / "state" / "catalog.sqlite")

    assert caught.value.hint is not None
    assert "state_dir" in caught.value.hint


@pytest.mark.parametrize("path", ["/proc/self/catalog.sqlite", "/proc/1/fd/none/catalog.sqlite"])
def test_a_folder_that_takes_no_files_is_the_operators_to_mend(path: str) -> None:
    with pytest.raises(ConfigError, match="could not use catalog"):
        SqliteCatalog(Path(path))


def test_a_folder_in_the_files_place_is_the_operators_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could not use catalog"):
        SqliteCatalog(tmp_path)


def test_a_full_disk_is_an_error_and_keeps_what_was_there(path: Path) -> None:
    more = [CatalogRow(f"points/b/{n}", "b", "p", "t", 1, "0", "A", bytes(9000)) for n in range(99)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    with closing(SqliteCatalog(path)) as catalog:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(StateError, match="could not use catalog") as caught:
                catalog.add(more)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)

        assert catalog.rows() == ROWS
        assert not catalog.was_reset
    assert f'Look for room in "{path.parent}"' in str(caught.value.hint)


def test_a_catalog_that_stays_busy_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_LAYOUT", replace(sqlite._LAYOUT, busy_seconds=0.01))
    with closing(SqliteCatalog(path)) as catalog, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(LockHeldError, match="another process has kept it"):
            catalog.add(ROWS)
