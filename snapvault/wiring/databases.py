# SPDX-License-Identifier: Apache-2.0
"""The scratch servers that dumps are rehearsed in."""

from collections.abc import Mapping

from snapvault.ports.scratch_database import ScratchDatabases


def scratch_databases() -> Mapping[str, ScratchDatabases]:
    """Return what starts scratch servers, by the product: `mysql`, `postgresql`."""
    from snapvault.adapters.databases.mariadb import MariadbServers
    from snapvault.adapters.databases.postgresql import PostgresqlServers

    return {"mysql": MariadbServers(), "postgresql": PostgresqlServers()}
