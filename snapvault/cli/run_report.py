# SPDX-License-Identifier: Apache-2.0
"""What `run` says when its machine has started."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from snapvault import clock
from snapvault.cli.run_disks import Attached
from snapvault.cli.session import Session
from snapvault.cli.words import local
from snapvault.units import format_count, format_size

if TYPE_CHECKING:
    from snapvault.adapters.machines.kept import KeptMachine
    from snapvault.adapters.machines.running import QemuMachine
    from snapvault.ports.machine import MachineSpec


def report(
    run: Session,
    machine: "QemuMachine",
    spec: "MachineSpec",
    attached: Attached,
    *,
    kept: "KeptMachine | None",
    console: Path,
) -> None:
    """Say what runs, and how to reach it."""
    origin = attached.origin
    addresses = {port: "{}:{}".format(*machine.address_of(port)) for port in spec.forwards}
    document = {
        "id": origin.point,
        "source": origin.source,
        "vault": origin.vault,
        "taken_at": clock.to_text(origin.taken_at),
        "pid": machine.pid,
        "firmware": machine.firmware.value,
        "memory_bytes": spec.memory,
        "cpus": spec.cpus,
        "disks": [
            {"name": disk.name, "overlay": str(disk.overlay) if kept else None}
            for disk in spec.disks
        ],
        "forwards": [{"port": port, "address": where} for port, where in addresses.items()],
        "console": str(console),
        "keep": str(kept.folder) if kept else None,
        "needs_vault": attached.volumes is not None,
        "volumes": attached.volumes,
    }
    about = f'running source "{origin.source}" as of {local(origin.taken_at)}'
    equipment = (
        f"{machine.firmware.value.upper()}, {format_size(spec.memory)} of memory,"
        f" {format_count(spec.cpus, 'processor')}"
    )
    lines = [
        f"{about} (restore point {origin.point}); Ctrl-C ends it",
        f"machine: {equipment}, disks {', '.join(origin.disks)}",
        _writes(kept, attached),
        f"console: {_connect(console)} (Ctrl-] leaves it)",
        *(f"port {port}: {where}" for port, where in addresses.items()),
    ]
    if not addresses:
        lines.append("network: none")
    run.report(document, lines)
    sys.stdout.flush()


def _connect(console: Path) -> str:
    return shlex.join(["socat", "-,raw,echo=0,escape=0x1d", f"UNIX-CONNECT:{console}"])


def _writes(kept: "KeptMachine | None", attached: Attached) -> str:
    if kept is None:
        return "what it writes: gone when it ends"
    where = f'what it writes: kept in folder "{kept.folder}"'
    return where if attached.volumes is not None else f"{where}, which needs the vault no more"
