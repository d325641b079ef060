# SPDX-License-Identifier: Apache-2.0
"""Restore streams of a point to targets that take bytes at any place, in any order."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from snapvault.engine.buffers import dense
from snapvault.engine.contents import BlockDigest, Contents, require_digest, stream_digest
from snapvault.engine.extract import PIECE, Deliver, Pieces, Plan, extract, require_undamaged
from snapvault.engine.gathering import Gathered, Gathering
from snapvault.engine.mixed import Assembly, Noted, Whole
from snapvault.engine.vault import Vault
from snapvault.errors import IntegrityError, RestoreError
from snapvault.model.extents import ZERO, ExtentMap, runs_of_zeros
from snapvault.ports.target import Target

_FEW_OF_A_DISK = 16  # pieces of a mebibyte that are written as they come


def restore(vault: Vault, contents: Contents, targets: Sequence[Target]) -> None:
    """Bring streams back, one to a target; commit the targets once every digest fits.

    Each volume is fetched once and each byte is written once; no temporary space is used.
    On failure all targets are given up.

    Raises:
        IntegrityError: an object is missing or damaged, or what came back is not what was saved.
        KeyMissingError: no key here opens it.
        RestoreError: a target failed.
    """
    try:
        _fill(vault, contents, targets, contents.plan())
        for target in targets:
            target.commit()
    except BaseException:
        for target in targets:
            target.abort()
        raise


def room_needed(extents: ExtentMap, grain: int) -> int:
    """Return how many bytes a stream takes where room is taken in grains, and zeros take none."""
    data = extents.place != ZERO
    first = extents.starts()[data] // np.uint64(grain)
    last = (extents.starts()[data] + extents.length[data] - np.uint64(1)) // np.uint64(grain)
    shared = int(np.count_nonzero(first[1:] == last[:-1]))
    return (int((last - first).sum()) + len(first) - shared) * grain


def _fill(vault: Vault, contents: Contents, targets: Sequence[Target], work: Plan) -> None:
    with ExitStack() as stack:
        noted, digests = _digests(vault, contents, targets, work, stack)
        _fill_all(vault, contents, targets, work, digests)
        try:
            for number, digest in digests.items():
                for offset, data in _read_back(noted.get(number), targets[number]):
                    digest.add_whole((offset, data))
                digest.check(contents.point)
            for number, stream in enumerate(contents.streams):
                if number not in digests:
                    found = stream_digest(stream.size, targets[number].read_into)
                    require_digest(stream, contents.point, found)
        except IntegrityError:
            require_undamaged(vault.store, work)
            raise


def _digests(
    vault: Vault,
    contents: Contents,
    targets: Sequence[Target],
    work: Plan,
    stack: ExitStack,
) -> tuple[dict[int, Noted], dict[int, BlockDigest]]:
    """Return the digests of the disks, and what notes the blocks to be read back for them."""
    noted: dict[int, Noted] = {}
    digests: dict[int, BlockDigest] = {}
    for number, (stream, target) in enumerate(zip(contents.streams, targets, strict=True)):
        if stream.engine != "blocks":
            continue
        joined: Noted | Assembly
        if _can_be_read(target):
            joined = noted[number] = Noted(stream)
        else:
            joined = stack.enter_context(Assembly(work, number, stream, vault.state))
        digests[number] = BlockDigest(stream, contents.hash_key, joined.take)
    return noted, digests


def _can_be_read(target: Target) -> bool:
    try:
        target.read_into(0, memoryview(bytearray()))
    except RestoreError:
        return False
    return True


def _read_back(noted: Noted | None, target: Target) -> Iterator[Whole]:
    """Yield the blocks that came in pieces, as they were written; each good until the next."""
    if noted is None:
        return
    buffer = memoryview(b"")
    for offset, length in noted.blocks():
        if length > len(buffer):
            buffer = dense(length)
        target.read_into(offset, buffer[:length])
        yield offset, buffer[:length]


def _fill_all(
    vault: Vault,
    contents: Contents,
    targets: Sequence[Target],
    work: Plan,
    digests: Mapping[int, BlockDigest],
) -> None:
    progress = vault.events.progress("restoring", total=work.data_bytes)

    def deliver(number: int, pieces: Pieces, data: memoryview) -> None:
        digest = digests.get(number)
        if digest is not None:
            digest.add(pieces, data)
        at = 0
        for offset, length in pieces:
            targets[number].write(offset, data[at : at + length])
            at += length
        progress.advance(len(data))

    try:
        for extents, target in zip(contents.maps, targets, strict=True):
            _prepare(extents, target)
        _extract(vault, contents, targets, work, deliver)
    finally:
        progress.close()


def _extract(
    vault: Vault, contents: Contents, targets: Sequence[Target], work: Plan, deliver: Deliver
) -> None:
    """Extract what is scattered before what is around it, to be written together with that."""
    gathered = {}
    for number, (stream, extents) in enumerate(zip(contents.streams, contents.maps, strict=True)):
        is_disk = stream.engine == "blocks"
        # A piece of a disk of other blocks may reach over the end of a mebibyte.
        if _can_be_read(targets[number]) and not (is_disk and PIECE % stream.block_size):
            few = _FEW_OF_A_DISK if is_disk else 1
            gathered[number] = Gathered(extents, targets[number], few=few)
    gathering = Gathering(work, gathered, deliver)
    for turns in gathering.turns():
        # The streams' digests prove all that the volumes' would, and cost their share anyway.
        extract(vault.store, vault.sealer, work, gathering, proves=False, turns=turns)


def _prepare(extents: ExtentMap, target: Target) -> None:
    """Zero what is zeros, and take room for the rest, before anything is fetched."""
    columns = (column.tolist() for column in runs_of_zeros(extents))
    for offset, size, zero in zip(*columns, strict=True):
        if zero:
            target.zero(offset, size)
        else:
            target.reserve(offset, size)
