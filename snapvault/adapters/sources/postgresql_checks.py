# SPDX-License-Identifier: Apache-2.0
"""What a PostgreSQL role may do, looked at without making a dump."""

import re
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

# What the dump would fail at, for want of a right or for a policy on rows: tables and sequences,
# and large objects, which no right on everything covers.
_UNREADABLE = """
SELECT encode(textsend(format('%I.%I', n.nspname, c.relname)), 'hex') AS name, why FROM (
  SELECT c.*, CASE
    WHEN NOT has_schema_privilege(c.relnamespace, 'USAGE') THEN 'denied'
    WHEN c.relkind = 'S' AND NOT has_sequence_privilege(c.oid, 'SELECT') THEN 'denied'
    WHEN c.relkind <> 'S' AND NOT has_table_privilege(c.oid, 'SELECT') THEN 'denied'
    WHEN c.relkind <> 'S' AND row_security_active(c.oid) THEN 'rows'
  END AS why FROM pg_class c WHERE c.relkind IN ('r', 'p', 'm', 'S') AND c.relpersistence <> 't'
) c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE why IS NOT NULL AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
UNION ALL
SELECT encode(textsend('large object ' || m.oid), 'hex'), 'object'
FROM pg_largeobject_metadata m
WHERE NOT current_setting('lo_compat_privileges')::bool AND NOT pg_has_role(m.lomowner, 'USAGE')
AND NOT EXISTS (
  SELECT FROM aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT'
  AND CASE WHEN a.grantee = 0 THEN true ELSE pg_has_role(a.grantee, 'USAGE') END
)
ORDER BY 2, 1 LIMIT 1;
"""
_PLAIN_NAME = re.compile("[a-z_][a-z0-9_]*")


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
        hint = f'Run "ALTER ROLE {_identifier(server.role)} REPLICATION" as a superuser.'
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
    name, why = from_hex(rows[0][0]), rows[0][1]
    role = _identifier(server.role)
    if why == "rows":
        told = f'role "{server.role}" does not see all rows of table {name}'
        hint = f'Run "ALTER ROLE {role} BYPASSRLS" as a superuser.'
    elif why == "object":
        told = f'role "{server.role}" may not read {name}'
        hint = f'Run "GRANT SELECT ON {name.upper()} TO {role}", or dump as a superuser.'
    else:
        told = f'role "{server.role}" may not read {name}'
        hint = f'Run "GRANT pg_read_all_data TO {role}" as a superuser.'
    return Finding(check, told, SourceError(told, hint=hint))


def _identifier(name: str) -> str:
    """Return a name as SQL takes it."""
    return name if _PLAIN_NAME.fullmatch(name) else f'"{name.replace(chr(34), chr(34) * 2)}"'
