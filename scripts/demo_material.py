# SPDX-License-Identifier: Apache-2.0
"""What the demo backs up: a database that changes, and an ext4 disk with it and many files."""

import os
import random
import re
import shutil
import sqlite3
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from scripts.demo_screen import DemoError
from snapvault.units import format_count

_BLOCK = 4096
_LARGEST_FILE = 16 << 20
_WORDS = """
    amber basin cedar delta ember fjord grove harbor indigo juniper kernel lantern
    meadow nickel orchard pepper quartz ribbon saddle timber umber velvet willow yarrow
    zephyr anchor bottle copper drawer engine fabric garden hammer island jacket kettle
    ladder mirror needle oyster
""".split()  # noqa: SIM905 - a list would take forty lines
DATABASE_ON_DISK = "/var/lib/shop/shop.db"
_FIRST_ORDER = datetime(2026, 1, 1, tzinfo=UTC)

DUMP_PROGRAM = """\
# Write a SQLite database to stdout as SQL, as a dump program of any database does.
import sqlite3
import sys

connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
for line in connection.iterdump():
    sys.stdout.write(line + "\\n")
"""


@dataclass
class Shop:
    """A SQLite database of orders; its size in bytes stays the same for the nights of a demo."""

    path: Path
    rows: int
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def create(self) -> None:
        """Fill it, and leave free pages inside for the orders to come."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as base:
            # Free pages keep their old bytes: zeros would become holes in the disk image.
            base.executescript(
                f"PRAGMA page_size = {_BLOCK}; PRAGMA secure_delete = OFF;"
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
                "CREATE TABLE orders (id INTEGER PRIMARY KEY, placed_at TEXT, customer TEXT,"
                " item TEXT, quantity INTEGER, price_cents INTEGER, status TEXT, note TEXT);"
                "CREATE TABLE room (filler BLOB);"
            )
            base.execute("BEGIN")
            base.executemany("INSERT INTO orders VALUES (?,?,?,?,?,?,?,?)", self._orders(self.rows))
            filler = [(self.chance.randbytes(_BLOCK),) for _ in range(self.rows // 400 + 16)]
            base.executemany("INSERT INTO room VALUES (?)", filler)
            base.execute("COMMIT")
            base.execute("DROP TABLE room")

    def change(self) -> str:
        """Do a day's business at scattered places; return what it was, in words."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as base:
            base.executescript("PRAGMA secure_delete = OFF; PRAGMA synchronous = OFF;")
            base.execute("BEGIN")
            updated = self._some(0.002)
            base.executemany(
                "UPDATE orders SET status = 'shipped', note = note || ' *' WHERE id = ?", updated
            )
            deleted = self._some(0.0002)
            base.executemany("DELETE FROM orders WHERE id = ?", deleted)
            (last,) = base.execute("SELECT max(id) FROM orders").fetchone()
            new = list(self._orders(max(1, self.rows // 500), after=last))
            base.executemany("INSERT INTO orders VALUES (?,?,?,?,?,?,?,?)", new)
            base.execute("COMMIT")
        return f"{len(updated):,} orders updated, {len(new):,} new, {len(deleted):,} deleted"

    def _some(self, share: float) -> list[tuple[int]]:
        count = max(1, int(self.rows * share))
        return [(number,) for number in sorted(self.chance.sample(range(1, self.rows + 1), count))]

    def _orders(self, count: int, *, after: int = 0) -> Iterator[tuple[str | int, ...]]:
        pick, number = self.chance.choice, self.chance.randrange
        for order in range(after + 1, after + count + 1):
            yield (
                order,
                f"{_FIRST_ORDER + timedelta(seconds=71 * order + number(60)):%Y-%m-%d %H:%M:%S}",
                f"{pick(_WORDS)}.{pick(_WORDS)}{number(1000)}@example.org",
                f"{pick(_WORDS)} {pick(_WORDS)} no. {number(5000)}",
                number(1, 9),
                number(99, 99_999),
                pick(("open", "paid", "packed", "returned")),
                " ".join(pick(_WORDS) for _ in range(number(3, 9))),
            )


@dataclass
class Disk:
    """A raw image with an ext4 file system, made and changed without root."""

    path: Path
    chance: random.Random = field(default_factory=lambda: random.Random(2))
    files: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        """Our copy of the log on the disk, which grows."""
        return self.path.with_name("web.log")

    def gather(self, tree: Path, database: Path, budget: int) -> tuple[int, int]:
        """Copy a log, the database and files of this machine into a tree.

        Returns how many files of this machine there are, and the bytes of the blocks that they
        fill, about `budget`.
        """
        for folder in ("var/log", "var/lib/shop", "srv"):
            (tree / folder).mkdir(parents=True)
        shutil.copyfile(database, tree / DATABASE_ON_DISK[1:])
        self.log.write_bytes(self._lines(budget // 50))
        shutil.copyfile(self.log, tree / "var/log/web.log")
        total = 0
        for path, size in _files_of_this_machine():
            if total + size > budget:
                break
            target = tree / "srv" / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(path, target)
            except OSError:  # not ours to read, or gone
                target.unlink(missing_ok=True)
                continue
            self.files.append(f"/{target.relative_to(tree)}")
            total += -(-size // _BLOCK) * _BLOCK
        if not self.files:
            raise DemoError("found no files on this machine to put on a disk")
        return len(self.files), total

    def change(self, day: int, size: int) -> tuple[Path, str]:
        """Write the script with which debugfs does a day's changes to files; about `size` bytes.

        Returns the script, and what it does in words.
        """
        with self.log.open("ab") as file:
            file.write(self._lines(size // 2))
        upload = self.path.with_name(f"upload{day}.bin")
        upload.write_bytes(self.chance.randbytes(size // 2))
        gone = self.chance.sample(self.files, min(20, len(self.files) // 10))
        self.files = [name for name in self.files if name not in gone]
        lines = ["cd /var/log", "rm web.log", f'write "{self.log}" web.log']
        lines += ["cd /srv", f'write "{upload}" {upload.name}']
        lines += [f'rm "{name}"' for name in gone]
        script = self.path.with_name(f"day{day}.debugfs")
        script.write_text("\n".join(lines) + "\n")
        return script, f"a log grew, a file came, {format_count(len(gone), 'file')} went"

    def write_database(self, database: Path, extents: str) -> None:
        """Write the database into its blocks on the disk, in place, as a running machine does.

        `extents` is what debugfs shows of the file that it is on the disk.

        Raises:
            DemoError: the file on the disk has other blocks than the database needs.
        """
        size = database.stat().st_size
        done = 0
        with database.open("rb") as source, self.path.open("r+b") as image:
            for first, last, physical in _runs(extents):
                source.seek(first * _BLOCK)
                piece = source.read((last - first + 1) * _BLOCK)
                image.seek(physical * _BLOCK)
                image.write(piece)
                done += len(piece)
        if done != size:
            raise DemoError(f"the database has {size} bytes, and its blocks on the disk {done}")

    def _lines(self, size: int) -> bytes:
        lines = []
        left = size
        while left > 0:
            number = self.chance.randrange
            line = (
                f"192.0.2.{number(256)} - - [20/Nov/2026:{number(24):02}:{number(60):02}:"
                f'{number(60):02} +0000] "GET /item/{number(5000)} HTTP/1.1" 200 {number(90000)}\n'
            )
            lines.append(line)
            left -= len(line)
        return "".join(lines).encode()


def _runs(extents: str) -> Iterator[tuple[int, int, int]]:
    """Yield first and last block in the file and first block on the disk, from `dump_extents`."""
    for match in re.finditer(r"(\d+) +- +(\d+) +(\d+) +- +\d+ +\d+", extents):
        yield int(match[1]), int(match[2]), int(match[3])


def _files_of_this_machine() -> Iterator[tuple[Path, int]]:
    """Yield plain files of any machine with this project on it, and their sizes."""
    folders = ["/usr/share", "/usr/lib/python3", sysconfig.get_path("stdlib"), sys.prefix]
    for top in [*folders, "/usr/lib", "/usr/bin"]:
        for folder, inner, names in os.walk(top):
            inner.sort()
            for name in sorted(names):
                path = Path(folder, name)
                # debugfs has no way to write a name with a quote or a line break in it.
                if path.is_symlink() or not path.is_file() or not str(path).isprintable():
                    continue
                size = path.stat().st_size
                if 0 < size <= _LARGEST_FILE and '"' not in str(path):
                    yield path, size
