# SPDX-License-Identifier: Apache-2.0
"""The example policy for LVM: backed up in the guest, restored on a machine without LVM."""

import json
import random
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.program import Host
from tests.support import keys
from tests.support.guest import REPOSITORY, Guest

pytestmark = pytest.mark.integration

CHANCE = random.Random(5)
MIB = 1 << 20
CHUNK = 64 << 10
SIZE = 16 * MIB  # of each volume
GROUP = "vg-nights"
DEFINITION = f"""<domain><name>web02</name><devices>
<disk type="block"><source dev="/dev/mapper/{GROUP.replace("-", "--")}-web02--root"/></disk>
<disk type="block"><source dev="/dev/{GROUP}/web02-data"/></disk>
</devices></domain>"""
VOLUMES = {"root": "web02-root", "data": "web02-data", "mail": "mail"}


class Machine:
    """The guest as a backup host: volumes on /dev/vdc, SnapVault, a vault on the share."""

    def __init__(self, guest: Guest, folder: Path) -> None:
        self.guest = guest
        self.folder = folder  # on the share
        self.inside = f"/guest/{folder.name}"
        self.home = "/run/nights"  # SnapVault's settings and state, GnuPG's keys

    def lvm(self, *argv: str) -> str:
        return self.guest.must(argv, timeout=300).decode()

    def snapvault(self, *words: str, home: str = "") -> bytes:
        config = f"{home or self.home}/snapvault.yaml"
        return self.guest.must(
            [sys.executable, "-m", "snapvault", "--config", config, *words],
            cwd=str(REPOSITORY),
            timeout=900,
        )

    def write(self, volume: str, offset: int, data: bytes) -> None:
        (self.folder / "data").write_bytes(data)
        self.guest.must(
            [
                *("dd", f"if={self.inside}/data", f"of=/dev/{GROUP}/{volume}", "bs=64k"),
                *("oflag=seek_bytes", f"seek={offset}", "conv=fsync,notrunc"),
            ]
        )

    def content(self, volume: str) -> bytes:
        copy = self.folder / "copy"
        self.guest.must(["sh", "-c", f"cat /dev/{GROUP}/{volume} >{self.inside}/copy"])
        return copy.read_bytes()


@pytest.fixture
def machine(guest: Guest) -> Iterator[Machine]:
    folder = guest.share / "nights"
    folder.mkdir()
    found = Machine(guest, folder)
    try:
        found.lvm("vgcreate", "-y", GROUP, "/dev/vdc")
        found.lvm(
            *("lvcreate", "-y", "-n", "pool", "-L", "64M", "--type", "thin-pool"),
            *("--chunksize", "64k", GROUP),
        )
        for name in ("web02-root", "mail"):
            found.lvm("lvcreate", "-y", "-V", "16M", "--thin", "-n", name, f"{GROUP}/pool")
        found.lvm("lvcreate", "-y", "-Wn", "-n", "web02-data", "-L", "16M", GROUP)
        yield found
    finally:
        guest.run(["vgremove", "-ff", "-y", GROUP])
        guest.run(["wipefs", "-a", "-f", "/dev/vdc"])
        guest.run(["rm", "-rf", found.home, f"{found.home}-recovery"])
        shutil.rmtree(folder)


def _policy(machine: Machine) -> dict[str, Any]:
    """Return policies/lvm.yaml with the names of the guest: its group, a size, its services."""
    text = (REPOSITORY / "policies" / "lvm.yaml").read_text(encoding="utf-8")
    for theirs, ours in {
        "vg0/": f"{GROUP}/",
        "10 GiB": "8 MiB",
        "[systemctl, stop, dovecot]": f"[touch, {machine.inside}/frozen]",
        "[systemctl, start, dovecot]": f"[mv, {machine.inside}/frozen, {machine.inside}/thawed]",
        "[logger, --tag, snapvault, mail is backed up]": f"[touch, {machine.inside}/told]",
    }.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    policy: dict[str, Any] = yaml.safe_load(text)
    policy["sources"]["web02"]["streams"]["definition"] = {
        "command": {"run": ["echo", DEFINITION]},
    }
    return policy


def _set_up(machine: Machine) -> None:
    """Give the guest the host's keys, settings and the policy; the vault is not made yet."""
    host = _host(machine, "host", machine.home)
    policy = _policy(machine)
    host.protect(policy.pop("sources"), **policy)
    with keys.host_home() as home:
        _move_in(machine, host, home)


def _host(machine: Machine, name: str, home: str) -> Host:
    store = {"store": f"file://{machine.inside}/vault"}
    return Host(machine.folder / name, Path(home, "gnupg"), store).set_up()


def _move_in(machine: Machine, host: Host, keys_of: Path) -> None:
    """Put a host's settings and GnuPG home where the guest finds them."""
    keys.end_agent(keys_of)
    shutil.copytree(keys_of, host.folder / "gnupg", ignore=shutil.ignore_patterns("S.*"))
    # QUIRK: SQLite's journal needs shared memory, which the share's file system (9p) lacks.
    machine.guest.must(["cp", "-r", f"{machine.inside}/{host.folder.name}", str(host.home.parent)])
    machine.guest.must(["chmod", "700", str(host.home)])


def _restore_to_lvm(machine: Machine, point: str) -> dict[str, bytes]:
    """Bring a machine back to new logical volumes, spoil one, and make it right in place."""
    home = f"{machine.home}-recovery"
    with keys.recovery_home() as keys_of:
        _move_in(machine, _host(machine, "recovery", home), keys_of)
    words = ("restore", "web02", "--point", point, "--to", f"lvm:{GROUP}?prefix=back-")
    machine.snapvault(*words, "--definition", f"{machine.inside}/web02.xml", home=home)
    expected = DEFINITION
    for name in ("root", "data"):
        expected = re.sub(rf'"[^"]*web02-+{name}"', f'"/dev/{GROUP}/back-{name}"', expected)
    assert expected in (machine.folder / "web02.xml").read_text()
    machine.write("back-data", MIB, b"changed")
    done = machine.snapvault(*words, "--in-place", "--json", home=home)
    assert [each["different_bytes"] > 0 for each in json.loads(done)["restored"]] == [False, True]
    return {stream: machine.content(f"back-{stream}") for stream in ("root", "data")}


def test_each_night_of_the_example_policy_comes_back_byte_for_byte(
    machine: Machine, tmp_path: Path
) -> None:
    nights: list[tuple[dict[str, dict[str, Any]], dict[str, bytes]]] = []

    def backup() -> None:
        made = json.loads(machine.snapvault("backup", "--json"))
        content = {stream: machine.content(volume) for stream, volume in VOLUMES.items()}
        nights.append(({point["source"]: point for point in made}, content))

    _set_up(machine)
    for volume in VOLUMES.values():
        machine.write(volume, 0, CHANCE.randbytes(SIZE // 2))
    machine.snapvault("init")
    backup()
    for volume in VOLUMES.values():  # three of 256 chunks: about 1 %
        for chunk in (5, 77, 200):
            machine.write(volume, chunk * CHUNK + 4096, b"changed")
    backup()
    for volume in ("web02-root", "mail"):
        device = f"/dev/{GROUP}/{volume}"
        machine.guest.must(["blkdiscard", "-o", str(2 * MIB), "-l", str(MIB), device])
    backup()

    back = _restore_to_lvm(machine, nights[1][0]["web02"]["id"])

    assert nights[2][1]["mail"][2 * MIB : 3 * MIB] == bytes(MIB)
    assert back == {stream: nights[1][1][stream] for stream in back}
    with keys.recovery_home() as home:
        store = {"store": f"file://{machine.folder}/vault"}
        recovery = Host(tmp_path / "recovery", home, store).set_up()
        for number, (points, content) in enumerate(nights):
            web02, mail = tmp_path / f"web02-{number}", tmp_path / f"mail-{number}"
            recovery.does("restore", "web02", "--point", points["web02"]["id"], "--to", str(web02))
            recovery.does("restore", "mail", "--point", points["mail"]["id"], "--to", str(mail))
            assert (web02 / "root").read_bytes() == content["root"]
            assert (web02 / "data").read_bytes() == content["data"]
            assert mail.read_bytes() == content["mail"]
    # Of thin volumes the chunks that changed and, to check LVM's word, ten that did not; of the
    # thick one all.
    for changed, (points, _) in zip((3, 0), nights[1:], strict=True):
        assert points["mail"]["read_bytes"] == (changed + 10) * CHUNK
        definition = len(DEFINITION) + 1
        assert points["web02"]["read_bytes"] == SIZE + (changed + 10) * CHUNK + definition
    listed = machine.lvm(
        *("lvs", "--noheadings", "-o", "origin", "--select", "lv_tags=snapvault", GROUP)
    )
    # Each thin volume keeps the snapshot of its newest point, which the next night needs.
    assert sorted(listed.split()) == ["mail", "web02-root"]
    assert (machine.folder / "thawed").exists()
    assert (machine.folder / "told").exists()
    assert not (machine.folder / "frozen").exists()
