# SPDX-License-Identifier: Apache-2.0
"""Dumps of real servers, loaded into private ones that nobody else can reach."""

import io
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault.adapters.databases import cage
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
from tests.support.qemu import until

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
        if "database" in facts:
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
    """A whole server's dumps: with users in the midst of them, and a password that we lack."""
    mariadb_server.run(SHOP)
    mariadb_server.run("CREATE USER snapvault_drill@localhost IDENTIFIED BY 'x'")
    mariadb_server.run("CREATE USER anna@localhost")
    mariadb_server.run("CREATE DATABASE `Süd 'west` CHARACTER SET utf8mb4")
    mariadb_server.run("CREATE TABLE t AS SELECT 1 AS id", database="Süd 'west")
    options = mariadb_server.create_account(*mariadb.DUMP_GRANTS)
    spec = MysqlSpec(options, per_database=True)
    source = MysqlSource("db01", spec, naming=Naming("mysql"), events=RecordedEvents())
    return dumped(source)


@pytest.fixture(scope="module")
def mariadb_scratch(shop: tuple[dict[str, bytes], Outcome]) -> Iterator[Loaded]:
    with started(MariadbServers()) as server:
        loaded = load(server, *shop)
        server.databases()  # it is started again now, and not in a test
        yield server, loaded


def test_dumps_of_a_whole_mariadb_server_are_loaded_and_can_be_asked(
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

    databases = [name for name in scratch.databases() if name != "bad"]  # of another test
    assert databases == ["Süd' west\\x", "ledger", "postgres", "template1"]
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


def test_a_scratch_server_has_neither_our_rights_nor_a_network(
    postgresql_scratch: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, _ = postgresql_scratch
    user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    # A client would go where these say.
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    monkeypatch.setenv("PGSERVICE", "production")
    ask = "DROP TABLE IF EXISTS pg_temp.said; CREATE TEMP TABLE said (line text);"
    ask += "COPY said FROM PROGRAM '{}' WITH (DELIMITER E'\\x01'); SELECT line FROM said"

    interfaces = scratch.query(ask.format("tail -n +3 /proc/net/dev"), "ledger", _SECONDS)
    users = scratch.query(ask.format("id -un"), "ledger", _SECONDS)

    assert [line.split(":")[0].strip() for (line,) in interfaces] == ["lo"]
    assert users == [[user]]


# --- faults ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def to_load() -> Iterator[ScratchDatabase]:
    """A server of MariaDB that is loaded only, and so never started again."""
    with started(MariadbServers()) as server:
        yield server


def test_what_a_mariadb_server_refuses_is_told_in_its_words(to_load: ScratchDatabase) -> None:
    good = b"-- MariaDB dump 10.19\nCREATE TABLE IF NOT EXISTS t (v INT);\n"

    broken = refusal(to_load, good + b"INSERT INTO t VALUES\n(1),\n(1,2);\n", "bad")
    cut = refusal(to_load, good, "bad")
    foreign = refusal(to_load, b"CREATE TABLE u (v INT) COLLATE utf8mb4_0900_ai_ci;\n", "bad")
    unknown = refusal(to_load, b"CREATE TABLE u (v INT) ENGINE=ROCKSDB;\nSELECT 1;\n", "bad")
    whole = good + b"-- Dumping data for table `t`\n-- Dump completed\n"
    after = to_load.load(io.BytesIO(whole), "db", "bad")

    assert str(broken).startswith('the scratch server refused stream "db" at line 3: Column count')
    assert str(broken).endswith("(error 1136)")
    assert str(cut) == 'the scratch server refused stream "db": it ends without its last line'
    assert "utf8mb4_0900_ai_ci" in str(foreign)
    assert "MySQL 8" in str(foreign.hint)
    assert "ROCKSDB" in str(unknown)
    assert after is not None
    assert set(after["bad"]) == {"t"}


@pytest.mark.parametrize("line", ["\\! true", "system true", "source /dev/null"])
def test_a_mariadb_dump_runs_no_programs(to_load: ScratchDatabase, line: str) -> None:
    assert "sandbox" in str(refusal(to_load, f"SELECT 1;\n{line}\n".encode(), "bad"))


def test_what_a_postgresql_server_refuses_is_told_in_its_words(
    postgresql_scratch: Loaded, ledger: tuple[dict[str, bytes], Outcome]
) -> None:
    scratch, _ = postgresql_scratch
    good = b"--\n-- PostgreSQL database dump\n--\nCREATE TABLE IF NOT EXISTS t (v int);\n"
    rows = b"COPY t (v) FROM stdin;\n1\n"

    broken = refusal(scratch, good + rows + b"x\n\\.\n", "bad")
    cut = refusal(scratch, good + rows, "bad")
    again = refusal(scratch, ledger[0]["pg.ledger"])
    locale = b"CREATE DATABASE x TEMPLATE template0 LOCALE 'xx_YY.UTF-8';\n"
    missing = refusal(scratch, locale)
    archive = refusal(scratch, b"PGDMP" + bytes(1000))
    base = refusal(scratch, b"backup_label".ljust(257, b"\0") + b"ustar" + bytes(1000))

    assert str(broken) == (
        'the scratch server refused stream "db" at line 8: invalid input syntax for type integer:'
        " 'x' (COPY t, line 2)"
    )
    assert str(cut) == 'the scratch server refused stream "db": it ends without its last line'
    assert "database 'ledger' already exists" in str(again)
    assert "invalid locale name" in str(missing)
    assert "locales-all" in str(missing.hint)
    assert "an archive for pg_restore" in str(archive)
    assert "a base backup" in str(base)
    assert len(scratch.tables("ledger")) == 5


def test_a_question_that_takes_too_long_is_given_up(
    mariadb_scratch: Loaded, postgresql_scratch: Loaded
) -> None:
    soon = timedelta(seconds=0.2)

    with pytest.raises(DrillError, match="max_statement_time exceeded"):
        mariadb_scratch[0].query("SELECT SLEEP(100)", None, soon)
    with pytest.raises(DrillError, match="due to statement timeout"):
        postgresql_scratch[0].query("SELECT pg_sleep(100)", None, soon)


class _Waiting(io.BytesIO):
    """A dump that lets somebody know when all of it was read."""

    def __init__(self, dump: bytes) -> None:
        super().__init__(dump)
        self.is_read = threading.Event()

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if not data:
            self.is_read.set()
        return data


def test_a_server_can_be_closed_while_it_is_loaded() -> None:
    dump = _Waiting(b"SELECT pg_sleep(1000);\n")

    with started(PostgresqlServers()) as server, ThreadPoolExecutor() as pool:
        loading = pool.submit(server.load, dump, "db", None)
        assert dump.is_read.wait(60)
        server.close()
        error = loading.exception(60)
        server.close()

    assert isinstance(error, DrillError)


def test_a_server_that_dies_is_told_with_why(monkeypatch: pytest.MonkeyPatch) -> None:
    # From its client's last word until it is gone; a busy machine may need more than usual.
    monkeypatch.setattr("snapvault.adapters.databases.server._DYING_SECONDS", 60.0)
    # Its own superuser may have it end at once.
    dump = b"COPY (SELECT 1) TO PROGRAM 'kill -QUIT $(head -n 1 postmaster.pid); sleep 100';\n"

    with started(PostgresqlServers()) as server, pytest.raises(DrillError) as caught:
        server.load(io.BytesIO(dump), "db", None)

    assert str(caught.value).startswith("the scratch server ended: ")


def test_a_dump_that_takes_too_long_is_given_up() -> None:
    servers = PostgresqlServers(limit=timedelta(seconds=0.5))

    with started(servers) as server, pytest.raises(DrillError, match="ran out of time"):
        server.load(io.BytesIO(b"SELECT pg_sleep(1000);\n"), "db", None)


@contextmanager
def small_folder(size: str) -> Iterator[Path]:
    """Yield a folder that takes so much and no more, if we may make one; otherwise any."""
    above = Path(tempfile.mkdtemp(prefix="svd-", dir="/tmp"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "snapvault-test", str(above)]
    is_small = os.geteuid() == 0 and not subprocess.run(mount, check=False).returncode
    try:
        (above / "own").mkdir()
        yield above / "own"
    finally:
        if is_small:
            subprocess.run(["umount", str(above)], check=True)
        shutil.rmtree(above)


def test_a_full_disk_is_told() -> None:
    fill = b"CREATE TABLE t AS SELECT md5(n::text) FROM generate_series(1, 2000000) n;\n"
    if os.geteuid() != 0:  # nothing can be made small: an error of the same words stands in
        fill = b"DO $$BEGIN RAISE 'could not extend file: No space left on device'; END$$;\n"

    with small_folder("64m") as folder:
        server = PostgresqlServers().start(folder)
        try:
            error = refusal(server, fill)
        finally:
            server.close()

    assert "No space left on device" in str(error)
    assert error.hint == "Give the drill a scratch folder with more room."


@pytest.mark.parametrize("servers", [MariadbServers(), PostgresqlServers()])
def test_a_server_that_cannot_be_started_leaves_nothing(
    servers: ScratchDatabases, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "db").mkdir()

    with pytest.raises(DrillError, match=r"could not make folder .* file exists"):
        servers.start(folder)

    assert not folder.exists()


def test_missing_programs_are_told_with_what_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DrillError, match='"postgres" is not there') as postgresql_error:
        PostgresqlServers(folders=[tmp_path]).check()
    monkeypatch.setattr(cage, "_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DrillError, match='"mariadbd" is not there') as mariadb_error:
        MariadbServers().check()

    assert postgresql_error.value.hint == 'Install it: "apt-get install postgresql".'
    assert mariadb_error.value.hint == 'Install it: "apt-get install mariadb-server".'


_PARENT = """
import sys
from pathlib import Path
from snapvault.adapters.databases import cage
from snapvault.adapters.databases.mariadb import MariadbServers
from snapvault.adapters.databases.postgresql import PostgresqlServers

servers = [MariadbServers(), PostgresqlServers()]
started = [each.start(Path(folder)) for each, folder in zip(servers, sys.argv[1:])]
print(*(each._scratch._process._process.pid for each in started), flush=True)
sys.stdin.read()
"""


def test_no_server_outlives_us_however_we_end() -> None:
    above = Path(tempfile.mkdtemp(prefix="svd-", dir="/tmp"))
    folders = [above / "m", above / "p"]
    for folder in folders:
        folder.mkdir(mode=0o700)

    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, *map(str, folders)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        pids = parent.stdout.readline().split()
        assert len(pids) == 2
        parent.kill()

    for _ in until():
        alive = [pid for pid in pids if Path(f"/proc/{pid.decode()}").exists()]
        if not alive and not list(above.iterdir()):
            break
    above.rmdir()
