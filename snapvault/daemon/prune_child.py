# SPDX-License-Identifier: Apache-2.0
"""The process of one scheduled prune: takes an order from stdin; the history has what came of it.

`adapters.order_child` starts it, and waits for its end.
"""

import sys

from snapvault import clock
from snapvault.daemon.child import step_back
from snapvault.daemon.order_process import open_log, take_order
from snapvault.errors import EXIT_DONE, IntegrityError, SnapVaultError
from snapvault.model.policy import Limits
from snapvault.ports.pruning import PruneOrder
from snapvault.wiring import pruning


def main() -> int:
    """Carry out one order; the exit status is that of `snapvault prune`."""
    order = take_order(PruneOrder)
    events = open_log({"vault": order.vault})
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


if __name__ == "__main__":
    sys.exit(main())
