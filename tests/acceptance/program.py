# SPDX-License-Identifier: Apache-2.0
"""The real program on a host of its own: its folders, its GnuPG home, its settings and policies."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.support import keys
from tests.support.warm import warm_python

ROOT = Path(__file__).parents[2]
_PATIENCE = 240.0  # seconds


@dataclass(slots=True)
class Ended:
    """What a run of the program left."""

    status: int
    raw: bytes
    stderr: str

    @property
    def stdout(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


@dataclass(slots=True)
class Host:
    """A host with SnapVault. `vaults` and `policies` are the files' contents as plain values."""

    folder: Path
    home: Path
    store: Mapping[str, Any]
    recipients: Sequence[str] = (keys.RECOVERY,)
    signer: str = keys.HOST
    trusted: Sequence[str] = ()
    passphrase_file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> Path:
        return self.folder / "snapvault.yaml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def set_up(self) -> Self:
        """Write the settings; the folder of policies is there and empty."""
        (self.folder / "policies").mkdir(parents=True, exist_ok=True)
        vault = {
            **self.store,
            "gnupg_home": str(self.home),
            "recipients": list(self.recipients),
            "signer": self.signer,
            "trusted_signers": list(self.trusted),
        }
        if self.passphrase_file is not None:
            vault["passphrase_file"] = str(self.passphrase_file)
        document = {"state_dir": "state", "vaults": {"offsite": vault}}
        # JSON is YAML.
        self.settings.write_text(json.dumps(document))
        return self

    def protect(self, sources: Mapping[str, Any], *, name: str = "nightly", **more: Any) -> None:
        """Write a policy."""
        document = {"vault": "offsite", "sources": sources, **more}
        path = self.folder / "policies" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, ensure_ascii=False))

    def command(self, *words: str) -> list[str]:
        """Return the command line of the program with this host's settings."""
        return [sys.executable, "-m", "snapvault", "--config", str(self.settings), *words]

    def surroundings(self) -> dict[str, str]:
        """Return the environment to run the program in."""
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, "PYTHONPATH": path, **self.environment}

    def run(self, *words: str, data: bytes = b"", **more: Any) -> Ended:
        """Run the program to its end."""
        environment = self.surroundings()
        python = warm_python()
        if not more and python.can_run(environment):
            done = python.run(
                self.command(*words)[3:], environment=environment, data=data, timeout=_PATIENCE
            )
            return Ended(done.returncode, done.stdout, done.stderr.decode())
        done = subprocess.run(
            self.command(*words),
            env=environment,
            input=data,
            capture_output=True,
            check=False,
            timeout=_PATIENCE,
            **more,
        )
        return Ended(done.returncode, done.stdout, done.stderr.decode())

    def does(self, *words: str) -> Ended:
        """Run the program, which must succeed."""
        ended = self.run(*words)
        assert ended.status == 0, ended.stderr
        return ended

    def fails(self, status: int, *words: str) -> str:
        """Run the program, which must fail so; return what it said, which is no traceback."""
        ended = self.run(*words)
        assert ended.status == status, (ended.status, ended.stdout, ended.stderr)
        assert "Traceback" not in ended.stderr
        assert ended.raw == b""
        return ended.stderr

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start the program and leave it to the caller."""
        return subprocess.Popen(
            self.command(*words),
            env=self.surroundings(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def points(self, *words: str) -> list[dict[str, Any]]:
        """Return the restore points that `list` shows."""
        found: list[dict[str, Any]] = self.does("list", "--json", *words).json
        return found

    def ids(self, source: str) -> list[str]:
        """Return the ids of a source's restore points, oldest first.

        The names of their objects tell seconds alone; several points can be of the same one.
        """
        found = sorted(self.points(source), key=lambda point: str(point["taken_at"]))
        return [str(point["id"]) for point in found]


def image(path: Path) -> dict[str, Any]:
    """Return a source that is one disk."""
    return {"image": {"path": str(path)}}


def shell(script: str, **more: Any) -> dict[str, Any]:
    """Return a source that is what a script prints."""
    return {"command": {"run": ["sh", "-c", script], **more}}
