# SPDX-License-Identifier: Apache-2.0
"""Which members of an archive a restore takes."""

import os
from collections.abc import Sequence

from snapvault.adapters.targets.tree_members import Member

_SIBLINGS = 1000  # names kept for hints


class Selection:
    """Some paths with all that lies below them, and the folders above them.

    Paths are relative to the archived folder; "." is everything. `links` are the names, outside
    of the selection, of files that selected hard links are other names of: an archive has a file's
    bytes once, under its first name. Once `fetch_links` was called they are taken too.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = {os.fsencode(path): path for path in paths}
        self._unseen = set(self._paths)
        self._above = {above for path in self._paths for above in _folders_above(path)}
        self._near: dict[str, None] = {}
        self._fetched: frozenset[bytes] = frozenset()
        self.links: set[bytes] = set()

    @property
    def fetched(self) -> frozenset[bytes]:
        """Names of what is taken for the sake of links only."""
        return self._fetched

    def fetch_links(self) -> None:
        """From now on take what selected hard links need."""
        self._fetched = frozenset(self.links)

    def missing(self) -> list[str]:
        """Return the paths that no member had so far, in order."""
        return sorted(self._paths[path] for path in self._unseen)

    def near(self) -> list[str]:
        """Return names that lie where a missing path would, or that end like it."""
        return list(self._near)

    def takes(self, member: Member) -> bool:
        """Tell whether a member is taken, and remember it."""
        name = member.name
        if not self.covers(name):
            self._note(name)
            return name in self._fetched or (member.is_folder and name in self._above)
        if member.link is not None and not self.covers(member.link):
            self.links.add(member.link)
            return member.link in self._fetched
        return True

    def covers(self, name: bytes) -> bool:
        """Tell whether a name is one of the paths, or lies below one."""
        if b"." in self._paths:
            self._unseen.discard(b".")
            return True
        for path in (name, *_folders_above(name)):
            if path in self._paths:
                self._unseen.discard(path)
                return True
        return False

    def _note(self, name: bytes) -> None:
        if not self._unseen or len(self._near) >= _SIBLINGS:
            return
        for path in self._unseen:
            same_folder = name.rpartition(b"/")[0] == path.rpartition(b"/")[0]
            if same_folder or name.rpartition(b"/")[2] == path.rpartition(b"/")[2]:
                self._near[os.fsdecode(name)] = None


def _folders_above(name: bytes) -> list[bytes]:
    """Return the names of the folders that a name lies in, up to the archived folder itself."""
    if name == b".":
        return []
    parts = name.split(b"/")
    return [b"/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)] + [b"."]
