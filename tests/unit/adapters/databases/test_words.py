# SPDX-License-Identifier: Apache-2.0
"""What servers and their clients say, as our errors."""

import io

import pytest

from snapvault.adapters.databases import mariadb, postgresql
from snapvault.adapters.databases.cage import one_line
from snapvault.adapters.databases.feeding import Dump, Said, refused

_MARIADB = b"""--------------
INSERT INTO t VALUES ('ERROR 1 (x) at line 1: not this')
--------------

ERROR 1114 (HY000) at line 12: The table 't' is full
"""


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        (
            _MARIADB,
            Said(
                "The table 't' is full (error 1114)",
                12,
                "Give the drill a scratch folder with more room.",
            ),
        ),
        (
            b"mariadb-dump: Error 2013: Lost connection when dumping table `t` at row: 7\n",
            Said("Lost connection when dumping table `t` at row: 7 (error 2013)"),
        ),
        (
            b'mariadb-dump: Got error: 1049: "Unknown database" when selecting the database\n',
            Said("'Unknown database' when selecting the database (error 1049)"),
        ),
        (b"mariadb: unknown option '--x'\n", None),
        (b"", None),
    ],
)
def test_the_last_error_of_mariadb_counts(stderr: bytes, said: Said | None) -> None:
    assert mariadb._find(stderr) == said


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        (
            b"psql:<stdin>:8: NOTICE:  nothing\npsql:<stdin>:9: ERROR:  no such thing.\nERROR:  x",
            Said("no such thing", 9),
        ),
        (
            b'ERROR:  could not open extension control file "/usr/x.control": No such file\n',
            Said(
                "could not open extension control file '/usr/x.control': No such file",
                None,
                "Install what the extension comes in.",
            ),
        ),
        (
            b'psql: error: connection to server on socket "/tmp/x" failed: FATAL:  sorry\n',
            Said("connection to server on socket '/tmp/x' failed: FATAL: sorry"),
        ),
        (b"pg_dump: error: query failed\n", Said("query failed")),
        (b"WARNING:  there is no transaction in progress\n", None),
    ],
)
def test_the_first_error_of_postgresql_counts(stderr: bytes, said: Said | None) -> None:
    assert postgresql._find(stderr) == said


def test_why_a_server_ended_is_what_it_said_first() -> None:
    log = b"[Note] starting\n[ERROR] InnoDB: disk is full.\n[ERROR] Aborting\n"

    assert mariadb._why(log) == "InnoDB: disk is full"
    assert postgresql._why(b"LOG:  x\nFATAL:  lock file exists\n") == "lock file exists"
    assert postgresql._why(b"Illegal instruction\n") == "Illegal instruction"


def test_an_error_has_its_line_and_one_line_of_words() -> None:
    words = one_line(b'  a "b"\n\tc\x1b ' + b"d" * 500)

    error = refused("pg.shop", Said(words, 3, "Try this."))

    assert str(error).startswith(
        "the scratch server refused stream \"pg.shop\" at line 3: a 'b' c? ddd"
    )
    assert str(error).endswith("d…")
    assert error.hint == "Try this."


def cut(dump: bytes) -> bool:
    opened = Dump(io.BytesIO(dump))
    assert b"".join(opened.pieces()) == dump
    return opened.is_cut()


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (b"-- MariaDB dump 10.19\n", b"\n-- Dump completed on 2026-11-20  1:30:00\n"),
        (
            b"/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19\n",
            b"\n-- Dump completed\n",
        ),
        (b"-- MySQL dump 10.13\n", b"\n-- Dump completed\n"),
        (
            b"--\n-- PostgreSQL database dump\n--\n",
            b"\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict x\n\n",
        ),
        (
            b"--\n-- PostgreSQL database cluster dump\n--\n",
            b"\n--\n-- PostgreSQL database cluster dump complete\n--\n\n",
        ),
    ],
)
def test_a_dump_of_a_program_that_writes_a_last_line_is_cut_without_it(
    first: bytes, last: bytes
) -> None:
    body = b"SELECT 1;\n" * 200_000  # more than is looked at before

    assert not cut(first + body + last)
    assert cut(first + body)
    assert not cut(body)


@pytest.mark.parametrize(
    ("head", "database"),
    [
        (b"\nCREATE DATABASE shop WITH TEMPLATE = template0;\n", "shop"),
        (b'\nCREATE DATABASE "S\xc3\xbcd "" \'x" WITH TEMPLATE = template0;\n', "Süd \" 'x"),
        (b"\nSET x = 1;\n", None),
    ],
)
def test_the_database_that_a_dump_makes_is_known(head: bytes, database: str | None) -> None:
    assert postgresql._created_by(head) == database
