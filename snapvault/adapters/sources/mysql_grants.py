# SPDX-License-Identifier: Apache-2.0
"""What a MariaDB or MySQL account may do, read from SHOW GRANTS.

It must be known before a dump: of what an account may not see, a dump has nothing, and no error.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

NEEDED: Final = frozenset({"SELECT", "SHOW VIEW", "TRIGGER", "EVENT"})
_ALL: Final = "ALL PRIVILEGES"

_GRANT = re.compile(
    r"GRANT (?P<rights>.+?) ON (?:TABLE )?"
    r"(?P<database>\*|`(?:[^`]|``)*`)\.(?P<object>\*|`(?:[^`]|``)*`) TO ",
    re.DOTALL,
)
_ROLE = re.compile(r"GRANT [`'\"].* TO |GRANT \S+ TO ")


@dataclass(frozen=True, slots=True)
class Grants:
    """Rights for everything, and by pattern for databases and by names for single tables.

    `has_roles` says that there may be more, through roles whose rights were not listed.
    """

    everywhere: frozenset[str]
    databases: Mapping[str, frozenset[str]]
    tables: Mapping[tuple[str, str], frozenset[str]]
    has_roles: bool

    def missing_everywhere(self, needed: Iterable[str] = NEEDED) -> list[str]:
        """Return which rights are not held on *.*, sorted."""
        return _missing(needed, self.everywhere)

    def missing_on(self, database: str, needed: Iterable[str] = NEEDED) -> list[str]:
        """Return which rights are not held on all of one database, sorted."""
        held = self.everywhere.union(
            *(rights for pattern, rights in self.databases.items() if _matches(pattern, database))
        )
        return _missing(needed, held)

    def sees_routines(self, *, mariadb: bool) -> bool:
        """Tell whether the bodies of all stored routines are shown to the account."""
        if not self.missing_everywhere(["SELECT"]):
            return True
        if not mariadb:
            return not self.missing_everywhere(["SHOW_ROUTINE"])
        held = self.tables.get(("mysql", "proc"), frozenset())
        return not self.missing_on("mysql", ["SELECT"]) or not _missing(["SELECT"], held)

    def sees_position(self) -> bool:
        """Tell whether a MySQL account may read the binary log's position while all is locked."""
        flush = not self.missing_everywhere(["RELOAD"])
        return flush and not self.missing_everywhere(["REPLICATION CLIENT"])


def parse(statements: Sequence[str]) -> Grants:
    """Read the rows of SHOW GRANTS."""
    everywhere: set[str] = set()
    databases: dict[str, frozenset[str]] = {}
    tables: dict[tuple[str, str], frozenset[str]] = {}
    has_roles = False
    for statement in statements:
        found = _GRANT.match(statement)
        if found is None:
            has_roles = has_roles or _ROLE.match(statement) is not None
            continue
        rights = _rights(found["rights"])
        database, name = _bare(found["database"]), _bare(found["object"])
        if found["database"] == "*":
            everywhere |= rights
        elif found["object"] == "*":
            databases[database] = databases.get(database, frozenset()) | rights
        else:
            key = (database, name)
            tables[key] = tables.get(key, frozenset()) | rights
    return Grants(frozenset(everywhere), databases, tables, has_roles)


def _rights(text: str) -> frozenset[str]:
    """Split a list of rights; those for single columns do not count."""
    whole = re.sub(r"[A-Z ]+\([^)]*\)", "", text)
    return frozenset(right.strip().upper() for right in whole.split(",") if right.strip())


def _missing(needed: Iterable[str], held: frozenset[str]) -> list[str]:
    return [] if _ALL in held else sorted(set(needed) - held)


def _bare(quoted: str) -> str:
    return quoted[1:-1].replace("``", "`") if quoted != "*" else quoted


def _matches(pattern: str, database: str) -> bool:
    """Compare as the server does: `_` and `%` stand for anything unless a backslash is before."""
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    wild = {"_": ".", "%": ".*"}
    regex = "".join(wild.get(part) or re.escape(part[-1]) for part in parts)
    return re.fullmatch(regex, database, re.DOTALL) is not None
