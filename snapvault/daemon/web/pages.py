# SPDX-License-Identifier: Apache-2.0
"""Pages made from a status with the templates beside this module. All text is escaped."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, tzinfo
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from snapvault import clock
from snapvault.daemon.web import charts, views, words
from snapvault.model.runs import Run, SourceKey
from snapvault.model.status import SourceStatus, Status
from snapvault.units import format_count, format_duration, format_size

_LOG_EVENTS: Final = 1000
_LEVELS: Final = frozenset(("warning", "error"))


@dataclass(frozen=True, slots=True)
class LogLine:
    """An event of a run's log as a page shows it."""

    at: str
    day: str
    level: str
    event: str
    message: str
    fields: Sequence[tuple[str, str]]


class Pages:
    """Writes the pages; safe from several threads. Times are shown in `zone`."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        shared = files("snapvault.adapters.reports").joinpath("common.css")
        own = files("snapvault.daemon.web").joinpath("style.css")
        self.style = shared.read_bytes() + own.read_bytes()
        self._templates = Environment(
            loader=PackageLoader("snapvault.daemon.web"),
            autoescape=True,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        self._templates.filters |= {
            "size": format_size,
            "duration": format_duration,
            "alarm_title": words.alarm_title,
            "counter_title": words.counter_title,
            "day_name": charts.day_name,
            "run_state": words.run_state,
            "verify_result": words.verify_result,
            "prune_result": words.prune_result,
        }
        self._templates.globals |= {
            "count": format_count,
            "style_version": sha256(self.style).hexdigest()[:12],
            "source_href": views.source_href,
            "run_href": views.run_href,
            "subject_href": views.subject_href,
            "triggers": words.TRIGGERS,
            "verdicts": words.VERDICTS,
            "measured": words.measured,
            "notifier_lamp": views.notifier_lamp,
            "consistency": words.CONSISTENCY,
        }

    def overview(self, status: Status, *, show: str) -> str:
        """Write the overview; `show` picks sources: `all`, `problems` or `running`."""
        rows = [views.row(source) for source in status.sources]
        picks = {
            "all": rows,
            "problems": [row for row in rows if row.has_problem],
            "running": [row for row in rows if row.source.running is not None],
        }
        show = show if show in picks else "all"
        headline = views.headline(status, rows)
        troubled = len(picks["problems"]) or len(status.alarms)
        today = self._today(status)
        return self._render(
            "overview.html",
            status,
            title=f"({troubled}) {status.host}" if troubled else status.host,
            lamp=headline.lamp,
            refresh=30,
            headline=headline,
            alarms=views.alarm_groups(status.alarms),
            running=picks["running"],
            groups=views.groups(picks[show]),
            picks={name: len(members) for name, members in picks.items()},
            show=show,
            upcoming=views.upcoming(status),
            growth=self._growth(status),
            drills=views.drill_rows(status),
            strip=lambda source: charts.strip(source.points, today, self._zone),
        )

    def source(self, status: Status, key: SourceKey) -> str | None:
        """Write the page of a source; None: there is no such source."""
        found = next((source for source in status.sources if source.key == key), None)
        if found is None:
            return None
        row = views.row(found)
        return self._render(
            "source.html",
            status,
            title=f"{key.source} · {status.host}",
            lamp=row.lamp,
            refresh=30 if found.running else None,
            row=row,
            source=found,
            weeks=charts.calendar(found.points, self._today(status), self._zone, status.days),
            runs=views.runs_of(status, key),
            added=self._added(status, found),
            drill=views.drill_row(found.drill, found) if found.drill else None,
        )

    def run(self, status: Status, run: Run, log: Sequence[Mapping[str, object]]) -> str:
        """Write the page of a run and its log."""
        source = next((one for one in status.sources if one.key == run.key), None)
        at_work = (
            source.progress if source and source.running and source.running.id == run.id else None
        )
        return self._render(
            "run.html",
            status,
            title=f"{run.key.source} · {status.host}",
            lamp=_LAMPS_OF_RUNS[run.state.value],
            refresh=10 if run.ended is None else None,
            run=run,
            known=source is not None,
            progress=at_work,
            lines=[self._log_line(event) for event in log[-_LOG_EVENTS:]],
            left_out=max(0, len(log) - _LOG_EVENTS),
        )

    def login(self, *, goal: str, wrong: bool) -> str:
        """Write the form that asks for the token; `goal` is where it leads."""
        return self._render("login.html", None, title="SnapVault", goal=goal, wrong=wrong)

    def problem(self, title: str, message: str, hint: str | None) -> str:
        """Write that there is nothing to show, and why."""
        return self._render("problem.html", None, title=title, message=message, hint=hint)

    def _render(self, template: str, status: Status | None, **values: Any) -> str:
        times = words.Times(status.at if status else clock.now(), self._zone)
        common = {"status": status, "times": times, "refresh": None, "lamp": views.Lamp.WAITING}
        return self._templates.get_template(template).render(common | values)

    def _today(self, status: Status) -> date:
        return clock.in_zone(status.at, self._zone).date()

    def _added(self, status: Status, source: SourceStatus) -> charts.Chart:
        """Return the chart of what each day added of a source."""
        of_source: Counter[date] = Counter()
        for point in source.points:
            of_source[clock.in_zone(point.taken_at, self._zone).date()] += point.stored
        days = charts.last_days(self._today(status), max(status.days, 2))
        return charts.added_each_day(source.key.source, of_source, days)

    def _growth(self, status: Status) -> list[charts.Growth]:
        """Return the charts of each vault that holds something."""
        added: dict[str, Counter[date]] = {vault.name: Counter() for vault in status.vaults}
        for source in status.sources:
            of_vault = added.setdefault(source.key.vault, Counter())
            for point in source.points:
                of_vault[clock.in_zone(point.taken_at, self._zone).date()] += point.stored
        days = charts.last_days(self._today(status), max(status.days, 2))
        return [
            charts.growth(vault.name, vault.stored, added[vault.name], days)
            for vault in status.vaults
            if vault.points
        ]

    def _log_line(self, event: Mapping[str, object]) -> LogLine:
        fields = dict(event)
        level = str(fields.pop("level", "info"))
        at, day = self._log_time(fields.pop("at", None))
        return LogLine(
            at=at,
            day=day,
            level=level if level in _LEVELS else "info",
            event=_text(fields.pop("event", "")),
            message=_text(fields.pop("message", None)),
            fields=[(str(key), _text(value)) for key, value in fields.items()],
        )

    def _log_time(self, written: object) -> tuple[str, str]:
        try:
            moment = clock.from_text(str(written))
        except ValueError:
            return _text(written), ""
        local = clock.in_zone(moment, self._zone)
        return f"{local:%H:%M:%S}", f"{local:%Y-%m-%d %H:%M:%S.%f %Z}"


_LAMPS_OF_RUNS: Final = {
    "running": views.Lamp.WAITING,
    "succeeded": views.Lamp.GOOD,
    "failed": views.Lamp.FAILED,
    "interrupted": views.Lamp.FAILED,
    "missed": views.Lamp.FAILED,
}


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)
