# SPDX-License-Identifier: Apache-2.0
"""Reaching ports of a machine, over the network that QEMU makes for it."""

import socket
from contextlib import suppress
from typing import NamedTuple

from snapvault.adapters.qmp import Qmp
from snapvault.errors import MachineError

_PATIENCE = 2.0  # seconds for a connection to come about, and again to be kept


class _Row(NamedTuple):
    state: str
    source: int
    target: int


def addresses(qmp: Qmp) -> dict[int, tuple[str, int]]:
    """Return where ports of the guest are to be reached."""
    return {
        row.target: ("127.0.0.1", row.source) for row in _rows(qmp) if row.state == "HOST_FORWARD"
    }


def takes_connection(qmp: Qmp, address: tuple[str, int], port: int) -> bool:
    """Tell whether a port of the guest takes a connection, and does not hang up at once.

    Raises:
        MachineError: nobody listens at `address`: there is no machine any more.
    """
    # A connection to us says nothing: QEMU takes it before the guest is asked.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as peer:
        peer.settimeout(_PATIENCE)
        try:
            peer.connect(address)
        except OSError as error:
            raise MachineError(f"port {port} of the machine is not forwarded any more") from error
        with suppress(TimeoutError):
            try:
                if not peer.recv(1):
                    return False  # refused by the guest, or hung up
            except ConnectionError:
                return False
            return True
        return any(row.state == "ESTABLISHED" and row.source == address[1] for row in _rows(qmp))


def _rows(qmp: Qmp) -> list[_Row]:
    """Return the TCP connections of QEMU's network: `info usernet`."""
    told = qmp.execute("human-monitor-command", {"command-line": "info usernet"})
    rows: list[_Row] = []
    for line in str(told).splitlines():
        words = line.split()
        if len(words) >= 6 and words[0].startswith("TCP["):
            rows.append(_Row(words[0][4:-1], int(words[3]), int(words[5])))
    return rows
