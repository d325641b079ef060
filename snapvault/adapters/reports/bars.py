# SPDX-License-Identifier: Apache-2.0
"""Bars of a report, as SVG without a script or a style of their own. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from snapvault.adapters.reports import words
from snapvault.model.drills import Phase

_WIDTH: Final = 1000
_KINDS: Final[Mapping[Phase, str]] = {
    Phase.LOAD: "start",
    Phase.BOOT: "start",
    Phase.READY: "start",
    Phase.CLEAN_UP: "after",
    Phase.REST: "after",
}


@dataclass(frozen=True, slots=True)
class PhaseBar:
    """One phase: what it is, the seconds and the percentage shown, and its place in the whole.

    What is shown adds up, to the tenth, to the whole that is shown.
    """

    label: str
    seconds: str
    percent: str
    svg: Markup


def phases(times: Mapping[Phase, float], whole: float) -> list[PhaseBar]:
    """Draw the phases one after the other, each beginning where the one before ends.

    What the phases leave of the whole is shown as everything else.
    """
    known = {phase: times.get(phase, 0.0) for phase in Phase}
    known[Phase.REST] += max(0.0, whole - sum(known.values()))
    total = sum(known.values())
    bars = []
    begun = 0.0
    for phase, length in known.items():
        ended = begun + length
        tenths = round(ended * 10) - round(begun * 10)
        if length > 0:
            bars.append(
                PhaseBar(
                    words.PHASES[phase],
                    f"{tenths // 10}.{tenths % 10} s",
                    f"{100 * length / total:.0f} %",
                    _bar(begun / total, length / total, _KINDS.get(phase, "restore")),
                )
            )
        begun = ended
    return bars


def gauge(value: float, limit: float) -> Markup:
    """Draw how much of a limit is used; what is over it is drawn beyond a mark."""
    span = max(value, limit, 1e-9)
    used = _number(min(value, limit) / span * _WIDTH)
    at = _number(limit / span * _WIDTH)
    over = Markup("")
    if value > limit:
        over = Markup('<path class="over" d="M{} 6H{}"/><path class="limit" d="M{} 0V12"/>').format(
            at, _WIDTH, at
        )
    return Markup(
        '<svg class="gauge" viewBox="0 0 {} 12" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="rail" d="M0 6H{}"/><path class="level" d="M0 6H{}"/>{}</svg>'
    ).format(_WIDTH, _WIDTH, used, over)


def _bar(start: float, length: float, kind: str) -> Markup:
    # The shortest still shows.
    width = max(length * _WIDTH, 2)
    left = min(start * _WIDTH, _WIDTH - width)
    return Markup(
        '<svg class="span" viewBox="0 0 {} 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="lane" width="{}" height="10"/>'
        '<rect class="{}" x="{}" width="{}" height="10"/></svg>'
    ).format(_WIDTH, _WIDTH, kind, _number(left), _number(width))


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
