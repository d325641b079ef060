# SPDX-License-Identifier: Apache-2.0
"""What the composition root adds of its own: errors of this host's state, with their remedy."""

import errno
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from snapvault import wiring
from snapvault.errors import ConfigError, SealError
from snapvault.model.policy import ImageSpec, Policy, SourceSpec, StreamSpec
from snapvault.ports.sealer import Readers
from tests.support.sealers import PaperSealer
from tests.support.vaults import VaultKit


class NoRoom(PaperSealer):
    """Fails as gpg and the operating system do when the state folder is full."""

    def __init__(self, error: Exception) -> None:
        super().__init__(holds="host")
        self._error = error

    def seal_to_file(self, chunks: Iterable[bytes], path: Path, readers: Readers) -> None:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        SealError("could not encrypt: error writing to file: No space left on device"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ],
    ids=["gpg", "system"],
)
def test_a_source_that_finds_the_state_folder_full_names_the_folder(
    tmp_path: Path, error: Exception
) -> None:
    kit = VaultKit(tmp_path)
    image = tmp_path / "image.raw"
    image.write_bytes(b"data" * 5000)
    spec = SourceSpec("web01", (StreamSpec("root", ImageSpec(image)),))
    policy = Policy("nightly", tmp_path, "offsite", (spec,))
    vault = replace(kit.host(), sealer=NoRoom(error))

    with pytest.raises(ConfigError, match="no space left") as caught:
        wiring.back_up(vault, policy, spec)

    assert str(vault.state) in str(caught.value)
    assert "state_dir" in (caught.value.hint or "")
