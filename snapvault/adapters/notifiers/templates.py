# SPDX-License-Identifier: Apache-2.0
"""What a notice says: as text, as a subject and as a JSON document, ours or from templates.

docs/notifications.md lists the document's keys and what templates can use.
"""

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from snapvault import clock
from snapvault.model.notices import Notice
from snapvault.model.runs import Run
from snapvault.units import format_duration, format_size

Value = str | int | float | bool | None | Mapping[str, "Value"]
Document = dict[str, Value]

DOCUMENT_VERSION: Final = 1

_NOTICES: Final = uuid.UUID("5b0a6a52-5d0c-43b5-8d5b-4c1f5d9a2e61")

# LIMIT: ours. A subject is read at a glance; nobody reads a mail of more than this.
_SUBJECT_LENGTH: Final = 200
_TEXT_LENGTH: Final = 256 * 1024

# What ends lines or hides text: control characters, separators of lines, directions of writing.
_UNSEEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")
_UNSEEN_IN_TEXT: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Rendered(NamedTuple):
    """A text, and why it is ours instead of the template's; None: it is what was asked for."""

    text: str
    note: str | None


def one_line(text: str) -> str:
    """Return a text that cannot leave its line, whatever somebody put into a name."""
    return _UNSEEN.sub(" ", _encodable(text)).strip()


def notice_id(notice: Notice) -> str:
    """Return a UUID made of all that a notice says: the same at each attempt to deliver it."""
    return str(uuid.uuid5(_NOTICES, repr(notice)))


def document(notice: Notice, *, note: str | None = None) -> Document:
    """Return a notice as programs read it: `docs/notifications.md`, "The JSON document"."""
    return {
        "version": DOCUMENT_VERSION,
        "id": notice_id(notice),
        "kind": notice.kind.value,
        "at": clock.to_text(notice.at),
        "host": notice.host,
        "title": notice.title,
        "message": notice.message,
        "hint": notice.hint,
        "vault": notice.vault,
        "source": notice.source,
        "policy": notice.policy,
        "alarm": notice.alarm,
        "retry_at": _moment(notice.retry_at),
        "run": None if notice.run is None else _run_document(notice.run),
        "note": note,
    }


def render_json(notice: Notice, template: str | None, *, must_be_json: bool) -> Rendered:
    """Write a notice's document, ours without a template or when it fails."""

    def ours(note: str | None) -> str:
        return _encodable(json.dumps(document(notice, note=note), ensure_ascii=False))

    def checked(text: str) -> str:
        if must_be_json:
            json.loads(text)
        return text

    return _render(template, notice, ours, checked)


def render_text(notice: Notice, template: str | None) -> Rendered:
    """Write the text of a mail; ours, with a note above it, when the template fails."""

    def ours(note: str | None) -> str:
        return (f"({note})\n\n" if note else "") + _plain(notice)

    rendered = _render(template, notice, ours, lambda text: text)
    text = _UNSEEN_IN_TEXT.sub(" ", _encodable(rendered.text.replace("\r\n", "\n")))
    return rendered._replace(text=text.rstrip() + "\n")


def render_subject(notice: Notice, template: str | None) -> Rendered:
    """Write the subject of a mail: one line; ours when the template fails."""
    rendered = _render(
        template, notice, lambda _: f"[{notice.host}] {notice.title}", lambda text: text
    )
    text = one_line(rendered.text)
    if len(text) > _SUBJECT_LENGTH:
        text = text[: _SUBJECT_LENGTH - 1] + "…"
    return rendered._replace(text=text)


def check_template(text: str) -> str | None:
    """Return what is wrong with the syntax of a template in one line; None: nothing."""
    try:
        _environment().from_string(text)
    except (TemplateError, RecursionError, ValueError, OverflowError) as error:
        return _reason(error)
    return None


def _render(
    template: str | None,
    notice: Notice,
    ours: Callable[[str | None], str],
    checked: Callable[[str], str],
) -> Rendered:
    if template is None:
        return Rendered(ours(None), None)
    try:
        text = checked(_shortened(_environment().from_string(template), notice))
    except Exception as error:  # noqa: BLE001 - a template can raise anything; the notice counts
        note = f"the template could not be used: {_reason(error)}"
        return Rendered(ours(note), note)
    return Rendered(_encodable(text), None)


def _shortened(template: Template, notice: Notice) -> str:
    """Render a template, and refuse what grows without end."""
    pieces = []
    length = 0
    for piece in template.generate(_variables(notice)):
        pieces.append(piece)
        length += len(piece)
        if length > _TEXT_LENGTH:
            raise ValueError(f"it writes more than {format_size(_TEXT_LENGTH)}")
    return "".join(pieces)


def _variables(notice: Notice) -> dict[str, object]:
    whole = document(notice)
    return {
        **whole,
        "at": notice.at,
        "retry_at": notice.retry_at,
        "run": notice.run,
        "document": whole,
        "text": _plain(notice),
    }


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,  # the output is text or JSON, for which there is a filter
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = _json
    environment.filters["size"] = lambda value: "" if value is None else format_size(value)
    environment.filters["duration"] = lambda value: "" if value is None else format_duration(value)
    environment.filters["local"] = lambda value: "" if value is None else _local(value)
    return environment


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=_as_json)


def _as_json(value: object) -> object:
    if isinstance(value, datetime):
        return clock.to_text(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Run):
        return _run_document(value)
    raise TypeError(f"the filter json cannot write a value of type {type(value).__name__}")


def _reason(error: Exception) -> str:
    """Say in one line what is wrong with a template; it is the operator's own text."""
    if isinstance(error, json.JSONDecodeError):
        return f"what it writes is not JSON (line {error.lineno}, column {error.colno})"
    line = getattr(error, "lineno", None)
    where = f"line {line}: " if isinstance(line, int) else ""
    reason = one_line(str(error))[:_SUBJECT_LENGTH] or type(error).__name__
    return where + reason


def _plain(notice: Notice) -> str:
    lines = [one_line(notice.message)]
    if notice.hint:
        lines += ["", one_line(notice.hint)]
    rows = [
        ("Host", notice.host),
        ("Vault", notice.vault),
        ("Source", notice.source),
        ("Policy", notice.policy),
        ("Alarm", notice.alarm),
        ("Time", _local(notice.at)),
        ("Next try", _local(notice.retry_at) if notice.retry_at else None),
    ]
    if notice.run is not None:
        rows += _run_rows(notice.run)
    shown = [(label, one_line(value)) for label, value in rows if value]
    width = max(len(label) for label, _ in shown)
    lines.append("")
    lines += [f"{label:<{width}}  {value}" for label, value in shown]
    return "\n".join(lines)


def _run_rows(run: Run) -> list[tuple[str, str | None]]:
    attempt = f", attempt {run.attempt}" if run.attempt > 1 else ""
    return [
        ("Run", f"{run.id}, {run.state.value} ({run.trigger.value}{attempt})"),
        ("Due", _local(run.due) if run.due else None),
        ("Started", _local(run.started)),
        ("Took", None if run.seconds is None else format_duration(run.seconds)),
        ("Point", run.point),
        ("Size", None if run.size is None else format_size(run.size)),
    ]


def _run_document(run: Run) -> Document:
    return {
        "id": run.id,
        "state": run.state.value,
        "trigger": run.trigger.value,
        "attempt": run.attempt,
        "missed": run.missed,
        "due": _moment(run.due),
        "started": clock.to_text(run.started),
        "ended": _moment(run.ended),
        "seconds": run.seconds,
        "point": run.point,
        "taken_at": _moment(run.taken_at),
        "size_bytes": run.size,
        "counters": dict(run.counters),
        "error": None if run.failure is None else asdict(run.failure),
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else clock.to_text(moment)


def _local(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _encodable(text: str) -> str:
    """Return a text that is UTF-8, also where a file name was none."""
    return text.encode(errors="replace").decode()
