# SPDX-License-Identifier: Apache-2.0
"""Keys change, through the command line: recipients come and go, and a host is lost."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import Host, image
from tests.support.keys import HOST, HOST2, RECOVERY, RECOVERY2, gnupg_home

pytestmark = pytest.mark.integration

CHANCE = random.Random(7)
ALL = ("recovery", "recovery2", "host", "host2")


class World:
    """A vault in a folder, and machines with one private key each."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.disk = folder / "disk.img"
        self._stack = stack
        self._homes: dict[str, Path] = {}

    def machine(
        self, secret: str, recipients: tuple[str, ...] = (RECOVERY,), signer: str = HOST
    ) -> Host:
        if secret not in self._homes:
            others = [name for name in ALL if name != secret]
            self._homes[secret] = self._stack.enter_context(gnupg_home([secret], others))
        host = Host(
            self.folder / secret,
            self._homes[secret],
            {"store": f"file://{self.folder / 'vault'}"},
            recipients=recipients,
            signer=signer,
            trusted=[HOST, HOST2],
        ).set_up()
        host.protect({"web01": image(self.disk)})
        return host

    def write(self, offset: int, size: int) -> None:
        with self.disk.open("r+b" if self.disk.exists() else "wb") as file:
            file.seek(offset)
            file.write(CHANCE.randbytes(size))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def opened(machine: Host, fingerprint: str) -> dict[str, Any]:
    """Return what `keys list` says of a recipient and the one source."""
    (vault,) = machine.does("keys", "list", "--json").json
    (reader,) = [
        each for each in vault["recipients"] + vault["former"] if each["fingerprint"] == fingerprint
    ]
    found: dict[str, Any] = reader["points"][0]
    return found


def test_a_recipient_is_added_and_another_one_removed(world: World) -> None:
    world.write(0, 400_000)
    host = world.machine("host")
    host.does("init")
    host.does("backup")

    host = world.machine("host", (RECOVERY, RECOVERY2))
    before = sorted((world.folder / "vault").rglob("*"))
    rehearsed = host.does("keys", "apply", "--dry-run").stdout
    assert sorted((world.folder / "vault").rglob("*")) == before
    applied = host.does("keys", "apply").stdout
    world.write(50_000, 90_000)
    assert "keys apply" not in host.does("backup").stderr
    share = opened(host, RECOVERY2)
    host.does("backup", "--full")
    host = world.machine("host", (RECOVERY2,))
    removed = host.does("keys", "apply").stdout
    listed = host.does("keys", "list").stdout

    assert rehearsed.replace("would be", "was") == applied
    assert f"public key {RECOVERY2}" in applied
    assert share["opens_maps"]
    assert not share["restores"]
    assert 0.2 < share["opened_bytes"] / share["data_bytes"] < 0.35
    assert f"{RECOVERY} Recovery <recovery@example.org> goes on to open what is stored" in removed
    assert "is in line with the settings" in listed
    assert listed.index("recipient") < listed.index(RECOVERY2) < listed.index("restores alone")
    assert listed.index("no recipient any more") < listed.rindex(RECOVERY)


def test_a_host_that_lost_all_goes_on_incrementally_by_a_recovery_key(world: World) -> None:
    world.write(0, 400_000)
    first = world.machine("host")
    first.does("init")
    first.does("backup")
    second = world.machine("host2", signer=HOST2)
    assert "keys apply" in second.fails(10, "backup")

    told = world.machine("recovery", signer=HOST2).does("keys", "apply").stdout
    world.write(100_000, 5_000)
    (point,) = second.does("backup", "--json").json

    assert f"handed over from host {HOST}" in told
    assert point["changed_bytes"] < 50_000
    emergency = world.folder / "by script"
    script = world.folder / "vault" / "restore.py"
    recovery = world.machine("recovery", signer=HOST2)
    words = [sys.executable, str(script), str(world.folder / "vault"), "web01"]
    subprocess.run(
        [*words, "--to", str(emergency)],
        env={**os.environ, "GNUPGHOME": str(recovery.home)},
        check=True,
        capture_output=True,
    )
    assert emergency.read_bytes() == world.disk.read_bytes()


def test_words_that_make_no_sense_are_refused(world: World) -> None:
    host = world.machine("host")

    assert "expected a fingerprint" in host.fails(2, "keys", "apply", "--replaces", "host1")
    assert 'no vault "ofsite"' in host.fails(10, "keys", "list", "ofsite")
