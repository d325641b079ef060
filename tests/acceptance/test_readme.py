# SPDX-License-Identifier: Apache-2.0
"""The README's first backup and restore, typed as they stand there.

Only names that lead out of a scratch folder are replaced, and what asks a person.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import s3
from tests.support.keys import end_agent

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"```(?:sh|yaml)\n(.*?)```", re.DOTALL)
ROOT_DISK = b"root" * 100_000
DATA_DISK = b"data" * 50_000


@dataclass(frozen=True)
class Scratch:
    """Stands for two machines: each has a home; the file system is that of the backup host."""

    folder: Path
    replaced: dict[str, str]

    def text(self, code: str) -> str:
        for name, ours in self.replaced.items():
            code = code.replace(name, ours)
        return code

    def type(self, machine: str, code: str) -> str:
        """Run a block of the README in bash, in a machine's home folder."""
        with self.start(machine, code) as process:
            said, _ = process.communicate()
        assert process.returncode == 0, said
        return said

    def interrupt(self, machine: str, code: str, *, once: str) -> None:
        """Run a command that goes on for ever, and press Ctrl-C once it has said something."""
        with self.start(machine, f"exec {code}") as process:
            assert process.stdout
            said = ""
            while once not in said:
                line = process.stdout.readline()
                assert line, said
                said += line
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate()
        assert process.returncode == 128 + signal.SIGINT, rest

    def start(self, machine: str, code: str) -> "subprocess.Popen[str]":
        home = self.folder / machine
        settings = {"host": "../etc/snapvault/snapvault.yaml", "recovery": "restore.yaml"}
        return subprocess.Popen(
            ["bash", "-e", "-o", "pipefail", "-c", self.text(code)],
            cwd=home,
            env={
                **os.environ,
                **s3.server().environment(),
                "HOME": str(home),
                "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                "SNAPVAULT_CONFIG": str(home / settings[machine]),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    with tempfile.TemporaryDirectory(prefix="svr-", dir="/tmp") as name:
        folder = Path(name)
        # The last is one that `make install` makes.
        for inner in ("bin", "host", "recovery", "dev", "own/ssh", "etc/snapvault/policies"):
            (folder / inner).mkdir(parents=True)
        (folder / "bin" / "snapvault").write_text(
            f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} "
            f'exec {shlex.quote(sys.executable)} -m snapvault "$@"\n'
        )
        (folder / "bin" / "snapvault").chmod(0o755)
        (folder / "root.raw").write_bytes(ROOT_DISK)
        (folder / "dev" / "data").write_bytes(DATA_DISK)
        (folder / "dev" / "new").write_bytes(bytes(len(ROOT_DISK)))
        (folder / "dev" / "old").write_bytes(b"older" + ROOT_DISK[5:])
        (folder / "own" / "hostname").write_text("host1\n")
        (folder / "own" / "ssh" / "config").write_text("here\n")
        yield Scratch(
            folder,
            {
                "scripts/setup.sh --runtime ~/snapvault": "mkdir -p ~/snapvault && "
                f"ln -s {name}/bin ~/snapvault/bin",
                "gpg --quick-generate": "gpg --batch --passphrase '' --quick-generate",
                "/etc/snapvault": f"{name}/etc/snapvault",
                "/var/lib/snapvault": f"{name}/state",
                "/var/lib/libvirt/images/web01-root.raw": f"{name}/root.raw",
                "/dev/vg0/web01-data": f"{name}/dev/data",
                "/dev/vg0/new": f"{name}/dev/new",
                "/dev/vg0/old": f"{name}/dev/old",
                "{path: /etc}": f"{{path: {name}/own}}",
                "s3://backups/vault1": f"s3://{s3.BUCKET}/{s3.fresh_prefix()}",
                "region: eu-west-1": f"endpoint_url: {s3.server().endpoint_url}\n"
                "    region: us-east-1",
                "--at yesterday": "--at today",
            },
        )
        for home in ("etc/snapvault/gnupg", "recovery/.gnupg"):
            end_agent(folder / home)


def test_the_readmes_first_backup_and_restore_work_as_they_stand(scratch: Scratch) -> None:
    readme = (ROOT / "README.md").read_text()
    shown = CODE.findall(readme[: readme.index("## What it promises")])
    install, in_a_folder, make_recovery_key, set_up, settings, policy, back_up, *back = shown
    away, restore, run, serve, by_hand = back
    copy_bucket, run_script = by_hand.splitlines()
    etc = scratch.folder / "etc" / "snapvault"
    assert install == "make install\n"  # test_install.py types it

    (scratch.folder / "recovery" / ".gnupg").mkdir(mode=0o700)
    scratch.type("recovery", make_recovery_key)
    (scratch.folder / "recovery" / "recovery.gpg").rename(scratch.folder / "host" / "recovery.gpg")
    scratch.type("host", set_up)
    (scratch.folder / "host" / "host1.gpg").rename(scratch.folder / "recovery" / "host1.gpg")
    (etc / "snapvault.yaml").write_text(scratch.text(settings))
    (etc / "policies" / "nightly.yaml").write_text(scratch.text(policy))
    backed_up = scratch.type("host", back_up)
    (scratch.folder / "recovery" / "restore.yaml").write_text(scratch.text(away))
    restored = scratch.type("recovery", in_a_folder + restore)
    scratch.interrupt("recovery", run, once="console: ")
    scratch.interrupt("recovery", serve, once="nbd+unix:")
    fetch(scratch, copy_bucket)
    scratch.type("recovery", run_script)

    assert backed_up.count("backed up source") == 2
    assert "./ssh/config" in restored
    recovery = scratch.folder / "recovery"
    assert (recovery / "restored" / "root").read_bytes() == ROOT_DISK
    assert (recovery / "restored" / "data").read_bytes() == DATA_DISK
    for device in ("new", "old"):
        assert (scratch.folder / "dev" / device).read_bytes() == ROOT_DISK
    assert (recovery / "etc" / "ssh" / "config").read_text() == "here\n"
    assert "hostname" in scratch.type("recovery", "tar -tf ~/etc.tar")


def fetch(scratch: Scratch, command: str) -> None:
    """Do what `aws s3 sync s3://BUCKET/PREFIX FOLDER` does."""
    import boto3

    *_, source, folder = scratch.text(command).split()
    bucket, prefix = source.removeprefix("s3://").split("/")
    server = s3.server()
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    for found in (each for page in pages for each in page["Contents"]):
        name = found["Key"].removeprefix(f"{prefix}/")
        target = scratch.folder / "recovery" / folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, found["Key"], str(target))
    client.close()
