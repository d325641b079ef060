# SPDX-License-Identifier: Apache-2.0
"""Notices to tell in tests."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from snapvault.model.notices import Notice, NoticeKind
from snapvault.model.runs import Failure, Run, RunState, SourceKey, Trigger

AT = datetime(2026, 11, 21, 1, 30, 10, tzinfo=UTC)

RUN = Run(
    id="20261121T013000Z-web01-1",
    key=SourceKey("offsite", "web01"),
    policy="nightly",
    state=RunState.FAILED,
    trigger=Trigger.RETRY,
    started=AT - timedelta(seconds=10),
    due=AT - timedelta(seconds=40),
    ended=AT,
    attempt=2,
    counters={"read_bytes": 4096},
    failure=Failure("the store did not answer", "Look at the network.", 14, retryable=True),
)

_FAILURE = Notice(
    kind=NoticeKind.FAILURE,
    at=AT,
    host="host1",
    title='backup of "web01" failed',
    message='could not back up source "web01": the store did not answer',
    hint="Look at the network.",
    vault="offsite",
    source="web01",
    policy="nightly",
    run=RUN,
)


def a_notice(kind: NoticeKind = NoticeKind.FAILURE, **fields: Any) -> Notice:
    """Return a notice of a run that failed, of another kind or with other fields if given."""
    return replace(_FAILURE, kind=kind, **fields)
