# SPDX-License-Identifier: Apache-2.0
"""What a policy rehearses, in plain words and as values for JSON."""

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from snapvault.model.policy import DrillSpec
from snapvault.model.rehearsal import (
    KIND_NAMES,
    AgentCheck,
    BootCheck,
    BootDrill,
    Choice,
    ConsoleCheck,
    DatabaseDrill,
    DrillKind,
    DrillStep,
    FilesDrill,
    PortCheck,
)
from snapvault.units import format_count, format_duration, format_size


def drill_lines(spec: DrillSpec) -> Iterator[str]:
    """Say which restore points are rehearsed and how, a line for each step."""
    yield _point(spec)
    if spec.gnupg_home is not None:
        yield f'with the recovery key in "{spec.gnupg_home}"'
    if spec.scratch is not None:
        yield f'in folder "{spec.scratch}"'
    for step in spec.steps:
        yield f"{step.source}: {_kind(step.kind)}"


def drill_document(spec: DrillSpec) -> dict[str, Any]:
    """Return what is rehearsed, for JSON; its schedule is beside the policy's own."""
    return {
        "point": spec.choice.value,
        "within_seconds": None if spec.within is None else spec.within.total_seconds(),
        "gnupg_home": None if spec.gnupg_home is None else str(spec.gnupg_home),
        "passphrase_file": None if spec.passphrase_file is None else str(spec.passphrase_file),
        "scratch": None if spec.scratch is None else str(spec.scratch),
        "steps": [_step_document(step) for step in spec.steps],
    }


def _point(spec: DrillSpec) -> str:
    match spec.choice:
        case Choice.LATEST:
            return "the newest restore point"
        case Choice.OLDEST:
            return "the oldest restore point"
        case Choice.RANDOM:
            of = "" if spec.within is None else f" of the last {format_duration(spec.within)}"
            return f"any restore point{of}"


def _kind(kind: DrillKind) -> str:
    match kind:
        case BootDrill():
            how = "at once, from the vault" if kind.instant else "from restored disks"
            asked = ", ".join(check_words(check) for check in kind.checks)
            machine = f"{format_size(kind.memory)}, {format_count(kind.cpus, 'processor')}"
            return f"starts {how} ({machine}): {asked}"
        case DatabaseDrill():
            said = ["tables as at the backup"] if kind.compare_tables else []
            said += [check.sql for check in kind.checks]
            return "is loaded into a private server" + (f": {', '.join(said)}" if said else "")
        case FilesDrill():
            said = [f"{kind.sample_percent:g}% of the data is proven"]
            said += [f'"{path}" is there' for path in kind.paths]
            said += ["files are compared with the live ones"] if kind.compare_live else []
            return ", ".join(said)


def check_words(check: BootCheck) -> str:
    """Say on a few words what a machine must show."""
    match check:
        case ConsoleCheck():
            return f'console shows "{check.pattern}"'
        case AgentCheck():
            return "guest agent answers"
        case PortCheck():
            return f"port {check.port} answers"
        case _:
            return f"{shlex.join(check.run)} ends with {check.status}"


def _step_document(step: DrillStep) -> dict[str, Any]:
    document = {"source": step.source, "kind": KIND_NAMES[type(step.kind)], **asdict(step.kind)}
    if isinstance(step.kind, BootDrill):
        kinds = [
            {"check": type(check).__name__.removesuffix("Check").lower(), **asdict(check)}
            for check in step.kind.checks
        ]
        document["checks"] = kinds
        document["memory_bytes"] = document.pop("memory")
    if isinstance(timeout := document.pop("timeout", None), timedelta):
        document["timeout_seconds"] = timeout.total_seconds()
    return document
