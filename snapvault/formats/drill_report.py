# SPDX-License-Identifier: Apache-2.0
"""A drill's report as JSON: docs/format.md, section 11."""

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, NoReturn

from snapvault import clock
from snapvault.errors import FormatVersionError, IntegrityError
from snapvault.formats import fields, names
from snapvault.model.drills import (
    CheckResult,
    DrillReport,
    Phase,
    Result,
    StepReport,
    Verdict,
)
from snapvault.model.runs import SourceKey

FORMAT_VERSION: Final = 1
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")
_UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)

Document = dict[str, Any]


def encode(report: DrillReport, vault_id: str) -> bytes:
    """Write a report; equal reports give equal bytes. The vault's id binds it to that vault."""
    text = json.dumps(document(report, vault_id), indent=1, ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def document(report: DrillReport, vault_id: str) -> Document:
    """Return a report as what JSON can hold.

    Raises:
        ValueError: its id has a form that no name could hold, or a step is of another vault.
    """
    fields.matching(_ID, report.id)
    fields.matching(fields.VAULT_ID, vault_id)
    for step in report.steps:
        if step.key.vault != report.vault:
            raise ValueError(f"step {step.key} is not of vault {report.vault}")
    return {
        "format": FORMAT_VERSION,
        "vault": vault_id,
        "vault_name": _clean(report.vault),
        "drill": report.id,
        "policy": _clean(report.policy),
        "host": _clean(report.host),
        "tool": _clean(report.version),
        "trigger": _clean(report.trigger),
        "started_at": clock.to_text(report.started),
        "ended_at": clock.to_text(report.ended),
        "choice": _clean(report.choice),
        "seed": report.seed,
        "verdict": report.verdict.value,
        "problem": _clean_or_none(report.problem),
        "steps": [_step_document(step) for step in report.steps],
    }


def decode(content: bytes) -> tuple[str, DrillReport]:
    """Read a report whose signature was proven; return it with the vault's id.

    Raises:
        IntegrityError: these bytes are no report, or it contradicts itself.
        FormatVersionError: a report of a newer format.
    """
    try:
        found = json.loads(content, parse_constant=_no_constant)
        version = found["format"]
        if version != FORMAT_VERSION:
            raise FormatVersionError(
                f"drill report has format {version}, this release reads {FORMAT_VERSION}",
                hint="Use a newer SnapVault.",
            )
        vault_name = _text(found, "vault_name")
        report = DrillReport(
            id=fields.matching(_ID, found["drill"]),
            policy=_text(found, "policy"),
            vault=vault_name,
            host=_text(found, "host"),
            version=_text(found, "tool"),
            trigger=_text(found, "trigger"),
            started=_time(found, "started_at"),
            ended=_time(found, "ended_at"),
            choice=_text(found, "choice"),
            seed=None if found["seed"] is None else _whole(found["seed"]),
            steps=tuple(_step(step, vault_name) for step in _list(found, "steps")),
            problem=_text_or_none(found, "problem"),
        )
        if found["verdict"] != report.verdict.value:
            raise ValueError(f"it says {found['verdict']!r}, its steps say {report.verdict.value}")
        return fields.matching(fields.VAULT_ID, found["vault"]), report
    except _UNREADABLE as error:
        raise IntegrityError(f"drill report cannot be read: {error}") from error


def decode_as(name: str, content: bytes) -> tuple[str, DrillReport]:
    """Read a report and hold it against the name it is stored under.

    Raises:
        IntegrityError: as `decode`; or it belongs under another name.
    """
    vault_id, report = decode(content)
    expected = names.drill_report(report.started, report.id)
    fields.require_place("drill report", name, expected, IntegrityError)
    return vault_id, report


def _step_document(step: StepReport) -> Document:
    return {
        "source": _clean(step.key.source),
        "kind": _clean(step.kind),
        "point": _clean_or_none(step.point),
        "taken_at": step.taken_at and clock.to_text(step.taken_at),
        "size_bytes": step.size,
        "started_at": clock.to_text(step.started),
        "seconds": step.seconds,
        "phases": {phase.value: step.phases[phase] for phase in Phase if phase in step.phases},
        "verdict": step.verdict.value,
        "restored": _result_document(step.restored),
        "validated": _result_document(step.validated),
        "cleaned": _result_document(step.cleaned),
        "checks": [
            {
                "name": _clean(check.name),
                "verdict": check.verdict.value,
                "reason": _clean(check.reason),
                "seconds": check.seconds,
            }
            for check in step.checks
        ],
        "seconds_to_ready": step.seconds_to_ready,
        "age_seconds": step.age,
        "rto_seconds": step.rto,
        "rpo_seconds": step.rpo,
        "counters": {_clean(name): step.counters[name] for name in sorted(step.counters)},
        "facts": {_clean(name): _clean(step.facts[name]) for name in sorted(step.facts)},
        "hits": [_clean(point) for point in step.hits],
        "commands": [_clean(command) for command in step.commands],
        "console": _clean(step.console),
        "screenshot": None
        if step.screenshot is None
        else base64.b64encode(step.screenshot).decode("ascii"),
    }


def _result_document(result: Result) -> Document:
    return {
        "verdict": result.verdict.value,
        "reason": _clean(result.reason),
        "hint": _clean_or_none(result.hint),
    }


def _step(found: Mapping[str, Any], vault_name: str) -> StepReport:
    screenshot = _text_or_none(found, "screenshot")
    step = StepReport(
        key=SourceKey(vault_name, _text(found, "source")),
        kind=_text(found, "kind"),
        point=_text_or_none(found, "point"),
        taken_at=None if found["taken_at"] is None else _time(found, "taken_at"),
        size=None if found["size_bytes"] is None else fields.count(found["size_bytes"]),
        started=_time(found, "started_at"),
        seconds=_seconds(found["seconds"]),
        phases={Phase(name): _seconds(value) for name, value in found["phases"].items()},
        restored=_result(found["restored"]),
        validated=_result(found["validated"]),
        cleaned=_result(found["cleaned"]),
        checks=tuple(
            CheckResult(
                _text(check, "name"),
                Verdict(check["verdict"]),
                _text(check, "reason"),
                _seconds(check["seconds"]),
            )
            for check in _list(found, "checks")
        ),
        seconds_to_ready=_maybe_seconds(found["seconds_to_ready"]),
        age=_maybe_number(found["age_seconds"]),
        rto=_maybe_seconds(found["rto_seconds"]),
        rpo=_maybe_seconds(found["rpo_seconds"]),
        counters={name: _whole(value) for name, value in found["counters"].items()},
        facts={name: _text({name: value}, name) for name, value in found["facts"].items()},
        hits=_texts(found, "hits"),
        commands=_texts(found, "commands"),
        console=_text(found, "console"),
        screenshot=None if screenshot is None else base64.b64decode(screenshot, validate=True),
    )
    if found["verdict"] != step.verdict.value:
        raise ValueError(f"it says {found['verdict']!r}, its results say {step.verdict.value}")
    return step


def _result(found: Mapping[str, Any]) -> Result:
    return Result(Verdict(found["verdict"]), _text(found, "reason"), _text_or_none(found, "hint"))


def _clean(text: str) -> str:
    """Return a text that every encoding of Unicode can carry; guests write what they like."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _clean_or_none(text: str | None) -> str | None:
    return None if text is None else _clean(text)


def _text(found: Mapping[str, Any], key: str) -> str:
    value = fields.text(found, key)
    value.encode("utf-8")  # half of a pair of surrogates is no text, and no terminal takes it
    return value


def _text_or_none(found: Mapping[str, Any], key: str) -> str | None:
    return None if found[key] is None else _text(found, key)


def _texts(found: Mapping[str, Any], key: str) -> tuple[str, ...]:
    items = _list(found, key)
    return tuple(_text({key: item}, key) for item in items)


def _list(found: Mapping[str, Any], key: str) -> Iterable[Any]:
    value = found[key]
    if not isinstance(value, list):
        raise TypeError(f'"{key}" is not a list')
    return value


def _time(found: Mapping[str, Any], key: str) -> datetime:
    return clock.from_text(_text(found, key))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return value


def _seconds(value: object) -> float:
    number = _number(value)
    if number < 0:
        raise ValueError(f"{value!r} is no duration")
    return number


def _maybe_seconds(value: object) -> float | None:
    return None if value is None else _seconds(value)


def _maybe_number(value: object) -> float | None:
    """Return a number that clocks of two hosts can make negative."""
    return None if value is None else _number(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
