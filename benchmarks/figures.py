# SPDX-License-Identifier: Apache-2.0
"""What must be reached, and what was: every figure with its target and whether it is met."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from snapvault.model.usage import LIST_PAGE

GIB = 1 << 30
MIB = 1 << 20

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `met` is None where nothing is required or nothing was measured."""

    name: str
    target: str
    measured: str
    met: bool | None


def figures(results: Document) -> list[Figure]:
    """Judge a report's results; what was not measured is left out."""
    found: list[Figure] = []
    disk, big, dump = (results.get(name) for name in ("disk", "big", "dump"))
    if disk is not None:
        found += _cpu(disk)
        found += _stored(disk)
    if dump is not None:
        found += _rolling(dump)
        found += _dump_cpu(dump)
    if disk is not None:
        found += _memory(disk, big)
        found += _flat(disk)
        found += _manners(disk)
    if (hints := results.get("hints")) is not None:
        found += _read(hints)
    if (clone := results.get("clone")) is not None:
        found += _clone(clone)
    if (daemon := results.get("daemon")) is not None:
        found += _idle(daemon)
    if (prune := results.get("prune")) is not None:
        found += _pruned(prune)
    if (years := results.get("years")) is not None:
        found += _aged(years)
    return found


def _cpu(disk: Document) -> Iterator[Figure]:
    first, *nights = disk["backups"]
    gib = first["data_bytes"] / GIB
    runs = [first, *first.get("again", ())]
    yield _limit("first backup, CPU s per GiB of data", 5.5, [_cpu_of(run) / gib for run in runs])
    if nights:
        share = median(each["changed_blocks"] * (16 << 10) / each["data_bytes"] for each in nights)
        limit = 1 + 0.7 * median(each["data_bytes"] for each in nights) / GIB
        yield _limit(
            f"incremental, {share:.1%} of blocks changed, CPU s", limit, list(map(_cpu_of, nights))
        )
    yield Figure(
        "incremental, nothing changed, CPU s", "", f"{_cpu_of(disk['idle']):.2f}", met=None
    )
    yield _limit(
        "restore, CPU s per GiB written",
        3.0,
        [_cpu_of(each) / (each["written_bytes"] / GIB) for each in disk["restores"]],
    )


def _stored(disk: Document) -> Iterator[Figure]:
    nights = disk["backups"][1:]
    for key, words in (
        ("alone_in_frames_bytes", "in frames of 1 MiB"),
        ("alone_one_by_one_bytes", "each by itself"),
    ):
        ratios = [each["stored_bytes"] / each[key] for each in nights]
        if ratios:
            yield _limit(
                f"stored per night / changed blocks compressed alone, {words}",
                1.10,
                ratios,
                digits=3,
                worst=True,
            )


def _rolling(dump: Document) -> Iterator[Figure]:
    night = dump["backups"][1]
    share = dump["changed_rows"] / dump["rows"]
    name = f"dump, {share:.2%} of rows changed: stored / what restic stores"
    peer = dump.get("peers", {}).get("restic")
    if peer is None:
        yield Figure(name, "≤ 0.200", f"{_mib(night['stored_bytes'])} / not measured", met=None)
        return
    theirs = peer["backups"][1]["stored_bytes"]
    ratio = night["stored_bytes"] / theirs
    yield Figure(
        name,
        "≤ 0.200",
        f"{ratio:.3f} ({_mib(night['stored_bytes'])} / {_mib(theirs)})",
        met=ratio <= 0.2,
    )


def _dump_cpu(dump: Document) -> Iterator[Figure]:
    gib = dump["backups"][0]["data_bytes"] / GIB
    first, night = map(_cpu_of, dump["backups"])
    restores = [
        min(_cpu_of(each) for each in dump["restores"] if each["point"] == point)
        for point in (1, 2)
    ]
    for name, seconds in (
        ("first backup", first),
        ("incremental", night),
        ("restore of point 1", restores[0]),
        ("restore of point 2", restores[1]),
    ):
        yield Figure(f"dump: {name}, CPU s per GiB", "", f"{seconds / gib:.2f}", met=None)


def _memory(disk: Document, big: Document | None) -> Iterator[Figure]:
    peak, per_step = _peaks(disk)
    yield Figure(
        "peak memory of the tree (PSS)",
        "< 256 MiB",
        f"{_mib(peak)} ({per_step})",
        met=peak < 256 * MIB,
    )
    if big is not None:
        other, per_step = _peaks(big)
        size = big["backups"][0]["report"]["size_bytes"]
        yield Figure(
            f"the same, {size / GIB:.0f} GiB sparse with the same data / the smaller disk",
            "≤ 1.10",
            f"{other / peak:.2f} ({_mib(other)}: {per_step})",
            met=other <= 1.1 * peak,
        )


def _peaks(results: Document) -> tuple[int, str]:
    first, *nights = results["backups"]
    steps = {
        "first backup": [first, *first.get("again", ())],
        "incremental": [*nights, results["idle"]],
        "restore": results["restores"],
    }
    peaks = {name: max(run["peak_pss_bytes"] for run in runs) for name, runs in steps.items()}
    return max(peaks.values()), ", ".join(f"{name} {_mib(peak)}" for name, peak in peaks.items())


def _flat(disk: Document) -> Iterator[Figure]:
    last = len(disk["backups"])
    if last < 2:
        return
    cpu = {
        number: [_cpu_of(each) for each in disk["restores"] if each["point"] == number]
        for number in (1, last)
    }
    # Noise only ever adds, so the least of several runs is nearest to the truth.
    ratio = min(cpu[last]) / min(cpu[1])
    yield Figure(
        f"restore of point {last} / of point 1, CPU s",
        "≤ 1.20",
        f"{ratio:.2f} ({min(cpu[last]):.1f} / {min(cpu[1]):.1f})",
        met=ratio <= 1.2,
    )
    counted = disk["counted"]
    most = max(each["most_fetches_of_a_volume"] for each in counted)
    volumes = " and ".join(str(each["volumes"]) for each in counted)
    yield Figure(
        "fetches of each volume, at the store", "1", f"{most} ({volumes} volumes)", met=most == 1
    )


def _manners(disk: Document) -> Iterator[Figure]:
    first = disk["backups"][0]
    for name, runs in (
        ("first backup", [first, *first.get("again", ())]),
        ("restore", disk["restores"]),
    ):
        alone = [_cpu_of(run) / run["wall_seconds"] for run in runs]
        whole = [(_cpu_of(run) + run["server_cpu_seconds"]) / run["wall_seconds"] for run in runs]
        noisy = [
            whole[at] + run["noise_cpu_seconds"] / run["wall_seconds"]
            for at, run in enumerate(runs)
        ]
        yield Figure(
            f"{name}: cores busy (of 2), with the S3 server on the same machine",
            "≥ 1.6",
            f"{median(whole):.2f} (without the server's share {median(alone):.2f}, "
            f"with other programs {median(noisy):.2f})",
            met=median(whole) >= 1.6,
        )
    grown = [
        abs(each["cached_after_bytes"] - each["cached_before_bytes"]) for each in disk["backups"]
    ]
    kept = disk["backups"][0]["cached_before_bytes"]
    yield Figure(
        "page cache of the disk, change over a backup",
        "0 MiB",
        f"{_mib(max(grown))} (of {_mib(kept)} that the first found there)",
        met=max(grown) <= MIB,
    )
    left = max(each["cached_after_bytes"] for each in disk["restores"])
    yield Figure("page cache, of the restored file", "0 MiB", _mib(left), met=left <= MIB)
    for name, runs in (
        ("first backup", [first]),
        ("incremental", disk["backups"][1:]),
        ("restore", disk["restores"]),
    ):
        most = max((each["temporary_bytes"] for each in runs), default=0)
        yield Figure(f"temporary files, peak, {name}", "", _mib(most), met=None)


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
            f"{share:.2%} ({_mib(night['read_bytes'])} of {_mib(small)}, "
            f"{_mib(night['sampled_bytes'])} of it to check the hint)",
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


def _clone(clone: Document) -> Iterator[Figure]:
    first, other = clone["rows"]["first"], clone["rows"]["clone"]
    share = clone["differing_blocks"] / clone["data_blocks"]
    stored = other["stored_bytes"] / first["stored_bytes"]
    yield Figure(
        f"clone, {share:.1%} of blocks differ: stored, of the first one's bytes",
        "≤ 5.0%",
        f"{stored:.2%}",
        met=stored <= 0.05,
    )
    beside, alone = (clone[f"strange_{key}_cpu_seconds"] for key in ("beside", "alone"))
    several = ", ".join(f"{each:.2f}" for each in beside), ", ".join(f"{a:.2f}" for a in alone)
    yield _limit(
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
        f"{_mib(daemon['peak_bytes'])} ({_mib(daemon['rss_bytes'])} at the end)",
        met=daemon["peak_bytes"] <= 100 * MIB,
    )


def _pruned(prune: Document) -> Iterator[Figure]:
    pages = -(-prune["objects"] // LIST_PAGE)
    for words, run in (("a host that knows no lists", prune["first"]), ("", prune["second"])):
        about = f"prune of 1 point of {prune['points']:,}, {prune['volumes']:,} volumes"
        about += f", {words}" if words else ""
        cpu, peak = run["cpu_seconds"], run["peak_pss_bytes"]
        yield Figure(f"{about}: CPU s", "≤ 10", f"{cpu:.1f}", met=cpu <= 10)
        yield Figure(f"{about}: memory", "≤ 300 MiB", _mib(peak), met=peak <= 300 * MIB)
        asked = run["list_and_put_requests"]
        yield Figure(
            f"{about}: LIST and PUT requests",
            f"a listing ({pages}) and a few",
            f"{asked}; and {run['get_requests']} GET, {run['delete_requests']} DELETE",
            met=asked <= pages + 20,
        )


def _aged(years: Document) -> Iterator[Figure]:
    about = f"{years['nights']:,} nights"
    for name, key, limit in (
        ("volumes in the vault, times the live bytes of the kept points", "space", 1.6),
        ("all objects in the vault, times the same", "space_with_metadata", None),
        ("a restore of the newest point fetches, times what it needs", "fetched", 2.0),
        ("stored again, times what the nights stored", "rewritten", 0.15),
    ):
        value = years[key]
        yield Figure(
            f"{about}: {name}, at most",
            "" if limit is None else f"≤ {limit:.2f}",
            f"{value:.2f}",
            met=None if limit is None else value <= limit,
        )
    yield Figure(
        f"{about}: CPU s, with {years['kept_and_restored']} points restored and compared",
        "",
        f"{years['cpu_seconds']:.0f}",
        met=None,
    )


def _limit(
    name: str,
    limit: float,
    values: Sequence[float],
    *,
    digits: int = 2,
    worst: bool = False,
) -> Figure:
    """Judge the median of several runs, or the worst of them."""
    value = max(values) if worst else median(values)
    several = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return Figure(name, f"≤ {limit:.2f}", f"{value:.{digits}f}{several}", met=value <= limit)


def _cpu_of(run: Document) -> float:
    seconds: float = run["cpu_seconds"]
    return seconds


def _mib(size: float) -> str:
    return f"{size / MIB:.1f} MiB" if size < 10 * MIB else f"{size / MIB:.0f} MiB"
