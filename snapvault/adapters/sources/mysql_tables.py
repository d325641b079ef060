# SPDX-License-Identifier: Apache-2.0
"""Tables that a dump in one transaction does not hold as their server does."""

from collections.abc import Sequence
from typing import Final

from snapvault.adapters.sources.mysql_client import MysqlClient

# LIMIT: MEMORY and its like know no transactions either; these hold no rows of their own.
_UNPROTECTED: Final = """
SELECT HEX(t.table_schema), HEX(t.table_name) FROM information_schema.tables t
WHERE t.table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND t.engine IS NOT NULL
AND t.engine NOT IN ('BLACKHOLE', 'MRG_MyISAM', 'MRG_MYISAM', 'FEDERATED', 'SPIDER')
AND t.engine NOT IN (SELECT engine FROM information_schema.engines WHERE transactions = 'YES')
AND t.table_schema NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')
ORDER BY t.table_schema, t.table_name
"""
# MariaDB's system-versioned tables, and whether they count in transactions and not in time.
_VERSIONED: Final = """
SELECT HEX(t.table_schema), HEX(t.table_name), EXISTS (
  SELECT 1 FROM information_schema.columns c
  WHERE c.table_schema = t.table_schema AND c.table_name = t.table_name
  AND c.generation_expression = 'ROW START' AND c.data_type = 'bigint'
) FROM information_schema.tables t WHERE t.table_type = 'SYSTEM VERSIONED'
ORDER BY t.table_schema, t.table_name
"""
_SHOWN: Final = 3  # tables named in a message


def unprotected(client: MysqlClient, databases: Sequence[str]) -> tuple[str, ...]:
    """Return the tables whose engine knows no transactions.

    Raises:
        SourceError: as `MysqlClient.rows`.
    """
    rows = client.rows(_UNPROTECTED, doing="list the tables' engines")
    return _in(databases, rows)


def versioned(
    client: MysqlClient, databases: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tables that keep their history: by time, and by transactions.

    Raises:
        SourceError: as `MysqlClient.rows`.
    """
    rows = client.rows(_VERSIONED, doing="list the tables that keep their history")
    by_time = [row for row in rows if row[2] == "0"]
    return _in(databases, by_time), _in(databases, [row for row in rows if row[2] != "0"])


def told(tables: Sequence[str]) -> str:
    """Return some tables in one line."""
    shown = ", ".join(f'"{table}"' for table in tables[:_SHOWN])
    more = f" and {len(tables) - _SHOWN} more" if len(tables) > _SHOWN else ""
    return f"{shown}{more}"


def _in(databases: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    names = [(_from_hex(row[0]), _from_hex(row[1])) for row in rows]
    return tuple(f"{schema}.{table}" for schema, table in names if schema in databases)


def _from_hex(text: str) -> str:
    return bytes.fromhex(text).decode(errors="replace")
