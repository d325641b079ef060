# SPDX-License-Identifier: Apache-2.0
"""A vault with its two sides: the host that backs up into it, and whoever holds the recovery key.

Over any store and any pair of sealers; without arguments in memory, with sealers that need no
GnuPG. Blocks and volumes are small, so that little data crosses every boundary there is.
"""

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from snapvault import clock
from snapvault.adapters.librsync import LibRsync
from snapvault.adapters.sealers.gnupg import open_sealer
from snapvault.adapters.stores.memory import MemoryStore
from snapvault.engine import sequence
from snapvault.engine import vault as engine
from snapvault.engine.backup import BackupJob, BackupOptions
from snapvault.engine.contents import Contents, look_up
from snapvault.engine.restore import restore
from snapvault.engine.vault import Held, Inventory, Vault, sync
from snapvault.engine.verify import Level, Report, Verification
from snapvault.formats import names
from snapvault.formats import vault as vault_format
from snapvault.formats.vault import VaultRecord
from snapvault.model.point import Point
from snapvault.ports.sealer import Sealer
from snapvault.ports.source import (
    NO_MARKS,
    ByteStream,
    Changes,
    Consistency,
    DiskStream,
    Finding,
    Source,
)
from snapvault.ports.store import Store
from tests.support.catalogs import MemoryCatalog
from tests.support.events import RecordedEvents
from tests.support.keys import HOST, RECOVERY, host_home, recovery_home
from tests.support.sealers import PaperSealer
from tests.support.sources import (
    FIRST_NIGHT,
    Faults,
    MemoryDisk,
    MemoryStream,
    MemoryView,
    Record,
    _Meter,
)
from tests.support.targets import MemoryTarget

PAGE = 4096


@contextmanager
def gnupg_sealers() -> Iterator[tuple[Sealer, Sealer]]:
    """Open the sealers of a host and of the day of the disaster, over real GnuPG homes."""
    with host_home() as host, recovery_home() as recovery:
        yield (
            open_sealer(host, recipients=[RECOVERY], signer=HOST),
            open_sealer(recovery, recipients=[RECOVERY], signer=HOST),
        )


class VaultKit:
    """One vault, and what is done with it night after night.

    `folder` takes the host's state and the spools. `nights` of a source use its own state folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        store: Store | None = None,
        sealers: tuple[Sealer, Sealer] | None = None,
        block_size: int = 512,
        volume_size: int = 64 << 10,
    ) -> None:
        self.folder = folder
        self.store: Store = store or MemoryStore()
        self.host_sealer, self.recovery_sealer = sealers or (
            PaperSealer(holds="host"),
            PaperSealer(holds="recovery"),
        )
        self.options = BackupOptions(
            volume_size, 1, "host.example.org", "snapvault test", fine_hashes=1 << 20
        )
        self.rsync = LibRsync()
        self.events = RecordedEvents()
        self.catalog = MemoryCatalog()
        self.record = VaultRecord("5a" * 16, clock.now(), block_size)
        # A vault's block size is what its vault.json says; a host then joins.
        self.store.put(names.VAULT, vault_format.encode(self.record))
        engine.create("offsite", self.store, self.host_sealer)

    def host(self, store: Store | None = None) -> Vault:
        """Return the vault as the backup host sees it, perhaps through another store."""
        return Vault(
            "offsite",
            self.record,
            store or self.store,
            self.host_sealer,
            self.catalog,
            self.events,
            self.folder / "state",
        )

    def recovery(self, store: Store | None = None) -> Vault:
        """Return the vault as a fresh machine with the recovery key sees it."""
        shutil.rmtree(self.folder / "elsewhere", ignore_errors=True)
        return replace(
            self.host(store),
            sealer=self.recovery_sealer,
            catalog=MemoryCatalog(),
            state=self.folder / "elsewhere",
        )

    def job(self, source: Source, store: Store | None = None) -> BackupJob:
        """Return tonight's run of a source, through another store if one is given."""
        vault = self.host(store)
        return BackupJob(
            vault, source, self.rsync, vault.state / "sources" / source.name, self.options
        )

    def night(self, source: Source, store: Store | None = None) -> Held:
        """Back a source up."""
        return self.job(source, store).run()

    def lose_state(self) -> None:
        """Lose everything that the host keeps: its catalog, caches and journals."""
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        self.catalog = MemoryCatalog()

    def inventory(self) -> Inventory:
        """Return what a fresh machine finds in the vault."""
        return sync(self.recovery())

    def contents(self, point: Point, store: Store | None = None) -> Contents:
        """Look a whole point up with the recovery key."""
        return look_up(self.recovery(store), point, point.streams)

    def targets(self, point: Point, store: Store | None = None) -> list[MemoryTarget]:
        """Restore all streams of a point; each target records its writes."""
        vault = self.recovery(store)
        targets = [MemoryTarget(stream.size) for stream in point.streams]
        restore(vault, look_up(vault, point, point.streams), targets)
        return targets

    def restored(self, point: Point, store: Store | None = None) -> dict[str, bytes]:
        """Return a point's streams as `restore` brings them back."""
        found = {}
        for stream, target in zip(point.streams, self.targets(point, store), strict=True):
            assert target.content is not None
            found[stream.name] = target.content
        return found

    def streamed(self, point: Point, store: Store | None = None) -> dict[str, bytes]:
        """Return a point's streams as they come out of a pipe."""
        vault = self.recovery(store)
        found = {}
        for stream in point.streams:
            contents = look_up(vault, point, (stream,))
            out = bytearray()
            order = sequence.arrange(contents)
            sequence.stream_out(vault, contents, order, self.folder / "spool", out.extend)
            found[stream.name] = bytes(out)
        return found

    def verify(self, level: Level, vault: Vault | None = None, *, sample: float = 100) -> Report:
        """Verify everything; as a fresh machine with the recovery key, unless told otherwise."""
        vault = vault or self.recovery()
        work = Verification(
            vault, sync(vault), level, sample, self.folder / "spool", random.Random(1)
        )
        return work.run()

    def objects(self, prefix: str = "") -> dict[str, int]:
        """Return the objects in the store, with their sizes in bytes."""
        return {found.name: found.size for found in self.store.names(prefix)}

    def replace(self, name: str, data: bytes) -> None:
        """Put other bytes in an object's place, as somebody with the bucket's keys can."""
        self.store.delete([name])
        self.store.put(name, data)


@dataclass(slots=True)
class SparseContent:
    """A disk's content as pages that are not zeros; any size, at the cost of what is written."""

    size: int
    pages: dict[int, bytes] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        """Write inside the disk's size; what is beyond is cut off."""
        data = data[: max(0, self.size - offset)]
        while data:
            number, skip = divmod(offset, PAGE)
            take = min(len(data), PAGE - skip)
            page = bytearray(self.pages.get(number, bytes(PAGE)))
            page[skip : skip + take] = data[:take]
            if any(page):
                self.pages[number] = bytes(page)
            else:
                self.pages.pop(number, None)
            offset, data = offset + take, data[take:]

    def resize(self, size: int) -> None:
        """Cut off, or grow with zeros."""
        if size < self.size:
            self.write(size, bytes(min(self.size - size, -size % PAGE)))
            last = -(-size // PAGE)
            self.pages = {number: page for number, page in self.pages.items() if number < last}
        self.size = size

    def copy(self) -> "SparseContent":
        return SparseContent(self.size, dict(self.pages))

    def to_bytes(self) -> bytes:
        """Return the whole disk."""
        whole = bytearray(-(-self.size // PAGE) * PAGE)
        for number, page in self.pages.items():
            whole[number * PAGE : (number + 1) * PAGE] = page
        return bytes(whole[: self.size])


class SparseDisk:
    """A disk over sparse content; its holes are the pages that are not there."""

    def __init__(self, name: str, content: SparseContent, meter: _Meter) -> None:
        self._name = name
        self._content = content
        self._meter = meter

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        return self._content.size

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        start = end = -1
        for number in sorted(self._content.pages):
            if number != end:
                if end > start:
                    yield start * PAGE, end * PAGE
                start = number
            end = number + 1
        if end > start:
            yield start * PAGE, min(self.size, end * PAGE)

    def changes(self) -> Changes | None:
        return None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._meter.take(self._name, offset, len(buffer))
        done = 0
        while done < len(buffer):
            number, skip = divmod(offset + done, PAGE)
            take = min(len(buffer) - done, PAGE - skip)
            page = self._content.pages.get(number)
            buffer[done : done + take] = page[skip : skip + take] if page else bytes(take)
            done += take


Content = SparseContent | bytes | bytearray


class MixedSource:
    """A source of disks (sparse, or bytes) and byte streams together; `disks` come first.

    A test changes `disks` and `streams` between nights; `seen` is what each view showed, by the
    time it was taken at, which is a day after the view before.
    """

    def __init__(
        self,
        name: str = "web01",
        *,
        disks: Mapping[str, Content] | None = None,
        streams: Mapping[str, bytes] | None = None,
    ) -> None:
        self._name = name
        self.disks: dict[str, Content] = dict(disks or {})
        self.streams: dict[str, bytes] = dict(streams or {})
        self.faults = Faults()
        self.record = Record()
        self.next_taken_at = FIRST_NIGHT
        self.seen: dict[str, dict[str, Content]] = {}

    @property
    def name(self) -> str:
        return self._name

    def check(self) -> Iterator[Finding]:
        yield Finding("memory", "is there")

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> MemoryView:
        self.record.marks_given.append(dict(marks))
        if self.faults.on_open:
            raise self.faults.error
        meter = _Meter(self.faults, self.record)
        views: list[DiskStream | ByteStream] = []
        seen: dict[str, Content] = {}
        for name, disk in self.disks.items():
            content = disk.copy() if isinstance(disk, SparseContent) else bytes(disk)
            seen[name] = content
            views.append(
                SparseDisk(name, content, meter)
                if isinstance(content, SparseContent)
                else MemoryDisk(name, bytes(content), meter)
            )
        for name, stream in self.streams.items():
            seen[name] = stream
            views.append(MemoryStream(name, stream, meter, 1 << 16))
        self.seen[clock.to_text(self.next_taken_at)] = seen
        view = MemoryView(views, self.next_taken_at, Consistency.CRASH, self.faults, self.record)
        self.next_taken_at += timedelta(days=1)
        self.record.opened += 1
        return view

    def at(self, point: Point) -> dict[str, bytes]:
        """Return the bytes that a point has to bring back."""
        return {
            name: content.to_bytes() if isinstance(content, SparseContent) else bytes(content)
            for name, content in self.seen[clock.to_text(point.taken_at)].items()
        }


def require_whole(kit: VaultKit, source: MixedSource, points: Sequence[Point]) -> None:
    """Bring points back both ways and compare them with what the source showed then."""
    for point in points:
        expected = source.at(point)
        assert kit.restored(point) == expected
        assert kit.streamed(point) == expected
