# SPDX-License-Identifier: Apache-2.0
"""The process of one scheduled drill: takes an order from stdin; its exit status is what came.

`adapters.drill_child` starts it, and waits for its end.
"""

import os
import pickle
import signal
import sys
from types import FrameType
from typing import Final

from snapvault.adapters.event_log import EventLog, Field
from snapvault.adapters.hearing import hear_signals
from snapvault.daemon.child import step_back
from snapvault.errors import EXIT_DONE, ObjectiveMissedError, SnapVaultError
from snapvault.model.drills import DrillReport, Verdict
from snapvault.ports.rehearsals import DrillOrder
from snapvault.wiring import drill_reports, drills

_ASKED: Final = 128 + signal.SIGTERM


def main() -> int:
    """Carry out one order; the report goes into the vault and into the history."""
    hear_signals()
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the daemon, which asks us in turn
    order = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent, over a pipe of its own
    if not isinstance(order, DrillOrder):
        raise TypeError(f"not an order: {type(order)}")
    bound: dict[str, Field] = {"policy": order.policy.name} if order.policy else {}
    events = EventLog(sys.stderr, as_json=os.environ.get("SNAPVAULT_LOG") == "json", bound=bound)
    learned = _learn(order, events)
    if order.policy is None:
        return learned
    step_back(order.policy.limits, order.settings.limits.each, events)
    wish = drills.Wish(trigger=drills.SCHEDULED)
    report = drills.run_drill(order.settings, order.policy, events, wish)
    drill_reports.store_report(order.settings, report, events)
    _log(report, events)
    is_good = report.verdict is Verdict.PASSED
    return EXIT_DONE if is_good else ObjectiveMissedError.exit_status


def _learn(order: DrillOrder, events: EventLog) -> int:
    """Learn what drills of other hosts showed; a vault that cannot be looked at is a warning."""
    status = EXIT_DONE
    for vault in order.vaults:
        try:
            learned = drill_reports.sync_reports(order.settings, vault, events)
        except SnapVaultError as error:
            events.warn("drill.unlearned", str(error), vault=vault, hint=error.hint)
            status = error.exit_status
            continue
        for problem in learned.problems:
            events.warn("drill.unread", str(problem), vault=vault)
        events.emit("drill.learned", vault=vault, fresh=learned.fresh)
    return status


def _log(report: DrillReport, events: EventLog) -> None:
    events.emit(
        "drill.over",
        drill=report.id,
        verdict=report.verdict.value,
        steps=len(report.steps),
        passed=sum(step.verdict is Verdict.PASSED for step in report.steps),
    )


def _end(_number: int, _: FrameType | None) -> None:
    # A second one finds nothing in its way: tidying up goes on, and SIGKILL is for the patient.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(_ASKED)


if __name__ == "__main__":
    sys.exit(main())
