# SPDX-License-Identifier: Apache-2.0
"""Two disks made of one image: the workload clone."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import disks, material
from benchmarks.measure import BenchmarkError
from benchmarks.workloads import Kind
from snapvault.model.policy import DEFAULT_COMPRESSION_LEVEL

_SHARE = 0.02  # of the clone's blocks that hold data, what differs
_SPARE = 32 << 20  # bytes of the smallest disk for what the file system keeps of files


class Clone:
    """A workload: a disk with `size` bytes of files, mostly full, and its clone the night after."""

    name = "clone"
    kind: Kind = "image"
    nights = 1

    def __init__(self, folder: Path, *, size: int, seed: int) -> None:
        self._folder = folder
        self._size = size
        self._seed = seed
        self._first, self._clone = folder / "first.raw", folder / "clone.raw"
        self._facts: dict[str, Any] = {}

    def prepare(self, number: int) -> Path:
        """Make the first disk, or its clone.

        Raises:
            BenchmarkError: a program is missing, or failed.
        """
        if number == 0:
            files = material.gather(self._folder / "material", self._size, seed=self._seed)
            disks.make(self._first, files.size + files.size // 4 + _SPARE, files.files)
            return self._first
        command = ["cp", "--sparse=always", str(self._first), str(self._clone)]
        if subprocess.run(command, check=False).returncode != 0:
            raise BenchmarkError(f"could not copy {self._first.name}")
        night = disks.change(
            self._clone,
            self._folder / "material" / "pool",
            share=_SHARE,
            seed=self._seed,
            level=DEFAULT_COMPRESSION_LEVEL,
        )
        self._facts = {
            "differing_blocks": night.blocks,
            "data_blocks": disks.data_bytes(self._clone) // disks.BLOCK,
            "differing_bytes_alone": night.in_frames,
        }
        return self._clone

    def facts(self) -> Mapping[str, Any]:
        """Return how many blocks differ."""
        return self._facts

    def close(self) -> None:
        """Remove the disks and what they are made of; safe to repeat."""
        shutil.rmtree(self._folder / "material", ignore_errors=True)
        for path in (self._first, self._clone):
            path.unlink(missing_ok=True)
