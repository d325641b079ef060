# SPDX-License-Identifier: Apache-2.0
"""Which firmware starts a disk, and where its files are on this machine.

Source: UEFI specification 2.10, section 5 (GUID partition tables) and 5.2 (MBR).
"""

import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from snapvault.errors import MachineError
from snapvault.ports.machine import Firmware

HEAD_SIZE: Final = 1 << 20
"""Bytes of a disk's beginning that tell what starts it."""

_BOOT_CODE = 440  # bytes of a master boot record, before its signature
_EFI_SYSTEM: Final = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_BIOS_BOOT: Final = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
_MBR_EFI_SYSTEM = 0xEF

# Where distributions put the code and an empty store of variables, without Secure Boot.
_FILES: Final = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """What starts a disk, and the bytes of its sectors that its partition table is written in."""

    firmware: Firmware
    sector: int = 512


def layout_of(head: bytes) -> Layout:
    """Look at the first HEAD_SIZE bytes of a disk (or all of a smaller one).

    UEFI starts what has an EFI system partition and nothing that a BIOS could start: no partition
    for GRUB's second stage, no code in the first sector.
    """
    has_code = any(head[:_BOOT_CODE])
    for sector in (512, 4096):
        kinds = _gpt_kinds(head, sector)
        if kinds is None:
            continue
        is_uefi = _EFI_SYSTEM in kinds and not (_BIOS_BOOT in kinds and has_code)
        return Layout(Firmware.UEFI if is_uefi else Firmware.BIOS, sector)
    if head[510:512] == b"\x55\xaa" and not has_code:
        kinds_of_mbr = {head[446 + 16 * number + 4] for number in range(4)}
        if _MBR_EFI_SYSTEM in kinds_of_mbr:
            return Layout(Firmware.UEFI)
    return Layout(Firmware.BIOS)


def _gpt_kinds(head: bytes, sector: int) -> set[uuid.UUID] | None:
    """Return the types of all partitions in a GPT; None: there is none."""
    header = head[sector : sector + 92]
    if len(header) < 92 or header[:8] != b"EFI PART":
        return None
    first, count, size = struct.unpack_from("<QII", header, 72)
    if not 128 <= size <= 4096 or count > 4096:
        return set()
    start = first * sector
    places = range(start, min(start + count * size, len(head) - 15), size)
    kinds = {uuid.UUID(bytes_le=head[place : place + 16]) for place in places}
    return kinds - {uuid.UUID(int=0)}


def uefi_files() -> tuple[Path, Path]:
    """Return the files of the UEFI firmware: its code, and the variables of a new machine.

    Raises:
        MachineError: they are not here.
    """
    for code, variables in _FILES:
        if Path(code).is_file() and Path(variables).is_file():
            return Path(code), Path(variables)
    raise MachineError(
        "could not start a machine with UEFI: its firmware is not installed",
        hint="Install it with: apt-get install ovmf",
    )
