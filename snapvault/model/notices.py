# SPDX-License-Identifier: Apache-2.0
"""Notices: what people and programs outside are told, and which of it they want to hear."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from snapvault.model.runs import Run


class NoticeKind(StrEnum):
    """What a notice tells.

    `START` and `SUCCESS` are for pings and for who wants everything; `FAILURE` is a run that
    failed and is not tried again, or each failed attempt for a ping; `MISSED` a run that did not
    happen; `BREACH` an alarm that was raised, `RECOVERY` one that is over, or the first
    success after a failure.
    """

    START = "start"
    SUCCESS = "success"
    FAILURE = "failure"
    MISSED = "missed"
    BREACH = "breach"
    RECOVERY = "recovery"


class Wish(StrEnum):
    """What a notifier may be told of, as policies and settings write it."""

    FAILURE = "failure"
    RECOVERY = "recovery"
    BREACH = "breach"
    ALWAYS = "always"


_WISHES = {
    NoticeKind.FAILURE: Wish.FAILURE,
    NoticeKind.MISSED: Wish.FAILURE,
    NoticeKind.BREACH: Wish.BREACH,
    NoticeKind.RECOVERY: Wish.RECOVERY,
}


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell. `title` and `message` are one line each; no secret is in any of it.

    `vault`, `source` and `policy` are names, or None where it is about no single one. `retry_at`
    is when the run is tried again, if it is.
    """

    kind: NoticeKind
    at: datetime
    host: str
    title: str
    message: str
    hint: str | None = None
    vault: str | None = None
    source: str | None = None
    policy: str | None = None
    alarm: str | None = None
    run: Run | None = None
    retry_at: datetime | None = None


def is_wanted(notice: Notice, wishes: frozenset[Wish]) -> bool:
    """Tell whether somebody with these wishes hears of it."""
    if Wish.ALWAYS in wishes:
        return True
    wish = _WISHES.get(notice.kind)
    return wish is not None and wish in wishes


@dataclass(frozen=True, slots=True)
class NotifierStanding:
    """How a notifier fares. The counts are since the daemon started, the moments of all time.

    `delivered_at` is of the last notice that was delivered, `failed_at` and `problem` (one line)
    of the last attempt that was not. `is_up`: its last attempt went well, or there was none.
    `delivered` and `dropped` count notices, `failures` attempts, `lost` notices that are not
    tried again. `waiting` are still to be told.
    """

    name: str
    is_up: bool = True
    delivered_at: datetime | None = None
    failed_at: datetime | None = None
    problem: str | None = None
    delivered: int = 0
    failures: int = 0
    lost: int = 0
    dropped: int = 0
    waiting: int = 0
