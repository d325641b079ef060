# SPDX-License-Identifier: Apache-2.0
"""What drills found, in the words of their reports, and foreign text made harmless. Pure."""

import re
from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Final

from snapvault.model.drills import DrillReport, Phase, Verdict
from snapvault.units import format_duration, format_size

PHASES: Final[Mapping[Phase, str]] = {
    Phase.LOCATE: "locate the restore point",
    Phase.FETCH: "fetch",
    Phase.DECRYPT: "decrypt",
    Phase.WRITE: "write",
    Phase.VERIFY: "verify",
    Phase.LOAD: "load the database",
    Phase.BOOT: "boot",
    Phase.READY: "check",
    Phase.CLEAN_UP: "clean up",
    Phase.REST: "everything else",
}
VERDICTS: Final[Mapping[Verdict, str]] = {
    Verdict.PASSED: "passed",
    Verdict.FAILED: "failed",
    Verdict.SKIPPED: "skipped",
}
ICONS: Final[Mapping[Verdict, str]] = {
    Verdict.PASSED: "good",
    Verdict.FAILED: "alarm",
    Verdict.SKIPPED: "failed",
}
KINDS: Final[Mapping[str, str]] = {
    "boot": "started as a machine",
    "database": "loaded as a database",
    "files": "compared as files",
}
CHOICES: Final[Mapping[str, str]] = {
    "latest": "the newest",
    "random": "any, at random",
    "oldest": "the oldest kept",
    "point": "this one",
    "time": "the newest at a time",
}
TRIGGERS: Final[Mapping[str, str]] = {"schedule": "its schedule", "manual": "a person"}

# What terminals take for colors, cursors and titles; consoles are full of it.
_ESCAPES: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[@-Z\\^_])"
)
_BREAKS: Final = re.compile(r"\r*\n|\r+")


def console(text: str) -> str:
    """Return what a console showed as lines that can be read, without colors and cursors."""
    lines = _BREAKS.sub("\n", _ESCAPES.sub("", text)).split("\n")
    return "\n".join(visible(line, keep="\t") for line in lines).strip("\n")


def visible(text: str, keep: str = "") -> str:
    """Return a text in which everything shows: what turns or hides text stands as its number."""
    return "".join(c if c.isprintable() or c in keep else _shown(c) for c in text)


def _shown(character: str) -> str:
    number = ord(character)
    if number < 0x20:
        return chr(0x2400 + number)
    return f"⟨{number:04X}⟩"


def missed(report: DrillReport) -> list[str]:
    """Return which objectives of the policy the drill missed, one line each."""
    lines = []
    for step in report.steps:
        ready, age = step.seconds_to_ready, step.age
        name = step.key.source
        if ready is not None and step.rto is not None and ready > step.rto:
            lines.append(
                f"{name} was ready after {format_duration(ready)}, its RTO is"
                f" {format_duration(step.rto)}"
            )
        if age is not None and step.rpo is not None and age > step.rpo:
            lines.append(
                f"the restore point of {name} was {format_duration(age)} old, its RPO is"
                f" {format_duration(step.rpo)}"
            )
    return lines


def seconds(value: float) -> str:
    """Write how long something took: tenths below two minutes, then `4m 10s`."""
    return f"{value:.1f} s" if value < 120 else format_duration(value)


def counter(name: str, value: int) -> tuple[str, str]:
    """Return the title of a counter, and its value."""
    shown = format_size(value) if name.endswith("_bytes") else f"{value:,}"
    return name.removesuffix("_bytes").replace("_", " ").replace("-", " ").capitalize(), shown


def moment(at: datetime, zone: tzinfo) -> str:
    """Write a moment to the second: `2026-11-20 03:00:10 CET`."""
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


def day(at: datetime, zone: tzinfo) -> str:
    """Write a moment to the minute: `2026-11-20 03:00`."""
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M}"
