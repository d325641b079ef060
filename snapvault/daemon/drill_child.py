# SPDX-License-Identifier: Apache-2.0
"""The process of one scheduled drill: takes an order from stdin; its exit status is what came.

`adapters.order_child` starts it, and waits for its end.
"""

import sys

from snapvault.adapters.event_log import EventLog, Field
from snapvault.daemon.child import step_back
from snapvault.daemon.order_process import open_log, take_order
from snapvault.errors import EXIT_DONE, ObjectiveMissedError, SnapVaultError
from snapvault.model.drills import DrillReport, Verdict
from snapvault.ports.rehearsals import DrillOrder
from snapvault.wiring import drill_reports, drills


def main() -> int:
    """Carry out one order; the report goes into the vault and into the history."""
    order = take_order(DrillOrder)
    bound: dict[str, Field] = {"policy": order.policy.name} if order.policy else {}
    events = open_log(bound)
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


if __name__ == "__main__":
    sys.exit(main())
