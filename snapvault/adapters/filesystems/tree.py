# SPDX-License-Identifier: Apache-2.0
"""What all file systems have in common: paths, and folders that were looked into lately."""

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from snapvault.adapters.filesystems.pages import LIBRARY_ERRORS, Pages
from snapvault.errors import RestoreError
from snapvault.ports.browsing import Entry, EntryKind

_KEPT: Final = 512  # folders
_IMPOSSIBLE: Final = {"", ".", ".."}


class Tree(ABC):
    """A file system of which a library knows how to read folders and files by their numbers.

    Libraries are no friends of threads: one call at a time.
    """

    def __init__(self, pages: Pages, kind: str, name: str) -> None:
        self._pages = pages
        self._kind = kind
        self._name = name
        self._lock = threading.Lock()
        self._folders: OrderedDict[int, Mapping[str, Entry]] = OrderedDict()

    @property
    def kind(self) -> str:
        """What Linux calls it."""
        return self._kind

    def find(self, path: str) -> Entry | None:
        """Return what a path names, or None; as the port."""
        with self._library():
            return self._find(path)

    def list(self, path: str) -> Sequence[Entry]:
        """Return what a folder holds, sorted by name; as the port."""
        with self._library():
            folder = self._find(path)
            if folder is None or folder.kind is not EntryKind.FOLDER:
                raise RestoreError(f'there is no folder "{path}" in "{self._name}"')
            children = self._children(folder)
        return sorted(children.values(), key=lambda entry: entry.name)

    def read(self, entry: Entry, offset: int, length: int) -> bytes:
        """Return bytes of a file; as the port."""
        length = max(0, min(length, entry.size - offset))
        if not length:
            return b""
        with self._library():
            return self._read(entry.number, offset, length)

    @abstractmethod
    def _root(self) -> Entry:
        """Return the folder that holds everything."""

    @abstractmethod
    def _entries(self, number: int) -> Iterable[Entry]:
        """Return what the library finds in a folder, whatever names that has."""

    @abstractmethod
    def _read(self, number: int, offset: int, length: int) -> bytes:
        """Return bytes of a file, all of which lie in it."""

    def _find(self, path: str) -> Entry | None:
        entry = self._root()
        for name in path.split("/") if path else ():
            if entry.kind is not EntryKind.FOLDER:
                return None
            child = self._children(entry).get(name)
            if child is None:
                return None
            entry = child
        return entry

    def _children(self, folder: Entry) -> Mapping[str, Entry]:
        known = self._folders.get(folder.number)
        if known is not None:
            self._folders.move_to_end(folder.number)
            return known
        found: dict[str, Entry] = {}
        for entry in self._entries(folder.number):
            # A damaged or hostile file system may hold any name, and one twice.
            if entry.name not in _IMPOSSIBLE and "/" not in entry.name and "\0" not in entry.name:
                found.setdefault(entry.name, entry)
        self._pages.raise_failure()
        self._folders[folder.number] = found
        if len(self._folders) > _KEPT:
            self._folders.popitem(last=False)
        return found

    @contextmanager
    def _library(self) -> Iterator[None]:
        """Let one thread at a time in, and tell what went wrong as what it is."""
        with self._lock:
            try:
                yield
            except LIBRARY_ERRORS as error:
                self._pages.raise_failure()
                said = str(error).strip().splitlines()
                raise RestoreError(
                    f'the {self._kind} file system of "{self._name}" cannot be read:'
                    f" {said[-1] if said else type(error).__name__}",
                    hint="Check it with the file system's own tool: every disk is also there as"
                    ' one file in what "snapvault mount" shows.',
                ) from error
            self._pages.raise_failure()
