# SPDX-License-Identifier: Apache-2.0
"""The comparison as tables: what each program took for each step of each workload."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.programs import OWN

Document = Mapping[str, Any]
Run = Mapping[str, Any]
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a workload, and the runs of each program that did it; never without runs."""

    workload: str
    name: str
    is_backup: bool
    runs: Mapping[str, Sequence[Run]]

    def value(self, program: str, key: str) -> float | None:
        """Return the median of the program's runs; None if it did not do this."""
        runs = self.runs.get(program)
        return median(run[key] for run in runs) if runs else None

    def most(self, program: str, key: str) -> float | None:
        """Return the most of the program's runs; None if it did not do this."""
        runs = self.runs.get(program)
        return max(run[key] for run in runs) if runs else None


def steps(results: Document) -> list[Step]:
    """Return the steps of everything that was compared, in order."""
    found: list[Step] = []
    for name, workload in results.items():
        if "programs" in workload:
            found += _steps(name, workload)
    return found


def programs(results: Document) -> list[str]:
    """Return the programs that did anything, in order."""
    found: dict[str, None] = {}
    for workload in results.values():
        found.update(dict.fromkeys(workload.get("programs", ())))
    return list(found)


def _steps(name: str, workload: Document) -> Iterator[Step]:
    last = workload["nights"]
    chosen: list[tuple[str, bool, Callable[[Document], Sequence[Run]]]] = [
        ("first backup", True, _firsts),
        ("the clone" if name == "clone" else "a night", True, lambda each: each["backups"][1:]),
        ("nothing changed", True, lambda each: [each["idle"]] if "idle" in each else []),
        ("restore of the newest", False, lambda each: _restores(each, last)),
        ("restore of the oldest", False, lambda each: _restores(each, 0)),
    ]
    for step, is_backup, choose in chosen:
        runs = {program: choose(did) for program, did in workload["programs"].items()}
        if found := {program: some for program, some in runs.items() if some}:
            yield Step(name, step, is_backup, found)


def _firsts(did: Document) -> list[Run]:
    first = did["backups"][0]
    return [first, *first.get("again", ())]


def _restores(did: Document, night: int) -> list[Run]:
    return [run for run in did["restores"] if run["night"] == night]


def short(results: Document) -> list[str]:
    """Return the table that a reader compares with: CPU seconds, and what was stored, in MB.

    The least of each row is bold.
    """
    names, all_steps = programs(results), steps(results)
    lines = [
        f"| CPU s / MB stored | {' | '.join(names)} |",
        f"|---|{'---:|' * len(names)}",
    ]
    for step in all_steps:
        cpu = _bold([_number(step.value(name, "cpu_seconds")) for name in names])
        cells = cpu
        if step.is_backup:
            sizes = [step.value(name, "stored_bytes") for name in names]
            stored = _bold([_number(None if each is None else each / MB) for each in sizes])
            cells = [f"{one} / {two}" if one else "" for one, two in zip(cpu, stored, strict=True)]
        lines.append(f"| {step.workload}: {step.name} | {' | '.join(cells)} |")
    restores = [step for step in all_steps if not step.is_backup]
    for title, key, chosen in (
        ("most memory, MB", "peak_pss_bytes", all_steps),
        ("temporary disk for a restore, MB", "temporary_bytes", restores),
    ):
        peaks = [[step.most(name, key) or 0 for step in chosen] for name in names]
        cells = _bold([f"{max(each, default=0) / MB:.0f}" for each in peaks])
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def long(results: Document) -> list[str]:
    """Return the table with everything: a row for each program of each step.

    Medians; but for memory, temporary and kept disk, the most.
    """
    columns = ("CPU s", "wall s", "memory MB", "stored MB", "objects", "requests", "temporary MB")
    lines = [
        f"| Workload: step | Program | {' | '.join(columns)} | kept on the host MB |",
        f"|---|---|{'---:|' * len(columns)}---:|",
    ]
    for step in steps(results):
        for name, runs in step.runs.items():
            asked = [sum(run["requests"].values()) for run in runs]
            stored = ["", "", ""]
            if step.is_backup:
                stored = [
                    f"{median(run['stored_bytes'] for run in runs) / MB:.2f}",
                    f"{median(run['stored_objects'] for run in runs):.0f}",
                    f"{max(run['kept_bytes'] for run in runs) / MB:.1f}",
                ]
            cells = [
                f"{median(run['cpu_seconds'] for run in runs):.2f}",
                f"{median(run['wall_seconds'] for run in runs):.2f}",
                f"{max(run['peak_pss_bytes'] for run in runs) / MB:.0f}",
                *stored[:2],
                f"{median(asked):.0f}" if any(asked) else "",
                f"{max(run['temporary_bytes'] for run in runs) / MB:.1f}",
                stored[2],
            ]
            lines.append(f"| {step.workload}: {step.name} | {name} | {' | '.join(cells)} |")
    return lines


def better_elsewhere(results: Document) -> list[str]:
    """Return a line for each figure of the short table where another program took less."""
    lines: list[str] = []
    for step in steps(results):
        keys = [("cpu_seconds", "CPU s", 1)]
        keys += [("stored_bytes", "MB stored", MB)] if step.is_backup else []
        for key, unit, scale in keys:
            own = step.value(OWN, key)
            others = {name: step.value(name, key) for name in step.runs if name != OWN}
            less = sorted(
                (value, name)
                for name, value in others.items()
                if own is not None and value is not None and value < own
            )
            if less and own is not None:
                told = ", ".join(f"{_number(value / scale)} for {name}" for value, name in less)
                lines.append(
                    f"- {step.workload}, {step.name}: {told}; {_number(own / scale)} {unit} "
                    f"for {OWN}"
                )
    return lines


def _number(value: float | None) -> str:
    """Return a number with three digits, or with two decimals where that is less.

    What two decimals would hardly tell from nothing has three.
    """
    if value is None:
        return ""
    if value < 0.1:
        return f"{value:.3f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _bold(cells: Sequence[str]) -> list[str]:
    """Make the least of the numbers bold, and what reads the same; one alone stays as it is."""
    numbers = [float(each) for each in cells if each]
    if len(numbers) < 2:
        return list(cells)
    return [f"**{each}**" if each and float(each) == min(numbers) else each for each in cells]
