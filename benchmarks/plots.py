# SPDX-License-Identifier: Apache-2.0
"""The comparison as pictures: what each night stores, and what its restore costs, as SVG."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import Any

from benchmarks.tables import MB, programs

Document = Mapping[str, Any]

_COLORS = ("#0b6e99", "#c65d21", "#5b8c3e", "#98b886", "#7a4fa3", "#b79fd0", "#666666")
_WIDTH, _HEIGHT = 340, 240  # of a panel, in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 30, 40  # around what is drawn of it
_LEGEND_LINE = 18
_TICKS = 4
_STYLE = (
    "text{font:12px sans-serif;fill:#333}.title{font-weight:bold}.grid{stroke:#ddd}"
    "polyline{fill:none;stroke-width:2}"
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram: a value of each night, by program. Lines have the same length or are shorter."""

    title: str
    across: str
    nights: Sequence[int]
    lines: Mapping[str, Sequence[tuple[int, float]]]


def pictures(results: Document) -> dict[str, str]:
    """Return the plots by file name; none where nothing was compared night after night."""
    found: dict[str, str] = {}
    for file, unit, values in (
        ("bytes-per-night.svg", "MB stored", _stored),
        ("restore-cost.svg", "CPU s of a restore", _restored),
    ):
        panels = list(_panels(results, unit, values))
        if panels:
            found[file] = draw(panels, programs(results))
    return found


def _panels(
    results: Document, unit: str, values: Callable[[Document], list[tuple[int, float]]]
) -> Iterator[Panel]:
    for name, workload in results.items():
        if workload.get("nights", 0) < 2 or "programs" not in workload:
            continue
        lines = {program: values(did) for program, did in workload["programs"].items()}
        nights = sorted({night for line in lines.values() for night, _ in line})
        yield Panel(f"{name}: {unit}", "night", nights, lines)


def _stored(did: Document) -> list[tuple[int, float]]:
    nights = enumerate(did["backups"][1:], 1)
    return [(number, run["stored_bytes"] / MB) for number, run in nights]


def _restored(did: Document) -> list[tuple[int, float]]:
    runs: dict[int, list[float]] = {}
    for run in did["restores"]:
        runs.setdefault(run["night"], []).append(run["cpu_seconds"])
    return [(night, median(seconds)) for night, seconds in sorted(runs.items())]


def draw(panels: Sequence[Panel], names: Sequence[str]) -> str:
    """Return a picture of panels side by side, below the names of the lines with their colors."""
    width = _WIDTH * len(panels)
    colors = {name: _COLORS[index % len(_COLORS)] for index, name in enumerate(names)}
    legend, below = _legend(colors, width)
    height = below + _HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *legend,
    ]
    for index, panel in enumerate(panels):
        parts.append(f'<g transform="translate({index * _WIDTH},{below})">')
        parts += _drawn(panel, colors)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _legend(colors: Mapping[str, str], width: int) -> tuple[list[str], int]:
    """Return the names with their colors, in as many lines as they need, and where these end."""
    parts: list[str] = []
    at, line = 12, 0
    for name, color in colors.items():
        room = 42 + 7 * len(name)
        if at + room > width and at > 12:
            at, line = 12, line + 1
        y = 11 + _LEGEND_LINE * line
        parts.append(f'<rect x="{at}" y="{y}" width="16" height="4" fill="{color}"/>')
        parts.append(f'<text x="{at + 21}" y="{y + 6}">{escape(name)}</text>')
        at += room
    return parts, 12 + _LEGEND_LINE * (line + 1)


def _drawn(panel: Panel, colors: Mapping[str, str]) -> Iterator[str]:
    most = max((value for line in panel.lines.values() for _, value in line), default=0)
    step = _nice(most / _TICKS)
    top = step * max(1, -(-most // step))
    first, last = panel.nights[0], panel.nights[-1]
    across = _WIDTH - _LEFT - _RIGHT
    down = _HEIGHT - _TOP - _BOTTOM

    def x(night: int) -> float:
        return _LEFT + across * (night - first) / max(1, last - first)

    def y(value: float) -> float:
        return _TOP + down * (1 - value / top)

    yield f'<text class="title" x="{_LEFT}" y="18">{escape(panel.title)}</text>'
    for tick in range(round(top / step) + 1):
        at = y(tick * step)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + across}" y1="{at:.1f}" y2="{at:.1f}"/>'
        label = f"{tick * step:g}"
        yield f'<text x="{_LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{label}</text>'
    for night in panel.nights:
        yield f'<text x="{x(night):.1f}" y="{_TOP + down + 17}" text-anchor="middle">{night}</text>'
    yield (
        f'<text x="{_LEFT + across / 2}" y="{_TOP + down + 34}" text-anchor="middle">'
        f"{escape(panel.across)}</text>"
    )
    for name, line in panel.lines.items():
        color = colors[name]
        points = " ".join(f"{x(night):.1f},{y(value):.1f}" for night, value in line)
        yield f'<polyline points="{points}" stroke="{color}"/>'
        for night, value in line:
            yield f'<circle cx="{x(night):.1f}" cy="{y(value):.1f}" r="3" fill="{color}"/>'


def _nice(step: float) -> float:
    """Return the least of 1, 2, 5, 10, 20 … (or of their hundredths) that is no less."""
    size = 0.01
    while True:
        for factor in (1, 2, 5):
            if factor * size >= step:
                return factor * size
        size *= 10
