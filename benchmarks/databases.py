# SPDX-License-Identifier: Apache-2.0
"""A real MariaDB whose rows change every night: the workloads innodb and dump.

The server runs in a folder of its own and is shut down in order before anything is taken of it.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import differences, disks, ext4
from benchmarks.measure import BenchmarkError
from benchmarks.mirror import Mirror
from benchmarks.orders import ROW_BYTES, SCHEMA, Orders
from benchmarks.workloads import Kind
from snapvault.model.policy import DEFAULT_COMPRESSION_LEVEL
from tests.support.mariadb import MariadbMissingError, MariadbServer, template

_MIB = 1 << 20
_SMALLEST_LOG = 8 * _MIB
_LOG_SHARE = 16  # of the table, a sixteenth
_POOL = ("--innodb-buffer-pool-size=256M",)
_PAGE = 16 << 10  # bytes of InnoDB
_DATA = "/var/lib/mysql"


class Database:
    """A database of `size` bytes as SQL, one table, in a server that runs when it is asked."""

    def __init__(self, folder: Path, *, size: int, seed: int) -> None:
        self._folder = folder
        self._orders = Orders(max(1000, size // ROW_BYTES), seed=seed)
        self._log = max(_SMALLEST_LOG, size // _LOG_SHARE) // _MIB
        self.rows = 0

    @property
    def data(self) -> Path:
        """The folder with the server's files, in order."""
        return self._folder / "data"

    def load(self) -> None:
        """Make the database, with the rows of the first day.

        Raises:
            BenchmarkError: MariaDB is missing, or does not do it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copytree(template(), self.data)
        except MariadbMissingError as error:
            raise BenchmarkError(str(error)) from error
        with self._running() as server:
            server.run(SCHEMA)
            command = [*server.client(), "--local-infile=1", "shop", "-e", _LOAD]
            with subprocess.Popen(command, stdin=subprocess.PIPE) as client:
                assert client.stdin is not None
                for lines in self._orders.first():
                    client.stdin.write(lines)
            if client.returncode != 0:
                raise BenchmarkError("MariaDB did not take the rows")
            self.rows = int(server.value("SELECT COUNT(*) FROM shop.orders"))

    def change(self, number: int, share: float) -> int:
        """Do what a day does; return how many rows it changed."""
        count, statements = self._orders.change(number, share)
        with self._running() as server:
            server.run("".join(statements), database="shop")
            self.rows = int(server.value("SELECT COUNT(*) FROM shop.orders"))
        return count

    def dump(self, path: Path) -> None:
        """Write the database as SQL, as mariadb-dump does unless told otherwise.

        Raises:
            BenchmarkError: it is missing, or failed.
        """
        if shutil.which("mariadb-dump") is None:
            raise BenchmarkError("mariadb-dump is not installed: apt-get install mariadb-client")
        with self._running() as server, path.open("wb") as out:
            words = ["--no-defaults", f"--socket={server.socket}", "--user=root"]
            command = ["mariadb-dump", *words, "--skip-dump-date", "shop"]
            done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"mariadb-dump: {done.stderr.decode(errors='replace').strip()}")

    def remove(self) -> None:
        """Remove the server's files; safe to repeat."""
        shutil.rmtree(self.data, ignore_errors=True)

    @contextlib.contextmanager
    def _running(self) -> Iterator[MariadbServer]:
        # A slow shutdown leaves nothing to be purged: what is on the disk does not depend on when
        # the server came to it.
        options = [*_POOL, f"--innodb-log-file-size={self._log}M", "--innodb-fast-shutdown=0"]
        try:
            with MariadbServer(data=self.data, binary_log=False, options=options) as server:
                yield server
                server.stop()
        except (AssertionError, MariadbMissingError) as error:
            raise BenchmarkError(f"MariaDB: {error}") from error


_LOAD = (
    "SET unique_checks=0, foreign_key_checks=0; "
    "LOAD DATA LOCAL INFILE '/dev/stdin' INTO TABLE orders"
)


class Innodb:
    """A workload: a disk that holds the folder of a database of `size` bytes as SQL."""

    name = "innodb"
    kind: Kind = "image"

    def __init__(
        self, folder: Path, *, size: int, nights: int, share: float = 0.005, seed: int = 1
    ) -> None:
        self.nights = nights
        self._folder = folder
        self._share = share
        self._image = folder / "innodb.raw"
        self._size = 256 * _MIB + 3 * size
        self._database = Database(folder, size=size, seed=seed)
        self._mirror = Mirror(self._database.data, self._image, _DATA)
        self._watcher = differences.Watcher(
            folder / "innodb.before", level=DEFAULT_COMPRESSION_LEVEL
        )
        self._told: list[dict[str, int]] = []

    @property
    def data_bytes(self) -> int:
        """Return how much of the image is no hole."""
        return disks.data_bytes(self._image)

    def prepare(self, number: int) -> Path:
        """Make the database and its disk, or change both as that night does.

        Raises:
            BenchmarkError: a program is missing, or failed.
        """
        if number == 0:
            self._database.load()
            ext4.make(self._image, self._size, cluster=_PAGE)
            self._mirror.update(ext4.FIRST_DAY)
            self._watcher.first(self._image)
            return self._image
        changed = self._database.change(number, self._share)
        self._mirror.update(ext4.FIRST_DAY + number * ext4.DAY)
        difference = self._watcher.next(self._image)
        self._told.append({"changed_rows": changed, **asdict(difference)})
        return self._image

    def facts(self) -> Mapping[str, Any]:
        """Return how large it is and what each night changed."""
        return {
            "rows": self._database.rows,
            "disk_bytes": self._size,
            "data_bytes": self.data_bytes,
            "nights": list(self._told),
        }

    def close(self) -> None:
        """Remove what was made; safe to repeat."""
        self._watcher.close()
        self._image.unlink(missing_ok=True)
        self._database.remove()


class Dump:
    """A workload: a database of about `size` bytes, written as SQL each night."""

    name = "dump"
    kind: Kind = "dump"

    def __init__(
        self, folder: Path, *, size: int, nights: int, share: float = 0.012, seed: int = 1
    ) -> None:
        self.nights = nights
        self._share = share
        self._path = folder / "dump.sql"
        self._before = folder / "before.sql"
        self._database = Database(folder, size=size, seed=seed)
        self._told: list[dict[str, int]] = []

    @property
    def data_bytes(self) -> int:
        """Return the length of the dump."""
        return self._path.stat().st_size

    def prepare(self, number: int) -> Path:
        """Make the database, or change its rows, and write it out.

        Raises:
            BenchmarkError: MariaDB is missing, or failed.
        """
        if number == 0:
            self._database.load()
        else:
            changed = self._database.change(number, self._share)
            self._told.append({"changed_rows": changed})
            self._path.rename(self._before)
        self._database.dump(self._path)
        if number:
            level = DEFAULT_COMPRESSION_LEVEL
            patch = differences.patch_bytes(self._before, self._path, level=level)
            self._told[-1] |= {} if patch is None else {"patch_bytes": patch}
            self._before.unlink()
        return self._path

    def facts(self) -> Mapping[str, Any]:
        """Return how large it is and what each night changed."""
        return {
            "rows": self._database.rows,
            "data_bytes": self.data_bytes,
            "nights": list(self._told),
        }

    def close(self) -> None:
        """Remove what was made; safe to repeat."""
        for path in (self._path, self._before):
            path.unlink(missing_ok=True)
        self._database.remove()
