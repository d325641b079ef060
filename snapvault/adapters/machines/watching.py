# SPDX-License-Identifier: Apache-2.0
"""What QEMU tells of a machine while it runs."""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from snapvault import clock
from snapvault.adapters.machines.output import Output
from snapvault.adapters.qmp import Qmp, QmpError
from snapvault.errors import SourceError
from snapvault.ports.machine import OnError

_STEP: Final = 0.25  # seconds between two looks
_AGAIN: Final = 3.0  # seconds until a disk that could not be read is tried again

# Why a machine stopped (QEMU's ShutdownCause), as it follows "the machine".
_ENDS: Final = {
    "guest-shutdown": "powered off",
    "guest-reset": "powered off instead of restarting",
    "guest-panic": "panicked",
}


class Watch:
    """Asks QEMU how its machine is, until it is gone or `close`. Safe from several threads."""

    def __init__(
        self, qmp: Qmp, output: Output, on_error: OnError, changed: Callable[[], None]
    ) -> None:
        """`changed` is called, by another thread, when something happened."""
        self._qmp = qmp
        self._output = output
        self._waits = on_error is OnError.WAIT
        self._changed = changed
        self._closing = threading.Event()
        self._try_again = 0.0
        self.ended: str | None = None
        """Why the machine runs no more, as it follows "the machine"; None: it runs."""
        self.restarts = 0
        self.panicked = False
        self.has_agent = False
        """Whether an agent listens in the guest."""
        self.stands_still = False
        """Whether it waits for a disk that cannot be read or written."""
        self.io_errors = 0
        """How often a disk could not be read or written."""
        self._thread = threading.Thread(target=self._run, name="machine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more; safe to repeat."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            if self._output.has_ended:
                self.ended = self.ended or f"ended with QEMU: {self._output.told()}"
                self._changed()
                return
            # One that does not answer now is asked again: it may be busy with a slow disk.
            with suppress(SourceError):
                self._look()
            self._closing.wait(_STEP)

    def _look(self) -> None:
        events = self._qmp.take_events()
        for name, data in events:
            self._note(name, data)
        status = self._qmp.execute("query-status").get("status")
        self.stands_still = status == "io-error"
        if self.stands_still and self._waits and clock.monotonic() >= self._try_again:
            self._try_again = clock.monotonic() + _AGAIN
            with suppress(QmpError):
                self._qmp.execute("cont")
        if events:
            self._changed()

    def _note(self, name: str, data: Mapping[str, Any]) -> None:
        match name:
            case "RESET" if data.get("guest"):
                self.restarts += 1
                self.has_agent = False
            case "SHUTDOWN":
                reason = str(data.get("reason", ""))
                self.ended = _ENDS.get(reason, f"was ended: {reason}")
            case "GUEST_PANICKED":
                self.panicked = True
            case "VSERPORT_CHANGE" if data.get("id") == "agent":
                self.has_agent = bool(data.get("open"))
            case "BLOCK_IO_ERROR":
                self.io_errors += 1
            case _:
                pass
