# SPDX-License-Identifier: Apache-2.0
"""pg_dump, pg_dumpall and pg_basebackup: how they are called, and how their output ends."""

import re
from typing import Final

from snapvault.adapters.sources.postgresql_client import connection_string

# QUIRK: dumps of minor releases since August 2025 carry a random key, without which psql would
# run commands that a dump's data smuggles in (CVE-2025-8714). A fixed key would make dumps of one
# state equal, and be known to whoever smuggles; two small changes a night are cheaper.
_COMPLETE = re.compile(
    rb"\n-- PostgreSQL database (?:cluster )?dump complete\n--\s*(?:\\unrestrict \w+\s*)?\Z"
)
_WAL_START = re.compile(rb"START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) \(file ([0-9A-F]+)\)")
_TAR_END = bytes(1024)

BASE_BACKUP: Final = (
    "--format=tar",
    "--wal-method=fetch",  # the archive alone is enough to start a server from
    "--checkpoint=fast",
    "--label=snapvault",
    "--no-password",
    "--pgdata=-",
)

# These exist in every cluster; a dump that creates them could not be loaded.
_ALWAYS_THERE: Final = ("postgres", "template1")


def creates(database: str) -> bool:
    """Tell whether a database's dump creates it, with its own settings, owner and rights."""
    return database not in _ALWAYS_THERE


def database_arguments(database: str, lock_timeout: float) -> list[str]:
    """Return what follows pg_dump; rows come in the order in which they lie in their table."""
    return [
        "--format=plain",
        "--no-password",
        _lock_wait(lock_timeout),
        *(["--create"] if creates(database) else []),
        f"--dbname={connection_string(database)}",
    ]


def globals_arguments(home: str | None, lock_timeout: float) -> list[str]:
    """Return what follows pg_dumpall: roles with their passwords' hashes, and tablespaces.

    `home` is a database that lets us in; None: the usual ones are tried.
    """
    return [
        "--globals-only",
        "--no-password",
        _lock_wait(lock_timeout),
        *([f"--database={connection_string(home)}"] if home is not None else []),
    ]


def is_complete(tail: bytes) -> bool:
    """Tell whether a dump ends with what pg_dump and pg_dumpall write last."""
    return _COMPLETE.search(tail) is not None


def is_complete_archive(tail: bytes) -> bool:
    """Tell whether a tar archive ends as one does, with two blocks of zeros."""
    return tail.endswith(_TAR_END)


def read_backup_label(head: bytes) -> dict[str, str]:
    """Return `wal_start` and `wal_file` from the label, which is the archive's first file."""
    found = _WAL_START.search(head)
    return {"wal_start": found[1].decode(), "wal_file": found[2].decode()} if found else {}


def _lock_wait(seconds: float) -> str:
    return f"--lock-wait-timeout={max(1, round(seconds * 1000))}"
