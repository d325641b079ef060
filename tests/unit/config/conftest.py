# SPDX-License-Identifier: Apache-2.0
"""A folder with the settings of one host and its policies."""

from collections.abc import Callable
from pathlib import Path

import pytest

from snapvault.config.settings import load_settings
from snapvault.model.settings import Settings

SETTINGS = """\
vaults:
  offsite: {store: "s3://backups/vault1", recipients: [r@example.org], signer: s@example.org}
  second: {store: "file:///srv/vault", recipients: [r@example.org], signer: s@example.org}
"""

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file below the host's folder and returns its path."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def host(write: Write, tmp_path: Path) -> Settings:
    """Settings with the vaults `offsite` and `second`, and an empty folder of policies."""
    (tmp_path / "policies").mkdir()
    return load_settings(write("snapvault.yaml", SETTINGS))
