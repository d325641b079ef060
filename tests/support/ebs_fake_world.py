# SPDX-License-Identifier: Apache-2.0
"""What exists in the fake cloud: volumes with content, instances, snapshots, and its clock."""

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import count
from threading import RLock

BLOCK = 524_288  # bytes
GIB = 1 << 30
ACCOUNT = "111122223333"
REGIONS = ("eu-west-1", "eu-central-1", "us-east-1")
_ZEROS = bytes(BLOCK)


class RefusedError(Exception):
    """The cloud's answer is an error."""

    def __init__(self, status: int, code: str, message: str, reason: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.reason = reason


class Block:
    """What one write left in a block. Two blocks are the same if they are one object."""

    def __init__(self, data: bytes) -> None:
        assert len(data) == BLOCK
        self.data = data

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 of the data."""
        return hashlib.sha256(self.data).digest()


@dataclass(eq=False, slots=True)
class Volume:
    """A volume; `read`, `write` and `discard` are what its machine does."""

    id: str
    region: str
    zone: str
    gib: int
    owner: str
    lock: RLock
    encrypted: bool = False
    kms_key: str | None = None
    kind: str = "gp3"
    tags: dict[str, str] = field(default_factory=dict)
    snapshot: str = ""
    state: str = "available"
    instance: str | None = None
    device: str | None = None
    created: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    looks_until_ready: int = 0
    token: tuple[str, object] | None = None
    random_where_absent: bool = False
    blocks: dict[int, Block] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.gib * GIB

    def read(self, offset: int, length: int) -> bytes:
        """Read what the machine would see."""
        with self.lock:
            found = bytearray()
            for index, start, stop in _spans(offset, length, self.size):
                found += self._block(index)[start:stop]
            return bytes(found)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes anywhere; each block they touch is new from now on."""
        with self.lock:
            at = 0
            for index, start, stop in _spans(offset, len(data), self.size):
                piece = data[at : at + stop - start]
                old = self._block(index)
                self.blocks[index] = Block(old[:start] + piece + old[stop:])
                at += stop - start

    def discard(self, offset: int, length: int) -> None:
        """Let go of whole blocks."""
        with self.lock:
            for index, start, stop in _spans(offset, length, self.size):
                assert (start, stop) == (0, BLOCK)
                self.blocks.pop(index, None)

    def _block(self, index: int) -> bytes:
        if index in self.blocks:
            return self.blocks[index].data
        if self.random_where_absent:
            return random.Random(f"{self.id}/{index}").randbytes(BLOCK)
        return _ZEROS


def _spans(offset: int, length: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield the blocks of a range: index, start and stop inside of it."""
    assert 0 <= offset <= offset + length <= size, f"{offset}+{length} of {size}"
    end = offset + length
    while offset < end:
        index, start = divmod(offset, BLOCK)
        stop = min(BLOCK, start + end - offset)
        yield index, start, stop
        offset += stop - start


@dataclass(eq=False, slots=True)
class Instance:
    """A machine with volumes by device name."""

    id: str
    region: str
    owner: str
    volumes: dict[str, Volume]
    tags: dict[str, str] = field(default_factory=dict)
    state: str = "running"


@dataclass(eq=False, slots=True)
class Snapshot:
    """A snapshot, of a volume or written block by block (`direct`).

    `sealed`: nothing can be put any more. `looks` is how often it was described since; with
    `looks_needed` it is completed, or in error if `fails`.
    """

    id: str
    region: str
    owner: str
    gib: int
    lineage: str
    started: datetime
    volume: str = "vol-ffffffff"
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    encrypted: bool = False
    kms_key: str | None = None
    direct: bool = False
    parent: str | None = None
    state: str = "pending"
    status_message: str = ""
    sealed: bool = False
    fails: bool = False
    looks: int = 0
    looks_needed: int = 0
    tier: str = "standard"
    in_use: bool = False
    public: bool = False
    shared_with: set[str] = field(default_factory=set)
    token: tuple[str, object] | None = None
    completion: object = None
    timeout: timedelta = timedelta(minutes=60)
    touched: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    blocks: dict[int, Block] = field(default_factory=dict)
    put: dict[int, Block] = field(default_factory=dict)
    corrupt: dict[int, int] = field(default_factory=dict)
    unknown_for: int = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return what the snapshot holds, zeros where it has no block."""
        found = bytearray()
        for index, start, stop in _spans(offset, length, self.gib * GIB):
            block = self.blocks.get(index)
            found += (block.data if block else _ZEROS)[start:stop]
        return bytes(found)


class World:
    """Everything, in all regions. `lock` is held while a call is answered."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.volumes: dict[str, Volume] = {}
        self.instances: dict[str, Instance] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.kms_keys: set[str] = set()
        self.encryption_by_default = False
        self.looks_until_completed = 1
        self.looks_until_available = 1
        self.snapshots_to_fail = 0
        self.most_pending = 100
        self.unknown_after_start = 0
        self._ahead = timedelta(0)
        self._ids = count(0x1000)

    def now(self) -> datetime:
        """The cloud's time: this machine's, and what tests moved it ahead."""
        return datetime.now(UTC) + self._ahead

    def advance(self, seconds: float) -> None:
        """Let time pass in the cloud."""
        self._ahead += timedelta(seconds=seconds)

    def new_id(self, kind: str) -> str:
        """Return an id nobody has: `snap-0…1000`."""
        return f"{kind}-{next(self._ids):017x}"

    def default_key(self, region: str, account: str) -> str:
        """Return the account's own key for EBS."""
        return f"arn:aws:kms:{region}:{account}:key/00000000-0000-0000-0000-0000000000eb"

    def knows_key(self, arn: str, region: str) -> bool:
        """Tell whether a key exists in a region."""
        key = arn.rsplit("/", 1)[-1]
        own = key == "00000000-0000-0000-0000-0000000000eb"
        return arn.split(":")[3:4] == [region] and (own or arn in self.kms_keys)

    def find(self, snapshot: str, region: str, account: str) -> Snapshot | None:
        """Return a snapshot that the account may see in the region."""
        found = self.snapshots.get(snapshot)
        if found is None or found.region != region:
            return None
        if found.owner != account and account not in found.shared_with and not found.public:
            return None
        self.settle(found)
        return found

    def require_room_for_pending(self, account: str, *, new: int = 1) -> bool:
        """Tell whether so many more snapshots may be pending."""
        pending = sum(
            each.owner == account and each.state == "pending" for each in self.snapshots.values()
        )
        return pending + new <= self.most_pending

    def seal(self, snapshot: Snapshot) -> None:
        """Nothing changes in the snapshot any more; it is going to be completed, or to fail."""
        snapshot.sealed = True
        snapshot.looks = 0
        snapshot.looks_needed = self.looks_until_completed
        if self.snapshots_to_fail:
            self.snapshots_to_fail -= 1
            snapshot.fails = True
        self.settle(snapshot)

    def settle(self, snapshot: Snapshot) -> None:
        """Bring the state up to date."""
        if snapshot.state != "pending":
            return
        if snapshot.sealed and snapshot.looks >= snapshot.looks_needed:
            snapshot.state = "error" if snapshot.fails else "completed"
            snapshot.status_message = "Internal error" if snapshot.fails else ""
        elif not snapshot.sealed and self.now() - snapshot.touched > snapshot.timeout:
            snapshot.state = "error"
            snapshot.status_message = "Cancelled: no activity"

    def snapshot_of(self, volume: Volume, description: str, tags: Mapping[str, str]) -> Snapshot:
        """Freeze a volume's content."""
        made = Snapshot(
            id=self.new_id("snap"),
            region=volume.region,
            owner=volume.owner,
            gib=volume.gib,
            lineage=volume.id,
            started=self.now(),
            volume=volume.id,
            description=description,
            tags=dict(tags),
            encrypted=volume.encrypted,
            kms_key=volume.kms_key,
            blocks=dict(volume.blocks),
        )
        self.snapshots[made.id] = made
        self.seal(made)
        return made
