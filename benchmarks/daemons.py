# SPDX-License-Identifier: Apache-2.0
"""What a daemon costs that has nothing to do: 200 sources, each with a restore point."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks.lab import make_surroundings, program, surroundings, write_settings
from benchmarks.measure import BenchmarkError
from snapvault import clock
from tests.support import keys

Document = dict[str, Any]

SOURCES = 200
POLICIES = 5
SCRAPE_EVERY = 15.0  # seconds
_SETTLED = 10.0  # seconds after its start until a daemon is idle
_PATIENCE = 120.0
_TICKS = os.sysconf("SC_CLK_TCK")


def measure(folder: Path, *, seconds: float, say: Callable[[str], None]) -> Document:
    """Back up 200 small sources, then watch a daemon that waits for the night.

    Raises:
        BenchmarkError: something did not work.
    """
    make_surroundings(folder)
    with keys.host_home() as home:
        write_settings(folder, {"store": f"file://{folder / 'vault'}"}, home)
        document = json.loads((folder / "snapvault.yaml").read_text())
        document["daemon"] = {"listen": "127.0.0.1:0"}
        (folder / "snapvault.yaml").write_text(json.dumps(document))
        _write_policies(folder)
        for words in (("init",), ("backup",)):
            say(f"daemon: {words[0]} of {SOURCES} sources")
            command = program(folder, *words)
            done = subprocess.run(
                command, env=surroundings(folder), capture_output=True, check=False
            )
            if done.returncode != 0:
                raise BenchmarkError(f"snapvault {words[0]} failed: {done.stderr.decode()[-500:]}")
        return _watch(folder, seconds, say)


def _write_policies(folder: Path) -> None:
    (folder / "policies").mkdir()
    # Twelve hours from now: nothing becomes due while we look.
    hour = (clock.now().hour + 12) % 24
    for number in range(POLICIES):
        names = [f"s{number}-{each}" for each in range(SOURCES // POLICIES)]
        policy = {
            "vault": "bench",
            "schedule": {"cron": f"30 {hour} * * *", "timezone": "UTC", "jitter": "10m"},
            "objectives": {"rpo": "26h"},
            "sources": {name: {"command": {"run": ["echo", name]}} for name in names},
        }
        (folder / "policies" / f"p{number}.yaml").write_text(json.dumps(policy))


def _watch(folder: Path, seconds: float, say: Callable[[str], None]) -> Document:
    say(f"daemon: watching it for {seconds:.0f} s")
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            program(folder, "daemon"), env=surroundings(folder), stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + _PATIENCE
        while b"daemon.ready" not in (folder / "log").read_bytes():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"no daemon: {(folder / 'log').read_text()[-500:]}")
            time.sleep(0.1)
        time.sleep(_SETTLED)
        started, before = _cpu(daemon.pid), time.monotonic()
        time.sleep(seconds)
        used, waited = _cpu(daemon.pid) - started, time.monotonic() - before
        scrapes = int(seconds // SCRAPE_EVERY)
        for _ in range(scrapes):
            time.sleep(SCRAPE_EVERY)
            _scrape(folder / "log")
        return {
            "sources": SOURCES,
            "seconds": waited,
            "cpu_seconds": used,
            "scraped_seconds": scrapes * SCRAPE_EVERY,
            "scraped_cpu_seconds": _cpu(daemon.pid) - started - used,
            "start_cpu_seconds": started,
            "peak_bytes": _status(daemon.pid, "VmHWM"),
            "rss_bytes": _status(daemon.pid, "VmRSS"),
        }
    finally:
        daemon.terminate()
        daemon.wait()


def _scrape(log: Path) -> None:
    """Ask for the metrics, as Prometheus does."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    address = next(line["address"] for line in lines if line["event"] == "status.served")
    with urlopen(f"http://{address}/metrics") as answer:
        if b"snapvault_source_age_seconds" not in answer.read():
            raise BenchmarkError("the daemon serves no metrics")


def _cpu(pid: int) -> float:
    """Return the processor seconds of a process, all threads: proc(5), utime and stime."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name + ":"))
