# SPDX-License-Identifier: Apache-2.0
"""The figures of what SnapVault alone does, each with its target and whether it is met."""

from collections.abc import Iterator
from statistics import median

from benchmarks.figure import Document, Figure, limit, mib
from benchmarks.options import MIB
from snapvault.model.usage import LIST_PAGE


def figures(results: Document) -> list[Figure]:
    """Judge a report's results; what was not measured is left out."""
    judges = {
        "hints": _read,
        "lookup": _lookup,
        "daemon": _idle,
        "prune": _pruned,
        "years": _aged,
    }
    return [
        figure
        for name, judge in judges.items()
        if name in results
        for figure in judge(results[name])
    ]


def _read(hints: Document) -> Iterator[Figure]:
    """Judge what is read of disks whose platform tells what changed, the sample included."""
    platforms: dict[str, list[Document]] = {}
    for row in hints["rows"]:
        platforms.setdefault(row["platform"], []).append(row)
    for name, rows in platforms.items():
        small = min(row["disk_bytes"] for row in rows)
        nights = [row for row in rows if row["kind"] == "chunks"]
        night = min(
            (row for row in nights if row["disk_bytes"] == small),
            key=lambda row: abs(row["written_bytes"] / small - 0.01),
        )
        share = night["read_bytes"] / small
        yield Figure(
            f"{name}: read of the disk, {night['written_bytes'] / small:.2%} changed",
            "≤ 3.00%",
            f"{share:.2%} ({mib(night['read_bytes'])} of {mib(small)}, "
            f"{mib(night['sampled_bytes'])} of it to check the hint)",
            met=share <= 0.03,
        )
        large = next(row for row in nights if row["disk_bytes"] > small)
        plain = [row["read_bytes"] - row["sampled_bytes"] for row in (large, night)]
        yield Figure(
            f"{name}: the same bytes changed on a disk twice as large / on this one, read",
            "≤ 1.01",
            f"{plain[0] / plain[1]:.2f} (with the check "
            f"{large['read_bytes'] / night['read_bytes']:.2f})",
            met=plain[0] <= 1.01 * plain[1],
        )


def _lookup(clone: Document) -> Iterator[Figure]:
    beside, alone = (clone[f"strange_{key}_cpu_seconds"] for key in ("beside", "alone"))
    several = ", ".join(f"{each:.2f}" for each in beside), ", ".join(f"{a:.2f}" for a in alone)
    yield limit(
        f"first backup that looks and finds nothing, CPU s ({several[0]}) / alone ({several[1]})",
        1.05,
        [median(beside) / median(alone)],
    )
    yield Figure(
        "index, bytes per block of all disks",
        "≤ 16",
        f"{clone['index_bytes'] / (3 * clone['data_blocks']):.1f}",
        met=clone["index_bytes"] <= 3 * 16 * clone["data_blocks"],
    )


def _idle(daemon: Document) -> Iterator[Figure]:
    share = daemon["cpu_seconds"] / daemon["seconds"]
    about = f"idle daemon with {daemon['sources']} sources"
    yield Figure(
        f"{about}: of one core",
        "≤ 0.50%",
        f"{share:.2%} ({daemon['cpu_seconds']:.2f} CPU s in {daemon['seconds']:.0f} s)",
        met=share <= 0.005,
    )
    scraped = daemon["scraped_cpu_seconds"] / daemon["scraped_seconds"]
    yield Figure(f"{about}: of one core, metrics read every 15 s", "", f"{scraped:.2%}", met=None)
    yield Figure(
        f"{about}: memory, peak",
        "≤ 100 MiB",
        f"{mib(daemon['peak_bytes'])} ({mib(daemon['rss_bytes'])} at the end)",
        met=daemon["peak_bytes"] <= 100 * MIB,
    )


def _pruned(prune: Document) -> Iterator[Figure]:
    pages = -(-prune["objects"] // LIST_PAGE)
    for words, run in (("a host that knows no lists", prune["first"]), ("", prune["second"])):
        about = f"prune of 1 point of {prune['points']:,}, {prune['volumes']:,} volumes"
        about += f", {words}" if words else ""
        cpu, peak = run["cpu_seconds"], run["peak_pss_bytes"]
        yield Figure(f"{about}: CPU s", "≤ 10", f"{cpu:.1f}", met=cpu <= 10)
        yield Figure(f"{about}: memory", "≤ 300 MiB", mib(peak), met=peak <= 300 * MIB)
        asked = run["list_and_put_requests"]
        yield Figure(
            f"{about}: LIST and PUT requests",
            f"a listing ({pages}) and a few",
            f"{asked}; and {run['get_requests']} GET, {run['delete_requests']} DELETE",
            met=asked <= pages + 20,
        )


def _aged(years: Document) -> Iterator[Figure]:
    about = f"{years['nights']:,} nights"
    for name, key, most in (
        ("volumes in the vault, times the live bytes of the kept points", "space", 1.6),
        ("all objects in the vault, times the same", "space_with_metadata", None),
        ("a restore of the newest point fetches, times what it needs", "fetched", 2.0),
        ("stored again, times what the nights stored", "rewritten", 0.15),
    ):
        value = years[key]
        yield Figure(
            f"{about}: {name}, at most",
            "" if most is None else f"≤ {most:.2f}",
            f"{value:.2f}",
            met=None if most is None else value <= most,
        )
    yield Figure(
        f"{about}: CPU s, with {years['kept_and_restored']} points restored and compared",
        "",
        f"{years['cpu_seconds']:.0f}",
        met=None,
    )
