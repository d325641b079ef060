# SPDX-License-Identifier: Apache-2.0
"""Rehearsing data as it is: disks block by block, and the archives of folders file by file."""

import math
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import IO, Final

from snapvault.engine.contents import Contents
from snapvault.engine.drill_choice import chance
from snapvault.engine.drill_notes import NOT_RESTORED, Notes, Tools, origin_of
from snapvault.engine.drill_restore import bring_back, without_key
from snapvault.engine.extract import Plan
from snapvault.engine.mixed import is_part
from snapvault.engine.random_access import Disk, open_point
from snapvault.errors import DrillError, KeyMissingError
from snapvault.model.drills import Phase, Result, Verdict
from snapvault.model.point import StreamRecord
from snapvault.model.policy import DirectorySpec
from snapvault.model.rehearsal import FilesDrill
from snapvault.units import format_count, format_size

_CACHE: Final = 4 << 30  # bytes of volumes
_PARTS: Final = 64  # of blocks that lie in other volumes too, proven of each volume
_PIECE: Final = 1 << 20
_NAMED: Final = 3  # files, in a message
_LIVE: Final = "files are as they are in the live folder"


def rehearse(notes: Notes, tools: Tools, kind: FilesDrill, contents: Contents, seed: int) -> None:
    """Prove the data of a point, and look into its archives."""
    later = [_path_name(path) for path in kind.paths] + ([_LIVE] if kind.compare_live else [])
    sampled = [
        stream.engine == "blocks" and kind.sample_percent < 100 for stream in contents.streams
    ]
    whole = contents.only([not each for each in sampled])
    paths: Mapping[str, Path] = {}
    try:
        if whole.streams:
            paths = bring_back(notes, tools, whole)
            for stream in whole.streams:
                reason = f"{format_size(stream.size)}, all of it as it was backed up"
                notes.add(_data_name(stream), Verdict.PASSED, reason)
        if any(sampled):
            _sample(notes, contents.only(sampled), kind.sample_percent, seed)
    except BaseException:
        notes.skip(later, NOT_RESTORED)
        raise
    archives = _archives(notes, contents.streams, paths)
    with notes.phases.at(Phase.VERIFY):
        if archives:
            _look_into(notes, kind, archives, contents.point.taken_at)
        else:
            reason = "the restore point has no archive of a folder"
            for path in kind.paths:
                notes.add(_path_name(path), Verdict.FAILED, reason)
            notes.skip([_LIVE] if kind.compare_live else [], reason)
    notes.ready = notes.phases.elapsed


def _data_name(stream: StreamRecord) -> str:
    return f'data of stream "{stream.name}"'


def _path_name(path: str) -> str:
    return f'path "{path}" is there'


# --- a sample of disks ------------------------------------------------------------------------


def _sample(notes: Notes, contents: Contents, percent: float, seed: int) -> None:
    """Fetch some volumes, picked by chance, and prove every block of the disks in them."""
    plan = contents.plan()
    count = min(len(plan.volumes), math.ceil(len(plan.volumes) * percent / 100))
    picked = sorted(
        chance(seed, f"{notes.source.name}/sample").sample(range(len(plan.volumes)), count)
    )
    folder = notes.folder / "cache"
    folder.mkdir(mode=0o700)
    proven = 0
    notes.meters.begin_restore()
    with (
        notes.phases.restoring(notes.meters),
        open_point(notes.vault, contents, folder=folder, limit=_CACHE) as served,
    ):
        for number in picked:
            pick = chance(seed, f"{notes.source.name}/{plan.volumes[number].volume}")
            for stream, offset, length in _of_volume(plan, number, contents.streams, pick):
                _prove(notes, served.disks[stream], offset, length)
                proven += length
    said = (
        f"{format_size(proven)} in {count} of {format_count(len(plan.volumes), 'volume')},"
        " every block as it was backed up"
    )
    notes.counters["proven_bytes"] = proven
    for each in contents.streams:
        notes.add(_data_name(each), Verdict.PASSED, said)
    if notes.restored is None:
        notes.restored = Result(Verdict.PASSED, f"a sample: {said}")


def _of_volume(
    plan: Plan, number: int, streams: Sequence[StreamRecord], pick: Random
) -> Iterator[tuple[int, int, int]]:
    """Yield stream, offset and length of what is proven of a volume.

    A block is proven as a whole: where a part of one lies here, the rest is fetched from other
    volumes. A night's volume may hold parts of blocks that lie all over the disk, so of these only
    some are proven.
    """
    rows = plan.rows(number)
    columns = plan.stream[rows], plan.offset[rows], plan.length[rows]
    parts = []
    for piece in zip(*(column.tolist() for column in columns), strict=True):
        stream, offset, length = piece
        if is_part(streams[stream], offset, length):
            parts.append(piece)
        else:
            yield piece
    yield from sorted(pick.sample(parts, min(len(parts), _PARTS)))


def _prove(notes: Notes, disk: Disk, offset: int, length: int) -> None:
    try:
        disk.read(offset, length)
    except KeyMissingError as error:
        raise without_key(notes, error) from error


# --- archives ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Archive:
    """A folder's archive, restored, and the folder that it was made of."""

    stream: str
    path: Path
    live: Path


@dataclass(slots=True)
class _Comparison:
    """Files of archives, held against those that are live."""

    equal: int = 0
    unlike: list[str] = field(default_factory=list)
    changing: int = 0
    unreadable: int = 0

    def left_out(self) -> str:
        """Say which files prove nothing, each with its reason; empty: none."""
        said = []
        if self.changing:
            said.append(f"{format_count(self.changing, 'file')} changed while it was compared")
        if self.unreadable:
            said.append(f"{format_count(self.unreadable, 'live file')} could not be read")
        return ", ".join(said)


def _archives(
    notes: Notes, streams: Sequence[StreamRecord], paths: Mapping[str, Path]
) -> list[_Archive]:
    found = []
    for stream in streams:
        spec = origin_of(notes.source, stream.name)
        if isinstance(spec, DirectorySpec) and stream.name in paths:
            found.append(_Archive(stream.name, paths[stream.name], spec.path))
    return found


def _look_into(
    notes: Notes, kind: FilesDrill, archives: Sequence[_Archive], taken_at: datetime
) -> None:
    """Read archives to their ends, once, and make all checks on the way."""
    wanted = {path: posixpath.normpath(path.lstrip("/") or ".") for path in kind.paths}
    looked_for = set(wanted.values())
    seen: dict[str, str] = {}
    compared = _Comparison()

    def read(archive: _Archive) -> str:
        count = 0
        with _opened(archive) as tar:
            for member in tar:
                count += 1
                name = posixpath.normpath(member.name)
                if name in looked_for:
                    seen[name] = archive.stream
                if kind.compare_live and member.isreg():
                    _compare(tar, member, archive, name, taken_at.timestamp(), compared)
        return format_count(count, "entry", "entries")

    readable = [
        notes.attempt(f'archive "{each.stream}" can be read', partial(read, each))
        for each in archives
    ]
    for path, name in wanted.items():
        if name in seen:
            notes.add(_path_name(path), Verdict.PASSED, f'it is in archive "{seen[name]}"')
        elif all(readable):
            notes.add(_path_name(path), Verdict.FAILED, "it is not in the archive")
        else:
            notes.skip([_path_name(path)], "not all of the archive could be read")
    if kind.compare_live:
        _tell_comparison(notes, compared)


def _tell_comparison(notes: Notes, compared: _Comparison) -> None:
    if compared.unlike:
        more = len(compared.unlike) - _NAMED
        said = ", ".join(f'"{name}"' for name in compared.unlike[:_NAMED])
        said += f" and {more} more" if more > 0 else ""
        notes.add(_LIVE, Verdict.FAILED, f"not changed since the backup, and different: {said}")
        return
    left_out = compared.left_out()
    if compared.equal:
        verb = "is" if compared.equal == 1 else "are"
        said = f"{format_count(compared.equal, 'file')} that did not change since the backup"
        rest = f"; left out: {left_out}" if left_out else ""
        notes.add(_LIVE, Verdict.PASSED, f"{said} {verb} equal{rest}")
    else:
        nothing = "no live file is there that did not change since the backup"
        notes.skip([_LIVE], left_out or nothing)


@contextmanager
def _opened(archive: _Archive) -> Iterator[tarfile.TarFile]:
    """Open an archive; what it is found to be is an error with its name."""
    try:
        with tarfile.open(archive.path, "r:") as tar:
            yield tar
    except tarfile.TarError as error:
        raise DrillError(f'archive "{archive.stream}" is none that can be read: {error}') from error


def _compare(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    archive: _Archive,
    name: str,
    taken_at: float,
    compared: _Comparison,
) -> None:
    """Compare a file with the live one, if that did not change since `taken_at`."""
    try:
        descriptor = os.open(archive.live / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return  # it is gone, or nothing that we may read
    with os.fdopen(descriptor, "rb") as live:
        before = os.fstat(live.fileno())
        # The time of the last change of status too: what is moved here keeps its own other time.
        changed = max(before.st_mtime, before.st_ctime)
        if not stat.S_ISREG(before.st_mode) or changed >= taken_at:
            return
        kept = tar.extractfile(member)
        try:
            is_equal = before.st_size == member.size and kept is not None and _is_equal(live, kept)
            after = os.fstat(live.fileno())
        except _LiveReadError:
            compared.unreadable += 1
            return
    # Who writes a file while we read it makes it different from the backup, which is no damage.
    if _state_of(after) != _state_of(before):
        compared.changing += 1
    elif is_equal:
        compared.equal += 1
    else:
        compared.unlike.append(str(archive.live / name))


def _state_of(found: os.stat_result) -> tuple[int, int, int]:
    """Return what of a file changes whenever its content does."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class _LiveReadError(Exception):
    """A live file could not be read, which says nothing of the backup."""


def _is_equal(live: IO[bytes], kept: IO[bytes]) -> bool:
    while True:
        other = kept.read(_PIECE)
        try:
            one = live.read(_PIECE)
        except OSError as error:
            raise _LiveReadError from error
        if one != other:
            return False
        if not one:
            return True
