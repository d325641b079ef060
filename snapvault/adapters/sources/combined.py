# SPDX-License-Identifier: Apache-2.0
"""Several sources as one: the streams of a machine that come from different places."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from snapvault.errors import ConfigError, SnapVaultError
from snapvault.ports.source import (
    NO_MARKS,
    ByteStream,
    Consistency,
    DiskStream,
    Finding,
    Outcome,
    Source,
    View,
)

_STRENGTH = tuple(Consistency)  # weakest first


class CombinedSource:
    """Parts opened one after the other, in order, and seen as one source.

    A view is taken when its earliest part was, and is worth what its weakest part is.
    """

    def __init__(self, name: str, parts: Sequence[Source]) -> None:
        if not parts:
            raise ConfigError(f'source "{name}" has no streams')
        self._name = name
        self._parts = tuple(parts)

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self._name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> View:
        """Open every part, or none.

        Raises:
            ConfigError: two parts have a stream of the same name.
        """
        views: list[View] = []
        try:
            for part in self._parts:
                # Not extend(): what was opened before a failure must be in the list.
                views.append(part.open(marks))  # noqa: PERF401 - see above
            self._require_unique(views)
        except BaseException as error:
            for failure in _close_all(views):
                error.add_note(f"closing a part failed too: {failure}")
            raise
        return _View(views)

    def check(self) -> Iterator[Finding]:
        """Look at every part."""
        for part in self._parts:
            yield from part.check()

    def _require_unique(self, views: Sequence[View]) -> None:
        counts = Counter(stream.name for view in views for stream in view.streams)
        for stream, count in counts.items():
            if count > 1:
                raise ConfigError(f'source "{self._name}" has {count} streams named "{stream}"')


class _View:
    """The views of all parts."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = tuple(views)

    @property
    def taken_at(self) -> datetime:
        return min(view.taken_at for view in self._views)

    @property
    def streams(self) -> tuple[DiskStream | ByteStream, ...]:
        return tuple(stream for view in self._views for stream in view.streams)

    def finish(self) -> Outcome:
        outcomes = [view.finish() for view in self._views]
        return Outcome(
            min((outcome.consistency for outcome in outcomes), key=_STRENGTH.index),
            {name: mark for outcome in outcomes for name, mark in outcome.marks.items()},
            {name: facts for outcome in outcomes for name, facts in outcome.facts.items()},
        )

    def committed(self, point: str) -> None:
        """Tell every part; the first failure is raised, with the others as its notes."""
        failures: list[Exception] = []
        for view in self._views:
            try:
                view.committed(point)
            except SnapVaultError as error:
                failures.append(error)
        _raise_first(failures, "letting go of another part failed too")

    def close(self) -> None:
        """Close every part; the first failure is raised, with the others as its notes."""
        _raise_first(_close_all(self._views), "closing another part failed too")


def _raise_first(failures: Sequence[Exception], about_others: str) -> None:
    if failures:
        first, *others = failures
        for failure in others:
            first.add_note(f"{about_others}: {failure}")
        raise first


def _close_all(views: Sequence[View]) -> list[Exception]:
    """Close views, last opened first, and return what went wrong."""
    failures: list[Exception] = []
    for view in reversed(views):
        try:
            view.close()
        except Exception as error:  # noqa: BLE001 - every view is closed, whatever another one raises
            failures.append(error)
    return failures
