# SPDX-License-Identifier: Apache-2.0
"""Databases of a real PostgreSQL server, dumped while it works, and loaded into another one."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault.adapters.sources.dump_names import Naming
from snapvault.adapters.sources.postgresql import PostgresqlSource
from snapvault.errors import QuiesceError, SnapVaultError
from snapvault.model.policy import PostgresqlSpec
from snapvault.ports.source import Consistency, Finding
from tests.support.interrupted import InterruptedSource, kill_child
from tests.support.postgresql import (
    BASE_BACKUP_GRANTS,
    DUMP_GRANTS,
    PASSWORD,
    ROLE,
    LedgerWriter,
    PostgresqlServer,
    roles_of,
    table_lock,
    unpacked,
)
from tests.support.qemu import until
from tests.support.vaults import VaultKit

pytestmark = pytest.mark.integration

# Everything that a dump can lose: code, keys, types, computed columns, odd names, rights.
SHOP = r"""
CREATE ROLE clerks; CREATE ROLE anna LOGIN PASSWORD 'x' IN ROLE clerks;
CREATE DATABASE shop OWNER anna; ALTER DATABASE shop SET work_mem = '5MB';
\connect shop
CREATE TYPE kind AS ENUM ('new', 'ölig');
CREATE TABLE customers (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, photo bytea,
    born timestamptz, balance numeric(12,4), twice numeric GENERATED ALWAYS AS (balance * 2) STORED,
    kind kind DEFAULT 'new', settings jsonb, tags text[]
);
INSERT INTO customers (name, photo, born, balance, settings, tags) VALUES
    (E'O''Neill \\ "x" 🦀 ß', '\x00ff0a5c27221a0d', '2026-11-20 01:30:00.123456+02', -1.5,
     '{"a": [1]}', ARRAY['a,b', NULL, 'c']),
    (E'line\nbreak\ttab\r', NULL, NULL, 'NaN', NULL, '{}');
INSERT INTO customers (name, photo) SELECT 'customer ' || n, sha512(n::text::bytea)
    FROM generate_series(1, 1000) n;
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer int NOT NULL REFERENCES customers ON DELETE CASCADE,
    total double precision
);
INSERT INTO orders SELECT n, n % 1000 + 1, n / 7.0 FROM generate_series(1, 1000) n;
CREATE INDEX ON orders (total) WHERE total > 10;
CREATE SCHEMA "odd Schema"; CREATE TABLE "odd Schema"."ta""ble" (v int) PARTITION BY RANGE (v);
CREATE TABLE "odd Schema".low PARTITION OF "odd Schema"."ta""ble" FOR VALUES FROM (0) TO (100);
INSERT INTO "odd Schema"."ta""ble" SELECT generate_series(1, 50);
CREATE SEQUENCE numbers START 100; SELECT nextval('numbers');
CREATE VIEW good_orders AS SELECT name, total FROM orders JOIN customers c ON c.id = customer;
CREATE MATERIALIZED VIEW totals AS SELECT sum(total) FROM orders;
CREATE FUNCTION positive() RETURNS trigger LANGUAGE plpgsql AS $$
-- PostgreSQL database dump complete
BEGIN NEW.total = abs(NEW.total); RETURN NEW; END $$;
CREATE TRIGGER no_debts BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION positive();
COMMENT ON TABLE orders IS 'häufig';
GRANT SELECT ON orders TO clerks;
"""

# More than all buffers between a server and us hold.
LARGE = r"""
CREATE DATABASE large;
\connect large
CREATE TABLE a_first (id int PRIMARY KEY, note text);
INSERT INTO a_first SELECT n, repeat(md5(n::text), 7) FROM generate_series(1, 30000) n;
CREATE TABLE z_last AS SELECT generate_series(1, 10) AS id;
"""


@pytest.fixture(scope="module")
def running() -> Iterator[PostgresqlServer]:
    with PostgresqlServer() as server:
        yield server


@pytest.fixture
def server(running: PostgresqlServer) -> Iterator[PostgresqlServer]:
    yield running
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}'"
    for _ in until():
        if running.value(sessions) == "0":
            break
    running.reset()


@pytest.fixture
def other() -> Iterator[PostgresqlServer]:
    with PostgresqlServer() as server:
        yield server


@pytest.fixture
def kit(tmp_path: Path) -> VaultKit:
    return VaultKit(tmp_path, volume_size=4 << 20)


def source_over(
    spec: PostgresqlSpec, *, lock_timeout: float = 60, programs: list[Path] | None = None
) -> PostgresqlSource:
    naming = Naming("pg", "pg.")
    return PostgresqlSource(
        "db01", spec, naming=naming, lock_timeout=lock_timeout, programs=programs
    )


def source_of(
    server: PostgresqlServer, *databases: str, grants: tuple[str, ...] = DUMP_GRANTS
) -> PostgresqlSource:
    """Return a source of these databases' dumps, by a role that has these rights alone."""
    server.create_role(*grants)
    return source_over(server.spec(*databases, include_globals=False))


def base_backup_of(
    server: PostgresqlServer, *, grants: tuple[str, ...] = BASE_BACKUP_GRANTS
) -> PostgresqlSource:
    server.create_role(*grants)
    return source_over(server.spec(base_backup=True))


def failure(kit: VaultKit, source: PostgresqlSource | InterruptedSource) -> SnapVaultError:
    """Back up, see it fail in one line without a restore point, and return why."""
    with pytest.raises(SnapVaultError) as caught:
        kit.night(source)
    assert not kit.inventory().of(source.name)
    assert "\n" not in str(caught.value)
    assert not str(caught.value).endswith(".")
    assert caught.value.hint is None or caught.value.hint.endswith(".")
    return caught.value


def findings(source: PostgresqlSource) -> dict[str, Finding]:
    return {finding.check: finding for finding in source.check()}


# --- backup and restore ---------------------------------------------------------------------


def test_a_server_that_is_written_to_comes_back_with_roles_and_databases(
    server: PostgresqlServer, other: PostgresqlServer, kit: VaultKit
) -> None:
    server.run(SHOP)
    server.run("CREATE DATABASE bank")
    server.run(LedgerWriter.SCHEMA, database="bank")
    server.create_role(*DUMP_GRANTS)

    with LedgerWriter(server) as writer:
        source = InterruptedSource(source_over(server.spec()), lambda: writer.wait_for(20))
        held = kit.night(source)
        done = writer.done
    dumps = kit.restored(held.point)
    # A restore says of the superuser, who is always there, that it is there; and goes on.
    other.run(dumps.pop("pg.globals"), strict=False)
    for dump in dumps.values():
        other.run(dump)

    assert set(dumps) == {"pg.bank", "pg.postgres", "pg.shop", "pg.template1"}
    assert roles_of(other) == roles_of(server)
    assert b"SCRAM-SHA-256" in roles_of(other)
    assert other.contents("shop") == server.contents("shop")
    assert len(other.contents("shop")) == 17
    assert other.value("SELECT sum(amount) FROM accounts", database="bank") == "5000"
    rows = other.value("SELECT count(*) FROM ledger", database="bank")
    assert other.value("SELECT max(id) FROM ledger", database="bank") == rows
    assert 20 <= int(rows) <= done + 1  # the last one may not have been confirmed to us yet
    assert source.outcome is not None
    assert source.outcome.consistency is Consistency.APPLICATION
    facts = source.outcome.facts["pg.shop"]
    assert facts["server"].startswith("PostgreSQL 1")
    assert re.fullmatch(r"[0-9A-F]+/[0-9A-F]+", facts["wal_position"])
    assert (facts["database"], facts["creates_database"]) == ("shop", "yes")
    assert source.outcome.facts["pg.postgres"]["creates_database"] == "no"


def test_a_second_night_costs_what_changed(server: PostgresqlServer, kit: VaultKit) -> None:
    server.run(LARGE)
    source = source_of(server, "large")
    kit.night(source)
    unchanged = kit.night(source)
    server.run(
        "UPDATE a_first SET note = 'changed' WHERE id IN (7, 15000, 29999);"
        "DELETE FROM a_first WHERE id = 100; INSERT INTO a_first VALUES (60000, 'new')",
        database="large",
    )

    changed = kit.night(source)

    assert changed.point.streams[0].size > 6_000_000
    assert unchanged.point.counters["changed_bytes"] < 5000
    assert changed.point.counters["changed_bytes"] < 30_000


def test_a_database_is_dumped_whatever_its_name(
    server: PostgresqlServer, other: PostgresqlServer, kit: VaultKit
) -> None:
    names = ["globals", "Süd' west\\x", "a=b host=evil", "-rf", "postgresql://evil/"]
    for name in names:
        server.run(f'CREATE DATABASE "{name}"')
        server.run("CREATE TABLE t AS SELECT 1 AS id", database=name)
    source = InterruptedSource(source_of(server, *names))

    held = kit.night(source)
    for dump in kit.restored(held.point).values():
        other.run(dump)

    assert source.outcome is not None
    assert [facts["database"] for facts in source.outcome.facts.values()] == names
    assert all(re.fullmatch(r"pg\..+-[0-9a-f]{8}", name) for name in source.outcome.facts)
    for name in names:
        assert other.value("SELECT id FROM t", database=name) == "1"


def test_a_role_needs_no_way_into_other_databases_than_those_that_are_dumped(
    server: PostgresqlServer, kit: VaultKit
) -> None:
    server.run(SHOP)
    server.create_role(*DUMP_GRANTS)
    source = source_over(server.spec("shop"))
    server.run("REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC")

    try:
        held = kit.night(source)
        found = findings(source)
    finally:
        server.run("GRANT CONNECT ON DATABASE postgres, template1 TO PUBLIC")

    dumps = kit.restored(held.point)
    assert set(dumps) == {"pg.globals", "pg.shop"}
    assert b"CREATE ROLE anna" in dumps["pg.globals"]
    assert [finding for finding in found.values() if finding.error] == []


def test_a_cluster_without_its_usual_databases_is_dumped(kit: VaultKit) -> None:
    with PostgresqlServer() as server:
        server.create_role(*DUMP_GRANTS)
        server.run("ALTER DATABASE postgres RENAME TO main", database="template1")

        held = kit.night(source_over(server.spec()))

    assert set(kit.restored(held.point)) == {"pg.globals", "pg.main", "pg.template1"}


def test_a_base_backup_that_is_written_to_starts_as_a_server(
    server: PostgresqlServer, kit: VaultKit
) -> None:
    server.run(SHOP)
    server.run("CREATE DATABASE bank")
    server.run(LedgerWriter.SCHEMA, database="bank")
    with LedgerWriter(server) as writer:
        before = writer.done
        source = InterruptedSource(base_backup_of(server), lambda: writer.wait_for(20))
        held = kit.night(source)
        done = writer.done
    archive = kit.restored(held.point)["pg"]

    with PostgresqlServer(data=unpacked(archive)) as restored:
        contents = restored.contents("shop")
        total = restored.value("SELECT sum(amount) FROM accounts", database="bank")
        rows = int(restored.value("SELECT count(*) FROM ledger", database="bank"))
        last = int(restored.value("SELECT max(id) FROM ledger", database="bank"))
        roles = roles_of(restored)

    assert contents == server.contents("shop")
    assert roles == roles_of(server)
    assert total == "5000"
    assert before < rows == last <= done + 1  # the last may not have been confirmed to us yet
    assert source.outcome is not None
    assert source.outcome.consistency is Consistency.APPLICATION
    facts = source.outcome.facts["pg"]
    assert facts["format"] == "tar"
    assert re.fullmatch(r"[0-9A-F]+/[0-9A-F]+", facts["wal_start"])


# --- faults ---------------------------------------------------------------------------------


def test_a_table_that_may_not_be_read_is_told(server: PostgresqlServer, kit: VaultKit) -> None:
    server.run(SHOP)

    error = failure(kit, source_of(server, "shop", grants=()))

    assert 'could not dump stream "pg.shop"' in str(error)
    assert "permission denied" in str(error)
    assert "pg_read_all_data" in str(error.hint)


def test_roles_that_may_not_be_read_are_told(server: PostgresqlServer, kit: VaultKit) -> None:
    server.create_role()

    error = failure(kit, source_over(server.spec("postgres")))

    assert 'could not dump stream "pg.globals"' in str(error)
    assert "pg_authid" in str(error)
    assert "globals: false" in str(error.hint)


def test_rows_that_are_hidden_are_told(server: PostgresqlServer, kit: VaultKit) -> None:
    server.run(SHOP)
    server.run("ALTER TABLE orders ENABLE ROW LEVEL SECURITY", database="shop")

    error = failure(kit, source_of(server, "shop"))
    held = kit.night(
        source_of(server, "shop", grants=(*DUMP_GRANTS, "ALTER ROLE {role} BYPASSRLS"))
    )

    assert "row-level security" in str(error)
    assert "BYPASSRLS" in str(error.hint)
    assert b"ENABLE ROW LEVEL SECURITY" in kit.restored(held.point)["pg.shop"]


def test_large_objects_that_may_not_be_read_are_told(
    server: PostgresqlServer, kit: VaultKit
) -> None:
    server.run(SHOP)
    server.run("SELECT lo_from_bytea(4711, 'x')", database="shop")
    source = source_of(server, "shop")

    error = failure(kit, source)
    found = findings(source)['database "shop"']
    server.run(f"GRANT SELECT ON LARGE OBJECT 4711 TO {ROLE}", database="shop")
    held = kit.night(source)

    assert "permission denied for large object 4711" in str(error)
    assert "may not read large object 4711" in str(found.error)
    assert findings(source)['database "shop"'].error is None
    assert b"lo_create('4711')" in kit.restored(held.point)["pg.shop"]


def test_a_wrong_password_is_told_without_it(server: PostgresqlServer, kit: VaultKit) -> None:
    source = source_of(server, "postgres")
    server.write_password("tell-nobody")

    error = failure(kit, source)
    server.write_password(PASSWORD)
    held = kit.night(source)

    assert held.point.streams[0].size > 0
    assert f'password authentication failed for user "{ROLE}"' in str(error)
    assert "tell-nobody" not in f"{error} {error.hint}"
    assert "password_file" in str(error.hint)


def test_a_missing_password_is_not_asked_for(server: PostgresqlServer, kit: VaultKit) -> None:
    server.create_role(*DUMP_GRANTS)

    error = failure(kit, source_over(server.spec("postgres", password_file=None)))

    assert "no password supplied" in str(error)


@pytest.mark.parametrize(("mode", "told"), [(None, "no such file"), (0o644, "is ignored")])
def test_a_password_file_that_nobody_reads_is_told(
    server: PostgresqlServer, kit: VaultKit, mode: int | None, told: str
) -> None:
    source = source_of(server, "postgres")
    path = server.folder / "pgpass"
    if mode is None:
        path.unlink()
    else:
        path.chmod(mode)

    error = failure(kit, source)

    assert told in str(error)
    assert f'password file "{path}"' in str(error)


def test_a_server_that_is_not_there_is_told(kit: VaultKit, tmp_path: Path) -> None:
    error = failure(kit, source_over(PostgresqlSpec(host=str(tmp_path))))

    assert str(error).startswith("could not connect to the server: connection to server")
    assert "Start the server" in str(error.hint)


def test_an_unknown_database_is_told_with_the_nearest(
    server: PostgresqlServer, kit: VaultKit
) -> None:
    server.run(SHOP)

    error = failure(kit, source_of(server, "shpo"))

    assert 'database "shpo" is not there' in str(error)
    assert error.hint == 'The nearest is "shop".'


def test_a_server_that_dies_in_the_middle_is_told_and_the_next_run_works(kit: VaultKit) -> None:
    with PostgresqlServer() as server:
        server.run(LARGE)
        source = source_of(server, "large")

        error = failure(kit, InterruptedSource(source, server.kill))
        server.start()
        held = kit.night(source)

    assert 'could not dump stream "pg.large"' in str(error)
    assert 'contents of table "a_first"' in str(error)
    assert "server's log" in str(error.hint)
    assert held.point.streams[0].size > 6_000_000


def test_a_server_that_dies_in_the_middle_of_a_base_backup_is_told_and_the_next_run_works(
    kit: VaultKit,
) -> None:
    with PostgresqlServer() as server:
        source = base_backup_of(server)

        error = failure(kit, InterruptedSource(source, server.kill))
        server.start()
        held = kit.night(source)

    assert held.point.streams[0].size > 10_000_000
    assert 'could not dump stream "pg"' in str(error)
    assert "server's log" in str(error.hint)


def test_a_killed_dump_is_told_and_the_next_run_works(
    server: PostgresqlServer, kit: VaultKit
) -> None:
    server.run(LARGE)
    source = source_of(server, "large")

    error = failure(kit, InterruptedSource(source, lambda: kill_child("pg_dump")))
    held = kit.night(source)

    assert re.fullmatch(r'program ".*/pg_dump" was killed by SIGKILL', str(error))
    assert held.point.streams[0].size > 6_000_000


def fake_programs(folder: Path, *, version: str, end: str = "") -> list[Path]:
    """Return a folder of programs that call themselves by another version, or end early."""
    folder.mkdir()
    (real,) = {path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/pg_dump")}
    for name in ("psql", "pg_dumpall"):
        (folder / name).symlink_to(real / name)
    script = folder / "pg_dump"
    script.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = --version ] && exec echo "pg_dump (PostgreSQL) {version}"\n'
        f'{real}/pg_dump "$@" {end}\n'
    )
    script.chmod(0o755)
    return [folder]


def test_a_program_older_than_the_server_is_not_used(
    server: PostgresqlServer, kit: VaultKit, tmp_path: Path
) -> None:
    server.create_role(*DUMP_GRANTS)
    programs = fake_programs(tmp_path / "bin", version="9.6.24")

    error = failure(kit, source_over(server.spec("postgres"), programs=programs))

    assert 'program "pg_dump" of PostgreSQL 9 is too old for a server of PostgreSQL 1' in str(error)
    assert "postgresql-client-1" in str(error.hint)


def test_the_program_of_the_servers_own_version_is_taken_before_a_newer_one(
    server: PostgresqlServer, kit: VaultKit, tmp_path: Path
) -> None:
    server.create_role(*DUMP_GRANTS)
    major = server.value("SHOW server_version_num")[:2]
    newer = fake_programs(tmp_path / "newer", version="99.1", end="; exit 1")
    own = fake_programs(tmp_path / "own", version=f"{major}.0")

    held = kit.night(source_over(server.spec("postgres"), programs=newer + own))

    assert held.point.streams[0].size > 0


def test_a_dump_that_ends_early_and_says_all_is_well_is_not_believed(
    server: PostgresqlServer, kit: VaultKit, tmp_path: Path
) -> None:
    server.run(SHOP)
    server.create_role(*DUMP_GRANTS)
    programs = fake_programs(tmp_path / "bin", version="99.1", end="| head -c 5000")
    spec = server.spec("shop", include_globals=False)

    error = failure(kit, source_over(spec, programs=programs))

    assert str(error) == 'the dump of stream "pg.shop" ended without its last line'


def test_a_table_that_is_locked_for_too_long_is_told_with_its_name(
    server: PostgresqlServer, kit: VaultKit
) -> None:
    server.run(SHOP)
    server.create_role(*DUMP_GRANTS)
    spec = server.spec("shop", include_globals=False)

    with table_lock(server, "shop", "orders"):
        error = failure(kit, source_over(spec, lock_timeout=1))
    held = kit.night(source_over(spec))

    assert isinstance(error, QuiesceError)
    assert "timeout: lock of table public.orders" in str(error)
    assert "holds the lock" in str(error.hint)
    assert held.point.streams[0].size > 10_000


def test_a_dump_that_takes_too_long_is_ended(server: PostgresqlServer, kit: VaultKit) -> None:
    server.run(LARGE)
    server.create_role(*DUMP_GRANTS)
    spec = replace(server.spec("large"), timeout=timedelta(milliseconds=1))

    assert "ran out of time" in str(failure(kit, source_over(spec)))


def test_a_base_backup_needs_the_right_to_replicate(
    server: PostgresqlServer, kit: VaultKit
) -> None:
    error = failure(kit, base_backup_of(server, grants=DUMP_GRANTS))

    assert 'could not dump stream "pg"' in str(error)
    assert "REPLICATION" in str(error.hint)


def test_a_second_tablespace_does_not_fit_in_a_base_backup(kit: VaultKit) -> None:
    with PostgresqlServer() as server:
        server.run("SET allow_in_place_tablespaces = on; CREATE TABLESPACE fast LOCATION ''")
        source = base_backup_of(server)

        error = failure(kit, source)

    assert str(error).endswith('there are "fast"')


# --- the doctor -----------------------------------------------------------------------------


def test_the_doctor_finds_a_good_server_good(server: PostgresqlServer) -> None:
    server.run(SHOP)
    server.create_role(*DUMP_GRANTS)

    dumps = findings(source_over(server.spec()))
    server.create_role(*BASE_BACKUP_GRANTS)
    base_backup = findings(source_over(server.spec(base_backup=True)))

    assert all(finding.error is None and finding.remedy is None for finding in dumps.values())
    assert {"server", "program", "databases", "globals", 'database "shop"'} <= set(dumps)
    assert all(finding.error is None for finding in base_backup.values())
    assert set(base_backup) == {"server", "program", "rights", "cluster"}


def test_the_doctor_tells_what_a_dump_would_fail_at(server: PostgresqlServer) -> None:
    server.run(SHOP)
    source = source_of(server, "shop", grants=())

    denied = findings(source)['database "shop"']
    roles = findings(source_over(server.spec("shop")))["globals"]
    unknown = findings(source_of(server, "none"))["databases"]
    server.run("ALTER TABLE orders ENABLE ROW LEVEL SECURITY", database="shop")
    hidden = findings(source_of(server, "shop"))['database "shop"']
    server.write_password("wrong")
    login = findings(source)["server"]

    assert "may not read" in str(denied.error)
    assert "hashes of passwords" in str(roles.error)
    assert unknown.error is not None
    assert "does not see all rows of table public.orders" in str(hidden.error)
    assert login.error is not None


def test_remedies_name_the_role_as_sql_does(server: PostgresqlServer) -> None:
    server.run(f"""CREATE ROLE "back-up" LOGIN PASSWORD '{PASSWORD.replace("'", "''")}'""")
    passwords = server.folder / "pgpass"
    passwords.write_text(f"*:*:*:back-up:{PASSWORD}\n")
    passwords.chmod(0o600)

    found = findings(source_over(server.spec(base_backup=True, user="back-up")))

    assert found["rights"].error is not None
    assert found["rights"].error.hint == ('Run "ALTER ROLE "back-up" REPLICATION" as a superuser.')


def test_the_doctor_tells_what_a_base_backup_would_fail_at(server: PostgresqlServer) -> None:
    found = findings(base_backup_of(server, grants=()))

    assert "may not replicate" in str(found["rights"].error)
