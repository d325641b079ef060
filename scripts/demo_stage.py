# SPDX-License-Identifier: Apache-2.0
"""Where the demo plays: a folder with two machines in it, and an S3 server between them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from scripts.demo_screen import DemoError, Machine, Screen
from snapvault.units import format_size
from tests.support.seaweed import SeaweedServer

ROOT = Path(__file__).parents[1]
BUCKET = "backups"
PREFIX = "vault1"

_PROGRAMS = {
    "bash": "bash",
    "sha256sum": "coreutils",
    "mkfs.ext4": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "gpg": "gnupg",
    "gpgconf": "gnupg",
    "zstd": "zstd",
}
# Settings of the person at the terminal that must not reach the commands.
_FOREIGN = ("AWS_", "GNUPG", "GPG_", "PYTHON", "SNAPVAULT_", "XDG_")
# LIMIT: a socket's path has at most 107 bytes (Linux), and gpg-agent's lie in its home.
_LONGEST_FOLDER = 70


@dataclass(slots=True)
class Stage:
    """The folder, its two machines, and the S3 server while it runs."""

    folder: Path
    screen: Screen
    host: Machine
    recovery: Machine
    server: SeaweedServer

    @property
    def copy(self) -> Path:
        """Where `fetch_bucket` puts the vault."""
        return self.recovery.folder / PREFIX

    def fetch_bucket(self) -> tuple[int, int]:
        """Copy the vault out of the bucket as any tool would; return its objects and bytes."""
        client = boto3.client(
            "s3",
            endpoint_url=self.server.endpoint_url,
            region_name=self.server.region,
            aws_access_key_id=self.server.access_key,
            aws_secret_access_key=self.server.secret_key,
        )
        count = total = 0
        try:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=BUCKET, Prefix=f"{PREFIX}/"
            )
            for found in (each for page in pages for each in page.get("Contents", [])):
                target = self.copy / found["Key"].removeprefix(f"{PREFIX}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(BUCKET, found["Key"], str(target))
                count, total = count + 1, total + found["Size"]
        finally:
            client.close()
        return count, total


@contextmanager
def open_stage(screen: Screen, *, room: int, keep: bool) -> Iterator[Stage]:
    """Set the stage; take it down afterwards, or keep what can be kept.

    Raises:
        DemoError: a program or room on the disk is missing.
        SeaweedError: the S3 server did not start.
    """
    _require_programs()
    folder = Path(tempfile.mkdtemp(prefix="snapvault-demo-"))
    try:
        _require_room(folder, room)
        with SeaweedServer() as server:
            server.create_bucket(BUCKET)
            stage = _build(folder, screen, server)
            try:
                yield stage
            finally:
                if keep:
                    _keep_vault(stage)
    finally:
        for name in ("host", "recovery"):
            _end_agent(folder / name / "gnupg")
        if keep:
            _say_how_to_go_on(folder, screen)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _path() -> str:
    # An ordinary user's path often lacks mkfs.ext4.
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def _require_programs() -> None:
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        packages = sorted({_PROGRAMS[name] for name in missing})
        raise DemoError(
            f"not installed: {', '.join(missing)}",
            hint=f"Install with: apt-get install {' '.join(packages)}",
        )


def _require_room(folder: Path, room: int) -> None:
    hint = "Set TMPDIR to another folder."
    free = shutil.disk_usage(folder).free
    if free < room:
        raise DemoError(
            f"the demo needs {format_size(room)} in {folder.parent}, and {format_size(free)} "
            "are free",
            hint=hint,
        )
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        raise DemoError(f'the name of folder "{folder.parent}" is too long for GnuPG', hint=hint)


def _build(folder: Path, screen: Screen, server: SeaweedServer) -> Stage:
    for name in ("bin", "home", "tmp", "host/gnupg", "host/policies", "recovery/gnupg"):
        (folder / name).mkdir(mode=0o700, parents=True)
    (folder / "recovery" / "policies").mkdir()
    _write_program(
        folder / "bin" / "snapvault",
        sys.executable,
        "-Pc",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
        "from snapvault.cli.main import main; sys.exit(main())",
    )
    # The Python behind .venv, in which SnapVault is not installed.
    _write_program(folder / "bin" / "python3", os.path.realpath(sys.executable))
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and not name.lower().endswith("_proxy")
    }
    environment |= server.environment() | {
        "PATH": f"{folder}/bin{os.pathsep}{_path()}",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
    }
    host, recovery = (
        Machine(
            name,
            folder / name,
            screen,
            {**environment, "SNAPVAULT_CONFIG": f"{folder}/{name}/snapvault.yaml"},
        )
        for name in ("host", "recovery")
    )
    return Stage(folder, screen, host, recovery, server)


def _write_program(path: Path, *words: str) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    path.chmod(0o755)


def _end_agent(home: Path) -> None:
    if home.is_dir():
        command = ["gpgconf", "--homedir", str(home), "--kill", "all"]
        subprocess.run(command, capture_output=True, check=False)


def _keep_vault(stage: Stage) -> None:
    """Put the vault into a folder and lead the settings there, since the S3 server ends."""
    if not stage.copy.exists():
        # After a failure, whatever can be had.
        with suppress(BotoCoreError, ClientError, OSError):
            stage.fetch_bucket()
    for machine in (stage.host, stage.recovery):
        settings = machine.folder / "snapvault.yaml"
        if settings.exists():
            text = re.sub(r"store: .*", f"store: file://{stage.copy}", settings.read_text())
            settings.write_text(re.sub(r" *(endpoint_url|region): .*\n", "", text))


def _say_how_to_go_on(folder: Path, screen: Screen) -> None:
    screen.title("Kept")
    for line in (
        f"{folder}/host        the backup host",
        f"{folder}/recovery    the machine with the recovery key",
        f"{folder}/recovery/{PREFIX}",
        "    the vault. The S3 server has ended, and the settings lead to this copy now.",
        "",
        "To go on by hand:",
        f"    cd {folder}/recovery",
        f"    export PATH={folder}/bin:$PATH SNAPVAULT_CONFIG=$PWD/snapvault.yaml",
        "    snapvault list",
        "",
        "To remove it all:",
        f"    rm -rf {folder}",
    ):
        screen.line(line)
