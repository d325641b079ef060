# SPDX-License-Identifier: Apache-2.0
"""The report: a Markdown page for people, JSON for programs."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import clones, tables
from benchmarks.figures import figures
from benchmarks.options import MIB

_VERDICTS = {True: "met", False: "**not met**", None: ""}


def markdown(document: Mapping[str, Any]) -> str:
    """Return the report as a page of tables."""
    results = document["results"]
    lines = list(head(document))
    if tables.steps(results):
        lines += ["", *tables.short(results)]
        if better := tables.better_elsewhere(results):
            lines += ["", "Others take less here:", "", *better]
    if judged := figures(document):
        lines += ["", "| Figure | Target | Measured | |", "|---|---|---|---|"]
        lines += [
            f"| {each.name} | {each.target} | {each.measured} | {_VERDICTS[each.met]} |"
            for each in judged
        ]
    if tables.steps(results):
        lines += ["", "Every step:", "", *tables.long(results)]
    if (lookup := results.get("lookup")) is not None:
        lines += ["", "Disks of `lookup`:", "", *clones.table(lookup)]
    if (hints := results.get("hints")) is not None:
        lines += ["", "Nights of `hints`:", "", *_nights(hints)]
    return "\n".join(lines) + "\n"


def head(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what must be known to judge the figures: date, versions, machine, sizes, noise."""
    machine, plan = document["machine"], document["plan"]
    yield f"Measured {document['date']}, {document['tool']}, revision {document['revision']}."
    yield (
        f"Machine: {machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, Python {machine['python']}."
    )
    yield "Programs: " + ", ".join(document["programs"].values()) + "."
    told = [_size(name, each) for name, each in document["results"].items() if "data_bytes" in each]
    told += [f"seed {plan['seed']}", f"zstd level {plan['level']}"]
    yield f"Data: {', '.join(told)}."
    noise = document["noise_share"]
    if noise is not None:
        yield (
            f"Other programs took {noise:.0%} of the machine's CPU time meanwhile"
            + ("; the CPU seconds are too high by some of it." if noise > 0.1 else ".")
        )


def _size(name: str, workload: Mapping[str, Any]) -> str:
    data = workload["data_bytes"]
    if not isinstance(data, list):  # of what SnapVault did alone
        return f"{name} {data / tables.MB:.0f} MB"
    nights = f" and {workload['nights']} nights" if workload["nights"] > 1 else ""
    return f"{name} {data[0] / tables.MB:.0f} MB{nights}"


def _nights(hints: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "| Platform (chunk) | Disk, MiB | Changed | Changed, MiB | Chunks of it, MiB | Read, MiB | "
        "of it sampled | Read of the disk | Platform's count, MiB | Stored, MiB |"
    )
    yield "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|"
    for row in hints["rows"]:
        disk = row["disk_bytes"]
        share = row["written_bytes"] / disk
        changed = {
            "first": "all, the first backup",
            "chunks": f"{share:.2%}, whole chunks",
            "pages": f"{share:.2%}, scattered 4 KiB",
        }[row["kind"]]
        sizes = [
            f"{row[name] / MIB:.1f}"
            for name in ("written_bytes", "touched_bytes", "read_bytes", "sampled_bytes")
        ]
        yield (
            f"| {row['platform']} ({row['grain_bytes'] >> 10} KiB) | {disk // MIB} | {changed} | "
            f"{' | '.join(sizes)} | {row['read_bytes'] / disk:.2%} | "
            f"{row['counted_bytes'] / MIB:.1f} | {row['stored_bytes'] / MIB:.1f} |"
        )


def noise_share(results: Mapping[str, Any], cores: int) -> float | None:
    """Return the share of all cores' time that others took meanwhile; None: nothing was timed."""
    runs = [run for step in tables.steps(results) for some in step.runs.values() for run in some]
    wall = sum(run["wall_seconds"] for run in runs) * cores
    return round(sum(run["noise_cpu_seconds"] for run in runs) / wall, 3) if wall else None
