# SPDX-License-Identifier: Apache-2.0
"""Which firmware starts a disk, by its first bytes."""

import struct
import uuid

import pytest

from snapvault.adapters.machines.firmware import HEAD_SIZE, Layout, layout_of
from snapvault.ports.machine import Firmware

ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
GRUB = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")

BIOS = Layout(Firmware.BIOS)
UEFI = Layout(Firmware.UEFI)


def mbr(*kinds: int, code: bytes = b"") -> bytes:
    """Return a disk whose master boot record has partitions of these types."""
    entries = b"".join(struct.pack("<B3xB3xII", 0, kind, 2048, 4096) for kind in kinds)
    return (code.ljust(446, b"\0") + entries.ljust(64, b"\0") + b"\x55\xaa").ljust(HEAD_SIZE, b"\0")


def gpt(*kinds: uuid.UUID, code: bytes = b"", sector: int = 512, first: int = 2) -> bytes:
    """Return a disk with a partition table whose entries begin at sector `first`."""
    disk = bytearray(mbr(0xEE, code=code))
    header = struct.pack("<8s64xQIII", b"EFI PART", first, 128, 128, 0)
    disk[sector : sector + len(header)] = header
    for number, kind in enumerate(kinds):
        place = first * sector + 128 * number
        disk[place : place + 16] = kind.bytes_le
    return bytes(disk)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param(gpt(ESP, LINUX), UEFI, id="an EFI system partition"),
        pytest.param(gpt(LINUX, ESP, first=34), UEFI, id="a table elsewhere"),
        pytest.param(gpt(GRUB, LINUX, code=b"\xeb"), BIOS, id="a place for GRUB's second stage"),
        pytest.param(gpt(GRUB, ESP, LINUX, code=b"\xeb"), BIOS, id="both, and a boot sector"),
        pytest.param(gpt(GRUB, ESP, LINUX), UEFI, id="both, and no boot sector"),
        pytest.param(gpt(ESP, code=b"\xeb"), UEFI, id="a boot sector that only complains"),
        pytest.param(gpt(ESP, sector=4096), Layout(Firmware.UEFI, 4096), id="large sectors"),
        pytest.param(mbr(0x83, code=b"\xeb"), BIOS, id="a master boot record"),
        pytest.param(mbr(0x83, 0xEF), UEFI, id="an EFI system partition in an MBR"),
        pytest.param(mbr(0xEF, code=b"\xeb"), BIOS, id="the same with a boot sector"),
        pytest.param(bytes(HEAD_SIZE), BIOS, id="nothing"),
        pytest.param(b"", BIOS, id="no disk"),
        pytest.param(gpt(ESP)[:600], BIOS, id="a disk that ends in its table"),
    ],
)
def test_the_firmware_is_chosen_by_what_could_start_the_disk(head: bytes, expected: Layout) -> None:
    assert layout_of(head) == expected


def test_a_table_that_is_nonsense_is_no_reason_to_fail() -> None:
    disk = bytearray(gpt(ESP))
    disk[512 + 80 : 512 + 88] = b"\xff" * 8

    assert layout_of(bytes(disk)) == BIOS
