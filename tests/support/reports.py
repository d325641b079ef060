# SPDX-License-Identifier: Apache-2.0
"""Reports of drills that never were."""

import struct
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from snapvault.model.drills import (
    CheckResult,
    DrillReport,
    Phase,
    Result,
    StepReport,
    Verdict,
)
from snapvault.model.runs import SourceKey

STARTED = datetime(2026, 11, 21, 2, 30, 0, 250_000, tzinfo=UTC)
PASSED = Result(Verdict.PASSED, "all of it")


def step(source: str = "web01", *, vault: str = "offsite", **more: Any) -> StepReport:
    """Return a step that passed: a machine, ready after 30 seconds, of a point five hours old."""
    plain = StepReport(
        key=SourceKey(vault, source),
        kind="boot",
        point="0123456789abcdef",
        taken_at=STARTED - timedelta(hours=5),
        size=4 << 30,
        started=STARTED,
        seconds=40.0,
        phases={Phase.FETCH: 10.0, Phase.BOOT: 20.0, Phase.CLEAN_UP: 10.0},
        restored=PASSED,
        validated=Result(Verdict.PASSED, "all checks passed"),
        cleaned=Result(Verdict.PASSED, "nothing is left"),
        checks=(CheckResult('console shows "login:"', Verdict.PASSED, "line 212", 19.5),),
        seconds_to_ready=30.0,
        age=5 * 3600.0,
        rto=3600.0,
        rpo=26 * 3600.0,
    )
    return replace(plain, **more)


def failed(source: str = "web01", reason: str = "no login prompt", **more: Any) -> StepReport:
    """Return a step that was restored and did not come up."""
    checks = (CheckResult('console shows "login:"', Verdict.FAILED, reason, 600.0),)
    values: dict[str, Any] = {
        "validated": Result(Verdict.FAILED, "1 of 1 checks failed", "Look at the console."),
        "checks": checks,
        "seconds_to_ready": None,
    }
    return step(source, **(values | more))


def report(*steps: StepReport, **more: Any) -> DrillReport:
    """Return a report of these steps, or of one that passed, in the vault `offsite`."""
    plain = DrillReport(
        id="00112233445566aa",
        policy="nightly",
        vault="offsite",
        host="recovery.example.org",
        version="snapvault 0.1.0",
        trigger="schedule",
        started=STARTED,
        ended=STARTED + timedelta(seconds=42),
        choice="random",
        seed=20261121,
        steps=steps or (step(),),
    )
    return replace(plain, **more)


def at(days: float, number: int, *steps: StepReport, **more: Any) -> DrillReport:
    """Return a report of a drill so many days after the first, with an id of that number."""
    moved = STARTED + timedelta(days=days)
    return report(
        *(replace(each, started=moved) for each in steps or (step(),)),
        id=f"{number:016x}",
        started=moved,
        ended=moved + timedelta(seconds=42),
        **more,
    )


def png(width: int = 8, height: int = 8) -> bytes:
    """Return a small picture, dark with a light frame."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(
        b"\0"
        + bytes(
            200 if row in (0, height - 1) or column in (0, width - 1) else 30
            for column in range(width)
        )
        for row in range(height)
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
