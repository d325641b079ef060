# SPDX-License-Identifier: Apache-2.0
"""The process of one copy: takes an order from stdin; a note in the state says what came of it.

`adapters.order_child` starts it, and waits for its end.
"""

import os
import pickle
import signal
import sys
from types import FrameType
from typing import Final

from snapvault.adapters.event_log import EventLog
from snapvault.daemon.child import step_back
from snapvault.engine.copy_plan import Choice
from snapvault.errors import EXIT_DONE, IntegrityError, SnapVaultError
from snapvault.ports.copying import CopyOrder
from snapvault.wiring import copying, vaults

_ASKED: Final = 128 + signal.SIGTERM


def main() -> int:
    """Carry out one order; the exit status is that of `snapvault copy`."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the daemon, which asks us in turn
    order = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent, over a pipe of its own
    if not isinstance(order, CopyOrder):
        raise TypeError(f"not an order: {type(order)}")
    as_json = os.environ.get("SNAPVAULT_LOG") == "json"
    events = EventLog(sys.stderr, as_json=as_json, bound={"vault": order.vault, "to": order.to})
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


def _end(_number: int, _: FrameType | None) -> None:
    # A second one finds nothing in its way, and SIGKILL is for the patient.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(_ASKED)


if __name__ == "__main__":
    sys.exit(main())
