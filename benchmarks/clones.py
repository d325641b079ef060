# SPDX-License-Identifier: Apache-2.0
"""What the clone of a disk stores that is in the vault already, and what looking for it costs.

A disk of real files and its clone, in which 2 % of the blocks that hold data differ. And a strange
disk: the same bytes, so that it costs as much to compress, but no block of it is in the vault. It
is backed up beside the others, where it looks and finds nothing, and alone.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import disks, material
from benchmarks.lab import make_surroundings, program, surroundings, write_settings
from benchmarks.measure import BenchmarkError, Runner, Usage
from tests.support import keys

Document = dict[str, Any]

SHARE = 0.02
_FULL_SHARE = 0.7  # of a disk that is files; small ones take a block each
_PIECE = 4 << 20


def measure(
    folder: Path, size: int, *, repeat: int, seed: int, say: Callable[[str], None]
) -> Document:
    """Measure with disks of `size` bytes; what the strange disk costs is measured several times.

    Raises:
        BenchmarkError: something did not work, or was not restored as it was.
    """
    make_surroundings(folder)
    files = material.gather(folder / "material", round(size * _FULL_SHARE), seed=seed)
    first, clone, strange = (folder / f"{name}.img" for name in ("first", "clone", "strange"))
    disks.make(first, size, files.files)
    _copy(first, clone)
    night = disks.change(clone, files.pool, share=SHARE, seed=seed, level=3)
    _make_strange(first, strange)
    shutil.rmtree(folder / "material")
    say(f"clone: {disks.data_bytes(first) >> 20} MiB of data, {night.blocks} blocks differ")
    with keys.host_home() as home, keys.recovery_home() as recovery:
        lab = _Vaults(folder, home, recovery)
        lab.open("shared", {"first": first, "clone": clone, "strange": strange})
        rows = {name: lab.back_up("shared", name) for name in ("first", "clone", "strange")}
        index = lab.index_bytes("shared")
        restored = lab.restore("clone", disks.fingerprint(clone))
        beside, alone = [rows["strange"]["cpu_seconds"]], []
        for number in range(repeat):
            name = f"alone{number}"
            lab.open(name, {"strange": strange})
            alone.append(lab.back_up(name, "strange")["cpu_seconds"])
            if number:
                name = f"beside{number}"
                lab.open(name, {"first": first, "strange": strange})
                lab.back_up(name, "first")
                beside.append(lab.back_up(name, "strange")["cpu_seconds"])
    for name, row in rows.items():
        say(f"clone: {name} stored {row['stored_bytes'] >> 10} KiB, {row['cpu_seconds']:.2f} CPU s")
    return {
        "disk_bytes": size,
        "data_bytes": disks.data_bytes(first),
        "data_blocks": disks.data_bytes(first) // disks.BLOCK,
        "differing_blocks": night.blocks,
        "differing_bytes_alone": night.in_frames,
        "rows": rows,
        "index_bytes": index,
        "restored": restored,
        "strange_beside_cpu_seconds": beside,
        "strange_alone_cpu_seconds": alone,
    }


class _Vaults:
    """Vaults in folders, with a host that backs up into them."""

    def __init__(self, folder: Path, home: Path, recovery: Path) -> None:
        self._folder = folder
        self._home = home
        self._recovery = recovery

    def open(self, name: str, images: dict[str, Path]) -> None:
        host = self._folder / name
        (host / "policies").mkdir(parents=True)
        write_settings(host, {"store": f"file://{host / 'vault'}"}, self._home)
        sources = {each: {"image": {"path": str(path)}} for each, path in images.items()}
        policy = {"vault": "bench", "sources": sources}
        (host / "policies" / "bench.yaml").write_text(json.dumps(policy))
        self._run(host, "init")

    def back_up(self, name: str, source: str) -> Document:
        usage = self._run(self._folder / name, "backup", source)
        (report,) = json.loads(usage.output)
        wanted = ("stored_bytes", "changed_bytes", "deduplicated_bytes", "new_volumes")
        return {**usage.document(), **{each: report[each] for each in wanted}}

    def restore(self, source: str, fingerprint: str) -> Document:
        """Restore a source on a machine that has nothing but the keys, and compare it."""
        machine, target = self._folder / "recovery", self._folder / "restored.img"
        machine.mkdir()
        store = {"store": f"file://{self._folder / 'shared' / 'vault'}"}
        write_settings(machine, store, self._recovery)
        usage = self._run(machine, "restore", source, "--to", str(target))
        if disks.fingerprint(target) != fingerprint:
            raise BenchmarkError(f'"{source}" was not restored as it was')
        target.unlink()
        return usage.document()

    def index_bytes(self, name: str) -> int:
        return sum(path.stat().st_size for path in (self._folder / name).rglob("blocks.index"))

    def _run(self, machine: Path, *words: str) -> Usage:
        runner = Runner(surroundings(self._folder), (machine,))
        return runner.run(program(machine, *words), cwd=machine)


def _copy(source: Path, target: Path) -> None:
    """Copy what a sparse file holds."""
    _rewrite(source, target, lambda piece: piece)


def _make_strange(source: Path, target: Path) -> None:
    """Copy a disk, each byte another one: as compressible, and with no block in common."""
    _rewrite(source, target, lambda piece: (np.frombuffer(piece, np.uint8) ^ 0xA5).tobytes())


def _rewrite(source: Path, target: Path, change: Callable[[bytes], bytes]) -> None:
    with source.open("rb") as old, target.open("wb") as new:
        new.truncate(source.stat().st_size)
        for start, stop in disks.data_ranges(source):
            for at in range(start, stop, _PIECE):
                old.seek(at)
                new.seek(at)
                new.write(change(old.read(min(_PIECE, stop - at))))


def table(clone: Document) -> Sequence[str]:
    """Return the rows of the report."""
    lines = [
        "| Disk | Stored, MiB | Changed, MiB | Found there, MiB | New volumes | CPU s | PSS, MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in clone["rows"].items():
        mib = [
            f"{row[key] / (1 << 20):.2f}"
            for key in ("stored_bytes", "changed_bytes", "deduplicated_bytes")
        ]
        lines.append(
            f"| {name} | {' | '.join(mib)} | {row['new_volumes']} | {row['cpu_seconds']:.2f} | "
            f"{row['peak_pss_bytes'] / (1 << 20):.0f} |"
        )
    return lines
