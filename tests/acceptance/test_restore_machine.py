# SPDX-License-Identifier: Apache-2.0
"""Whole machines brought back by one command: all disks, what they are made of, and a start."""

import json
import random
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.dom.minidom import parse

import pytest

from tests.acceptance.program import Host, image, shell
from tests.support import bootable
from tests.support.ebs_fake import EbsFake
from tests.support.ebs_fake_world import BLOCK
from tests.support.guest import _find_qemu
from tests.support.qemu import qemu_img, raw_of
from tests.support.seaweed import _die_with_parent

pytestmark = pytest.mark.integration

CHANCE = random.Random(31)
MIB = 1 << 20

# As libvirt's test driver takes it: its machines are of type test.
DOMAIN = """<domain type='test'>
  <name>web01</name>
  <uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
  <memory unit='KiB'>524288</memory>
  <os>
    <type arch='i686'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
    <nvram>/srv/web01.fd</nvram>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='FOLDER/root'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='rbd' name='pool/data'><host name='ceph' port='6789'/></source>
      <target dev='vdb' bus='virtio'/>
      <alias name='ua-Data'/>
    </disk>
    <disk type='file' device='disk'>
      <source file='/srv/scratch.img'/>
      <target dev='vdc' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""


@pytest.fixture(scope="module")
def machine_once(tmp_path_factory: pytest.TempPathFactory, host_home: Path) -> Path:
    """Make a vault with machines of two disks: with libvirt, without, and with a trap for XML."""
    folder = tmp_path_factory.mktemp("machine")
    for name in ("root", "ua-data"):
        (folder / name).write_bytes(
            random.Random(name).randbytes(3 * MIB) + bytes(2 * MIB) + b"end" * 512
        )
    (folder / "web01.xml").write_text(DOMAIN.replace("FOLDER", str(folder)))
    trap = '<!DOCTYPE domain [<!ENTITY e SYSTEM "file:///etc/hostname">]><domain>&e;</domain>'
    (folder / "trap.xml").write_text(trap)
    disks = {name: image(folder / name) for name in ("root", "ua-data")}
    host = Host(folder / "host", host_home, {"store": f"file://{folder}/vault"}).set_up()
    host.protect(
        {
            "web01": {"streams": {**disks, "definition": shell(f"cat {folder}/web01.xml")}},
            "app01": {"streams": {**disks, "definition": shell("echo qemu-system-x86_64")}},
            "odd01": {"streams": {**disks, "definition": shell(f"cat {folder}/trap.xml")}},
        }
    )
    host.does("init")
    host.does("backup")
    return folder


@pytest.fixture
def machine(recovery: Host, machine_once: Path, tmp_path: Path) -> Host:
    """Return the recovery host, after the backup."""
    shutil.copytree(machine_once / "vault", tmp_path / "vault")
    return recovery


@pytest.fixture
def cloud() -> Iterator[EbsFake]:
    with EbsFake() as found:
        yield found


def test_a_machine_comes_back_as_images_with_a_definition_that_names_them(
    machine: Host, machine_once: Path, tmp_path: Path
) -> None:
    to = tmp_path / "back & forth"

    done = machine.does("restore", "web01", "--to", str(to), "--format", "qcow2", "--json")

    for name in ("root", "ua-data"):
        assert raw_of(to / f"{name}.qcow2") == (machine_once / name).read_bytes()
        qemu_img("check", str(to / f"{name}.qcow2"))
    assert (to / "definition").read_bytes() == (machine_once / "web01.xml").read_bytes()
    defined = f"define '{to / 'domain.xml'}'; domblklist web01"
    said = subprocess.run(
        ["virsh", "-c", "test:///default", defined], capture_output=True, check=True, text=True
    ).stdout
    assert f"vda      {to / 'root.qcow2'}" in said
    assert f"vdb      {to / 'ua-data.qcow2'}" in said
    assert "vdc      /srv/scratch.img" in said
    types = [
        each.getAttribute("type")
        for each in parse(str(to / "domain.xml")).getElementsByTagName("driver")
    ]
    assert types == ["qcow2", "qcow2"]
    assert done.json["definitions"] == [
        {"domain": "web01", "file": str(to / "domain.xml"), "left": ["vdc (/srv/scratch.img)"]}
    ]
    assert "a disk that was not restored, as it was: vdc (/srv/scratch.img)" in done.stderr
    assert "nvram" in done.stderr


def test_a_path_of_a_machine_is_to_be_looked_for_on_its_disks(
    machine: Host, tmp_path: Path
) -> None:
    refusal = machine.fails(16, "restore", "web01", "--path", "etc", "--to", str(tmp_path / "out"))

    assert "has no folder tree" in refusal
    assert 'Look for the path on its disks with "snapvault files web01"' in refusal


def test_a_definition_that_is_there_is_not_replaced_and_stops_the_restore_at_once(
    machine: Host, tmp_path: Path
) -> None:
    to = tmp_path / "back"
    to.mkdir()
    (to / "domain.xml").write_text("mine")

    refusal = machine.fails(16, "restore", "web01", "--to", str(to))
    untouched = [each.name for each in to.iterdir()]
    done = machine.does("restore", "web01", "--to", str(to), "--force")

    assert "exists already" in refusal
    assert untouched == ["domain.xml"]
    assert sorted(each.name for each in to.iterdir()) == [
        *("definition", "domain.xml", "root", "ua-data"),
    ]
    assert f"virsh define {to}/domain.xml" in done.stdout
    assert f'file="{to}/root"' in (to / "domain.xml").read_text()


def test_a_machine_without_libvirt_comes_back_too_in_place_and_to_ebs(
    machine: Host, machine_once: Path, cloud: EbsFake, tmp_path: Path
) -> None:
    to = tmp_path / "back"
    machine.environment = cloud.environment()

    done = machine.does("restore", "app01", "--to", str(to))
    (to / "root").write_bytes(b"spoiled" * 100)
    in_place = machine.does("restore", "app01", "--to", str(to), "--in-place")
    machine.does("restore", "app01", "--to", f"ebs:eu-west-1?endpoint={cloud.endpoint_url}")

    assert (to / "definition").read_text() == "qemu-system-x86_64\n"
    assert not (to / "domain.xml").exists()
    assert "is the command line of the machine" in done.stderr
    assert (to / "root").read_bytes() == (machine_once / "root").read_bytes()
    assert 'stream "definition" is the definition of the machine' in in_place.stderr
    # 5 MiB and 1536 bytes become whole GiB, with zeros.
    made = {each.tags["Name"]: each for each in cloud.own_snapshots()}
    assert {name: each.gib for name, each in made.items()} == {"app01-root": 1, "app01-ua-data": 1}
    content = (machine_once / "root").read_bytes()
    assert made["app01-root"].read(0, 8 * MIB) == content.ljust(8 * MIB, b"\0")


def test_a_definition_with_entities_is_left_as_it_is(machine: Host, tmp_path: Path) -> None:
    done = machine.does("restore", "odd01", "--to", str(tmp_path / "back"))

    assert "it has a document type" in done.stderr
    assert not (tmp_path / "back" / "domain.xml").exists()
    assert (tmp_path / "back" / "root").exists()


def test_one_disk_becomes_a_qcow2_file_and_a_dump_does_not(
    machine: Host, machine_once: Path, tmp_path: Path
) -> None:
    words = ("restore", "web01", "--format", "qcow2", "--stream")

    machine.does(*words, "root", "--to", str(tmp_path / "vda.qcow2"))
    no_disk = machine.fails(16, *words, "definition", "--to", str(tmp_path / "definition"))
    no_file = machine.fails(16, *words, "root", "--to", "/dev/null")

    assert raw_of(tmp_path / "vda.qcow2") == (machine_once / "root").read_bytes()
    assert "is no disk, and cannot become a qcow2 image" in no_disk
    assert 'cannot restore to "/dev/null" as qcow2: it is no file' in no_file


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--to", "x", "--format", "vmdk"), "raw or qcow2"),
        (("--to", "-", "--format", "qcow2"), "only a file can be qcow2"),
        (("--to", "lvm:vg0", "--format", "qcow2"), "only a file can be qcow2"),
        (("--to", "ebs:eu-west-1", "--format", "qcow2"), "only a file can be qcow2"),
        (("--to", "x", "--in-place", "--format", "qcow2"), "leave out --format"),
        (("--to", "lvm:vg0?pool=x"), 'unknown key "pool"'),
        (("--to", "lvm:"), "names no volume group"),
        (("--to", "lvm:vg0", "--path", "etc"), "not to LVM"),
        (("--to", "x", "--definition", "y"), "only a whole machine that goes to new"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    recovery: Host, words: tuple[str, ...], told: str
) -> None:
    refusal = recovery.fails(2, "restore", "web01", *words)

    assert told in " ".join(refusal.replace("│", " ").split())


def test_several_disks_do_not_fit_into_one_volume_and_groups_are_looked_up(machine: Host) -> None:
    several = machine.fails(16, "restore", "web01", "--to", "lvm:vg0/web01")
    missing = machine.fails(16, "restore", "web01", "--to", "lvm:no-such-group")

    assert 'source "web01" has 2 disks, and "vg0/web01" is one volume' in several
    assert "lvm:vg0, or choose a disk with --stream: root, ua-data." in several
    assert "group" in missing or "vgs" in missing


def test_a_definition_without_a_place_is_refused_before_a_volume_is_made(
    machine: Host, tmp_path: Path
) -> None:
    def refusal(path: Path) -> str:
        words = ("restore", "web01", "--to", "lvm:no-such-group", "--definition", str(path))
        return machine.fails(16, *words, "--force")

    assert f'mkdir -p "{tmp_path}/none"' in refusal(tmp_path / "none" / "web01.xml")
    assert f'cannot restore to "{tmp_path}"' in refusal(tmp_path)
    assert '"/dev/null": it is there, and is not a file' in refusal(Path("/dev/null"))


def test_a_machine_saved_from_ebs_starts_here_from_its_first_disk(
    host: Host, recovery: Host, cloud: EbsFake, tmp_path: Path
) -> None:
    said = bootable.bios_disk(tmp_path / "boot.raw", data=b"from the cloud", start="poweroff -f")
    boot, data = cloud.add_volume(), cloud.add_volume()
    content = (tmp_path / "boot.raw").read_bytes()
    boot.write(0, content.ljust(-(-len(content) // BLOCK) * BLOCK, b"\0"))
    data.write(7 * BLOCK, CHANCE.randbytes(BLOCK))
    instance = cloud.add_instance({"/dev/xvde": boot, "/dev/sdb": data})
    host.environment = cloud.environment()
    ebs = {"instance": instance.id, "region": "eu-west-1", "endpoint_url": cloud.endpoint_url}
    host.protect({"web01": {"ebs": ebs}})
    host.does("init")
    host.does("backup")

    to = tmp_path / "back"
    done = recovery.does("restore", "web01", "--to", str(to))
    report = recovery.does(
        "restore", "web01", "--to", str(tmp_path / "qcow2"), "--format", "qcow2", "--json"
    ).json

    assert (
        f'disk 1 of the machine: "{to}/xvde", which was /dev/xvde, the one that it' in done.stdout
    )
    assert f'disk 2 of the machine: "{to}/sdb", which was /dev/sdb' in done.stdout
    (start,) = [line for line in done.stdout.splitlines() if line.startswith("to start it: ")]
    assert said in _started(start.removeprefix("to start it: "))
    assert {each["stream"]: (each["device"], each["boot"]) for each in report["restored"]} == {
        "xvde": ("/dev/xvde", True),
        "sdb": ("/dev/sdb", False),
    }
    images = (tmp_path / "qcow2" / "sdb.qcow2", to / "sdb")
    qemu_img("compare", "-f", "qcow2", "-F", "raw", *map(str, images))
    assert json.dumps(report).count(".qcow2") == 2


def _started(command: str) -> str:
    """Run the command that starts a machine, with its console here; return what that said."""
    program, *words = shlex.split(command)
    assert program == "qemu-system-x86_64"
    words[words.index("2048")] = "256"
    more = "-accel tcg,thread=multi -cpu max -nodefaults -display none -no-reboot -nic none"
    done = subprocess.run(
        [*_die_with_parent(), _find_qemu(), *words, *more.split(), "-serial", "stdio"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=240,
    )
    return (done.stdout + done.stderr).decode(errors="replace")
