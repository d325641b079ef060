# SPDX-License-Identifier: Apache-2.0
"""What thin pools know: which chunks of a snapshot are mapped, and which differ from an older one.

A pool's metadata is read from its metadata snapshot, of which there is one for a pool and
for everybody. It is taken for the second or two that thin_delta needs, and always given back.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from snapvault import clock
from snapvault.adapters import command
from snapvault.adapters.sources import lvm_commands, lvm_mapper
from snapvault.adapters.sources.lvm_commands import Volume, environment
from snapvault.adapters.sources.lvm_mapper import Device
from snapvault.adapters.sources.lvm_names import RESERVING
from snapvault.adapters.sources.thin_delta import DeltaError, DeltaParser
from snapvault.adapters.sources.thin_ranges import Ranges
from snapvault.errors import SourceError

TOOL: Final = "thin_delta"

_OLDEST: Final = (0, 7, 4)  # QUIRK: thin_delta before 0.7.4 misses differences
_SECONDS: Final = 1800.0  # for one delta
# Seconds that another run of ours may hold the metadata snapshot: for one delta, at least. To wait
# for it costs less than to read everything.
_PATIENCE: Final = 1800.0
_PIECE: Final = 1 << 20
_VERSION: Final = re.compile(r"(\d{1,5})\.(\d{1,5})\.(\d{1,5})")


@dataclass(frozen=True, slots=True)
class Pool:
    """A thin pool: what LVM calls it, its device, and the path of its metadata's."""

    volume: Volume
    device: Device
    metadata_path: str


@dataclass(frozen=True, slots=True)
class Delta:
    """What may be more than zeros in a volume now, and what may differ from the older one."""

    mapped: Ranges
    changed: Ranges


def require_tool() -> str:
    """Return the version of thin_delta.

    Raises:
        SourceError: it is not there, or too old to be believed.
    """
    try:
        command.require([TOOL], environment=environment())
    except SourceError as error:
        raise SourceError(
            f'program "{TOOL}" is not there',
            hint='Install package "thin-provisioning-tools" ("device-mapper-persistent-data" on'
            " Fedora and its kin); without it, thin volumes are read as a whole.",
        ) from error
    said = command.run([TOOL, "-V"], environment=environment(), timeout=60, check=False)
    version = said.stdout.decode(errors="replace").strip()
    if is_too_old(version):
        raise SourceError(
            f'program "{TOOL}" is older than {".".join(map(str, _OLDEST))}, and misses changes',
            hint='Install a newer package "thin-provisioning-tools".',
        )
    return version


def is_too_old(version: str) -> bool:
    """Tell whether a version of thin_delta misses changes; one that cannot be read does."""
    found = _VERSION.search(version)
    return found is None or tuple(int(part) for part in found.groups()) < _OLDEST


@contextmanager
def reserved(pool: Pool) -> Iterator[None]:
    """Hold a pool's metadata snapshot: what `read_delta` reads is the pool of this moment.

    Raises:
        SourceError: somebody else holds it, or the pool refuses.
    """
    # The lock keeps runs of ours, on the same pool, apart. It is on the metadata's own device,
    # so that all agree on it and nothing is left lying around.
    with _locked(pool.metadata_path):
        _require_free(pool)
        # ORDER: the tag comes before the metadata snapshot and goes after it. A host that loses
        # power between them finds a metadata snapshot and our tag, and no other run of ours:
        # then it is ours. Without the tag it is somebody else's, and stays.
        with command.guard(_release_argv(pool), environment=environment()):
            is_ours = True
            try:
                lvm_commands.tag(pool.volume, RESERVING)
                try:
                    lvm_mapper.message(pool.device, "reserve_metadata_snap")
                except SourceError:
                    is_ours = False  # somebody else was quicker
                    raise
                yield
            finally:
                # Not there if a signal came before it was.
                if is_ours and lvm_mapper.metadata_snapshot_of(pool.device) is not None:
                    lvm_mapper.message(pool.device, "release_metadata_snap")
                lvm_commands.untag(pool.volume, RESERVING)


def read_delta(pool: Pool, old: int, new: int, size: int) -> Delta:
    """Compare two thin volumes, by their ids, under `reserved`; the newer has `size` bytes.

    With one id for both, nothing is changed and all that is mapped is told.

    Raises:
        SourceError: thin_delta fails, or tells what cannot be.
    """
    parser = DeltaParser(old, new, size=size, grain=pool.volume.chunk_size)
    # QUIRK: from 1.0 on, a word after "-m" that is no option is taken for a block's number.
    argv = [TOOL, "-m", "--snap1", str(old), "--snap2", str(new), pool.metadata_path]
    try:
        with command.stream(
            argv, environment=environment(), timeout=_SECONDS, parsed=True
        ) as program:
            while piece := program.read(_PIECE):
                parser.feed(piece)
        parser.finish()
    except DeltaError as error:
        raise SourceError(f'what "{TOOL}" tells cannot be used: {error}') from error
    return Delta(parser.mapped, parser.changed)


def _require_free(pool: Pool) -> None:
    """Give back what a run of ours left when it lost its power; refuse what is somebody else's."""
    if lvm_mapper.metadata_snapshot_of(pool.device) is None:
        return
    tags = next(
        (each.tags for each in lvm_commands.list_volumes() if each.uuid == pool.volume.uuid),
        frozenset(),
    )
    if RESERVING not in tags:
        raise SourceError(
            f'somebody else holds the metadata snapshot of thin pool "{pool.volume.full_name}"',
            hint="If nothing uses it, a program died with it; give it back with:"
            f" {' '.join(lvm_mapper.message_argv(pool.device, 'release_metadata_snap'))}",
        )
    lvm_mapper.message(pool.device, "release_metadata_snap")


def _release_argv(pool: Pool) -> list[str]:
    """Return the command that gives all back when we are killed."""
    release = lvm_mapper.message_argv(pool.device, "release_metadata_snap")
    untag = ["lvchange", "--deltag", RESERVING, pool.volume.full_name]
    script = '"$1" "$2" "$3" "$4" "$5" "$6" "$7" "$8"; shift 8; "$@"'
    return ["/bin/sh", "-c", script, "sh", *release, *untag]


@contextmanager
def _locked(path: str) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f'could not open "{path}": {(error.strerror or "").lower()}') from error
    try:
        deadline = clock.monotonic() + _PATIENCE
        while not _try_lock(descriptor):
            if clock.monotonic() > deadline:
                raise SourceError("another backup holds the thin pool's metadata snapshot")
            clock.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
