# SPDX-License-Identifier: Apache-2.0
"""The scratch servers that dumps are rehearsed in."""

from collections.abc import Mapping
from datetime import timedelta

from snapvault.ports.scratch_database import ScratchDatabases


def scratch_databases(limit: timedelta | None = None) -> Mapping[str, ScratchDatabases]:
    """Return what starts scratch servers, by the product: `mysql`, `postgresql`.

    Each dump may take as long as `limit` to be loaded; None: as long as it takes.
    """
    from snapvault.adapters.databases.mariadb import MariadbServers
    from snapvault.adapters.databases.postgresql import PostgresqlServers

    return {
        "mysql": MariadbServers(limit=limit),
        "postgresql": PostgresqlServers(limit=limit),
    }
