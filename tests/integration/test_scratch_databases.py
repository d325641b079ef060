# SPDX-License-Identifier: Apache-2.0
"""Dumps of real servers, loaded into private ones that nobody else can reach."""

import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault.adapters.databases.mariadb import MariadbServers
from snapvault.adapters.databases.postgresql import PostgresqlServers
from snapvault.adapters.sources.dump_names import Naming
from snapvault.adapters.sources.mysql import MysqlSource
from snapvault.adapters.sources.postgresql import PostgresqlSource
from snapvault.errors import DrillError
from snapvault.formats import table_facts
from snapvault.model.policy import MysqlSpec
from snapvault.model.tables import TableFacts
from snapvault.ports.scratch_database import ScratchDatabase, ScratchDatabases
from snapvault.ports.source import DiskStream, Outcome, Source
from tests.support import mariadb, postgresql
from tests.support.events import RecordedEvents
from tests.support.mariadb import MariadbServer
from tests.support.postgresql import PostgresqlServer

pytestmark = pytest.mark.integration

Loaded = tuple[ScratchDatabase, Mapping[str, Mapping[str, TableFacts]]]

_SECONDS = timedelta(seconds=60)


@contextmanager
def started(servers: ScratchDatabases) -> Iterator[ScratchDatabase]:
    """Start a scratch server below a folder that only we may enter."""
    above = Path(tempfile.mkdtemp(prefix="svd-", dir="/tmp"))
    (above / "own").mkdir(mode=0o700)
    server = servers.start(above / "own")
    try:
        yield server
    finally:
        server.close()
        assert list(above.iterdir()) == []
        above.rmdir()


@pytest.fixture(scope="module")
def mariadb_server() -> Iterator[MariadbServer]:
    with MariadbServer(options=["--default-time-zone=+03:00"]) as server:
        yield server


@pytest.fixture(scope="module")
def postgresql_server() -> Iterator[PostgresqlServer]:
    with PostgresqlServer(options=["timezone=Asia/Tokyo"]) as server:
        yield server


def dumped(source: Source) -> tuple[dict[str, bytes], Outcome]:
    """Return every stream of a source, and what it says of them."""
    view = source.open()
    try:
        found = {}
        for stream in view.streams:
            assert not isinstance(stream, DiskStream)
            with stream.open() as readable:
                found[stream.name] = b"".join(iter(lambda: readable.read(1 << 20), b""))
        return found, view.finish()
    finally:
        view.close()


def load(
    server: ScratchDatabase, dumps: Mapping[str, bytes], outcome: Outcome
) -> dict[str, Mapping[str, TableFacts]]:
    """Load all streams, as a drill does; return what was in them, as it was at the backup."""
    found: dict[str, Mapping[str, TableFacts]] = {}
    for name, dump in dumps.items():
        facts = outcome.facts[name]
        makes_its_own = facts.get("creates_database", "yes") == "yes"
        database = None if makes_its_own else facts["database"]
        tables = server.load(io.BytesIO(dump), name, database)
        assert tables is not None
        if "database" in facts or name == "mysql":
            assert table_facts.decode(facts) == table_facts.summarize(tables)
        found.update(tables)
    return found


def refusal(server: ScratchDatabase, dump: bytes, database: str | None = None) -> DrillError:
    with pytest.raises(DrillError) as caught:
        server.load(io.BytesIO(dump), "db", database)
    assert "\n" not in str(caught.value)
    return caught.value


# --- MariaDB --------------------------------------------------------------------------------

SHOP = r"""
SET NAMES utf8mb4;
CREATE DATABASE shop CHARACTER SET utf8mb4; USE shop;
CREATE TABLE customers (
    id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(60) NOT NULL, photo LONGBLOB, ratio FLOAT,
    born DATETIME(6), seen TIMESTAMP NOT NULL DEFAULT '2026-03-29 01:30:00', total DOUBLE,
    upper_name VARCHAR(60) AS (UPPER(name)) STORED, flags BIT(5), UNIQUE (name)
);
INSERT INTO customers (name, photo, born, ratio, total, flags) VALUES
    ('O''Neill \\ "x" 🦀 ß', x'00ff0a5c27221a0d', '2026-11-20 01:30:00.123456', -1.5, 1/3, 5),
    ('line\nbreak),\n(;\n', NULL, NULL, NULL, NULL, NULL);
INSERT INTO customers (name, photo) SELECT CONCAT('customer ', seq), UNHEX(SHA2(seq, 512))
    FROM seq_1_to_800;
CREATE TABLE empty (v INT);
CREATE TABLE `a ``strange``; name ü` (v INT, w VARCHAR(300), KEY (v)) PARTITION BY HASH (v)
    PARTITIONS 3;
INSERT INTO `a ``strange``; name ü` SELECT seq * 7919 MOD 1009, REPEAT('x', seq MOD 300)
    FROM seq_1_to_500;
CREATE VIEW good AS SELECT name FROM customers;
CREATE DEFINER=nobody@nowhere VIEW orphaned AS SELECT name FROM customers;
CREATE SEQUENCE numbers START WITH 100;
CREATE TABLE old (id INT PRIMARY KEY, v INT) ENGINE=MyISAM; INSERT INTO old VALUES (2, 1), (1, 2);
CREATE TABLE kept (id INT PRIMARY KEY, v INT) WITH SYSTEM VERSIONING;
INSERT INTO kept VALUES (1, 1), (2, 2); UPDATE kept SET v = 3 WHERE id = 1;
DELIMITER //
CREATE PROCEDURE filled() BEGIN
INSERT INTO `empty` VALUES
(1);
END //
CREATE TRIGGER no_debts BEFORE INSERT ON old FOR EACH ROW SET NEW.v = ABS(NEW.v) //
CREATE EVENT clean_up ON SCHEDULE EVERY 1 SECOND DO DELETE FROM customers //
DELIMITER ;
"""


@pytest.fixture(scope="module")
def shop(mariadb_server: MariadbServer) -> tuple[dict[str, bytes], Outcome]:
    """A whole server's dump: with users, and other passwords than ours."""
    mariadb_server.run(SHOP)
    mariadb_server.run("CREATE USER root@'%' IDENTIFIED BY 'x'; CREATE USER anna@localhost")
    mariadb_server.run("CREATE DATABASE `Süd 'west` CHARACTER SET utf8mb4")
    mariadb_server.run("CREATE TABLE t AS SELECT 1 AS id", database="Süd 'west")
    spec = MysqlSpec(mariadb_server.create_account(*mariadb.DUMP_GRANTS))
    source = MysqlSource("db01", spec, naming=Naming("mysql"), events=RecordedEvents())
    return dumped(source)


@pytest.fixture(scope="module")
def mariadb_scratch(shop: tuple[dict[str, bytes], Outcome]) -> Iterator[Loaded]:
    with started(MariadbServers()) as server:
        loaded = load(server, *shop)
        server.databases()  # it is started again now, and not in a test
        yield server, loaded


def test_a_dump_of_a_whole_mariadb_server_is_loaded_and_can_be_asked(
    mariadb_scratch: Loaded,
) -> None:
    scratch, _ = mariadb_scratch

    asked = "SELECT name, flags + 0, total FROM good NATURAL JOIN customers WHERE id < 3"
    rows = scratch.query(asked, "shop", _SECONDS)
    users = scratch.query("SELECT User FROM global_priv", "mysql", _SECONDS)

    assert scratch.databases() == ["Süd 'west", "mysql", "shop"]
    assert [rows[0][:2], rows[1]] == [
        ['O\'Neill \\ "x" 🦀 ß', "5"],
        ["line\nbreak),\n(;\n", "NULL", "NULL"],
    ]
    assert ["anna"] in users


def test_tables_of_a_mariadb_server_are_as_they_were_dumped(mariadb_scratch: Loaded) -> None:
    scratch, loaded = mariadb_scratch

    found = scratch.tables("shop")

    assert found == loaded["shop"]
    assert {name: facts.rows for name, facts in found.items()} == {
        "customers": 802,
        "empty": 0,
        "a `strange`; name ü": 500,
        "old": 2,
        "kept": 3,
    }
    assert scratch.tables("Süd 'west") == loaded["Süd 'west"]
    assert set(loaded) == {"shop", "Süd 'west"}


def test_a_view_of_a_user_who_was_not_dumped_can_be_read(mariadb_scratch: Loaded) -> None:
    scratch, _ = mariadb_scratch

    rows = scratch.query("SELECT COUNT(*) FROM orphaned", "shop", _SECONDS)

    assert rows == [["802"]]


# --- PostgreSQL -----------------------------------------------------------------------------

LEDGER = r"""
CREATE ROLE clerks; CREATE ROLE anna LOGIN PASSWORD 'x' IN ROLE clerks;
CREATE DATABASE ledger OWNER anna; ALTER DATABASE ledger SET work_mem = '5MB';
\connect ledger
CREATE TYPE kind AS ENUM ('new', 'ölig');
CREATE TABLE customers (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, photo bytea,
    born timestamptz, balance numeric(12,4), twice numeric GENERATED ALWAYS AS (balance * 2) STORED,
    kind kind DEFAULT 'new', tags text[], ratio real, total double precision
);
INSERT INTO customers (name, photo, born, balance, tags, ratio, total) VALUES
    (E'O''Neill \\ "x" 🦀 ß', '\x00ff0a5c27221a0d', '2026-11-20 01:30:00.123456+02', -1.5,
     ARRAY['a,b', NULL, 'c'], 0.1, 1.0 / 3),
    (E'line\nbreak\ttab\r\n\\.\n', NULL, NULL, 'NaN', '{}', 'NaN', 'Infinity');
CREATE TABLE mixed (id int, v text);
INSERT INTO mixed SELECT n, repeat('x', n * 7919 % 3001) FROM generate_series(1, 3000) n;
DELETE FROM mixed WHERE id % 3 = 0; VACUUM mixed;
INSERT INTO mixed SELECT n, repeat('y', n % 500) FROM generate_series(1, 500) n;
CREATE TABLE empty (v int);
CREATE SCHEMA "odd Schema"; CREATE TABLE "odd Schema"."ta""ble; ü" (v int) PARTITION BY RANGE (v);
CREATE TABLE "odd Schema".low PARTITION OF "odd Schema"."ta""ble; ü" FOR VALUES FROM (0) TO (100);
INSERT INTO "odd Schema"."ta""ble; ü" SELECT generate_series(1, 50);
CREATE VIEW good AS SELECT name FROM customers;
CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM mixed;
CREATE FUNCTION positive() RETURNS trigger LANGUAGE plpgsql AS $$
--
-- Data for Name: fake; Type: TABLE DATA; Schema: public; Owner: x
--

BEGIN RETURN NEW; END $$;
CREATE TRIGGER no_debts BEFORE INSERT ON mixed FOR EACH ROW EXECUTE FUNCTION positive();
SELECT lo_from_bytea(4711, 'x');
GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC;
"""


@pytest.fixture(scope="module")
def ledger(postgresql_server: PostgresqlServer) -> tuple[dict[str, bytes], Outcome]:
    """A whole cluster's dumps, with roles and a tablespace."""
    server = postgresql_server
    place = server.folder / "fast"
    place.mkdir()
    shutil.chown(place, server.folder.owner(), server.folder.group())
    server.run(f"CREATE TABLESPACE fast LOCATION '{place}'")
    server.run(LEDGER)
    server.run("CREATE TABLE quick (v int) TABLESPACE fast", database="ledger")
    server.run('CREATE DATABASE "Süd\' west\\x"')
    server.run("CREATE TABLE here AS SELECT 1 AS id", database="postgres")
    server.create_role(*postgresql.DUMP_GRANTS)
    naming = Naming("pg", "pg.")
    return dumped(PostgresqlSource("db01", server.spec(), naming=naming))


@pytest.fixture(scope="module")
def postgresql_scratch(ledger: tuple[dict[str, bytes], Outcome]) -> Iterator[Loaded]:
    with started(PostgresqlServers()) as server:
        yield server, load(server, *ledger)


def test_dumps_of_a_whole_postgresql_cluster_are_loaded_and_can_be_asked(
    postgresql_scratch: Loaded,
) -> None:
    scratch, _ = postgresql_scratch

    rows = scratch.query("SELECT name, born, photo FROM customers ORDER BY id", "ledger", _SECONDS)
    roles = "SELECT pg_has_role('anna', 'clerks', 'MEMBER'), current_setting('work_mem')"

    assert scratch.databases() == ["Süd' west\\x", "ledger", "postgres", "template1"]
    assert rows[0][0] == 'O\'Neill \\ "x" 🦀 ß'
    assert rows[1] == ["line\nbreak\ttab\r\n\\.\n", "NULL", "NULL"]
    assert scratch.query(roles, "ledger", _SECONDS) == [["t", "5MB"]]
    assert scratch.query("SELECT convert_from(lo_get(4711), 'UTF8')", "ledger", _SECONDS) == [["x"]]


def test_tables_of_a_postgresql_cluster_are_as_they_were_dumped(
    postgresql_scratch: Loaded,
) -> None:
    scratch, loaded = postgresql_scratch

    found = scratch.tables("ledger")

    assert found == loaded["ledger"]
    assert {name: facts.rows for name, facts in found.items()} == {
        "public.customers": 2,
        "public.mixed": 2500,
        "public.empty": 0,
        "public.quick": 0,
        '"odd Schema".low': 50,
    }
    assert scratch.tables("postgres") == loaded["postgres"]
    assert set(loaded) == {"ledger", "postgres"}
