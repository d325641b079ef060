# SPDX-License-Identifier: Apache-2.0
"""A process that lasts as long as a machine: what it says, and its end."""

import threading

from snapvault import clock
from snapvault.adapters.spawning import Process

_KEPT = 8 << 10  # bytes, the last ones
_SHOWN = 400  # characters


class Output:
    """A running QEMU, whose outputs are one pipe. Safe from several threads."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._said = b""
        self._thread = threading.Thread(target=self._drain, name="qemu-output", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def told(self) -> str:
        """Return the end of what it said, in one line; after its end: all that it said last."""
        if self.has_ended:
            self._thread.join(1.0)
        lines = (" ".join(each.split()) for each in self._said.decode(errors="replace").split("\n"))
        # Its warnings are of no use to whoever wants to know why it ended.
        told = "; ".join(each for each in lines if each and "warning:" not in each)
        shown = "".join(each if each.isprintable() else "?" for each in told[-_SHOWN:])
        return shown or "it said nothing"

    def end(self, *, gently_within: float = 0.0) -> None:
        """End it: by asking first, if it gets time for that. Safe to repeat."""
        if gently_within:
            self._process.terminate()
            deadline = clock.monotonic() + gently_within
            while not self.has_ended and clock.monotonic() < deadline:
                clock.sleep(0.02)
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def _drain(self) -> None:
        pipe = self._process.stdout
        if pipe is None:
            raise ValueError("a machine's process has a pipe as its stdout")
        with pipe:
            while piece := pipe.read(_KEPT):
                self._said = (self._said + piece)[-_KEPT:]
