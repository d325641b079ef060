# SPDX-License-Identifier: Apache-2.0
"""What starts machines."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snapvault.adapters.machines.qemu import QemuMachines


def machines() -> "QemuMachines":
    """Return what starts machines on this host; `check` tells whether it can."""
    from snapvault.adapters.machines.qemu import QemuMachines

    return QemuMachines()
