# SPDX-License-Identifier: Apache-2.0
"""What is done and measured: nights of a disk, nights of a dump, and the same done by the peers.

Each scenario returns a plain document for the JSON report. Whatever is restored is compared
with what was backed up that night; a difference ends everything.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import disks, dumps, pagecache
from benchmarks.counting import counted, requests_of
from benchmarks.lab import Done, Lab, Protected
from benchmarks.material import Material
from benchmarks.measure import BenchmarkError, Usage
from benchmarks.peers import Peer
from snapvault.model.policy import DEFAULT_COMPRESSION_LEVEL

Document = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything. Shares are of blocks or rows, sizes in bytes."""

    points: int
    share: float
    repeat: int
    seed: int


@dataclass(frozen=True, slots=True)
class Bench:
    """What all scenarios work with. `folder` is theirs, `say` tells what goes on."""

    lab: Lab
    plan: Plan
    folder: Path
    say: Say

    def measure_disk(self, name: str, image: Path, material: Material) -> Document:
        """Back a disk up on so many nights and restore every one of them."""
        protected = self._protected(name, image)
        extra = [self._protected(f"{name}-{k}", image) for k in range(2, self.plan.repeat + 1)]
        backups: list[Document] = []
        prints: list[str] = []
        for number in range(self.plan.points):
            night = self.next_night(image, material, number) if number else None
            prints.append(disks.fingerprint(image))
            kept = self._half_cached(image) if number == 0 else _uncached(image)
            done, document = self._back_up(protected, number)
            document["data_bytes"] = disks.data_bytes(image)
            document["cached_before_bytes"] = kept
            document["cached_after_bytes"] = pagecache.cached_bytes(image)
            if night is not None:
                document["changed_blocks"] = night.blocks
                document["alone_in_frames_bytes"] = night.in_frames
                document["alone_one_by_one_bytes"] = night.one_by_one
            backups.append(document)
            self._tell(name, f"backup {number + 1}", done.usage)
            if number == 0:
                for other in extra:
                    again, document = self._back_up(other, 0)
                    backups[0].setdefault("again", []).append(document)
                    self._tell(name, "backup 1, again", again.usage)
        ids = [str(each["report"]["id"]) for each in backups]
        return {
            "backups": backups,
            "idle": self._idle(protected),
            "restores": self._restore_all(protected, ids, prints),
            "counted": self._count(protected, ids, prints),
        }

    def measure_dump(self, old: Path, new: Path) -> Document:
        """Back a dump up as a program's output, before and after a night, and restore both."""
        current = self.folder / "current.sql"
        protected = Protected(self.lab, "dump", {"command": {"run": ["cat", str(current)]}})
        protected.set_up()
        backups, prints = [], []
        for number, path in enumerate((old, new)):
            current.unlink(missing_ok=True)
            current.hardlink_to(path)
            prints.append(disks.fingerprint(path))
            done, document = self._back_up(protected, number)
            document["data_bytes"] = path.stat().st_size
            backups.append(document)
            self._tell("dump", f"backup {number + 1}", done.usage)
        ids = [str(each["report"]["id"]) for each in backups]
        return {"backups": backups, "restores": self._restore_all(protected, ids, prints)}

    def measure_peer(self, peer: Peer, what: str, nights: Sequence[Callable[[], Path]]) -> Document:
        """Let a peer back the same nights up, and restore the last of them."""
        peer.set_up()
        backups: list[Document] = []
        path = Path()
        for number, prepare in enumerate(nights):
            path = prepare()
            pagecache.evict(path)
            before = peer.stored()
            usage = peer.back_up(path)
            after = peer.stored()
            backups.append({**usage.document(), "stored_bytes": after.size - before.size})
            self._tell(what, f"{peer.name} backup {number + 1}", usage)
        folder = self.folder / "peer"
        usage, restored = peer.restore_last(path, folder)
        if disks.fingerprint(restored) != disks.fingerprint(path):
            raise BenchmarkError(f"{peer.name} did not restore what it backed up")
        shutil.rmtree(folder)
        self._tell(what, f"{peer.name} restore", usage)
        return {"backups": backups, "restores": [usage.document()]}

    def _protected(self, name: str, image: Path) -> Protected:
        protected = Protected(self.lab, name, {"image": {"path": str(image)}})
        protected.set_up()
        return protected

    def next_night(self, image: Path, material: Material, number: int) -> disks.Night:
        """Change the disk as that night does."""
        return disks.change(
            image,
            material.pool,
            share=self.plan.share,
            seed=self.plan.seed + number,
            level=DEFAULT_COMPRESSION_LEVEL,
        )

    def _back_up(self, protected: Protected, number: int) -> tuple[Done, Document]:
        before = protected.stored()
        done = protected.back_up()
        after = protected.stored()
        if done.report["consistency"] == "none":
            raise BenchmarkError(f"backup {number + 1} changed while it was read")
        document: Document = done.usage.document()
        document["stored_bytes"] = after.size - before.size
        document["stored_objects"] = after.objects - before.objects
        document["report"] = done.report
        return done, document

    def _half_cached(self, image: Path) -> int:
        """Have the first quarter of the image in the page cache, and nothing more of it."""
        pagecache.evict(image)
        pagecache.warm(image, image.stat().st_size // 4)
        return pagecache.cached_bytes(image)

    def _idle(self, protected: Protected) -> Document:
        """Measure a night in which nothing changed."""
        done, document = self._back_up(protected, self.plan.points)
        self._tell(protected.name, "backup of nothing new", done.usage)
        return document

    def _restore_all(
        self, protected: Protected, ids: Sequence[str], prints: Sequence[str]
    ) -> list[Document]:
        """Restore every point; the first and the last, alternately, as often as the plan says."""
        documents: list[Document] = []
        last = len(ids) - 1
        order = [*range(len(ids)), *([0, last] * (self.plan.repeat - 1))]
        for number in order:
            done, document = self._restore(protected, ids[number], prints[number])
            documents.append({**document, "point": number + 1})
            self._tell(protected.name, f"restore of {number + 1}", done.usage)
        return documents

    def _restore(
        self, protected: Protected, point: str, expected: str, *, endpoint: str | None = None
    ) -> tuple[Done, Document]:
        target = self.folder / "restored"
        target.unlink(missing_ok=True)
        done = protected.restore(point, target, endpoint=endpoint)
        document: Document = done.usage.document()
        document["cached_after_bytes"] = pagecache.cached_bytes(target)
        document["written_bytes"] = disks.data_bytes(target)
        if disks.fingerprint(target) != expected:
            raise BenchmarkError(f"restore point {point} is not what was backed up")
        target.unlink()
        return done, document

    def _count(
        self, protected: Protected, ids: Sequence[str], prints: Sequence[str]
    ) -> list[Document]:
        """Restore the first and the last point once more and count the requests for them."""
        found: list[Document] = []
        for number in (0, len(ids) - 1):
            with counted(self.lab.server.port) as proxy:
                self._restore(protected, ids[number], prints[number], endpoint=proxy.endpoint_url)
                requests = requests_of(proxy)
            fetches = requests.volume_fetches()
            found.append(
                {
                    "point": number + 1,
                    "requests": requests.by_kind(),
                    "volumes": len(fetches),
                    "most_fetches_of_a_volume": max(fetches.values(), default=0),
                }
            )
        return found

    def _tell(self, what: str, step: str, usage: Usage) -> None:
        self.say(
            f"{what}: {step}: {usage.cpu:.1f} CPU s, {usage.wall:.1f} s, "
            f"{usage.peak_pss / 2**20:.0f} MiB"
            + (f", noise {usage.others:.1f} CPU s" if usage.others > 0.1 * usage.wall else "")
        )


def make_dumps(folder: Path, size: int, *, share: float, seed: int) -> tuple[Path, Path, Document]:
    """Write a dump and the one of the night after."""
    old, new = folder / "old.sql", folder / "new.sql"
    rows = dumps.make(old, size, seed=seed)
    changed = dumps.change(old, new, share=share, seed=seed + 1)
    return old, new, {"rows": rows, "changed_rows": changed}


def _uncached(image: Path) -> int:
    pagecache.evict(image)
    return pagecache.cached_bytes(image)
