# SPDX-License-Identifier: Apache-2.0
"""The report: a Markdown page for people, JSON for programs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import clones
from benchmarks.figures import GIB, MIB, Figure

_VERDICTS = {True: "met", False: "**not met**", None: ""}


def markdown(document: Mapping[str, Any], figures: Sequence[Figure]) -> str:
    """Return the report as a page of tables."""
    lines = [*_head(document), "", "| Figure | Target | Measured | |", "|---|---|---|---|"]
    lines += [
        f"| {each.name} | {each.target} | {each.measured} | {_VERDICTS[each.met]} |"
        for each in figures
    ]
    for name in ("disk", "big", "dump"):
        if (results := document["results"].get(name)) is not None:
            lines += ["", f"Steps of `{name}`:", "", *_steps(results)]
    if (clone := document["results"].get("clone")) is not None:
        lines += ["", "Disks of `clone`:", "", *clones.table(clone)]
    if (hints := document["results"].get("hints")) is not None:
        lines += ["", "Nights of `hints`:", "", *_nights(hints)]
    return "\n".join(lines) + "\n"


def _head(document: Mapping[str, Any]) -> Iterator[str]:
    machine, plan = document["machine"], document["plan"]
    yield f"Measured {document['date']}, {document['tool']}, revision {document['revision']}."
    yield (
        f"Machine: {machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, Python {machine['python']}."
    )
    yield "Programs: " + ", ".join(f"{each}" for each in document["programs"].values()) + "."
    yield (
        f"{plan['points']} points, {plan['share']:.1%} of blocks and {plan['row_share']:.1%} "
        f"of rows a night, seed {plan['seed']}, zstd level {plan['level']}."
    )
    noise = document["noise_share"]
    if noise is None:
        return
    yield (
        f"Other programs took {noise:.0%} of the machine's CPU time meanwhile"
        + ("; the CPU seconds are too high by some of it." if noise > 0.1 else ".")
    )


def _steps(results: Mapping[str, Any]) -> Iterator[str]:
    yield "| Step | CPU s | wall s | PSS MiB | RSS MiB | stored MiB | objects | noise CPU s |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for name, run in _runs(results):
        stored = f"{run['stored_bytes'] / MIB:.2f}" if "stored_bytes" in run else ""
        yield (
            f"| {name} | {run['cpu_seconds']:.2f} | {run['wall_seconds']:.2f} | "
            f"{run['peak_pss_bytes'] / MIB:.0f} | {run['peak_rss_bytes'] / MIB:.0f} | {stored} | "
            f"{run.get('stored_objects', '')} | {run['noise_cpu_seconds']:.1f} |"
        )
    data = results["backups"][0]["data_bytes"] / GIB
    yield ""
    yield f"Data: {data:.2f} GiB."
    for each in results.get("counted", ()):
        kinds = ", ".join(f"{count} {kind}" for kind, count in each["requests"].items())
        yield f"Requests for a restore of point {each['point']}: {kinds}."


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


def _runs(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, run in enumerate(results["backups"], 1):
        yield f"backup {number}", run
        for again in run.get("again", ()):
            yield f"backup {number}, in another vault", again
    if "idle" in results:
        yield "backup of nothing new", results["idle"]
    for number, run in enumerate(results["restores"], 1):
        yield f"restore of point {run.get('point', number)}", run
    for name, peer in results.get("peers", {}).items():
        for number, run in enumerate(peer["backups"], 1):
            yield f"{name} backup {number}", run
        for run in peer["restores"]:
            yield f"{name} restore of the last", run


def noise_share(results: Mapping[str, Any], cores: int) -> float | None:
    """Return the share of all cores' time that others took meanwhile; None: nothing was timed."""
    measured = [each for each in results.values() if "backups" in each]
    runs = [run for each in measured for _, run in _runs(each)]
    wall = sum(run["wall_seconds"] for run in runs) * cores
    return round(sum(run["noise_cpu_seconds"] for run in runs) / wall, 3) if wall else None
