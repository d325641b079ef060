# SPDX-License-Identifier: Apache-2.0
"""The README's first backup and restore, typed as they stand there.

Only names that lead out of a scratch folder are replaced, and what asks a person.
"""

import os
import re
import shlex
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
        home = self.folder / machine
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", self.text(code)],
            cwd=home,
            env={
                **os.environ,
                **s3.server().environment(),
                "HOME": str(home),
                "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                "SNAPVAULT_CONFIG": f"{self.folder}/etc/snapvault/snapvault.yaml",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    with tempfile.TemporaryDirectory(prefix="svr-", dir="/tmp") as name:
        folder = Path(name)
        for inner in ("bin", "host", "recovery", "dev", "etc/own"):
            (folder / inner).mkdir(parents=True)
        (folder / "bin" / "snapvault").write_text(
            f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} "
            f'exec {shlex.quote(sys.executable)} -m snapvault "$@"\n'
        )
        (folder / "bin" / "snapvault").chmod(0o755)
        (folder / "root.raw").write_bytes(ROOT_DISK)
        (folder / "dev" / "data").write_bytes(DATA_DISK)
        (folder / "dev" / "new").write_bytes(bytes(len(ROOT_DISK)))
        (folder / "etc" / "own" / "hostname").write_text("host1\n")
        yield Scratch(
            folder,
            {
                "make setup && export PATH": "ignored",
                "gpg --quick-generate": "gpg --batch --passphrase '' --quick-generate",
                "/etc/snapvault": f"{name}/etc/snapvault",
                "/var/lib/snapvault": f"{name}/state",
                "/var/lib/libvirt/images/web01-root.raw": f"{name}/root.raw",
                "/dev/vg0/web01-data": f"{name}/dev/data",
                "/dev/vg0/new": f"{name}/dev/new",
                '"-", /etc]': f'"-", {name}/etc/own]',
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
    first = readme[readme.index("## Ten lines") : readme.index("## What it promises")]
    make_recovery_key, set_up, settings, policy, back_up, away, restore, by_hand = CODE.findall(
        first
    )
    copy_bucket, run_script = by_hand.splitlines()
    etc = scratch.folder / "etc" / "snapvault"

    (scratch.folder / "recovery" / ".gnupg").mkdir(mode=0o700)
    scratch.type("recovery", make_recovery_key)
    (scratch.folder / "recovery" / "recovery.gpg").rename(scratch.folder / "host" / "recovery.gpg")
    scratch.type("host", set_up)
    (scratch.folder / "host" / "host1.gpg").rename(scratch.folder / "recovery" / "host1.gpg")
    (etc / "snapvault.yaml").write_text(scratch.text(settings))
    (etc / "policies" / "nightly.yaml").write_text(scratch.text(policy))
    backed_up = scratch.type("host", back_up)
    (scratch.folder / "recovery" / "restore.yaml").write_text(scratch.text(away))
    restored = scratch.type("recovery", restore)
    fetch(scratch, copy_bucket)
    scratch.type("recovery", run_script)

    assert backed_up.count("backed up source") == 2
    assert "etc/own/hostname" in restored
    recovery = scratch.folder / "recovery"
    assert (recovery / "restored" / "root").read_bytes() == ROOT_DISK
    assert (recovery / "restored" / "data").read_bytes() == DATA_DISK
    assert (scratch.folder / "dev" / "new").read_bytes() == ROOT_DISK
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
