# SPDX-License-Identifier: Apache-2.0
"""How fast a machine is back: python -m benchmarks.recovery.

A disk with a small Linux system, and as many bytes beside it as are asked for, is backed up to an
S3 server on this machine. It is started from its own file, then from the vault, with an empty
cache, in turn; and a drill restores and starts it. With `--disk` another disk is taken, whose
machine must come to a line that `--login` matches: `benchmarks/debian_image.sh` makes one.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.measure import BenchmarkError
from snapvault import clock
from snapvault.adapters.machines.qemu import QemuMachines
from snapvault.ports.machine import MachineDisk, MachineSpec
from tests.acceptance.program import Host, image
from tests.support import bootable, keys, s3

_LIMIT = timedelta(minutes=30)
_MIB = 1 << 20


@dataclass(frozen=True)
class Wanted:
    """The machine, and when it is up."""

    disk: Path
    login: str
    memory: int
    volume_size: str


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--mib", type=int, default=1024, help="MiB beside the system that nobody reads"
    )
    parser.add_argument("--disk", type=Path, help="a raw disk to take instead; it is copied")
    parser.add_argument("--login", default=bootable.LOGIN)
    parser.add_argument("--memory", type=int, default=384, help="MiB of the machine")
    parser.add_argument("--volume-size", default="64MiB", help="as a policy has it")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-drills", action="store_true", help="start the machine alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="svb-", dir="/var/tmp") as name:
        folder = Path(name)
        disk = folder / "disk.raw"
        if options.disk:
            subprocess.run(["cp", "--sparse=always", options.disk, disk], check=True)
        else:
            bootable.bios_disk(disk, filler=options.mib * _MIB)
        memory = options.memory * _MIB
        wanted = Wanted(disk, options.login, memory, options.volume_size)
        _run(folder, wanted, options.repeat, drills=not options.no_drills)


def _run(folder: Path, wanted: Wanted, repeat: int, *, drills: bool) -> None:
    store = {
        "store": f"s3://{s3.BUCKET}/{s3.fresh_prefix()}",
        "endpoint_url": s3.server().endpoint_url,
    }
    environment = s3.server().environment()
    with keys.host_home() as host_home, keys.recovery_home() as recovery_home:
        host = Host(folder / "host", host_home, store, environment=environment).set_up()
        recovery = Host(folder / "recovery", recovery_home, store, environment=environment)
        recovery.set_up()
        more: dict[str, Any] = {"objectives": {"rto": "1m"}, "volume_size": wanted.volume_size}
        host.protect({"web01": image(wanted.disk)}, **more)
        host.does("init")
        # As long as it takes: a large disk may need more than a test waits.
        subprocess.run(host.command("backup"), env=host.surroundings(), check=True)
        _boots(recovery, wanted, repeat)
        if drills:
            _drills(recovery, wanted, repeat)


def _boots(recovery: Host, wanted: Wanted, repeat: int) -> None:
    plain, served = [], []
    volumes, data = [], []
    for _ in range(repeat):
        plain.append(_seconds(wanted, str(wanted.disk)))
        begun = clock.monotonic()
        with _serving(recovery) as said:
            (export,) = said["exports"]
            _seconds(wanted, export["uri"])
            served.append(clock.monotonic() - begun)
            fetched = said["end"]()
        volumes.append(fetched[0] / said["volumes"])
        data.append(fetched[1] / said["stored_bytes"])
    ratio = statistics.median(served) / statistics.median(plain)
    print(f"to its login line, from the raw file:  {_spread(plain)}")
    print(f"to its login line, from the vault:     {_spread(served)}, the start of serve included")
    print(f"ratio of the medians:                  {ratio:.2f}")
    print(f"volumes asked for, of all:             {max(volumes):.0%}")
    print(f"bytes fetched, of all:                 {max(data):.0%}")


def _seconds(wanted: Wanted, location: str) -> float:
    """Start the machine on a throw-away overlay; return the seconds to its login line."""
    with tempfile.TemporaryDirectory(prefix="svm-", dir="/tmp") as name:
        begun = clock.monotonic()
        spec = MachineSpec((MachineDisk("root", location),), memory=wanted.memory)
        with closing(QemuMachines().start(spec, Path(name))) as machine:
            machine.wait_for_console(wanted.login, _LIMIT)
            return clock.monotonic() - begun


@contextmanager
def _serving(recovery: Host) -> Iterator[dict[str, Any]]:
    process = recovery.start("-v", "--json", "serve", "web01")
    assert process.stdout
    assert process.stderr
    text = ""
    while not text.endswith("\n}\n"):
        line = process.stdout.readline().decode()
        if not line:
            raise BenchmarkError(process.stderr.read().decode())
        text += line

    def end() -> tuple[int, int]:
        """Return how many volumes were asked for, and how many bytes of them were fetched."""
        process.terminate()
        assert process.stderr
        said = process.stderr.read().decode()
        process.wait()
        told = re.search(r"point\.fetched .*volumes=([0-9]+) .*size_bytes=([0-9]+)", said)
        assert told, said
        return int(told[1]), int(told[2])

    try:
        yield {**json.loads(text), "end": end}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def _drills(recovery: Host, wanted: Wanted, repeat: int) -> None:
    """Rehearse from cold, once with a full restore and once instantly."""
    for instant in (False, True):
        boot = {
            "memory": f"{wanted.memory // _MIB}MiB",
            "instant": instant,
            "timeout": "30m",
            "checks": [{"console": wanted.login}],
        }
        recovery.protect(
            {"web01": image(wanted.disk)}, drill={"steps": [{"web01": {"boot": boot}}]}
        )
        walls, report = [], {}
        for _ in range(repeat):
            shutil.rmtree(recovery.state, ignore_errors=True)
            begun = clock.monotonic()
            done = recovery.does("--json", "drill", "run", "web01")
            walls.append(clock.monotonic() - begun)
            report = done.json
        _show(report, walls, "from the vault" if instant else "after a full restore")


def _show(report: Any, walls: list[float], way: str) -> None:
    drill = report[0] if isinstance(report, list) else report
    (step,) = drill["steps"]
    phases = step["phases"]
    if step["verdict"] != "passed":
        raise BenchmarkError(json.dumps(step, indent=1))
    print(f"drill, {way}: {_spread(walls)} from cold to report")
    each = ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases.items())
    print(f"  of the last one, seconds: {each}")
    total = sum(phases.values())
    print(f"  together {total:.3f}, the step's own whole {step['seconds']:.3f}")


def _spread(seconds: list[float]) -> str:
    middle = statistics.median(seconds)
    return f"{middle:.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    main()
