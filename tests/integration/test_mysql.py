# SPDX-License-Identifier: Apache-2.0
"""Databases of a real MariaDB server, dumped while it works, and loaded into another one."""

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault.adapters.sources.dump_names import Naming
from snapvault.adapters.sources.mysql import MysqlSource
from snapvault.adapters.sources.mysql_quiesce import MysqlLvmSource, MysqlQuiesce
from snapvault.errors import QuiesceError, SnapVaultError, SourceError
from snapvault.model.policy import MysqlSpec
from snapvault.ports.source import Consistency, Finding
from tests.support.database_server import locked_by
from tests.support.interrupted import InterruptedSource, kill_child
from tests.support.mariadb import (
    ACCOUNT,
    DUMP_GRANTS,
    LOCK_GRANTS,
    SHOP_GRANTS,
    LedgerWriter,
    MariadbServer,
    table_lock,
)
from tests.support.qemu import until
from tests.support.sources import MemoryDiskSource
from tests.support.vaults import VaultKit

pytestmark = pytest.mark.integration

# Everything that a dump can lose: code, views, keys, binary and odd characters, computed columns.
SHOP = """
SET NAMES utf8mb4;
CREATE DATABASE shop CHARACTER SET utf8mb4; USE shop;
CREATE TABLE customers (
    id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(60) NOT NULL, photo LONGBLOB,
    born DATETIME(6), seen TIMESTAMP NOT NULL DEFAULT '2026-03-29 01:30:00', balance DECIMAL(12,4),
    upper_name VARCHAR(60) AS (UPPER(name)) STORED, twice DECIMAL(13,4) AS (balance * 2) VIRTUAL,
    kind ENUM('new', 'ölig') DEFAULT 'new', settings JSON, flags BIT(5), UNIQUE (name)
) ENGINE=InnoDB;
INSERT INTO customers (name, photo, born, balance, settings, flags) VALUES
    ('O''Neill \\\\ "x" 🦀 ß', x'00ff0a5c27221a0d', '2026-11-20 01:30:00.123456', -1.5,
     '{"a": [1]}', 5),
    ('line\\nbreak\\ttab', NULL, NULL, NULL, NULL, NULL);
INSERT INTO customers (name, photo) SELECT CONCAT('customer ', seq), UNHEX(SHA2(seq, 512))
    FROM seq_1_to_800;
CREATE TABLE orders (
    id BIGINT UNSIGNED PRIMARY KEY, customer INT NOT NULL, total DOUBLE,
    FOREIGN KEY (customer) REFERENCES customers (id) ON DELETE CASCADE
) ENGINE=InnoDB;
INSERT INTO orders SELECT seq, seq MOD 800 + 1, seq / 7 FROM seq_1_to_800;
CREATE TABLE `a ``strange`` name` (v INT, w INT, KEY (v)) ENGINE=InnoDB
    PARTITION BY HASH (w) PARTITIONS 3;
INSERT INTO `a ``strange`` name` SELECT seq * 7919 MOD 1009, seq FROM seq_1_to_500;
CREATE SEQUENCE numbers START WITH 100; SELECT NEXTVAL(numbers);
CREATE VIEW good_orders AS
    SELECT c.name, o.total FROM orders o JOIN customers c ON c.id = o.customer;
DELIMITER //
CREATE PROCEDURE raise_all(IN percent INT) COMMENT 'häufig'
BEGIN
-- SET GLOBAL gtid_slave_pos='6-6-6';
UPDATE orders SET total = total * (1 + percent / 100); END //
CREATE FUNCTION one() RETURNS INT DETERMINISTIC RETURN 1 //
CREATE TRIGGER no_debts BEFORE INSERT ON orders FOR EACH ROW SET NEW.total = ABS(NEW.total) //
CREATE EVENT clean_up ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00'
    DO DELETE FROM orders WHERE total < 0 //
DELIMITER ;
"""

# More than all buffers between a server and us hold.
LARGE = """
CREATE DATABASE large; USE large;
CREATE TABLE a_first (id INT PRIMARY KEY, note VARCHAR(250)) ENGINE=InnoDB;
INSERT INTO a_first SELECT seq, REPEAT(MD5(seq), 7) FROM seq_1_to_25000;
CREATE TABLE z_last (id INT PRIMARY KEY, v INT) ENGINE=InnoDB;
INSERT INTO z_last SELECT seq, seq FROM seq_1_to_10;
"""


@pytest.fixture(scope="module")
def running() -> Iterator[MariadbServer]:
    with MariadbServer() as server:
        yield server


@pytest.fixture
def server(running: MariadbServer) -> Iterator[MariadbServer]:
    yield running
    sessions = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'snapvault'"
    for _ in until():
        if running.value(sessions) == "0":
            break
    running.reset()


@pytest.fixture
def other() -> Iterator[MariadbServer]:
    with MariadbServer(binary_log=False) as server:
        yield server


@pytest.fixture
def kit(tmp_path: Path) -> VaultKit:
    return VaultKit(tmp_path, volume_size=4 << 20)


def source_of(
    server: MariadbServer,
    kit: VaultKit,
    *databases: str,
    per_database: bool = False,
    lock_timeout: float = 60,
    grants: tuple[str, ...] = DUMP_GRANTS,
) -> MysqlSource:
    """Return a source over a server whose account has these grants alone."""
    spec = MysqlSpec(
        server.create_account(*grants),
        databases,
        per_database,
        lock_timeout=timedelta(seconds=lock_timeout),
    )
    return MysqlSource("db01", spec, naming=Naming("mysql", "mysql."), events=kit.events)


def quiesce_of(
    server: MariadbServer, *, lock_timeout: float = 60, grants: tuple[str, ...] = LOCK_GRANTS
) -> MysqlQuiesce:
    timeout = timedelta(seconds=lock_timeout)
    return MysqlQuiesce(MysqlSpec(server.create_account(*grants), lock_timeout=timeout))


def failure(kit: VaultKit, source: MysqlSource | InterruptedSource) -> SnapVaultError:
    """Back up, see it fail in one line without a restore point, and return why."""
    with pytest.raises(SnapVaultError) as caught:
        kit.night(source)
    assert not kit.inventory().of(source.name)
    assert "\n" not in str(caught.value)
    assert not str(caught.value).endswith(".")
    assert caught.value.hint is None or caught.value.hint.endswith((".", "root."))
    return caught.value


def findings(source: MysqlSource | MysqlQuiesce) -> dict[str, Finding]:
    return {finding.check: finding for finding in source.check()}


# --- backup and restore ---------------------------------------------------------------------


def test_a_server_that_is_written_to_comes_back_as_it_was_at_one_moment(
    server: MariadbServer, other: MariadbServer, kit: VaultKit
) -> None:
    server.run(SHOP)
    server.run(LedgerWriter.SCHEMA)
    source = InterruptedSource(source_of(server, kit))
    first_transaction = int(server.value("SELECT @@gtid_binlog_pos").rpartition("-")[2])

    with LedgerWriter(server) as writer:
        before = writer.done
        source = InterruptedSource(source_of(server, kit), lambda: writer.wait_for(20))
        first_transaction += 2  # the account was created again, and the privileges granted
        held = kit.night(source)
        during = writer.done - before
    other.run(kit.restored(held.point)["mysql"])

    assert during >= 20
    assert source.outcome is not None
    assert source.outcome.consistency is Consistency.APPLICATION
    assert other.contents("shop") == server.contents("shop")
    assert len(other.contents("shop")) == 9
    assert other.value("SELECT SUM(amount) FROM bank.accounts") == "5000"
    rows = int(other.value("SELECT COUNT(*) FROM bank.ledger"))
    assert other.value("SELECT MAX(id) FROM bank.ledger") == str(rows)
    assert rows < writer.done
    facts = source.outcome.facts["mysql"]
    assert facts["server"].startswith("MariaDB 1")
    assert facts["gtid"] == f"0-1-{first_transaction + rows}"
    assert re.fullmatch(r"binlog\.\d{6}", facts["binlog_file"])
    assert facts["binlog_position"].isdigit()
    # Users and grants come back too.
    granted = f"SHOW GRANTS FOR {ACCOUNT}"
    assert other.run(f"FLUSH PRIVILEGES; {granted}") == server.run(granted)
    assert kit.events.warnings == []


def test_a_second_night_costs_what_changed(server: MariadbServer, kit: VaultKit) -> None:
    server.run(LARGE)
    source = source_of(server, kit, "large")
    first = kit.night(source)
    server.run(
        "UPDATE large.a_first SET note = 'changed' WHERE id IN (7, 15000, 24999);"
        "DELETE FROM large.a_first WHERE id = 100; INSERT INTO large.a_first VALUES (60000, 'new')"
    )

    second = kit.night(source)

    # Besides the four places, each statement of a megabyte now begins at another row.
    assert second.point.streams[0].size > 5_000_000
    assert second.point.counters["changed_bytes"] < 40_000
    assert kit.restored(first.point) != kit.restored(second.point)


def test_two_dumps_of_one_state_are_equal(server: MariadbServer, kit: VaultKit) -> None:
    server.run(SHOP)
    source = source_of(server, kit, "shop")

    dumps = [kit.restored(kit.night(source).point)["mysql"] for _ in range(2)]

    assert dumps[0] == dumps[1]


def test_rows_come_by_primary_key_though_another_index_covers_them(
    server: MariadbServer, kit: VaultKit
) -> None:
    server.run(
        "CREATE DATABASE shop; CREATE TABLE shop.pairs (id INT PRIMARY KEY, v INT, KEY (v));"
        "USE shop; INSERT INTO pairs SELECT seq, 1000 - seq FROM seq_1_to_1000"
    )

    held = kit.night(source_of(server, kit, "shop"))

    rows = re.findall(rb"\((\d+),\d+\)", kit.restored(held.point)["mysql"])
    assert rows == [b"%d" % number for number in range(1, 1001)]


def test_each_database_is_a_stream_whatever_its_name(
    server: MariadbServer, other: MariadbServer, kit: VaultKit
) -> None:
    server.run(SHOP)
    for name in ("Süd``west`x", "-rf", "a\tb", "Shop"):
        quoted = name.replace("`", "``")
        server.run(f"CREATE DATABASE `{quoted}`; CREATE TABLE `{quoted}`.t AS SELECT 1 AS id")
    source = InterruptedSource(source_of(server, kit, per_database=True))

    held = kit.night(source)
    dumps = kit.restored(held.point)
    for dump in dumps.values():
        other.run(dump)

    assert source.outcome is not None
    real = {facts["database"]: name for name, facts in source.outcome.facts.items()}
    assert set(real) == {"mysql", "shop", "Süd``west`x", "-rf", "a\tb", "Shop"}
    assert set(real.values()) == set(dumps)
    assert real["shop"] == "mysql.shop"
    assert re.fullmatch(r"mysql\.rf-[0-9a-f]{8}", real["-rf"])
    assert re.fullmatch(r"mysql\.shop-[0-9a-f]{8}", real["Shop"])
    assert other.contents("shop") == server.contents("shop")
    assert other.value("SELECT id FROM `Süd````west``x`.t") == "1"


def test_named_databases_are_dumped_and_no_others(
    server: MariadbServer, other: MariadbServer, kit: VaultKit
) -> None:
    server.run(f"CREATE DATABASE stays; CREATE DATABASE second; {SHOP}")

    held = kit.night(source_of(server, kit, "shop", "second"))
    other.run(kit.restored(held.point)["mysql"])

    there = other.value(
        "SELECT GROUP_CONCAT(schema_name ORDER BY 1) FROM information_schema.schemata"
    )
    assert there == "information_schema,mysql,performance_schema,second,shop,sys"
    assert other.contents("shop") == server.contents("shop")


def test_grants_on_single_databases_are_enough_for_them(
    server: MariadbServer, kit: VaultKit
) -> None:
    server.run(SHOP)

    held = kit.night(source_of(server, kit, "shop", grants=SHOP_GRANTS))

    assert b"PROCEDURE `raise_all`" in kit.restored(held.point)["mysql"]


def test_tables_that_keep_their_history_come_back_with_it(
    server: MariadbServer, other: MariadbServer, kit: VaultKit
) -> None:
    server.run(
        "CREATE DATABASE shop; USE shop;"
        "CREATE TABLE prices (id INT PRIMARY KEY, price INT) WITH SYSTEM VERSIONING;"
        "INSERT INTO prices VALUES (1, 10), (2, 20); UPDATE prices SET price = 11 WHERE id = 1;"
        "DELETE FROM prices WHERE id = 2"
    )
    source = source_of(server, kit, "shop")

    dumps = [kit.restored(kit.night(source).point)["mysql"] for _ in range(2)]
    other.run(dumps[0])

    history = (
        "SELECT id, price, row_start, row_end FROM shop.prices FOR SYSTEM_TIME ALL ORDER BY 1, 2"
    )
    assert other.run(history) == server.run(history)
    assert len(server.run(history).splitlines()) == 3
    assert dumps[0] == dumps[1]
    assert kit.events.warnings == []


def test_history_that_a_dump_cannot_hold_is_told(server: MariadbServer, kit: VaultKit) -> None:
    server.run(
        "CREATE DATABASE shop; CREATE TABLE shop.prices (id INT PRIMARY KEY,"
        "a BIGINT UNSIGNED GENERATED ALWAYS AS ROW START,"
        "b BIGINT UNSIGNED GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (a, b)"
        ") WITH SYSTEM VERSIONING ENGINE=InnoDB; INSERT INTO shop.prices (id) VALUES (1)"
    )
    source = source_of(server, kit, "shop")

    held = kit.night(source)

    assert held.point.streams[0].size > 0
    assert len(kit.events.warnings) == 1
    assert '"shop.prices"' in kit.events.warnings[0]
    assert "history" in findings(source)


@pytest.mark.parametrize("per_database", [True, False])
def test_the_folder_of_a_file_system_is_no_database(
    server: MariadbServer, kit: VaultKit, *, per_database: bool
) -> None:
    (server.data / "lost+found").mkdir(mode=0o700)

    try:
        held = kit.night(source_of(server, kit, per_database=per_database))
    finally:
        (server.data / "lost+found").rmdir()

    dumps = kit.restored(held.point)
    assert set(dumps) == {"mysql.mysql" if per_database else "mysql"}
    assert not [dump for dump in dumps.values() if b"lost+found" in dump]


def test_grants_are_read_however_the_server_quotes_names(
    server: MariadbServer, kit: VaultKit
) -> None:
    server.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT)")
    source = source_of(server, kit, "shop", grants=SHOP_GRANTS)
    server.run("SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'")
    server.run("SET GLOBAL sql_quote_show_create = 0")

    try:
        held = kit.night(source)
    finally:
        server.run("SET GLOBAL sql_mode = DEFAULT; SET GLOBAL sql_quote_show_create = DEFAULT")

    assert b"CREATE TABLE `t`" in kit.restored(held.point)["mysql"]


def test_a_row_may_be_as_large_as_the_server_allows(kit: VaultKit) -> None:
    with MariadbServer(options=["--max-allowed-packet=256M"]) as server:
        server.run(
            "CREATE DATABASE large; CREATE TABLE large.t (id INT PRIMARY KEY, b LONGBLOB);"
            "INSERT INTO large.t VALUES (1, REPEAT('0123456789', 3 * 1024 * 1024))"
        )

        held = kit.night(source_of(server, kit, "large"))

    assert held.point.streams[0].size > 2 * 30 << 20  # in hexadecimal


def test_a_server_without_a_binary_log_is_dumped_without_a_position(
    other: MariadbServer, kit: VaultKit
) -> None:
    other.run(SHOP)
    source = InterruptedSource(source_of(other, kit, "shop"))

    kit.night(source)

    assert source.outcome is not None
    counted = {"tables", "rows", "tables_digest"}
    assert set(source.outcome.facts["mysql"]) == {"server", "database"} | counted
    assert kit.events.warnings == []


def test_tables_without_transactions_are_named_and_weaken_the_point(
    server: MariadbServer, kit: VaultKit
) -> None:
    server.run(
        "CREATE DATABASE old; CREATE TABLE old.visits (id INT) ENGINE=MyISAM;"
        "CREATE TABLE old.log (id INT) ENGINE=Aria; CREATE TABLE old.fine (id INT) ENGINE=InnoDB"
    )
    source = InterruptedSource(source_of(server, kit, "old"))

    kit.night(source)

    assert source.outcome is not None
    assert source.outcome.consistency is Consistency.CRASH
    assert len(kit.events.warnings) == 1
    assert '"old.log", "old.visits"' in kit.events.warnings[0]
    assert "fine" not in kit.events.warnings[0]


# --- faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT"])
def test_a_missing_right_is_named_before_anything_is_left_out(
    server: MariadbServer, kit: VaultKit, missing: str
) -> None:
    server.run(SHOP)
    held = ", ".join({"SELECT", "SHOW VIEW", "TRIGGER", "EVENT"} - {missing})
    grants = (f"GRANT {held} ON *.* TO {ACCOUNT}", f"GRANT SELECT ON mysql.* TO {ACCOUNT}")

    error = failure(kit, source_of(server, kit, grants=grants))

    assert f'account "snapvault@localhost" lacks {missing} on *.*' in str(error)
    assert error.hint is not None
    assert f"GRANT {missing} ON *.* TO 'snapvault'@'localhost'" in error.hint


def test_routines_that_would_be_left_out_are_a_missing_right(
    server: MariadbServer, kit: VaultKit
) -> None:
    server.run(SHOP)
    grants = (f"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON shop.* TO {ACCOUNT}",)

    error = failure(kit, source_of(server, kit, "shop", grants=grants))

    assert "lacks SELECT on mysql.proc" in str(error)


def test_a_wrong_password_is_told_without_it(server: MariadbServer, kit: VaultKit) -> None:
    source = source_of(server, kit)
    path = server.option_file(password="tell-nobody")

    error = failure(kit, source)
    server.option_file()
    held = kit.night(source)

    assert held.point.streams[0].size > 0
    assert "Access denied for user 'snapvault'@'localhost'" in str(error)
    assert "tell-nobody" not in f"{error} {error.hint}"
    assert error.hint == f'Correct user and password in option file "{path}".'


def test_a_server_that_is_not_there_is_told(kit: VaultKit, tmp_path: Path) -> None:
    options = tmp_path / "my.cnf"
    options.write_text(f"[client]\nsocket={tmp_path}/none\n")
    spec = MysqlSpec(options)

    error = failure(kit, MysqlSource("db01", spec, naming=Naming("mysql"), events=kit.events))

    assert str(error).startswith("could not connect to the server: Can't connect")
    assert "Start the server" in str(error.hint)


@pytest.mark.parametrize(("mode", "told"), [(None, "no such file"), (0o666, "is ignored")])
def test_an_option_file_that_nobody_reads_is_told(
    kit: VaultKit, tmp_path: Path, mode: int | None, told: str
) -> None:
    options = tmp_path / "my.cnf"
    if mode is not None:
        options.touch()
        options.chmod(mode)
    source = MysqlSource("db01", MysqlSpec(options), naming=Naming("mysql"), events=kit.events)

    error = failure(kit, source)

    assert told in str(error)
    assert f'option file "{options}"' in str(error)


def test_an_unknown_database_is_told_with_the_nearest(server: MariadbServer, kit: VaultKit) -> None:
    server.run(SHOP)

    error = failure(kit, source_of(server, kit, "shpo"))

    assert 'database "shpo" is not there' in str(error)
    assert error.hint == 'The nearest is "shop".'


def test_a_server_that_dies_in_the_middle_is_told_and_the_next_run_works(kit: VaultKit) -> None:
    with MariadbServer() as server:
        server.run(LARGE)
        source = source_of(server, kit, "large")

        error = failure(kit, InterruptedSource(source, server.kill))
        server.start()
        held = kit.night(source)

    assert 'could not dump stream "mysql": Lost connection' in str(error)
    assert "`a_first`" in str(error)
    assert held.point.streams[0].size > 5_000_000


def test_a_killed_connection_is_told(server: MariadbServer, kit: VaultKit) -> None:
    server.run(LARGE)

    error = failure(
        kit,
        InterruptedSource(
            source_of(server, kit, "large"), lambda: server.run("KILL USER snapvault")
        ),
    )

    assert "could not dump stream" in str(error)
    assert "server's log" in str(error.hint)


def test_a_killed_dump_is_told_and_the_next_run_works(server: MariadbServer, kit: VaultKit) -> None:
    server.run(LARGE)
    source = source_of(server, kit, "large")

    error = failure(kit, InterruptedSource(source, lambda: kill_child("mariadb-dump")))
    held = kit.night(source)

    assert str(error) == 'program "mariadb-dump" was killed by SIGKILL'
    assert held.point.streams[0].size > 5_000_000


def test_a_dump_that_ends_early_and_says_all_is_well_is_not_believed(
    server: MariadbServer, kit: VaultKit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.run(SHOP)
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "mariadb-dump"
    fake.write_text('#!/bin/sh\n/usr/bin/mariadb-dump "$@" | head -c 5000\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")

    error = failure(kit, source_of(server, kit, "shop"))

    assert str(error) == 'the dump of stream "mysql" ended without its last line'


def test_a_table_that_is_locked_for_too_long_is_told_with_its_name(
    server: MariadbServer, kit: VaultKit
) -> None:
    server.run(LARGE)
    source = source_of(server, kit, "large", lock_timeout=2)

    with table_lock(server, "large.z_last"):
        error = failure(kit, source)
    held = kit.night(source)

    assert isinstance(error, QuiesceError)
    assert 'lock of table "z_last"' in str(error)
    assert "LOCK TABLES" in str(error.hint)
    assert held.point.streams[0].size > 5_000_000


def test_a_slow_dump_that_waits_for_no_lock_goes_on(server: MariadbServer, kit: VaultKit) -> None:
    server.run(
        "CREATE DATABASE slow; CREATE TABLE slow.t (id INT PRIMARY KEY);"
        "INSERT INTO slow.t VALUES (1), (2), (3);"
        "CREATE TABLE slow.u (id INT PRIMARY KEY, v INT AS (id) VIRTUAL)"
    )
    source = source_of(server, kit, "slow", lock_timeout=1)

    held = kit.night(source)

    assert b"INSERT INTO `t`" in kit.restored(held.point)["mysql"]


def test_a_dump_goes_on_though_nobody_can_look_what_it_waits_for(
    server: MariadbServer, kit: VaultKit
) -> None:
    server.run("CREATE DATABASE slow; CREATE TABLE slow.t (id INT PRIMARY KEY)")
    server.run("INSERT INTO slow.t VALUES (1)")
    source = source_of(server, kit, "slow", lock_timeout=2)
    # One of our sessions may still be counted for a moment after its end.
    server.run(f"ALTER USER {ACCOUNT} WITH MAX_USER_CONNECTIONS 2")
    ours = ["mariadb", f"--defaults-file={server.folder}/snapvault.cnf"]
    ours += ["--batch", "--skip-column-names", "--unbuffered"]

    with ThreadPoolExecutor() as pool:
        with table_lock(server, "slow.t"):
            night = pool.submit(kit.night, source)

            def await_sessions(which: str, seconds: int) -> None:
                query = f"state LIKE 'Waiting for%' AND time >= {seconds} ORDER BY 1 DESC"
                query = f"SELECT GROUP_CONCAT({query}) FROM information_schema.processlist"
                for _ in until():
                    if night.done() or server.value(f"{query} WHERE user = 'snapvault'") == which:
                        break

            await_sessions("1", 0)
            with locked_by(ours, "DO 1"):  # the second that there may be
                await_sessions("1,0", 3)
        held = night.result()

    assert b"INSERT INTO `t`" in kit.restored(held.point)["mysql"]


def test_a_table_that_is_altered_meanwhile_is_told(server: MariadbServer, kit: VaultKit) -> None:
    server.run(LARGE)

    def alter() -> None:
        server.run("ALTER TABLE large.z_last ADD COLUMN w INT, ALGORITHM=COPY")

    error = failure(kit, InterruptedSource(source_of(server, kit, "large"), alter))

    assert "Table definition has changed" in str(error)
    assert error.hint is not None
    assert "altered or dropped meanwhile" in error.hint


def test_a_dump_that_takes_too_long_is_ended(server: MariadbServer, kit: VaultKit) -> None:
    server.run(LARGE)
    spec = MysqlSpec(server.create_account(*DUMP_GRANTS), timeout=timedelta(milliseconds=1))

    error = failure(kit, MysqlSource("db01", spec, naming=Naming("mysql"), events=kit.events))

    assert "ran out of time" in str(error)


# --- the doctor -----------------------------------------------------------------------------


def test_the_doctor_finds_a_good_server_good(server: MariadbServer, kit: VaultKit) -> None:
    server.run(SHOP)

    found = findings(source_of(server, kit))

    assert all(finding.error is None and finding.remedy is None for finding in found.values())
    assert set(found) == {"server", "program", "databases", "binary log"}
    assert 'answers as "snapvault@localhost"' in found["server"].message


def test_the_doctor_tells_what_could_be_better(other: MariadbServer, kit: VaultKit) -> None:
    other.run("CREATE DATABASE old; CREATE TABLE old.visits (id INT) ENGINE=MyISAM")
    source = source_of(other, kit)
    other.option_file().chmod(0o644)

    found = findings(source)

    assert all(finding.error is None for finding in found.values())
    remedies = {name for name, finding in found.items() if finding.remedy}
    assert remedies == {"option file", "binary log", "engines"}


def test_the_doctor_tells_what_a_backup_would_fail_at(server: MariadbServer, kit: VaultKit) -> None:
    assert findings(source_of(server, kit, "none"))["databases"].error is not None
    assert findings(source_of(server, kit, grants=()))["databases"].error is not None
    source = source_of(server, kit)
    server.option_file(password="wrong")
    assert findings(source)["server"].error is not None


# --- the read lock --------------------------------------------------------------------------


def can_write(server: MariadbServer, *, within: int = 60) -> bool:
    """Tell whether a row can be written, giving up after so many seconds."""
    tried = subprocess.run(
        server.client(),
        input=b"SET lock_wait_timeout = %d; INSERT INTO bank.ledger VALUES (-1, 'x');"
        b"DELETE FROM bank.ledger WHERE id = -1" % within,
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


def test_writers_wait_only_while_the_lock_is_held(server: MariadbServer) -> None:
    server.run(LedgerWriter.SCHEMA)
    quiesce = quiesce_of(server)

    with LedgerWriter(server) as writer:
        with quiesce() as consistency:
            rows = server.value("SELECT COUNT(*) FROM bank.ledger")
            gtid = server.value("SELECT @@gtid_binlog_pos")
            held = can_write(server, within=1)
            rows_later = server.value("SELECT COUNT(*) FROM bank.ledger")
        writer.wait_for(20)

    assert consistency is Consistency.APPLICATION
    assert not held
    assert rows == rows_later
    assert quiesce.facts["gtid"] == gtid
    assert set(quiesce.facts) == {"server", "binlog_file", "binlog_position", "gtid"}


def test_the_lock_is_given_back_when_the_snapshot_fails(server: MariadbServer) -> None:
    server.run(LedgerWriter.SCHEMA)

    with pytest.raises(SourceError, match="no free extents"), quiesce_of(server)():
        raise SourceError("no free extents")

    assert can_write(server)


def test_the_facts_of_the_lock_are_those_of_the_disks(server: MariadbServer, kit: VaultKit) -> None:
    server.run(LedgerWriter.SCHEMA)
    quiesce = quiesce_of(server)

    class Held(MemoryDiskSource):
        def open(self, marks: object = None) -> object:  # type: ignore[override]  # any marks
            with quiesce():
                return super().open()

    source = MysqlLvmSource(Held("db01", {"data": b"x" * 512}), quiesce)  # type: ignore[arg-type]  # see above
    view = source.open()
    outcome = view.finish()
    view.close()

    assert outcome.facts["data"]["gtid"] == server.value("SELECT @@gtid_binlog_pos")


def test_a_lock_that_is_not_to_be_had_in_time_is_told_with_who_is_in_the_way(
    server: MariadbServer,
) -> None:
    server.run(LedgerWriter.SCHEMA)
    grants = (*LOCK_GRANTS, "GRANT PROCESS ON *.* TO {account}")
    quiesce = quiesce_of(server, lock_timeout=1, grants=grants)
    slow = subprocess.Popen(
        server.client(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert slow.stdin is not None
    assert slow.stdout is not None
    # An update that is at work holds off the lock.
    slow.stdin.write(
        b"SELECT CONNECTION_ID(); UPDATE bank.accounts SET amount = amount + SLEEP(100);\n"
    )
    slow.stdin.flush()
    number = slow.stdout.readline().decode().strip()
    at_work = f"SELECT state FROM information_schema.processlist WHERE id = {number}"
    try:
        for _ in until():
            if server.value(at_work) == "User sleep":
                break
        with pytest.raises(QuiesceError) as caught, quiesce():
            pass
    finally:
        server.run(f"KILL {number}")
        slow.communicate()

    assert "could not lock the tables: Lock wait timeout exceeded" in str(caught.value)
    assert f'connection {number} of user "root" has been running UPDATE' in str(caught.value)
    assert caught.value.retryable
    assert can_write(server)


def test_a_lock_behind_a_forgotten_session_is_told(server: MariadbServer) -> None:
    server.run(LedgerWriter.SCHEMA)

    with (
        table_lock(server, "bank.ledger"),
        pytest.raises(QuiesceError, match="could not lock the tables") as caught,
        quiesce_of(server, lock_timeout=1)(),
    ):
        pass

    assert "LOCK TABLES" in str(caught.value.hint)
    assert can_write(server)


def test_a_lock_that_was_lost_fails_the_snapshot(server: MariadbServer) -> None:
    server.run(LedgerWriter.SCHEMA)

    with pytest.raises(QuiesceError, match="was lost before"), quiesce_of(server)():
        server.run("KILL USER snapvault")

    assert can_write(server)


def test_a_lock_is_given_back_by_the_server_when_our_client_dies(server: MariadbServer) -> None:
    server.run(LedgerWriter.SCHEMA)

    with pytest.raises(QuiesceError, match="was lost before"), quiesce_of(server)():
        kill_child("mariadb")

    assert can_write(server)


def test_a_lock_is_held_for_no_longer_than_its_limit(server: MariadbServer) -> None:
    server.run(LedgerWriter.SCHEMA)

    with pytest.raises(QuiesceError, match="was lost before"), quiesce_of(server, lock_timeout=1)():
        # Waits until the server gives up on us.
        server.run("SET lock_wait_timeout = 60; INSERT INTO bank.ledger VALUES (-2, 'x')")

    assert can_write(server)


@pytest.mark.parametrize("grants", [(), DUMP_GRANTS])
def test_an_account_that_may_not_lock_is_told(
    server: MariadbServer, grants: tuple[str, ...]
) -> None:
    quiesce = quiesce_of(server, grants=grants)

    with pytest.raises(QuiesceError, match=r"could not lock the tables: .*RELOAD"), quiesce():
        pass

    assert findings(quiesce)["lock"].error is not None
    assert findings(quiesce_of(server))["lock"].error is None
