# SPDX-License-Identifier: Apache-2.0
"""The process of one job: takes an order from stdin, carries it out, reports the run on stdout.

`adapters.jobs` starts it, and waits at the other ends of both.
"""

import os
import pickle
import signal
import sys
from types import FrameType
from typing import Final

from snapvault import wiring
from snapvault.adapters import command
from snapvault.adapters.event_log import EventLog
from snapvault.errors import SnapVaultError
from snapvault.model.policy import Limits
from snapvault.ports.jobs import Order

_IO_CLASSES: Final = {"best-effort": "2", "idle": "3"}
_IONICE_SECONDS: Final = 10.0


class Asked(BaseException):
    """We are asked to end. No handler of errors takes it for one."""


def main() -> int:
    """Carry out one order; the exit status is for whoever reads logs, the report is the run."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the daemon, which asks us in turn
    order = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent, over a pipe of its own
    if not isinstance(order, Order):
        raise TypeError(f"not an order: {type(order)}")
    # What a hook or a library prints must not get into the report.
    report = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    events = EventLog(
        sys.stderr,
        as_json=os.environ.get("SNAPVAULT_LOG") == "json",
        bound={"source": order.source.name, "vault": order.policy.vault, "run": order.run.id},
    )
    _step_back(order.policy.limits, order.settings.limits.each, events)
    run = wiring.run_order(order, events)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with os.fdopen(report, "wb") as stream:
        pickle.dump(run, stream)
    return 0 if run.failure is None else run.failure.exit_status


def _step_back(own: Limits, host: Limits, events: EventLog) -> None:
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


def _end(number: int, _: FrameType | None) -> None:
    # A second one finds nothing in its way: tidying up goes on, and SIGKILL is for the patient.
    signal.signal(number, signal.SIG_IGN)
    raise Asked


if __name__ == "__main__":
    sys.exit(main())
