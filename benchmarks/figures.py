# SPDX-License-Identifier: Apache-2.0
"""What SnapVault must reach in the comparison, and what it did."""

from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks import own_figures
from benchmarks.figure import Document, Figure, limit, mib
from benchmarks.options import MIB
from benchmarks.programs import OWN
from benchmarks.tables import MB, Step, steps

_SECONDS = "CPU s"
# What must be reached with a disk of 4 GiB, half full, and a dump of 1 GiB: CPU seconds and MB
# stored; and what restic took on the machine on which the targets were set, so that a machine
# which is faster or slower can be told from a program that is.
_FULL: dict[tuple[str, str], tuple[float, float | None, float | None]] = {
    ("disk", "first backup"): (11, 765, 30),
    ("disk", "a night"): (2, 54, 13.9),
    ("disk", "nothing changed"): (1, 0.02, None),
    ("disk", "restore of the newest"): (5, None, 11.2),
    ("dump", "a night"): (11, 10, 16.5),
    ("dump", "restore of the newest"): (3, None, 4.1),
}


def figures(document: Document) -> list[Figure]:
    """Judge a report; what was not measured is left out.

    Seconds and bytes are judged in runs of full size alone, ratios always.
    """
    results = document["results"]
    found: list[Figure] = []
    for step in steps(results):
        if OWN in step.runs:
            found += _absolute(step, is_full=document["plan"]["is_full"])
    for name, workload in results.items():
        if own := workload.get("programs", {}).get(OWN):
            found += _of_workload(name, workload, own)
    found += _between(results)
    return [*found, *own_figures.figures(results)]


def _absolute(step: Step, *, is_full: bool) -> Iterator[Figure]:
    if (step.workload, step.name) not in _FULL:
        return
    cpu, stored, of_restic = _FULL[step.workload, step.name] if is_full else (None, None, None)
    runs = step.runs[OWN]
    name = f"{step.workload}, {step.name}"
    yield limit(f"{name}: {_SECONDS}", cpu, [run["cpu_seconds"] for run in runs])
    restic = step.value("restic", "cpu_seconds")
    if cpu and of_restic and restic:
        ratios = [run["cpu_seconds"] / restic for run in runs]
        yield limit(f"{name}: {_SECONDS} / restic's in the same run", cpu / of_restic, ratios)
    if step.is_backup:
        sizes = [run["stored_bytes"] / MB for run in runs]
        yield limit(f"{name}: MB stored", stored, sizes)


def _of_workload(name: str, workload: Document, own: Document) -> Iterator[Figure]:
    runs = [*own["backups"], *own["restores"], *([own["idle"]] if "idle" in own else [])]
    peak = max(run["peak_pss_bytes"] for run in runs)
    yield Figure(
        f"{name}: peak memory of the tree (PSS)", "< 256 MiB", mib(peak), met=peak < 256 * MIB
    )
    nights = own["backups"][1:]
    for key, words in (
        ("alone_in_frames_bytes", "changed 16 KiB blocks compressed alone"),
        ("sectors_in_frames_bytes", "changed sectors of 512 bytes compressed alone"),
        ("patch_bytes", "zstd's own patch of the whole dump"),
    ):
        told = [night[key] for night in workload["facts"].get("nights", ()) if key in night]
        if len(told) == len(nights):
            ratios = [run["stored_bytes"] / alone for run, alone in zip(nights, told, strict=True)]
            yield limit(f"{name}, a night: stored / {words}", None, ratios, worst=True)
    if name == "disk":
        yield from _flat(own, workload["nights"])
        yield from _manners(own)


def _between(results: Document) -> Iterator[Figure]:
    """Judge what is about two programs, or two workloads."""
    for name, most in (("innodb", 0.1), ("dump", 0.2)):
        did = results.get(name, {}).get("programs", {})
        if OWN in did and "restic" in did:
            ours, theirs = (
                median(run["stored_bytes"] for run in did[each]["backups"][1:])
                for each in (OWN, "restic")
            )
            yield Figure(
                f"{name}, a night: stored / what restic stores",
                f"≤ {most:.3f}",
                f"{ours / theirs:.3f} ({mib(ours)} / {mib(theirs)})",
                met=ours <= most * theirs,
            )
    if clone := results.get("clone", {}).get("programs", {}).get(OWN):
        first, other = (run["stored_bytes"] for run in clone["backups"])
        yield Figure(
            "clone: stored, of the first disk's bytes",
            "≤ 5.0%",
            f"{other / first:.1%}",
            met=other <= 0.05 * first,
        )
    both = [results.get(name, {}).get("programs", {}).get(OWN) for name in ("disk", "big")]
    if both[0] and both[1]:
        size = results["big"]["size_bytes"][0] >> 30
        for step, choose in (
            ("first backup", lambda did: [did["backups"][0]]),
            ("a night", lambda did: did["backups"][1:2]),
            ("restore of the oldest", lambda did: _restores(did, 0)),
        ):
            small, big = (min(map(_cpu, choose(did))) for did in both)
            yield Figure(
                f"{step} of {size} GiB sparse / of the smaller disk with the same data, CPU s",
                "≤ 1.10",
                f"{big / small:.2f} ({big:.1f} / {small:.1f})",
                met=big <= 1.1 * small,
            )


def _flat(own: Document, last: int) -> Iterator[Figure]:
    # Noise only ever adds, so the least of several runs is nearest to the truth.
    old, new = (min(map(_cpu, _restores(own, night))) for night in (0, last))
    yield Figure(
        f"disk: restore of night {last} / of the first one, CPU s",
        "≤ 1.20",
        f"{new / old:.2f} ({new:.1f} / {old:.1f})",
        met=new <= 1.2 * old,
    )
    if fetched := own.get("fetched"):
        most = max(each["most_fetches_of_a_volume"] for each in fetched)
        volumes = " and ".join(str(each["volumes"]) for each in fetched)
        yield Figure(
            "disk: fetches of each volume, at the store",
            "1",
            f"{most} ({volumes} volumes)",
            met=most == 1,
        )


def _manners(own: Document) -> Iterator[Figure]:
    first = own["backups"][0]
    for name, runs in (
        ("first backup", [first, *first.get("again", ())]),
        ("restore", own["restores"]),
    ):
        alone = [_cpu(run) / run["wall_seconds"] for run in runs]
        whole = [(_cpu(run) + run["server_cpu_seconds"]) / run["wall_seconds"] for run in runs]
        yield Figure(
            f"disk, {name}: cores busy (of 2), with the S3 server on the same machine",
            "≥ 1.6",
            f"{median(whole):.2f} (without the server's share {median(alone):.2f})",
            met=median(whole) >= 1.6,
        )
    grown = max(
        abs(each["cached_after_bytes"] - each["cached_before_bytes"]) for each in own["backups"]
    )
    kept = first["cached_before_bytes"]
    yield Figure(
        "page cache of the disk, change over a backup",
        "0 MiB",
        f"{mib(grown)} (of {mib(kept)} that the first found there)",
        met=grown <= MIB,
    )
    left = max(each["cached_after_bytes"] for each in own["restores"])
    yield Figure("page cache, of the restored file", "0 MiB", mib(left), met=left <= MIB)


def _restores(own: Document, night: int) -> list[Any]:
    return [run for run in own["restores"] if run["night"] == night]


def _cpu(run: Document) -> float:
    seconds: float = run["cpu_seconds"]
    return seconds
