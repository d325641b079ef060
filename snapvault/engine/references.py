# SPDX-License-Identifier: Apache-2.0
"""Which objects restore points need, counted over lists and not over points.

A thousand points share most of their lists, and a list has a thousand volumes: each list is
read once, and then is a few numbers.
"""

from array import array
from collections.abc import Iterable, Mapping

import numpy as np

from snapvault.engine.commit import cached_list
from snapvault.engine.vault import Vault
from snapvault.errors import IntegrityError
from snapvault.formats import names
from snapvault.model.point import ObjectRecord, Point
from snapvault.ports.store import StoredObject


class References:
    """What points of one vault refer to. Lists are fetched as they are asked for, each once."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._sizes = array("q")
        self._lists: dict[ObjectRecord, np.ndarray[tuple[int], np.dtype[np.int32]]] = {}
        self._unreadable: dict[ObjectRecord, IntegrityError] = {}

    def problems(
        self, points: Iterable[Point], there: Mapping[str, StoredObject]
    ) -> dict[str, str]:
        """Return what the vault lacks of each point, by id; `there` are its objects.

        Raises:
            StoreError: a list could not be read, for another reason than that it is damaged.
        """
        found: dict[str, str] = {}
        lacking: dict[ObjectRecord, str | None] = {}
        for point in points:
            for record in point.objects:
                if not _has(there, record.name, record.size):
                    found.setdefault(point.point, _lacks(record.name))
            for record in point.lists:
                if record not in lacking:
                    lacking[record] = self._lacks_of(record, there)
                told = lacking[record]
                if told is not None:
                    found.setdefault(point.point, told)
        return found

    def named_by(self, points: Iterable[Point]) -> set[str]:
        """Return the names of all metadata, lists and volumes that points need.

        Raises:
            IntegrityError: a list cannot be read, so nobody knows.
        """
        found: set[str] = set()
        lists: dict[ObjectRecord, None] = {}
        for point in points:
            found.update(record.name for record in point.objects)
            lists.update(dict.fromkeys(point.lists))
        numbers = [self._numbers_of(record) for record in lists]
        found.update(record.name for record in lists)
        is_named = np.zeros(len(self._numbers), dtype=bool)
        for each in numbers:
            is_named[each] = True
        found.update(name for name, number in self._numbers.items() if is_named[number])
        return found

    def _lacks_of(self, record: ObjectRecord, there: Mapping[str, StoredObject]) -> str | None:
        if not _has(there, record.name, record.size):
            return _lacks(record.name)
        try:
            numbers = self._numbers_of(record)
        except IntegrityError as error:
            return str(error)
        for number in numbers.tolist():
            name = self._names[number]
            if not _has(there, name, self._sizes[number]):
                return _lacks(name)
        return None

    def _numbers_of(self, record: ObjectRecord) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
        if record in self._unreadable:
            raise self._unreadable[record]
        if record not in self._lists:
            try:
                volumes = cached_list(self._vault, record)
            except IntegrityError as error:
                self._unreadable[record] = error
                raise
            numbers = []
            for each in volumes:
                name = names.volume(each.volume)
                number = self._numbers.setdefault(name, len(self._names))
                if number == len(self._names):
                    self._names.append(name)
                    self._sizes.append(each.size)
                numbers.append(number)
            self._lists[record] = np.array(numbers, dtype=np.int32)
        return self._lists[record]


def _has(there: Mapping[str, StoredObject], name: str, size: int) -> bool:
    found = there.get(name)
    return found is not None and found.size == size


def _lacks(name: str) -> str:
    return f'object "{name}" is missing, or has another size'
