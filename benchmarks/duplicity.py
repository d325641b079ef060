# SPDX-License-Identifier: Apache-2.0
"""The same work done by duplicity, in an environment of its own that pip makes below build/."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.lab import BUCKET, ROOT, Done, Lab
from benchmarks.measure import BenchmarkError, Usage
from benchmarks.peers import OnS3
from benchmarks.workloads import Kind
from tests.support import keys

VERSION = "3.2.1"
_BLOCK = {"image": 4096, "dump": 1024}  # of a disk, a block of its file system
_GPG = "--trust-model=always"  # throw-away keys, which nobody vouched for
_GPG_TUNED = f"{_GPG} --compress-algo=zlib --compress-level=1"
_ENVIRONMENT = ROOT / "build" / "duplicity"
_PROGRAM = _ENVIRONMENT / "bin" / "duplicity"
# What it needs for S3. The rest of what it names is for stores of other kinds.
_NEEDED = ("boto3", "fasteners")
_FINISHED = re.compile(r"duplicity-(?:full|inc\..*\.to)\.(\d{8}T\d{6}Z)\.manifest")


def install() -> None:
    """Have duplicity installed.

    Raises:
        BenchmarkError: pip could not do it.
    """
    if _PROGRAM.exists():
        return
    python = _ENVIRONMENT / "bin" / "python"
    shutil.rmtree(_ENVIRONMENT, ignore_errors=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", str(_ENVIRONMENT)],
        [*pip, *_NEEDED],
        [*pip, "--no-deps", f"duplicity=={VERSION}"],
    ):
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(_ENVIRONMENT, ignore_errors=True)
            raise BenchmarkError(
                f"could not install duplicity {VERSION}: "
                f"{done.stderr.decode(errors='replace').strip()[-500:]}; where there is no wheel "
                "for this machine it needs gcc, python3-dev and librsync-dev; "
                "or leave the others out: --without-peers"
            )


@dataclass(slots=True)
class Duplicity(OnS3):
    """duplicity with GnuPG, for the same recovery key, into the same S3 server."""

    name: str = "duplicity"
    options: Sequence[str] = ()
    gpg_options: str = _GPG
    _backups: list[tuple[Path, int]] = field(default_factory=list)

    def set_up(self) -> None:
        """Make a folder for the cache; there is nothing to create in the store."""
        self._folder.mkdir(parents=True)

    def back_up(self, path: Path) -> Done:
        """Back a file up once more, all of it the first time; another path is another backup."""
        known = [each for each, _ in self._backups]
        action = "incremental" if path in known else "full"
        chosen = ["--include", str(path), "--exclude", "**", str(path.parent)]
        words = [action, "--encrypt-key", keys.RECOVERY, *self.options, *chosen, self._url(path)]
        usage = self._run("cache", self.lab.host_home, *words)
        self._backups.append((path, self._newest(path)))
        return Done(usage)

    def restore(self, number: int, folder: Path) -> tuple[Done, Path]:
        """Restore a backup with the recovery key and no cache."""
        path, when = self._backups[number]
        shutil.rmtree(self._folder / "cold", ignore_errors=True)
        target = folder / path.name
        wanted = ["--time", str(when), "--path-to-restore", path.name]
        words = ["restore", *wanted, self._url(path), str(target)]
        return Done(self._run("cold", self.lab.recovery_home, *words)), target

    def _url(self, path: Path) -> str:
        return f"boto3+s3://{BUCKET}/{self._prefix}/{path.stem}"

    def _newest(self, path: Path) -> int:
        """Return when duplicity says that it made the newest backup, in seconds."""
        folder = self._folder / "cache" / path.stem
        told = [_FINISHED.match(each.name) for each in folder.iterdir()]
        newest = max(each[1] for each in told if each)
        return int(datetime.strptime(newest, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp())

    def _run(self, cache: str, home: Path, *words: str) -> Usage:
        url = next(each for each in words if each.startswith("boto3+s3:"))
        everywhere = [
            f"--archive-dir={self._folder / cache}",
            f"--name={url.rpartition('/')[2]}",
            f"--tempdir={self.lab.folder / 'tmp'}",
            f"--s3-endpoint-url={self.lab.server.endpoint_url}",
            f"--s3-region-name={self.lab.server.region}",
            f"--gpg-options={self.gpg_options}",
        ]
        environment = {
            "GNUPGHOME": str(home),
            "PASSPHRASE": "",
            # What duplicity itself says to set for stores other than that of AWS.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
        runner = self.lab.runner(self._folder, more=environment)
        return runner.run([str(_PROGRAM), words[0], *everywhere, *words[1:]])


def tuned(lab: Lab, what: str, kind: Kind) -> Duplicity:
    """Return duplicity as its documents advise for large files that change in small places."""
    options = (
        # Smaller blocks make smaller backups and larger signatures.
        f"--max-blocksize={_BLOCK[kind]}",
        # Larger volumes; the next one is made while one is uploaded, by all processors but one.
        "--volsize=256",
        "--concurrency=1",
        "--no-files-changed",
    )
    return Duplicity(lab, what, "duplicity tuned", options, _GPG_TUNED)
