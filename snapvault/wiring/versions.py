# SPDX-License-Identifier: Apache-2.0
"""The versions of SnapVault and of the library that it stands on."""

from functools import cache


@cache
def tool() -> str:
    """Return SnapVault's name and version, as manifests carry it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"snapvault {version('snapvault')}"
    except PackageNotFoundError:
        return "snapvault"


def librsync_version() -> str:
    """Return the version of the system's librsync.

    Raises:
        ConfigError: it is missing or too old.
    """
    from snapvault.adapters.librsync import LibRsync

    return LibRsync().version()
