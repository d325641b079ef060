# SPDX-License-Identifier: Apache-2.0
"""What a PostgreSQL role may do, looked at without making a dump."""

from collections.abc import Iterator

from snapvault.adapters.sources.postgresql_client import PostgresqlClient, Server, from_hex
from snapvault.errors import SnapVaultError, SourceError
from snapvault.ports.source import Finding

_TABLESPACES = """
SELECT encode(textsend(spcname::text), 'hex') FROM pg_tablespace
WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1;
"""
_SENDERS = "SELECT current_setting('max_wal_senders')::int, current_setting('wal_level');"
_PASSWORDS = "SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT');"

# Tables and sequences that the dump would fail at, for want of a right or for a policy on rows.
_UNREADABLE = """
SELECT encode(textsend(format('%I.%I', n.nspname, c.relname)), 'hex'), why FROM (
  SELECT c.*, CASE
    WHEN NOT has_schema_privilege(c.relnamespace, 'USAGE') THEN 'denied'
    WHEN c.relkind = 'S' AND NOT has_sequence_privilege(c.oid, 'SELECT') THEN 'denied'
    WHEN c.relkind <> 'S' AND NOT has_table_privilege(c.oid, 'SELECT') THEN 'denied'
    WHEN c.relkind <> 'S' AND row_security_active(c.oid) THEN 'rows'
  END AS why FROM pg_class c WHERE c.relkind IN ('r', 'p', 'm', 'S') AND c.relpersistence <> 't'
) c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE why IS NOT NULL AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 2, 1 LIMIT 1;
"""


def require_one_tablespace(client: PostgresqlClient) -> None:
    """See to it that the cluster fits in one archive.

    Raises:
        SourceError: it has tablespaces of its own, or the server cannot be asked.
    """
    rows = client.rows(_TABLESPACES, doing="list the tablespaces")
    if rows:
        names = ", ".join(f'"{from_hex(row[0])}"' for row in rows)
        raise SourceError(
            f"a base backup cannot hold more than one tablespace, and there are {names}",
            hint="Dump the databases instead, or take the server's volumes by LVM.",
        )


def of_base_backup(client: PostgresqlClient, server: Server) -> Iterator[Finding]:
    """Look at what a base backup needs of a server."""
    if server.may_replicate:
        yield Finding("rights", "the role may read the whole cluster")
    else:
        told = f'role "{server.role}" may not replicate, which a base backup needs'
        hint = f'Run "ALTER ROLE {server.role} REPLICATION" as a superuser.'
        yield Finding("rights", told, SourceError(told, hint=hint))
    try:
        require_one_tablespace(client)
        ((senders, level),) = client.rows(_SENDERS)
    except SnapVaultError as error:
        yield Finding("cluster", str(error), error)
        return
    if int(senders) < 1 or level == "minimal":
        told = "the server sends no base backups: max_wal_senders is 0 or wal_level minimal"
        hint = "Set max_wal_senders to 2 or more and wal_level to replica."
        yield Finding("cluster", told, SourceError(told, hint=hint))
    else:
        yield Finding("cluster", "it has one tablespace and sends base backups")


def of_globals(client: PostgresqlClient, server: Server) -> Finding:
    """Look at whether roles can be dumped with the hashes of their passwords."""
    try:
        ((may,),) = client.rows(_PASSWORDS)
    except SnapVaultError as error:
        return Finding("globals", str(error), error)
    if may == "t":
        return Finding("globals", "roles and their passwords' hashes can be read")
    told = f'role "{server.role}" may not read the hashes of passwords'
    hint = 'Grant it pg_read_all_data (PostgreSQL 14), or set "globals: false".'
    return Finding("globals", told, SourceError(told, hint=hint))


def of_tables(client: PostgresqlClient, server: Server, database: str) -> Finding:
    """Look for a table that a dump of the database would fail at."""
    check = f'database "{database}"'
    try:
        rows = client.rows(_UNREADABLE, doing=f"look into {check}", database=database)
    except SnapVaultError as error:
        return Finding(check, str(error), error)
    if not rows:
        return Finding(check, "every table can be read")
    table, why = from_hex(rows[0][0]), rows[0][1]
    if why == "rows":
        told = f'role "{server.role}" does not see all rows of table {table}'
        hint = f'Run "ALTER ROLE {server.role} BYPASSRLS" as a superuser.'
    else:
        told = f'role "{server.role}" may not read {table}'
        hint = f'Run "GRANT pg_read_all_data TO {server.role}" as a superuser.'
    return Finding(check, told, SourceError(told, hint=hint))
