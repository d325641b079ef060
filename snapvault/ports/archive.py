# SPDX-License-Identifier: Apache-2.0
"""The archive of a store: objects that have to be asked for, hours before they can be read."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Tier(StrEnum):
    """How fast an object is thawed: the faster, the dearer."""

    BULK = "Bulk"
    STANDARD = "Standard"
    EXPEDITED = "Expedited"


class Frost(StrEnum):
    """How an object lies in a store."""

    READABLE = "readable"
    FROZEN = "frozen"
    THAWING = "thawing"


@dataclass(frozen=True, slots=True)
class Lying:
    """How an object lies, and in which storage class."""

    frost: Frost
    storage_class: str


@dataclass(frozen=True, slots=True)
class ClassTraits:
    """What a probe of a storage class found: whether it is kept, and whether it needs a thaw."""

    keeps: bool
    freezes: bool


class Archive(Protocol):
    """The right to look how objects lie and to thaw them. Safe from several threads."""

    def look(self, name: str) -> Lying:
        """Return how an object lies.

        Raises: as `StoreReader.stat`.
        """
        ...

    def thaw(self, name: str, *, tier: Tier, days: int) -> None:
        """Ask for a copy of an object that can be read for some days. Safe to repeat.

        Raises:
            StoreError: the store does not do that.
            As `StoreReader.stat`.
        """
        ...

    def probe(self, storage_class: str) -> ClassTraits:
        """Put a small object of a class under `probe/`, try to read it, and delete it.

        Raises:
            StoreError: the store does not have the class.
        """
        ...
