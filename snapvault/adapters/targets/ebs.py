# SPDX-License-Identifier: Apache-2.0
"""A new EBS snapshot as a target, written block by block through the EBS direct APIs.

The order of calls is StartSnapshot, PutSnapshotBlock for each block that holds data,
CompleteSnapshot with the number of blocks and the digest of their digests, and then a wait.
"""

import base64
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from snapvault import clock
from snapvault.adapters.aws import BLOCK, AwsError, Trouble, told, translate
from snapvault.adapters.targets.ebs_blocks import DEFAULT_MEMORY, Blocks
from snapvault.adapters.targets.ebs_puts import Puts
from snapvault.adapters.targets.ebs_service import EbsPlace, EbsService
from snapvault.errors import RestoreError
from snapvault.units import format_duration, format_size

MOST_GIB: Final = 65_536  # LIMIT: of an EBS snapshot, in GiB

_GIB: Final = 1 << 30
_DIGEST: Final = 32  # bytes of a SHA-256
_ZEROS: Final = bytes(BLOCK)
_ROWS: Final = 1 << 15  # digests looked at once, 1 MiB

# LIMIT: AWS cancels a snapshot that nothing was put into for this long, minutes. A dead restore
# costs a day of a pending snapshot; a slow one may leave one disk alone while it fills another.
_IDLE_LIMIT: Final = 24 * 60

# QUIRK: for a while after StartSnapshot, puts may be told that there is no such snapshot;
# https://github.com/awslabs/coldsnap/blob/develop/src/upload.rs waits for some two minutes.
_UNKNOWN_FOR: Final = 120.0


@dataclass(frozen=True, slots=True)
class Made:
    """What a restore left in AWS, once it is committed; `volume` if one was asked for."""

    snapshot: str
    region: str
    size_gib: int
    encrypted: bool
    volume: str | None = None
    zone: str | None = None


class EbsTarget:
    """A snapshot in the making, for one disk; `abort` is due even if nothing is written.

    Every byte is written or zeroed once, in any order. `write` returns when its blocks are under
    way, and waits while too many are. Zeros are not put into a snapshot that is not
    encrypted, because what it lacks reads as zeros. A volume of an encrypted one has random bytes
    there, so every block of it is put, those beyond the end of the disk too.

    Takes 37 bytes of memory for each block that is not zeros, besides `memory` bytes. `kept` is
    whether the snapshot stays, whatever else happens.
    """

    def __init__(
        self,
        service: EbsService,
        size: int,
        *,
        description: str,
        tags: Mapping[str, str],
        spool: Path,
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        gib = max(1, -(-size // _GIB))
        if gib > MOST_GIB:
            raise RestoreError(
                f"cannot restore {format_size(size)} to EBS: a snapshot has at most"
                f" {format_size(MOST_GIB * _GIB)}"
            )
        service.require_volume_of(gib)
        self._service = service
        self._place = service.place
        self._tags = dict(tags)
        self._blocks = Blocks(size, BLOCK, self._put, folder=spool, memory=memory)
        self._total = gib * _GIB // BLOCK
        # On a sparse disk most of this table is never written, and takes no memory.
        self._digests = np.zeros((self._total, _DIGEST), np.uint8)
        self._puts = Puts(service.pool, service.slots)
        self._left_behind: str | None = None
        self._known = False  # to the servers that blocks are put to
        self._over = False
        self.kept = False
        self._made = self._start(gib, description)
        self._started = clock.monotonic()

    @property
    def made(self) -> Made:
        """The snapshot in the making, and the volume once `commit` has made one."""
        return self._made

    @property
    def left_behind(self) -> str | None:
        """What `abort` could not remove, and why: one line; None: nothing."""
        return self._left_behind

    def write(self, offset: int, data: memoryview) -> None:
        """Take all of `data`.

        Raises:
            RestoreError: this or an earlier block could not be put.
            ValueError: the range was written before, or does not lie in the disk.
        """
        self._puts.require_none_failed()
        self._blocks.write(offset, data)

    def reserve(self, offset: int, length: int) -> None:
        """Do nothing: AWS has room."""

    def zero(self, offset: int, length: int) -> None:
        """Leave a range out, or put it at the end if the snapshot is encrypted."""
        self._blocks.zero(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Refuse: a snapshot that is being written cannot be read."""
        raise RestoreError(
            f"cannot read back {buffer.nbytes} bytes at offset {offset} of EBS snapshot"
            f' "{self._made.snapshot}" while it is written',
            hint="Restore streams that are no disks to a file.",
        )

    def commit(self) -> None:
        """Complete the snapshot and wait for it, then make a volume of it if one is wanted.

        Raises:
            RestoreError: AWS refused, or took too long. If only the volume is missing, or the
                wait was too long, the snapshot stays and the message says so.
        """
        self._blocks.require_whole()
        self._blocks.close()
        if self._made.encrypted:
            self._puts.drain()
            for index in range(self._total):
                if not self._digests[index].any():
                    self._puts.submit(partial(self._send, index, _ZEROS))
        self._puts.drain()
        sure = self._complete()
        if not self._service.completes(self._made.snapshot):
            self.kept = sure
            raise RestoreError(
                f'EBS snapshot "{self._made.snapshot}" is still pending after '
                f"{format_duration(self._place.timeout)}",
                hint="All data is in it, and it stays: it may still complete by itself."
                if sure
                else None,
            )
        self.kept = True
        if self._place.zone is not None:
            volume = self._service.make_volume(self._made.snapshot, self._made.size_gib, self._tags)
            self._made = replace(self._made, volume=volume, zone=self._place.zone)

    def abort(self) -> None:
        """Delete the snapshot, unless it is complete; see `left_behind`."""
        if self._over or self.kept:
            return
        self._over = True
        self._puts.stop()
        self._blocks.close()
        try:
            self._service.delete(self._made.snapshot)
        except AwsError as error:
            # Raised from here, it would hide why the restore was given up.
            what = f'could not delete incomplete EBS snapshot "{self._made.snapshot}"'
            self._left_behind = str(translate(error, what, RestoreError))

    # --- calls ------------------------------------------------------------------------------

    def _start(self, gib: int, description: str) -> Made:
        asked: dict[str, Any] = {
            "VolumeSize": gib,
            "Tags": [{"Key": key, "Value": value} for key, value in self._tags.items()],
            "Description": description[:255],
            # The same in every attempt: a lost answer makes no second snapshot.
            "ClientToken": str(uuid.uuid4()),
            "Timeout": _IDLE_LIMIT,
        }
        if self._place.encrypted:
            asked["Encrypted"] = True
        if self._place.kms_key is not None:
            asked["KmsKeyArn"] = self._place.kms_key
        region = self._place.region
        ebs = self._service.clients.ebs
        with told(RestoreError, f'could not start an EBS snapshot in region "{region}"'):
            answer: dict[str, Any] = dict(
                self._service.control.call(lambda: ebs.start_snapshot(**asked))
            )
        # An account may encrypt whatever is made in it, asked or not.
        encrypted = (
            self._place.encrypted
            or "KmsKeyArn" in answer
            or answer.get("SseType", "none") != "none"
        )
        return Made(answer["SnapshotId"], region, gib, encrypted)

    def _put(self, index: int, content: bytes) -> None:
        if content != _ZEROS:
            self._puts.submit(partial(self._send, index, content))

    def _send(self, index: int, content: bytes) -> None:
        digest = hashlib.sha256(content).digest()
        with told(
            RestoreError, f'could not write block {index} of EBS snapshot "{self._made.snapshot}"'
        ):
            while True:
                try:
                    self._service.puts.call(partial(self._put_block, index, content, digest))
                    break
                except AwsError as failure:
                    late = clock.monotonic() - self._started > _UNKNOWN_FOR
                    if failure.trouble is not Trouble.MISSING or self._known or late:
                        raise
                    clock.sleep(0.5)
        self._known = True
        self._digests[index] = np.frombuffer(digest, np.uint8)

    def _put_block(self, index: int, content: bytes, digest: bytes) -> None:
        if self._puts.stopped:  # between two attempts
            raise AwsError(Trouble.REFUSED, "the restore was given up")
        self._service.clients.ebs.put_snapshot_block(
            SnapshotId=self._made.snapshot,
            BlockIndex=index,
            BlockData=content,
            DataLength=BLOCK,
            Checksum=base64.b64encode(digest).decode(),
            ChecksumAlgorithm="SHA256",
        )

    def _complete(self) -> bool:
        """Seal the snapshot; return whether that is known to have worked."""
        count = 0
        total = hashlib.sha256()
        for start in range(0, self._total, _ROWS):
            rows = self._digests[start : start + _ROWS]
            there = rows[rows.any(axis=1)]
            count += len(there)
            # The digests themselves, not their Base64, in the order of the blocks.
            total.update(there.tobytes())
        attempts = 0

        def complete() -> None:
            nonlocal attempts
            attempts += 1
            self._service.clients.ebs.complete_snapshot(
                SnapshotId=self._made.snapshot,
                ChangedBlocksCount=count,
                Checksum=base64.b64encode(total.digest()).decode(),
                ChecksumAlgorithm="SHA256",
                ChecksumAggregationMethod="LINEAR",
            )

        with told(RestoreError, f'could not complete EBS snapshot "{self._made.snapshot}"'):
            try:
                self._service.control.call(complete)
            except AwsError as failure:
                # After an attempt whose answer was lost, but which did seal it, the next one is
                # refused. Only the state that the snapshot comes to tells which it was.
                if failure.trouble is not Trouble.REFUSED or attempts == 1:
                    raise
                return False
        return True


class EbsRestore:
    """One restore of one disk or several to one place; closed by whoever opened it."""

    def __init__(self, place: EbsPlace) -> None:
        self._service = EbsService.open(place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._service.close()

    def target(
        self, size: int, *, description: str, tags: Mapping[str, str], spool: Path
    ) -> EbsTarget:
        """Start a snapshot for a disk of `size` bytes; see EbsTarget.

        Raises:
            RestoreError: it is too large, or AWS refused.
        """
        return EbsTarget(self._service, size, description=description, tags=tags, spool=spool)
