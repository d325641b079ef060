# SPDX-License-Identifier: Apache-2.0
"""What every compared program does, and SnapVault as one of them."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.counting import counted, requests_of
from benchmarks.lab import BUCKET, Done, Lab, Stored, program, write_policies, write_settings
from benchmarks.measure import folder_size
from benchmarks.workloads import Kind

OWN = "SnapVault"


class Program(Protocol):
    """A program that backs files up again and again, into a vault or repository of its own.

    Restores are done as on another machine, which has the keys and no cache or catalog.
    """

    @property
    def name(self) -> str:
        """What the tables call it."""
        ...

    def set_up(self) -> None:
        """Create the vault or repository."""
        ...

    def back_up(self, path: Path) -> Done:
        """Back a file up once more."""
        ...

    def restore(self, number: int, folder: Path) -> tuple[Done, Path]:
        """Restore what the backup of that number (0 is the first) saw, to an empty folder.

        Returns also where the file is now.
        """
        ...

    def stored(self) -> Stored:
        """Return what the vault or repository holds."""
        ...

    def requests(self) -> Counter[str]:
        """Return how often the S3 server was asked so far, by method; of a folder, nothing."""
        ...

    def kept(self) -> int:
        """Return the bytes that it keeps on the backup host: state, catalogs and caches."""
        ...


@dataclass(slots=True)
class SnapVault:
    """SnapVault with the settings it comes with. A dump reaches it as a program's output."""

    lab: Lab
    what: str
    kind: Kind
    name: str = OWN
    _sources: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _points: list[tuple[str, str]] = field(default_factory=list)

    def set_up(self) -> None:
        """Write settings and create the vault."""
        self._settings("host", self.lab.host_home, self.lab.server.endpoint_url)
        write_policies(self._folder("host"), {})
        self._run("host", "init")

    def back_up(self, path: Path) -> Done:
        """Make a restore point; a path not seen before is a new source."""
        source = path.stem
        if source not in self._sources:
            spec: Mapping[str, Any] = {"image": {"path": str(path)}}
            if self.kind == "dump":
                spec = {"command": {"run": ["cat", str(path)]}}
            self._sources[source] = spec
            write_policies(self._folder("host"), self._sources)
        done = self._run("host", "backup", source)
        report = done.report[0]
        self._points.append((source, str(report["id"])))
        return Done(done.usage, report)

    def restore(self, number: int, folder: Path) -> tuple[Done, Path]:
        """Restore a point on a machine that has nothing but the keys."""
        return self._restore(number, folder, self.lab.server.endpoint_url)

    def volume_fetches(self, number: int, folder: Path) -> tuple[Counter[str], Path]:
        """Restore a point, and count how often each volume is asked for; nothing is measured."""
        with counted(self.lab.server.port) as proxy:
            _, path = self._restore(number, folder, proxy.endpoint_url)
            return requests_of(proxy).volume_fetches(), path

    def stored(self) -> Stored:
        """Return what the vault holds."""
        return self.lab.stored(self._prefix)

    def requests(self) -> Counter[str]:
        """Return how often the S3 server was asked so far, by method."""
        return self.lab.requests()

    def kept(self) -> int:
        """Return the bytes of the state folder."""
        return folder_size(self._folder("host") / "state")

    @property
    def _prefix(self) -> str:
        return f"snapvault-{self.what}"

    def _folder(self, machine: str) -> Path:
        return self.lab.folder / machine / self._prefix

    def _settings(self, machine: str, home: Path, endpoint: str) -> None:
        folder = self._folder(machine)
        folder.mkdir(parents=True)
        store = {
            "store": f"s3://{BUCKET}/{self._prefix}",
            "endpoint_url": endpoint,
            "region": self.lab.server.region,
        }
        write_settings(folder, store, home)

    def _restore(self, number: int, folder: Path, endpoint: str) -> tuple[Done, Path]:
        source, point = self._points[number]
        shutil.rmtree(self._folder("recovery"), ignore_errors=True)
        self._settings("recovery", self.lab.recovery_home, endpoint)
        target = folder / "restored"
        words = ("restore", source, "--point", point, "--to", str(target))
        return self._run("recovery", *words), target

    def _run(self, machine: str, *words: str) -> Done:
        folder = self._folder(machine)
        usage = self.lab.runner(folder).run(program(folder, *words), cwd=folder)
        return Done(usage, json.loads(usage.output))
