# SPDX-License-Identifier: Apache-2.0
"""A step of repair: objects that were removed or replaced, brought back from underneath.

In an order in which each proves the next: what hosts noted, then manifests, then the lists that
those name, then all that points need.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from snapvault.engine import fetch, notes, underneath
from snapvault.engine.repair import Left, Mended, Outcome
from snapvault.engine.underneath import Hidden
from snapvault.engine.vault import Held, Vault, held_of, prove_manifest, sync
from snapvault.errors import IntegrityError, SnapVaultError
from snapvault.formats import names, volume_list
from snapvault.model.point import ObjectRecord
from snapvault.ports.versions import StoreVersions, Version

NAME = "what lies underneath"
_NAMED = (names.META, names.LISTS, names.VOLUMES)  # manifests say what these have to be
_SIGNED = (names.HOLDS, names.PRUNES, names.DRILLS)
_PASSING = "probe/"
_UNSIGNED = "; nothing signed says what it has to be"


def uncover(vault: Vault, is_rehearsal: bool) -> Outcome:  # noqa: FBT001 - as Step has it
    """Bring back what lies underneath; of a rehearsal, say what would be.

    Raises:
        StoreError: the versions could not be listed or read.
    """
    if vault.versions is None:
        return Outcome()
    work = _Work(vault, vault.versions, is_rehearsal)
    work.run()
    return Outcome(tuple(work.mended), tuple(work.left))


def hidden_records(vault: Vault) -> tuple[Hidden, ...]:
    """Return the manifests and notes that are hidden: what a host that knows nothing can find.

    Raises:
        StoreError: the versions could not be listed or read.
    """
    if vault.versions is None:
        return ()
    work = _Work(vault, vault.versions, is_rehearsal=True, prefixes=(*_SIGNED[:2], names.POINTS))
    return (*work.of_notes(), *work.of_manifests())


@dataclass(slots=True)
class _Work:
    vault: Vault
    versions: StoreVersions
    is_rehearsal: bool
    prefixes: tuple[str, ...] = ("",)
    mended: list[Mended] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    _own: dict[str, list[Version]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for prefix in self.prefixes:
            self._own |= underneath.by_name(self.versions.versions(prefix))

    def run(self) -> None:
        self._bring_back(self.of_notes())
        self._bring_back(self._of_others(), _UNSIGNED)
        manifests = self.of_manifests()
        self._bring_back(manifests)
        points = [each.point for each in self._points(manifests)]
        users: dict[ObjectRecord, list[str]] = defaultdict(list)
        lists: dict[ObjectRecord, list[str]] = defaultdict(list)
        for point in points:
            for record in (*point.objects, point.hash_key):
                users[record].append(point.point)
            for record in point.lists:
                lists[record].append(point.point)
        self._bring_back(self._of_records(lists), users=_by_name(lists))
        for record, ids in lists.items():
            for volume in self._volumes(record):
                users[volume] += ids
        self._bring_back(self._of_records(users), users=_by_name(users))
        self._say_what_is_gone(users | lists)

    def of_notes(self) -> list[Hidden]:
        """Return the holds, records of prunes and reports that are hidden: nobody removes any."""
        return [
            one
            for name, own in self._own.items()
            if name.startswith(_SIGNED) and (one := self._choose(own, self._is_signed)) is not None
        ]

    def of_manifests(self) -> list[Hidden]:
        """Return the manifests that are hidden, but for those that a prune took away."""
        pruned = notes.removed_points(notes.prunes(self.vault))
        found = []
        for name, own in self._own.items():
            parsed = names.parse_point(name)
            if parsed is None:
                continue
            one = self._choose(own, self._is_manifest)
            if one is None:
                continue
            digest = underneath.digest_of(self.versions, one.right)
            if (parsed[1], digest) not in pruned:
                found.append(one)
        return found

    def _of_others(self) -> list[Hidden]:
        """Return what else is hidden: keys, `vault.json`, the emergency kit. It never goes."""
        found = []
        for name, own in self._own.items():
            if name.startswith((*_NAMED, *_SIGNED, names.POINTS, _PASSING)):
                continue
            bytes_of = [each for each in own if not each.is_marker]
            if bytes_of and own[0].is_marker:
                above = tuple(each for each in own if each is not bytes_of[-1])
                found.append(Hidden(name, bytes_of[-1], above))
        return found

    def _of_records(self, records: Iterable[ObjectRecord]) -> list[Hidden]:
        hidden = (
            underneath.hidden(self.versions, self._own.get(record.name, ()), record)
            for record in records
        )
        return [each for each in hidden if each is not None]

    def _choose(self, own: list[Version], is_right: Callable[[Version], bool]) -> Hidden | None:
        candidates = [each for each in own if not each.is_marker]
        return underneath.choose(own, candidates, is_right, is_cheap=True)

    def _is_signed(self, version: Version) -> bool:
        try:
            content = underneath.content_of(self.versions, version)
            signed = self.vault.sealer.read_signed(content)
        except SnapVaultError:
            return False
        # Reports may be signed by keys of their own; whoever reads them looks at that.
        is_report = version.name.startswith(names.DRILLS)
        return is_report or signed.fingerprint in self.vault.sealer.trusted

    def _is_manifest(self, version: Version) -> bool:
        try:
            content = underneath.content_of(self.versions, version)
            prove_manifest(self.vault, version.name, content)
        except SnapVaultError:
            return False
        return True

    def _points(self, hidden: Iterable[Hidden]) -> list[Held]:
        """Return the points that are there; of a rehearsal, also those that would be."""
        held = [each for each in sync(self.vault).held if not each.missing]
        if not self.is_rehearsal:
            return held
        there = {each.manifest.name for each in held}
        for one in hidden:
            if one.name not in there and one.name.startswith(names.POINTS):
                content = underneath.content_of(self.versions, one.right)
                held.append(held_of(prove_manifest(self.vault, one.name, content)))
        return held

    def _volumes(self, record: ObjectRecord) -> list[ObjectRecord]:
        """Return the volumes of a list, wherever it lies; none of one that is lost."""
        try:
            return [fetch.object_of(each) for each in fetch.get_list(self.vault.store, record)]
        except IntegrityError:
            pass
        own = self._own.get(record.name, ())
        one = underneath.hidden(self.versions, own, record)
        if one is None:
            return []
        content = underneath.content_of(self.versions, one.right)
        return [fetch.object_of(each) for each in volume_list.decode(content)]

    def _bring_back(
        self,
        hidden: Iterable[Hidden],
        remark: str = "",
        *,
        users: Mapping[str, list[str]] | None = None,
    ) -> None:
        done = {each.name for each in self.mended}
        for one in hidden:
            if one.name in done:
                continue  # of one kind and of another: a key that manifests name
            points = tuple(dict.fromkeys((users or {}).get(one.name, ())))
            if self.is_rehearsal:
                self.mended.append(Mended(one.name, one.told + remark, points))
                continue
            try:
                how = underneath.uncover(self.versions, one)
                found = self.vault.store.stat(one.name).size
            except SnapVaultError as error:
                self.left.append(
                    Left(f'object "{one.name}" is {one.told}, and stays so: {error}', points)
                )
                continue
            if found == one.right.size:
                self.mended.append(Mended(one.name, how + remark, points))
            else:
                self.left.append(Left(f'object "{one.name}" is hidden again', points))

    def _say_what_is_gone(self, users: Mapping[ObjectRecord, list[str]]) -> None:
        """Tell of what points need and no version has: other steps may know where else it is."""
        mended = {each.name for each in self.mended}
        for record, points in users.items():
            own = self._own.get(record.name, ())
            latest = next((each for each in own if each.is_latest), None)
            is_there = latest is not None and not latest.is_marker and latest.size == record.size
            if not is_there and record.name not in mended:
                error = fetch.missing(record) if latest is None else fetch.damaged(record)
                self.left.append(
                    Left(f"{error}; nothing right lies underneath", tuple(dict.fromkeys(points)))
                )


def _by_name(users: Mapping[ObjectRecord, list[str]]) -> dict[str, list[str]]:
    return {record.name: points for record, points in users.items()}
