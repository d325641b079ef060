# SPDX-License-Identifier: Apache-2.0
"""Reports as pages that stand alone: no script, nothing fetched, all text escaped."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from snapvault.adapters.reports import bars, words
from snapvault.model import drill_audit
from snapvault.model.drill_audit import Audit
from snapvault.model.drills import DrillReport, StepReport, Verdict
from snapvault.units import format_count, format_duration, format_size

_PACKAGE: Final = "snapvault.adapters.reports"
_PNG: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a report is from: its object in the vault, and the fingerprint of who signed it."""

    name: str
    signer: str


@dataclass(frozen=True, slots=True)
class Tally:
    """How many of several things ended in each way."""

    passed: int
    failed: int
    skipped: int

    def __str__(self) -> str:
        """Write it: `2 passed, 1 failed`."""
        said = ((self.passed, "passed"), (self.failed, "failed"), (self.skipped, "skipped"))
        return ", ".join(f"{count} {word}" for count, word in said if count) or "none"


class ReportPages:
    """Writes reports; safe from several threads. Times are shown in `zone`.

    `policy` is the Content-Security-Policy that the pages carry and whoever serves them may send.
    """

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        folder = files(_PACKAGE)
        # The first has the colors and the letters of the status page as well.
        style = "".join(
            folder.joinpath(name).read_text("utf-8") for name in ("common.css", "style.css")
        )
        digest = base64.b64encode(sha256(style.encode()).digest()).decode()
        self.policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;"
            " base-uri 'none'; form-action 'none'"
        )
        self._templates = Environment(
            loader=PackageLoader(_PACKAGE),
            autoescape=True,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        self._templates.filters |= {
            "console": words.console,
            "duration": format_duration,
            "seconds": words.seconds,
            "size": format_size,
            "visible": words.visible,
        }
        self._templates.globals |= {
            "choices": words.CHOICES,
            "count": format_count,
            "counter": words.counter,
            "day": lambda at: words.day(at, zone),
            "gauge": bars.gauge,
            "icons": words.ICONS,
            "kinds": words.KINDS,
            "moment": lambda at: words.moment(at, zone),
            "phases": lambda step: bars.phases(step.phases, step.seconds),
            "picture": _picture,
            "policy": self.policy,
            "reason_of": drill_audit.reason_of,
            # SAFETY: the style is our own file, not anybody's text.
            "style": Markup(style),  # noqa: S704
            "triggers": words.TRIGGERS,
            "verdicts": words.VERDICTS,
        }

    def report(self, report: DrillReport, origin: Origin | None = None) -> str:
        """Write the page of a drill. Without an origin it says that nobody has signed it."""
        return self._render(
            "report.html",
            title=f"Drill of {report.policy}, {words.day(report.started, self._zone)}",
            lamp=words.ICONS[report.verdict],
            report=report,
            origin=origin,
            tally=tally([step.verdict for step in report.steps]),
            missed=words.missed(report),
            host=report.host,
        )

    def audit(
        self, audit: Audit, *, period: str, host: str, version: str, problems: Sequence[str] = ()
    ) -> str:
        """Write the page of a period. `problems` are why it may be incomplete."""
        return self._render(
            "period.html",
            title=f"Drills of {period}",
            lamp=words.ICONS[audit_verdict(audit)],
            audit=audit,
            period=period,
            version=version,
            problems=problems,
            tallies={
                source.key: tally([each.step.verdict for each in source.rehearsals])
                for source in audit.sources
            },
            tally=tally([each.report.verdict for each in audit.reports]),
            host=host,
        )

    def _render(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(values)


def tally(verdicts: Sequence[Verdict]) -> Tally:
    """Count verdicts."""
    return Tally(
        verdicts.count(Verdict.PASSED),
        verdicts.count(Verdict.FAILED),
        verdicts.count(Verdict.SKIPPED),
    )


def audit_verdict(audit: Audit) -> Verdict:
    """Return what a period comes to: failed if an interval was not kept or a newest drill failed.

    Skipped if there are no sources, or some were never rehearsed.
    """
    newest = [source.rehearsals[-1].step.verdict for source in audit.sources if source.rehearsals]
    if Verdict.FAILED in newest or any(source.kept is False for source in audit.sources):
        return Verdict.FAILED
    complete = bool(newest) and not audit.never and Verdict.SKIPPED not in newest
    return Verdict.PASSED if complete else Verdict.SKIPPED


def _picture(step: StepReport) -> str | None:
    """Return a screenshot as an address that holds it; None: there is none, or it is no PNG."""
    if step.screenshot is None or not step.screenshot.startswith(_PNG):
        return None
    return "data:image/png;base64," + base64.b64encode(step.screenshot).decode("ascii")
