# SPDX-License-Identifier: Apache-2.0
"""A libvirt domain's definition that gets the restored disks, and keeps all else."""

from pathlib import Path
from xml.dom.minidom import parseString

import pytest

from snapvault.adapters.targets.domain import RestoredDisk, is_domain, rewrite
from snapvault.errors import RestoreError

# As "virsh dumpxml" tells of a running machine, shortened.
RUNNING = b"""<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web01</name>
  <uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
  <memory unit='KiB'>2097152</memory>
  <vcpu placement='static'>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <boot dev='hd'/>
  </os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/srv/web01.qcow2' index='2'><reservations managed='yes'/></source>
      <backingStore type='file' index='3'>
        <format type='raw'/>
        <source file='/srv/base.raw'/>
        <backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/vg0/web01-data'/>
      <target dev='vdb' bus='virtio'/>
      <alias name='ua-Data'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/>
      <source file='/srv/install.iso'/>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-qmp'/>
  </qemu:commandline>
</domain>
"""


def disk(name: str, *places: str, path: str = "/new/disk", **more: object) -> RestoredDisk:
    return RestoredDisk(name, name, frozenset(places), Path(path), "raw", **more)  # type: ignore[arg-type]  # one option


def sources(text: bytes) -> list[str]:
    """Return the type, format and source of each disk."""
    found = []
    for each in parseString(text).getElementsByTagName("disk"):
        source = each.getElementsByTagName("source")[0]
        driver = each.getElementsByTagName("driver")[0].getAttribute("type")
        attributes = " ".join(f"{name}={value}" for name, value in source.attributes.items())
        found.append(f"{each.getAttribute('type')} {driver} {attributes}")
    return found


def test_restored_disks_are_put_in_place_of_the_old_ones_and_all_else_stays() -> None:
    disks = [disk("root", "/srv/web01.qcow2", path="/new/root"), disk("ua-data", path="/new/d&a")]

    found = rewrite(RUNNING, disks)

    assert sources(found.text) == [
        "file raw file=/new/root",
        "file raw file=/new/d&a",
        "file raw file=/srv/install.iso",
    ]
    assert (found.name, found.left, found.unused) == ("web01", (), ())
    assert b"backingStore" not in found.text
    assert b"reservations" not in found.text
    assert b"<qemu:arg value=" in found.text
    assert b"4dea22b3-1d52-d8f3-2516-782e98ab3fa0" in found.text


def test_a_device_takes_the_place_of_a_file() -> None:
    found = rewrite(RUNNING, [disk("virtio-disk0", is_device=True)])

    assert sources(found.text)[0] == "block raw dev=/new/disk"


def test_disks_that_did_not_come_back_and_those_that_are_no_disk_here_are_told() -> None:
    found = rewrite(RUNNING, [disk("vdb"), disk("mail", "/srv/mail.img")])

    assert found.left == ("vda (/srv/web01.qcow2)",)
    assert found.unused == ("mail",)
    assert sources(found.text)[0] == "file qcow2 file=/srv/web01.qcow2 index=2"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            b"<!DOCTYPE domain [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><domain>&a;</domain>",
            "type",
        ),
        (b"<!DOCTYPE domain><domain/>", "document type"),
        (b"<domain><name>", "no XML"),
        (b"<network/>", "not the definition of a domain"),
        (b"<domain>" + bytes(5 << 20), "too large"),
    ],
)
def test_what_is_no_plain_definition_is_refused(text: bytes, told: str) -> None:
    with pytest.raises(RestoreError, match=told):
        rewrite(text, [])


def test_a_path_that_xml_cannot_hold_is_refused() -> None:
    with pytest.raises(RestoreError, match='stream "root" cannot be written'):
        rewrite(RUNNING, [disk("root", path="/new/\x01")])


def test_a_command_line_is_no_domain() -> None:
    assert not is_domain(b"/usr/bin/qemu-system-x86_64\n-m\n2048\n")
    assert is_domain(b"\n<?xml version='1.0'?>\n<!-- made by virsh -->\n<domain/>")
