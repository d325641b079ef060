# SPDX-License-Identifier: Apache-2.0
"""The same work done by restic and borg, each with a repository of its own."""

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from benchmarks.lab import BUCKET, Done, Lab, Stored
from benchmarks.measure import BenchmarkError, Usage, folder_size

_PACKAGES = {"restic": "restic", "borg": "borgbackup"}
BORG_FIXED = ("--chunker-params", "fixed,65536")


def install(programs: Sequence[str]) -> None:
    """Have restic and borg installed, as far as they are among the names; as root, do it.

    Raises:
        BenchmarkError: one is missing and could not be installed.
    """
    missing = [_PACKAGES[each] for each in programs if shutil.which(each) is None]
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "-q", "update"], stdout=subprocess.DEVNULL, check=False)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        if done.returncode == 0:
            return
    raise BenchmarkError(
        f"missing on this machine: {', '.join(missing)}; "
        f"install with: sudo {' '.join(command)}, or leave the others out: --without-peers"
    )


@dataclass(slots=True)
class OnS3:
    """A program with a repository of its own on the S3 server, and a cache in a folder."""

    lab: Lab
    what: str
    name: str

    def stored(self) -> Stored:
        """Return what the repository holds."""
        return self.lab.stored(self._prefix)

    def requests(self) -> Counter[str]:
        """Return how often the S3 server was asked so far, by method."""
        return self.lab.requests()

    def kept(self) -> int:
        """Return the bytes of its cache."""
        return folder_size(self._folder / "cache")

    @property
    def _prefix(self) -> str:
        return f"{self.name.replace(' ', '-')}-{self.what}"

    @property
    def _folder(self) -> Path:
        return self.lab.folder / self._prefix


@dataclass(slots=True)
class Restic(OnS3):
    """restic with its default settings (zstd, its cache), into the same S3 server."""

    name: str = "restic"
    _backups: list[tuple[str, Path]] = field(default_factory=list)

    def set_up(self) -> None:
        """Create the repository, in the format that compresses."""
        self._folder.mkdir(parents=True)
        (self._folder / "password").write_text("benchmark\n")
        self._run("init", "--repository-version", "2")

    def back_up(self, path: Path) -> Done:
        """Back a file up once more."""
        usage = self._run("backup", "--json", "--quiet", str(path))
        told = [json.loads(line) for line in usage.output.splitlines() if line.startswith("{")]
        summary = next(each for each in told if each.get("message_type") == "summary")
        self._backups.append((summary["snapshot_id"], path))
        return Done(usage)

    def restore(self, number: int, folder: Path) -> tuple[Done, Path]:
        """Restore a backup below a folder, sparse if this restic can, with no cache."""
        snapshot, path = self._backups[number]
        sparse = ["--sparse"] if _restores_sparse() else []
        shutil.rmtree(self._folder / "cold", ignore_errors=True)
        usage = self._run("restore", snapshot, *sparse, "--target", str(folder), cache="cold")
        return Done(usage), folder / path.relative_to("/")

    def _run(self, *words: str, cache: str = "cache") -> Usage:
        environment = {
            "RESTIC_REPOSITORY": f"s3:{self.lab.server.endpoint_url}/{BUCKET}/{self._prefix}",
            "RESTIC_PASSWORD_FILE": str(self._folder / "password"),
            "RESTIC_CACHE_DIR": str(self._folder / cache),
        }
        return self.lab.runner(self._folder, more=environment).run(["restic", *words])


@cache
def _restores_sparse() -> bool:
    """Tell whether this restic leaves holes in what it restores; from 0.15 it can."""
    command = ["restic", "restore", "--help"]
    return b"--sparse" in subprocess.run(command, capture_output=True, check=False).stdout


@dataclass(slots=True)
class Borg:
    """borg with zstd at level 3, encrypted, into a folder: it does not speak S3."""

    lab: Lab
    what: str
    name: str = "borg"
    options: Sequence[str] = ()
    _paths: list[Path] = field(default_factory=list)

    def set_up(self) -> None:
        """Create the repository."""
        self._folder.mkdir(parents=True)
        self._run("init", "--encryption", "repokey-blake2", str(self._repository))

    def back_up(self, path: Path) -> Done:
        """Back a file up once more."""
        archive = f"{self._repository}::{len(self._paths)}"
        usage = self._run("create", "--compression", "zstd,3", *self.options, archive, str(path))
        self._paths.append(path)
        return Done(usage)

    def restore(self, number: int, folder: Path) -> tuple[Done, Path]:
        """Restore a backup below a folder, sparse, with no cache."""
        shutil.rmtree(self._folder / "cold", ignore_errors=True)
        archive = f"{self._repository}::{number}"
        usage = self._run("extract", "--sparse", archive, cwd=folder, base="cold")
        return Done(usage), folder / self._paths[number].relative_to("/")

    def stored(self) -> Stored:
        """Return what the repository holds."""
        files = sum(len(names) for _, _, names in os.walk(self._repository))
        return Stored(files, folder_size(self._repository))

    def requests(self) -> Counter[str]:
        """Return nothing: it asks no server."""
        return Counter()

    def kept(self) -> int:
        """Return the bytes of its cache."""
        return folder_size(self._folder / "base")

    @property
    def _folder(self) -> Path:
        return self.lab.folder / f"{self.name.replace(' ', '-')}-{self.what}"

    @property
    def _repository(self) -> Path:
        return self._folder / "repository"

    def _run(self, *words: str, cwd: Path | None = None, base: str = "base") -> Usage:
        environment = {
            "BORG_PASSPHRASE": "benchmark",
            "BORG_BASE_DIR": str(self._folder / base),
        }
        runner = self.lab.runner(self._folder / base, more=environment)
        return runner.run(["borg", *words], cwd=cwd)
