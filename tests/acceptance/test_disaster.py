# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/disaster.md bring everything back on a machine that has nothing.

Replaced are the card, which a person fills in, and the installing of SnapVault.
"""

import filecmp
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.program import Host, image
from tests.support import bootable, keys, s3
from tests.support.mariadb import DUMP_GRANTS, MariadbServer

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "disaster.md"
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# The machine computes something, writes it down, and ends.
START = "echo written: $((1234567 * 7654321)) >/var/written; sync; poweroff -f"
WRITTEN = b"written: %d" % (1234567 * 7654321)
DATA = b"what the machine served\n" * 1000

# Does what `aws s3 sync s3://BUCKET/PREFIX FOLDER` does.
AWS = f"""#!{sys.executable}
import sys
from pathlib import Path
import boto3

bucket, prefix = sys.argv[3].removeprefix("s3://").split("/")
client = boto3.client("s3")
for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/"):
    for found in page["Contents"]:
        target = Path(sys.argv[4], found["Key"].removeprefix(prefix + "/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, found["Key"], str(target))
"""


@pytest.fixture
def servers() -> Iterator[tuple[MariadbServer, MariadbServer]]:
    """Return the database server that was lost, and the new one."""
    with MariadbServer(binary_log=False) as lost, MariadbServer(binary_log=False) as new:
        lost.run("CREATE DATABASE shop; CREATE TABLE shop.orders AS SELECT 7 AS number")
        yield lost, new


def test_the_commands_of_the_page_bring_everything_back(
    servers: tuple[MariadbServer, MariadbServer],
    s3_store: dict[str, str],
    host_home: Path,
    tmp_path: Path,
) -> None:
    lost, new = servers
    host = Host(tmp_path / "host", host_home, s3_store, environment=s3.server().environment())
    back_up_everything(host, lost, tmp_path)
    safe = tmp_path / "safe"
    safe.mkdir()
    shutil.copy(keys.FOLDER / "recovery.secret.asc", safe / "recovery-key.asc")
    shutil.copy(keys.FOLDER / "host.public.asc", safe / "host-keys.asc")
    shutil.copy(new.option_file(user="root", password=""), safe / "my.cnf")
    card, *blocks = BLOCK.findall(DOCUMENT.read_text())

    said = type_on_a_new_machine(ours(card, s3_store, safe, tmp_path) + "".join(blocks), tmp_path)

    room = tmp_path / "room"
    for folder in ("web01", "web01-by-script"):
        for disk in ("root", "data"):
            (restored,) = (room / folder).glob(f"{disk}*")
            assert filecmp.cmp(tmp_path / f"{disk}.raw", restored, shallow=False)
    assert new.contents("shop") == lost.contents("shop")
    assert (room / "etc/hostname").read_text() == "web01\n"
    assert (room / "part/hostname").read_text() == "web01\n"
    assert (room / "data").read_bytes() == DATA
    # Uncompressed, and nowhere but in what the machine wrote when it ran.
    assert WRITTEN in (room / "web01-running/root.qcow2").read_bytes()
    assert "Good signature" in said


def back_up_everything(host: Host, server: MariadbServer, folder: Path) -> None:
    """Make what there was, and its backup."""
    bootable.bios_disk(folder / "root.raw", data=DATA, start=START)
    (folder / "data.raw").write_bytes(os.urandom(100_000))
    (folder / "etc").mkdir()
    (folder / "etc/hostname").write_text("web01\n")
    options = server.create_account(*DUMP_GRANTS)
    host.set_up()
    host.protect(
        {
            "web01": {
                "streams": {
                    "root": image(folder / "root.raw"),
                    "data": image(folder / "data.raw"),
                }
            },
            "shop": {"mysql": {"defaults_file": str(options), "databases": ["shop"]}},
            "etc": {"directory": {"path": str(folder / "etc")}},
        }
    )
    host.does("init")
    host.does("backup")


def ours(card: str, store: dict[str, str], safe: Path, folder: Path) -> str:
    """Return the card, filled in."""
    values = {
        "SAFE": safe,
        "ROOM": folder / "room",
        "STORE": store["store"],
        "REGION": s3.server().region,
        "ENDPOINT": store["endpoint_url"],
        "RECOVERY": keys.RECOVERY,
        "HOST": keys.HOST,
    }
    assert set(re.findall(r"([A-Z]+)=", card)) == values.keys()
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items())


def type_on_a_new_machine(commands: str, folder: Path) -> str:
    """Run commands with an empty home, SnapVault installed, and the bucket's credentials."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "aws").write_text(AWS)
    (programs / "snapvault").write_text(
        f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} "
        f'exec {shlex.quote(sys.executable)} -m snapvault "$@"\n'
    )
    for program in programs.iterdir():
        program.chmod(0o755)
    server = s3.server()
    with keys.empty_home() as home:
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", commands],
            cwd=home,
            env={
                **os.environ,
                **server.environment(),
                "AWS_ENDPOINT_URL": server.endpoint_url,
                "HOME": str(home),
                "GNUPGHOME": str(home),
                "PATH": f"{programs}:{os.environ['PATH']}",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said
    return said
