# SPDX-License-Identifier: Apache-2.0
"""What PostgreSQL's programs say and are told, without a server."""

import pytest

from snapvault.adapters.sources import postgresql_dump as dumps
from snapvault.adapters.sources import postgresql_errors as errors
from snapvault.adapters.sources.postgresql_client import connection_string
from snapvault.errors import QuiesceError


@pytest.mark.parametrize(
    "end",
    [
        b"--\n-- PostgreSQL database dump complete\n--\n\n",
        b"--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict Ab0\n\n",
        b"\\unrestrict Ab0\n\n--\n-- PostgreSQL database cluster dump complete\n--\n\n",
    ],
)
def test_a_dump_is_whole_when_its_last_lines_say_so(end: bytes) -> None:
    assert dumps.is_complete(b"COPY t;\n\n" + end)
    assert not dumps.is_complete(b"COPY t;\n\n" + end + b"SELECT 1;\n")


def test_a_function_that_says_so_ends_no_dump() -> None:
    assert not dumps.is_complete(b"\n-- PostgreSQL database dump complete\nBEGIN")


@pytest.mark.parametrize(
    ("database", "expected"),
    [
        ("shop", "dbname='shop'"),
        ("a=b host=evil", "dbname='a=b host=evil'"),
        ("it's \\ odd", "dbname='it\\'s \\\\ odd'"),
    ],
)
def test_a_name_is_no_connection_string(database: str, expected: str) -> None:
    assert connection_string(database) == expected


@pytest.mark.parametrize(("database", "creates"), [("shop", True), ("postgres", False)])
def test_what_every_cluster_has_is_not_created(database: str, *, creates: bool) -> None:
    assert ("--create" in dumps.database_arguments(database, 60)) is creates


@pytest.mark.parametrize(
    ("stderr", "text"),
    [
        (
            (
                "pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout\n"
                "pg_dump: detail: Query was: LOCK TABLE public.t IN ACCESS SHARE MODE\n"
            ),
            "canceling statement due to lock timeout: lock of table public.t",
        ),
        (
            (
                'pg_dump: error: Dumping the contents of table "t" failed: PQgetResult() failed.\n'
                "pg_dump: detail: Error message from server: ERROR:  out of memory\n"
            ),
            'Dumping the contents of table "t" failed: PQgetResult() failed: out of memory',
        ),
        (
            'psql: error: connection to server on socket "/x" failed: FATAL:  no entry\n',
            'connection to server on socket "/x" failed: FATAL:  no entry',
        ),
        ("psql:<stdin>:1: ERROR:  permission denied\n", "permission denied"),
    ],
)
def test_errors_are_found_in_what_programs_say(stderr: str, text: str) -> None:
    assert errors.find(stderr.encode()) == text


def test_only_a_lock_that_was_waited_for_is_worth_another_try() -> None:
    waited = errors.error_for("canceling statement due to statement timeout", "dump")

    assert isinstance(waited, QuiesceError)
    assert not isinstance(errors.error_for("permission denied", "dump"), QuiesceError)


def test_a_standby_that_gave_up_on_a_dump_has_a_remedy() -> None:
    error = errors.error_for("canceling statement due to conflict with recovery", "dump")

    assert "max_standby_streaming_delay" in str(error.hint)


def test_the_start_of_a_base_backup_is_read_from_its_label() -> None:
    head = b"backup_label\0...START WAL LOCATION: 0/B00028 (file 00000001000000000000000B)\nCHECK"

    assert dumps.read_backup_label(head) == {
        "wal_start": "0/B00028",
        "wal_file": "00000001000000000000000B",
    }
    assert dumps.read_backup_label(b"") == {}
