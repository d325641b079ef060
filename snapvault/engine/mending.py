# SPDX-License-Identifier: Apache-2.0
"""Steps of repair that need no older versions: what is written again, and what backups replace."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from snapvault.engine import damages, fetch, metadata
from snapvault.engine.commit import cached_list
from snapvault.engine.repair import Left, Mended, Outcome
from snapvault.engine.vault import Held, Vault, is_there, sync
from snapvault.errors import IntegrityError, KeyMissingError, SealError
from snapvault.formats import emergency_kit, names
from snapvault.model.extents import FIRST_VOLUME, ExtentMap
from snapvault.model.point import ObjectRecord, Point
from snapvault.model.ranges import bytes_in
from snapvault.units import format_count, format_size

KIT = "keys and emergency script"
DATA = "what points need"

_WRITTEN = "written again"
_PREFIXES = (names.META, names.LISTS, names.VOLUMES, names.KEYS)


def write_kit_again(vault: Vault, is_rehearsal: bool) -> Outcome:  # noqa: FBT001 - as Step has it
    """Write public keys, `restore.py` and `RESTORE.md` again, where they are missing.

    Raises:
        StoreError: the vault could not be read or written.
    """
    mended, left = [], []
    for name, content in _kit(vault):
        if isinstance(content, Left):
            left.append(content)
            continue
        if not is_rehearsal:
            vault.store.put(name, content)
        mended.append(Mended(name, _WRITTEN))
    return Outcome(tuple(mended), tuple(left))


def _kit(vault: Vault) -> Iterator[tuple[str, bytes | Left]]:
    """Yield what is missing, with its bytes or why there are none."""
    sealer = vault.sealer
    for fingerprint in sorted({sealer.signer, *sealer.recipients}):
        name = names.public_key(fingerprint)
        if not is_there(vault.store, name):
            yield name, sealer.export(fingerprint)
    if not is_there(vault.store, names.EMERGENCY_TEXT):
        yield names.EMERGENCY_TEXT, emergency_kit.text()
    script, signed = names.EMERGENCY_SCRIPT, names.EMERGENCY_SIGNED
    lacks_script, lacks_signed = (not is_there(vault.store, name) for name in (script, signed))
    if lacks_script and not lacks_signed:
        try:
            found = sealer.read_signed(vault.store.get(signed))
        except IntegrityError as error:
            yield script, Left(f'object "{signed}" is damaged, so "{script}" stays away: {error}')
            return
        if found.fingerprint in sealer.trusted:
            yield script, found.content
            return
        yield (
            script,
            Left(f'object "{signed}" is signed by {found.fingerprint}, whom nobody trusts'),
        )
    elif lacks_signed:
        if not lacks_script and vault.store.get(script) != emergency_kit.script():
            told = f'object "{script}" is of another release, and "{signed}" is gone'
            yield signed, Left(f"{told}; remove the first, and both are written again")
            return
        try:
            yield signed, sealer.sign(emergency_kit.script())
        except (KeyMissingError, SealError) as error:
            yield signed, Left(f'object "{signed}" cannot be signed on this machine: {error}')
            return
        if lacks_script:
            yield script, emergency_kit.script()


def look_at_data(vault: Vault, is_rehearsal: bool) -> Outcome:  # noqa: FBT001 - as Step has it
    """Find what points lack, note it for the next backups, and say what it costs which point.

    What was noted before is read again: it may be right by now.

    Raises:
        StoreError: the vault could not be read.
    """
    held = [each for each in sync(vault).held if not each.missing]
    users = _users(vault, held)
    bad = _bad(vault, users)
    noted = damages.known(vault)
    if not is_rehearsal:
        damages.remember(vault, bad, (each.name for each in users if each.name not in bad))
    mended = [
        Mended(record.name, "is right again", tuple(dict.fromkeys(points)))
        for record, points in users.items()
        if record.name in noted and record.name not in bad
    ]
    left = [
        Left(f"{bad[record.name]}", tuple(dict.fromkeys(points)))
        for record, points in users.items()
        if record.name in bad
    ]
    left += _losses(vault, held, users, frozenset(bad))
    return Outcome(tuple(mended), tuple(left))


def _users(vault: Vault, held: Sequence[Held]) -> dict[ObjectRecord, list[str]]:
    """Return every object that points need, with their ids."""
    users: dict[ObjectRecord, list[str]] = defaultdict(list)
    lists: dict[ObjectRecord, list[str]] = defaultdict(list)
    for each in held:
        for record in (*each.point.objects, each.point.hash_key):
            users[record].append(each.point.point)
        for record in each.point.lists:
            lists[record].append(each.point.point)
    for record, points in lists.items():
        users[record] += points
        try:
            volumes = cached_list(vault, record)
        except IntegrityError:
            continue  # it is told of as an object itself
        for volume in volumes:
            users[fetch.object_of(volume)] += points
    return users


def _bad(vault: Vault, users: Iterable[ObjectRecord]) -> dict[str, IntegrityError]:
    """Return what is missing, of another size, or was found damaged and still is."""
    sizes = {found.name: found.size for prefix in _PREFIXES for found in vault.store.names(prefix)}
    noted = damages.known(vault)
    bad = {}
    for record in users:
        if record.name not in sizes:
            bad[record.name] = fetch.missing(record)
        elif sizes[record.name] != record.size:
            bad[record.name] = fetch.damaged(record)
        elif record.name in noted:
            try:
                fetch.require_undamaged(vault.store, record)
            except IntegrityError as error:
                bad[record.name] = error
    return bad


def _losses(
    vault: Vault,
    held: Sequence[Held],
    users: dict[ObjectRecord, list[str]],
    bad: frozenset[str],
) -> Iterator[Left]:
    """Say what each point has lost, and of the newest ones that the next backup brings it back."""
    hurt = {point for record, points in users.items() if record.name in bad for point in points}
    newest = {each.point.source: each.point.point for each in held}
    for each in held:
        point = each.point
        if point.point not in hurt:
            continue
        lost = _lost(vault, point, bad)
        told = f'restore point "{point.point}" of source "{point.source}" lacks {lost}'
        if newest[point.source] == point.point:
            told += f'; "snapvault backup {point.source}" stores again what the source still has'
        yield Left(told, (point.point,))


def _lost(vault: Vault, point: Point, bad: frozenset[str]) -> str:
    """Say which bytes of which streams cannot be restored."""
    try:
        maps = metadata.read_maps(vault, point, point.streams)
    except KeyMissingError:
        return "some data; its maps cannot be opened on this machine"
    except IntegrityError as error:
        return f"the maps of its streams: {error}"
    told = [
        _lost_of(stream.name, ranges)
        for stream, extents in zip(point.streams, maps, strict=True)
        if (ranges := _ranges(extents, bad))
    ]
    return "; ".join(told) or "nothing that a restore needs"


def _lost_of(stream: str, ranges: Sequence[tuple[int, int]]) -> str:
    size = format_size(bytes_in(ranges))
    return (
        f'{size} of stream "{stream}", in {format_count(len(ranges), "range")}, '
        f"the first from byte {ranges[0][0]} to {ranges[0][1]}"
    )


def _ranges(extents: ExtentMap, bad: frozenset[str]) -> list[tuple[int, int]]:
    """Return the ranges of a stream that lie in volumes which are not right, joined."""
    lost = np.zeros(FIRST_VOLUME + len(extents.volumes), dtype=bool)
    lost[FIRST_VOLUME:] = [names.volume(volume) in bad for volume in extents.volumes]
    rows = np.flatnonzero(lost[extents.place])
    starts = extents.starts()[rows]
    found: list[tuple[int, int]] = []
    for begin, length in zip(starts.tolist(), extents.length[rows].tolist(), strict=True):
        if found and found[-1][1] == begin:
            found[-1] = found[-1][0], begin + length
        else:
            found.append((begin, begin + length))
    return found
