# SPDX-License-Identifier: Apache-2.0
"""What every vault carries for the day SnapVault is gone: docs/format.md, section 10."""

from importlib import resources

_PACKAGE = "snapvault.formats.emergency"


def script() -> bytes:
    """Return `restore.py`: a whole restore on Python's standard library, gpg and zstd."""
    return (resources.files(_PACKAGE) / "restore.py").read_bytes()


def text() -> bytes:
    """Return `RESTORE.md`: what to do with the vault and nothing else."""
    return (resources.files(_PACKAGE) / "RESTORE.md").read_bytes()
