# SPDX-License-Identifier: Apache-2.0
"""The process of one job: takes an order from stdin, carries it out, reports the run on stdout.

`adapters.jobs` starts it, and waits at the other ends of both.
"""

import os
import pickle
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import Final

from snapvault import clock
from snapvault.adapters import command
from snapvault.adapters.event_log import EventLog
from snapvault.adapters.hearing import hear_signals
from snapvault.adapters.recording import failure_of
from snapvault.errors import SnapVaultError
from snapvault.model.policy import Limits
from snapvault.model.runs import Run, RunState
from snapvault.ports.jobs import Order
from snapvault.wiring import runs, start

_IO_CLASSES: Final = {"best-effort": "2", "idle": "3"}
_IONICE_SECONDS: Final = 10.0


class Asked(BaseException):
    """We are asked to end. No handler of errors takes it for one."""


def main() -> int:
    """Carry out one order; the exit status is for whoever reads logs, the report is the run."""
    start.lightly()
    asking = _Asking()
    hear_signals()
    signal.signal(signal.SIGTERM, asking)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the daemon, which asks us in turn
    order = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent, over a pipe of its own
    if not isinstance(order, Order):
        raise TypeError(f"not an order: {type(order)}")
    # What a hook or a library prints must not get into the report.
    report = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    run = _carried_out(order, asking)
    # The daemon may be gone, and have left us to end alone. The history knows how the run ended.
    with suppress(BrokenPipeError), os.fdopen(report, "wb") as stream:
        pickle.dump(run, stream)
    return 0 if run.failure is None else run.failure.exit_status


class _Asking:
    """The handler of SIGTERM: ends the work at once, and nothing but the work."""

    def __init__(self) -> None:
        self.is_working = False
        self._was_asked = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        # A second one finds nothing in its way: tidying up goes on, and SIGKILL is for the patient.
        signal.signal(number, signal.SIG_IGN)
        self._was_asked = True
        if self.is_working:
            raise Asked

    def begin(self) -> None:
        """Let the work be interrupted from here on."""
        self.is_working = True
        if self._was_asked:
            raise Asked

    def end(self) -> None:
        """The work is over: whoever asks now gets what came of it."""
        self.is_working = False


def _carried_out(order: Order, asking: _Asking) -> Run:
    """Return the run of an order as it ended, whenever we were asked to end."""
    run = order.run
    try:
        asking.begin()
        events = EventLog(
            sys.stderr,
            as_json=os.environ.get("SNAPVAULT_LOG") == "json",
            bound={"source": order.source.name, "vault": order.policy.vault, "run": order.run.id},
        )
        step_back(order.policy.limits, order.settings.limits.each, events)
        run = runs.run_order(order, events)
        asking.end()
    except Asked:
        # Before or after what records the run itself, which else has caught this.
        asking.end()
    if run.state is not RunState.RUNNING:
        return run
    return replace(run, state=RunState.INTERRUPTED, ended=clock.now(), failure=failure_of(Asked()))


def step_back(own: Limits, host: Limits, events: EventLog) -> None:
    """Leave the processor and the disks to others, as far as the policy or else the host says.

    It counts for this thread and those that it starts, so for everything.
    """
    nice = own.nice if own.nice is not None else host.nice
    if nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
    io = own if own.io_class is not None else host
    if io.io_class is None:
        return
    argv = ["ionice", "--class", _IO_CLASSES[io.io_class]]
    if io.io_class != "idle" and io.io_level is not None:
        argv += ["--classdata", str(io.io_level)]
    try:
        command.run([*argv, "--pid", str(os.getpid())], timeout=_IONICE_SECONDS)
    except SnapVaultError as error:
        events.warn("job.io_class", f"could not set the input and output class: {error}")


if __name__ == "__main__":
    sys.exit(main())
