# SPDX-License-Identifier: Apache-2.0
"""Running a program to its end and measuring what it and its children used.

CPU seconds are the kernel's own account of the process and all descendants it waited for
(wait4). Memory and temporary files are sampled, so that shorter peaks can be missed.
"""

import ctypes
import os
import platform
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_EVERY = 0.05  # seconds between two looks at the processes
_FOLDERS_EVERY = 5  # looks at the processes for each look at the folders
_KCMP = {"x86_64": 312, "aarch64": 272}  # LIMIT: the number of kcmp(2), of each platform's kernel
_KCMP_VM = 1
_SYSCALL = ctypes.CDLL(None).syscall
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class BenchmarkError(Exception):
    """Something that is measured did not work; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run used. Times in seconds, the rest in bytes.

    `beside` is the CPU time, of both cores, that went meanwhile to processes that were named as
    part of the work (the S3 server); `others` what went to anything else, which is noise.
    `temporary` is the peak of the watched folders above what they hold at the end.
    """

    user: float
    system: float
    wall: float
    beside: float
    others: float
    peak_pss: int
    peak_rss: int
    temporary: int
    output: str = field(repr=False)

    @property
    def cpu(self) -> float:
        """CPU seconds of the process and its children, user and system."""
        return self.user + self.system

    @property
    def cores(self) -> float:
        """Cores that were busy with the work on average, the named processes' share included."""
        return (self.cpu + self.beside) / self.wall

    def document(self) -> dict[str, float | int]:
        """Return the figures for the JSON report."""
        return {
            "cpu_seconds": round(self.cpu, 3),
            "user_seconds": round(self.user, 3),
            "system_seconds": round(self.system, 3),
            "wall_seconds": round(self.wall, 3),
            "server_cpu_seconds": round(self.beside, 3),
            "noise_cpu_seconds": round(self.others, 3),
            "peak_pss_bytes": self.peak_pss,
            "peak_rss_bytes": self.peak_rss,
            "temporary_bytes": self.temporary,
        }


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs programs in an environment; `beside` are processes whose work is not the program's."""

    environment: Mapping[str, str]
    watch: Sequence[Path] = ()
    beside: Sequence[int] = ()

    def run(self, command: Sequence[str], *, cwd: Path | None = None) -> Usage:
        """Run a command to its end; its standard output is in the result.

        Raises:
            BenchmarkError: it could not be started, or failed.
        """
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            busy, aside, own = _busy(), self._aside(), time.process_time()
            started = time.monotonic()
            try:
                process = subprocess.Popen(
                    command,
                    env=dict(self.environment),
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                )
            except OSError as error:
                raise BenchmarkError(f"could not run {command[0]}: {error.strerror}") from error
            with _sampled(process.pid, self.watch) as sampled:
                _, status, used = os.wait4(process.pid, 0)
            wall = time.monotonic() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            beside = self._aside() - aside
            own = time.process_time() - own
            errors.seek(0)
            if process.returncode != 0:
                said = errors.read().decode(errors="replace")[-2000:]
                raise BenchmarkError(f"{' '.join(command)}: exit {process.returncode}: {said}")
            output.seek(0)
            cpu = used.ru_utime + used.ru_stime
            return Usage(
                user=used.ru_utime,
                system=used.ru_stime,
                wall=wall,
                beside=beside,
                others=max(0.0, _busy() - busy - cpu - beside - own),
                peak_pss=sampled.peak_pss,
                peak_rss=sampled.peak_rss,
                temporary=max(0, sampled.peak_folders - sum(map(folder_size, self.watch))),
                output=output.read().decode(errors="replace"),
            )

    def _aside(self) -> float:
        return sum(map(_process_seconds, self.beside))


@dataclass(slots=True)
class _Sampled:
    peak_pss: int = 0
    peak_rss: int = 0
    peak_folders: int = 0


@contextmanager
def _sampled(pid: int, folders: Sequence[Path]) -> Iterator[_Sampled]:
    found, done = _Sampled(), threading.Event()

    def sample() -> None:
        looks = 0
        while not done.wait(_EVERY):
            tree = _with_memory_of_their_own(_tree(pid))
            found.peak_pss = max(found.peak_pss, sum(map(_pss, tree)))
            found.peak_rss = max(found.peak_rss, sum(map(_rss, tree)))
            if looks % _FOLDERS_EVERY == 0 and folders:
                unnamed = sum(_unnamed(each, folders) for each in tree)
                found.peak_folders = max(
                    found.peak_folders, sum(map(folder_size, folders)) + unnamed
                )
            looks += 1

    thread = threading.Thread(target=sample, name="sampler", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def folder_size(folder: Path) -> int:
    """Return the bytes that the files of a folder take on disk; files may vanish meanwhile."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_blocks * 512  # noqa: PTH118 - hot
    return total


def _tree(root: int) -> list[int]:
    """Return a process and its descendants."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - names alone, many times a second
        if name.isdigit():
            with suppress(OSError):
                parent = int(_stat(int(name))[1])
                children.setdefault(parent, []).append(int(name))
    tree = [root]
    for pid in tree:
        tree += children.get(pid, [])
    return tree


def _with_memory_of_their_own(tree: Sequence[int]) -> list[int]:
    """Leave out children that still run in their parent's memory.

    Between vfork and exec, a program that is about to start shows all of its parent's memory as
    its own. Where the kernel cannot compare two processes, all are kept.
    """
    return [tree[0], *(pid for pid in tree[1:] if not _same_memory(tree[0], pid))]


def _same_memory(one: int, other: int) -> bool:
    number = _KCMP.get(platform.machine())
    return number is not None and _SYSCALL(number, one, other, _KCMP_VM, 0, 0) == 0


def _stat(pid: int) -> list[str]:
    """Return the fields of a process's stat from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _pss(pid: int) -> int:
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:  # noqa: PTH123 - hot
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _rss(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def _unnamed(pid: int, folders: Sequence[Path]) -> int:
    """Return what a process holds in files of the folders that have no name any more."""
    total = 0
    with suppress(OSError):
        for file in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                path = os.readlink(file.path)  # noqa: PTH115 - hot
                if path.endswith(" (deleted)") and path.startswith(tuple(map(str, folders))):
                    total += file.stat().st_blocks * 512
    return total


def _busy() -> float:
    """Return the CPU seconds that all cores of the machine were busy since it started."""
    numbers = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _waiting, irq, softirq = numbers[:7]
    return (user + nice + system + irq + softirq) * _TICK


def _process_seconds(pid: int) -> float:
    """Return the CPU seconds of one process so far; 0 if it is gone."""
    with suppress(OSError):
        fields = _stat(pid)
        return (int(fields[11]) + int(fields[12])) * _TICK
    return 0.0
