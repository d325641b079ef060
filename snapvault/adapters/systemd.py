# SPDX-License-Identifier: Apache-2.0
"""Telling systemd how a service stands: sd_notify(3), and the watchdog of systemd.service(5)."""

import os
import socket
from collections.abc import Mapping
from typing import Final

from snapvault import clock

_MICROSECOND: Final = 1e-6


class Systemd:
    """The service manager that started us, if one did; otherwise nothing happens.

    Nothing here raises: a service that cannot be told about still works.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environment is None else environment
        self._address = variables.get("NOTIFY_SOCKET", "")
        self._watchdog = _watchdog(variables)

    @property
    def watchdog(self) -> float | None:
        """The seconds within which `alive` has to come each time; None: nobody waits for it."""
        return self._watchdog

    def ready(self, status: str) -> None:
        """Say that the service is up, or done with reloading."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that the settings are being read again; `ready` ends it."""
        # sd_notify(3) wants CLOCK_MONOTONIC, which is what Python's monotonic clock is on Linux.
        self._tell("RELOADING=1", f"MONOTONIC_USEC={int(clock.monotonic() / _MICROSECOND)}")

    def alive(self, status: str) -> None:
        """Feed the watchdog, and say what goes on."""
        self._tell("WATCHDOG=1", f"STATUS={status}")

    def stopping(self, status: str) -> None:
        """Say that the service is about to end."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def _tell(self, *lines: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        # A name that starts with "@" is one of Linux' abstract ones, and starts with a zero byte.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
                end.setblocking(False)
                end.sendto("\n".join(lines).encode(), address)
        except OSError:
            return


def _watchdog(variables: Mapping[str, str]) -> float | None:
    if variables.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        seconds = int(variables.get("WATCHDOG_USEC", "")) * _MICROSECOND
    except ValueError:
        return None
    return seconds if seconds > 0 else None
