# SPDX-License-Identifier: Apache-2.0
"""What a status shows of restore points, read from a vault's catalog: cheap to ask again.

The catalog is opened for reading only: whoever merely looks neither makes nor mends it.
"""

import os
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from snapvault.adapters.catalogs.sqlite import COLUMNS, read_row
from snapvault.adapters.database import UntrustedError
from snapvault.errors import ConfigError, IntegrityError
from snapvault.formats import manifest
from snapvault.model.runs import PointSummary, SourceKey
from snapvault.ports.catalog import CatalogRow

_BUSY_SECONDS = 5.0

_Stamp = tuple[tuple[int, int, int] | None, ...]


class CatalogPoints:
    """The restore points of one vault's catalog. Safe from several threads.

    Read again only when the file has changed, and each manifest once.
    """

    def __init__(self, path: Path, vault: str) -> None:
        """Name the catalog file, and the vault as the settings do; nothing is opened yet."""
        self._path = path
        self._vault = vault
        self._lock = threading.Lock()
        self._stamp: _Stamp | None = None
        self._known: dict[tuple[str, str], PointSummary] = {}
        self._points: tuple[PointSummary, ...] = ()

    def read(self) -> tuple[PointSummary, ...]:
        """Return the points that the vault holds, by source and time.

        Raises:
            ConfigError: the file is missing, damaged, or cannot be read; `last` is as before.
        """
        with self._lock:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return self._points
            try:
                self._refresh()
            except (sqlite3.Error, OSError, UntrustedError, IntegrityError) as error:
                raise ConfigError(
                    f'could not read catalog "{self._path}": {error}',
                    hint="The next backup reads it from the vault again.",
                ) from error
            self._stamp = stamp
            return self._points

    @property
    def last(self) -> tuple[PointSummary, ...]:
        """The points as they were last read."""
        return self._points

    def _refresh(self) -> None:
        if not self._path.exists():
            raise FileNotFoundError("it is missing")
        known: dict[tuple[str, str], PointSummary] = {}
        with closing(_open(self._path)) as database:
            database.execute("BEGIN")
            held = "SELECT name, sha256 FROM manifest WHERE missing = 0"
            one = f"SELECT {COLUMNS} FROM manifest WHERE name = ?"  # noqa: S608 -- only constants
            for name, sha256 in database.execute(held).fetchall():
                summary = self._known.get((name, sha256))
                if summary is None:
                    row = read_row(database.execute(one, (name,)).fetchone())
                    summary = self._summary(row)
                known[name, sha256] = summary
        self._known = known
        self._points = tuple(
            sorted(known.values(), key=lambda each: (each.key, each.taken_at, each.point))
        )

    def _summary(self, row: CatalogRow) -> PointSummary:
        point = manifest.decode_as(row.name, row.content)
        return PointSummary(
            key=SourceKey(self._vault, point.source),
            point=point.point,
            taken_at=point.taken_at,
            size=point.size,
            stored=point.counters.get("stored_bytes", 0) + row.size,
            consistency=point.consistency,
        )


def _open(path: Path) -> sqlite3.Connection:
    address = f"file:{quote(str(path))}?mode=ro"
    return sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)


def _stamp(path: Path) -> _Stamp:
    """Return what changes when a database in WAL mode does."""
    found: list[tuple[int, int, int] | None] = []
    for each in (path, path.with_name(f"{path.name}-wal")):
        status: os.stat_result | None = None
        with suppress(OSError):
            status = each.stat()
        # A log that nothing was written to yet is as good as none.
        if status is None or status.st_size == 0:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)
