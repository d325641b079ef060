# SPDX-License-Identifier: Apache-2.0
"""The process of one copy: takes an order from stdin; a note in the state says what came of it.

`adapters.order_child` starts it, and waits for its end.
"""

import sys

from snapvault.daemon.child import step_back
from snapvault.daemon.order_process import open_log, take_order
from snapvault.engine.copy_plan import Choice
from snapvault.errors import EXIT_DONE, IntegrityError, SnapVaultError
from snapvault.ports.copying import CopyOrder
from snapvault.wiring import copying, vaults


def main() -> int:
    """Carry out one order; the exit status is that of `snapvault copy`."""
    order = take_order(CopyOrder)
    events = open_log({"vault": order.vault, "to": order.to})
    step_back(order.limits, order.settings.limits.each, events)
    try:
        with vaults.open_vault(order.settings, order.vault, events) as source:
            done = copying.copy_vault(
                order.settings,
                source,
                order.to,
                Choice(frozenset(order.sources)),
                events,
                limits=order.limits,
            )
    except SnapVaultError as error:
        copying.note_failure(order.settings, order.to, error)
        events.error("copy.failed", str(error), hint=error.hint)
        return error.exit_status
    events.emit("copy.over", points=len(done.points), objects=done.objects, bytes=done.bytes)
    for told in (*done.problems, *(each.reason for each in done.left_out)):
        events.error("copy.incomplete", told)
    return EXIT_DONE if done.is_whole else IntegrityError.exit_status


if __name__ == "__main__":
    sys.exit(main())
