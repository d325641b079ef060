# SPDX-License-Identifier: Apache-2.0
"""The same work done by restic and borg, as they come, each with a repository of its own."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.lab import BUCKET, Lab, Stored, version_of
from benchmarks.measure import Runner, Usage, folder_size


class Peer(Protocol):
    """Another program that backs up one file again and again."""

    name: str

    def set_up(self) -> None:
        """Create the repository."""
        ...

    def back_up(self, path: Path) -> Usage:
        """Back a file up once more."""
        ...

    def restore_last(self, path: Path, folder: Path) -> tuple[Usage, Path]:
        """Restore the newest backup of a file below a folder; return where it is now."""
        ...

    def stored(self) -> Stored:
        """Return what the repository holds."""
        ...


def peers_of(lab: Lab, what: str) -> list[Peer]:
    """Return the peers that are installed, with names for repositories of their own."""
    found: list[Peer] = []
    if version_of("restic", "version"):
        found.append(Restic(lab, what))
    if version_of("borg", "--version"):
        found.append(Borg(lab, what))
    return found


@dataclass(slots=True)
class Restic:
    """restic with its default settings (zstd, its cache), into the same S3 server."""

    lab: Lab
    what: str
    name: str = "restic"

    def set_up(self) -> None:
        """Create the repository, in the format that compresses."""
        self._folder.mkdir(parents=True)
        (self._folder / "password").write_text("benchmark\n")
        self._run("init", "--repository-version", "2")

    def back_up(self, path: Path) -> Usage:
        """Back a file up once more."""
        return self._run("backup", "--json", "--quiet", str(path))

    def restore_last(self, path: Path, folder: Path) -> tuple[Usage, Path]:
        """Restore the newest backup of a file below a folder; return where it is now."""
        usage = self._run("restore", "latest", "--target", str(folder))
        return usage, folder / path.relative_to("/")

    def stored(self) -> Stored:
        """Return what the repository holds."""
        return self.lab.stored(self._prefix)

    @property
    def _prefix(self) -> str:
        return f"restic-{self.what}"

    @property
    def _folder(self) -> Path:
        return self.lab.folder / self._prefix

    def _run(self, *words: str) -> Usage:
        environment = {
            **self.lab.environment,
            "RESTIC_REPOSITORY": f"s3:{self.lab.server.endpoint_url}/{BUCKET}/{self._prefix}",
            "RESTIC_PASSWORD_FILE": str(self._folder / "password"),
            "RESTIC_CACHE_DIR": str(self._folder / "cache"),
        }
        return _runner(self.lab, environment, self._folder).run(["restic", *words])


@dataclass(slots=True)
class Borg:
    """borg with zstd at level 3, encrypted, into a folder: it does not speak S3."""

    lab: Lab
    what: str
    name: str = "borg"
    _backups: int = 0

    def set_up(self) -> None:
        """Create the repository."""
        self._folder.mkdir(parents=True)
        self._run("init", "--encryption", "repokey-blake2", str(self._repository))

    def back_up(self, path: Path) -> Usage:
        """Back a file up once more."""
        self._backups += 1
        archive = f"{self._repository}::{self._backups}"
        return self._run("create", "--compression", "zstd,3", archive, str(path))

    def restore_last(self, path: Path, folder: Path) -> tuple[Usage, Path]:
        """Restore the newest backup of a file below a folder; return where it is now."""
        folder.mkdir(parents=True, exist_ok=True)
        archive = f"{self._repository}::{self._backups}"
        usage = self._run("extract", "--sparse", archive, cwd=folder)
        return usage, folder / path.relative_to("/")

    def stored(self) -> Stored:
        """Return what the repository holds."""
        files = sum(len(names) for _, _, names in os.walk(self._repository))
        return Stored(files, folder_size(self._repository))

    @property
    def _folder(self) -> Path:
        return self.lab.folder / f"borg-{self.what}"

    @property
    def _repository(self) -> Path:
        return self._folder / "repository"

    def _run(self, *words: str, cwd: Path | None = None) -> Usage:
        environment = {
            **self.lab.environment,
            "BORG_PASSPHRASE": "benchmark",
            "BORG_BASE_DIR": str(self._folder / "base"),
        }
        return _runner(self.lab, environment, self._folder).run(["borg", *words], cwd=cwd)


def _runner(lab: Lab, environment: Mapping[str, str], folder: Path) -> Runner:
    return Runner(environment, (folder,), (lab.server.pid,))
