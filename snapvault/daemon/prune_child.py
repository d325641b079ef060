# SPDX-License-Identifier: Apache-2.0
"""The process of one scheduled prune: takes an order from stdin; the history has what came of it.

`adapters.order_child` starts it, and waits for its end.
"""

import os
import pickle
import signal
import sys
from types import FrameType
from typing import Final

from snapvault import clock
from snapvault.adapters.event_log import EventLog
from snapvault.daemon.child import step_back
from snapvault.errors import EXIT_DONE, IntegrityError, SnapVaultError
from snapvault.model.policy import Limits
from snapvault.ports.pruning import PruneOrder
from snapvault.wiring import pruning

_ASKED: Final = 128 + signal.SIGTERM


def main() -> int:
    """Carry out one order; the exit status is that of `snapvault prune`."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the daemon, which asks us in turn
    order = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent, over a pipe of its own
    if not isinstance(order, PruneOrder):
        raise TypeError(f"not an order: {type(order)}")
    as_json = os.environ.get("SNAPVAULT_LOG") == "json"
    events = EventLog(sys.stderr, as_json=as_json, bound={"vault": order.vault})
    step_back(Limits(), order.settings.limits.each, events)
    started = clock.monotonic()
    try:
        done = pruning.prune_recorded(order.settings, order.vault, order.policies, events)
    except SnapVaultError as error:
        seconds = clock.monotonic() - started
        pruning.record_failure(order.settings, order.vault, error, seconds, events)
        events.error("prune.failed", str(error), hint=error.hint)
        return error.exit_status
    events.emit(
        "prune.over",
        points=len(done.removed),
        objects=done.deleted[0],
        deleted_bytes=done.deleted[1],
        waiting_bytes=done.waiting[1],
    )
    for reason in (*done.refusal, *done.doubt):
        events.error("prune.refused", reason)
    return IntegrityError.exit_status if done.refusal or done.doubt else EXIT_DONE


def _end(_number: int, _: FrameType | None) -> None:
    # A second one finds nothing in its way, and SIGKILL is for the patient.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(_ASKED)


if __name__ == "__main__":
    sys.exit(main())
