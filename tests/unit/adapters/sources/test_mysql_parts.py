# SPDX-License-Identifier: Apache-2.0
"""What is told apart between MariaDB and MySQL without a server: options, rights, errors."""

import pytest

from snapvault.adapters.sources import mysql_dump, mysql_errors, mysql_grants
from snapvault.adapters.sources.mysql import _NO_POSITION, _told_history, _told_unprotected
from snapvault.adapters.sources.mysql_client import Server
from snapvault.adapters.sources.mysql_dump import DumpProgram
from snapvault.errors import QuiesceError

MARIADB = DumpProgram("mariadb-dump", is_mariadb=True, version=(10, 11, 19))
MYSQL = DumpProgram("mysqldump", is_mariadb=False, version=(8, 4, 2))
OLD_MYSQL = DumpProgram("mysqldump", is_mariadb=False, version=(5, 7, 44))


@pytest.mark.parametrize(
    ("program", "expected", "unexpected"),
    [
        (MARIADB, {"--master-data=2"}, {"--source-data=2", "--no-tablespaces"}),
        (
            MYSQL,
            {"--source-data=2", "--set-gtid-purged=COMMENTED", "--no-tablespaces"},
            {"--master-data=2"},
        ),
        (OLD_MYSQL, {"--master-data=2", "--set-gtid-purged=OFF"}, {"--source-data=2"}),
    ],
)
def test_each_program_is_asked_for_the_position_in_its_own_words(
    program: DumpProgram, expected: set[str], unexpected: set[str]
) -> None:
    arguments = program.arguments(["shop"], position=True)

    assert expected <= set(arguments)
    assert not unexpected & set(arguments)
    assert {"--single-transaction", "--skip-lock-tables", "--hex-blob"} <= set(arguments)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("mysqldump  Ver 8.4.2 for Linux on x86_64 (MySQL Community Server - GPL)", (8, 4, 2)),
        ("mysqldump  Ver 10.13 Distrib 5.7.44, for Linux (x86_64)", (5, 7, 44)),
        ("mariadb-dump  Ver 10.19 Distrib 10.11.19-MariaDB, for debian-linux-gnu", (10, 11, 19)),
        ("mariadb-dump from 11.8.3-MariaDB, client 10.19 for debian-linux-gnu", (11, 8, 3)),
    ],
)
def test_programs_tell_their_version_in_different_places(
    said: str, version: tuple[int, ...]
) -> None:
    program = mysql_dump.identify("dump", said)

    assert program.version == version
    assert program.is_mariadb == ("MariaDB" in said)


@pytest.mark.parametrize("program", [MARIADB, MYSQL, OLD_MYSQL])
def test_no_program_is_asked_for_a_position_that_is_not_there(program: DumpProgram) -> None:
    arguments = program.arguments(["shop"], position=False)

    assert not [text for text in arguments if "-data=" in text or "COMMENTED" in text]


def test_databases_are_no_options_whatever_they_are_called() -> None:
    arguments = MARIADB.arguments(["--host=evil", "b"], position=False)

    assert arguments[-4:] == ["--databases", "--", "--host=evil", "b"]


def test_the_position_of_mysql_is_read_from_the_head() -> None:
    head = (
        b"-- Host: localhost\n--\n-- GTID state at the beginning of the backup\n"
        b"-- (origin: @@global.gtid_executed)\n--\n\n"
        b"/* SET @@GLOBAL.GTID_PURGED='3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5,\n"
        b"4f22fa47-71ca-11e1-9e33-c80aa9429562:1-9';*/\n\n"
        b"-- CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE='binlog.000042', SOURCE_LOG_POS=1571;\n"
        b"\n-- Current Database: `shop`\n"
    )

    assert mysql_dump.read_position(head, b"") == {
        "binlog_file": "binlog.000042",
        "binlog_position": "1571",
        "gtid": "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5,4f22fa47-71ca-11e1-9e33-c80aa9429562:1-9",
    }


def test_the_text_of_a_procedure_is_no_position() -> None:
    head = (
        b"-- CHANGE MASTER TO MASTER_LOG_FILE='bin.1', MASTER_LOG_POS=7;\n"
        b"\n-- Current Database: `shop`\nGTID_PURGED='forged'\n"
        b"\n-- CHANGE MASTER TO MASTER_LOG_FILE='forged', MASTER_LOG_POS=8;\n"
    )
    tail = b"\n-- SET GLOBAL gtid_slave_pos='forged';\n\n-- SET GLOBAL gtid_slave_pos='0-1-9';\n"

    position = mysql_dump.read_position(b"--\n" + head, tail)

    assert position == {"binlog_file": "bin.1", "binlog_position": "7", "gtid": "0-1-9"}


@pytest.mark.parametrize(
    "end", ["-- Dump completed\n", "-- Dump completed on 2026-11-20  1:30:00\n"]
)
def test_a_dump_is_whole_when_its_last_line_says_so(end: str) -> None:
    assert mysql_dump.is_complete(b"*/;\n\n" + end.encode())


@pytest.mark.parametrize("end", ["", "-- Dump completed\nINSERT", "'\\n-- Dump completed"])
def test_a_dump_without_that_line_at_its_end_is_not_whole(end: str) -> None:
    assert not mysql_dump.is_complete(b"*/;" + end.encode())


def test_rights_on_patterns_count_for_the_databases_they_match() -> None:
    grants = mysql_grants.parse(
        [
            "GRANT USAGE ON *.* TO `u`@`h` IDENTIFIED BY PASSWORD '*D82'",
            r"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `shop\_%`.* TO `u`@`h`",
            "GRANT SELECT ON `mysql`.`proc` TO `u`@`h`",
            "GRANT SELECT (`a`), INSERT ON `other`.`t` TO `u`@`h`",
        ]
    )

    assert grants.missing_everywhere() == ["EVENT", "SELECT", "SHOW VIEW", "TRIGGER"]
    assert grants.missing_on("shop_north") == []
    assert grants.missing_on("shopXnorth") == ["EVENT", "SELECT", "SHOW VIEW", "TRIGGER"]
    assert grants.sees_routines(mariadb=True)
    assert not grants.sees_routines(mariadb=False)
    assert grants.tables["other", "t"] == {"INSERT"}
    assert not grants.has_roles


@pytest.mark.parametrize("role", ["GRANT `backup` TO `u`@`h`", "GRANT `backup`@`%` TO `u`@`h`"])
def test_a_role_may_bring_more(role: str) -> None:
    assert mysql_grants.parse([role]).has_roles


def test_all_privileges_are_all() -> None:
    grants = mysql_grants.parse(
        ["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"]
    )

    assert grants.missing_everywhere() == []
    assert grants.sees_position()


@pytest.mark.parametrize(
    ("stderr", "code", "text"),
    [
        (b"ERROR 1045 (28000): Access denied for user 'u'", 1045, "Access denied for user 'u'"),
        (b"ERROR 1205 (HY000) at line 1: Lock wait timeout.", 1205, "Lock wait timeout"),
        (
            b"mysqldump: Got error: 1049: Unknown database 'x' when selecting the database",
            1049,
            "Unknown database 'x' when selecting the database",
        ),
        (
            b"mysqldump: Error 2013: Lost connection to server when dumping table `t` at row: 7\n",
            2013,
            "Lost connection to server when dumping table `t` at row: 7",
        ),
        (
            b"mysqldump: Couldn't execute 'SHOW FIELDS FROM `v`': View is broken (1356)\n",
            1356,
            "Couldn't execute 'SHOW FIELDS FROM `v`': View is broken",
        ),
    ],
)
def test_errors_are_found_in_what_programs_say(stderr: bytes, code: int, text: str) -> None:
    assert mysql_errors.find(b"--------------\nselect 1\n--------------\n\n" + stderr) == (
        code,
        text,
    )


def test_only_a_lock_that_was_waited_for_is_worth_another_try() -> None:
    assert isinstance(mysql_errors.error_for(1205, "x", "do", "it"), QuiesceError)
    assert not isinstance(mysql_errors.error_for(1045, "x", "do", "it"), QuiesceError)


@pytest.mark.parametrize(
    ("version", "label"),
    [("10.11.19-MariaDB-0+deb12u1-log", "MariaDB 10.11.19"), ("8.4.2", "MySQL 8.4.2")],
)
def test_a_server_is_called_by_flavor_and_version(version: str, label: str) -> None:
    assert Server(version, "u@h", binary_log=True).label == label


def test_what_is_told_behind_the_name_of_the_source_does_not_name_it_again() -> None:
    told = [_NO_POSITION, _told_history(["shop.prices"]), _told_unprotected(["shop.visits"])]

    assert [text for text in told if 'source "' in text] == []
