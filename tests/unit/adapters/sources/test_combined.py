# SPDX-License-Identifier: Apache-2.0
"""Several sources as one."""

from collections.abc import Iterator, Mapping
from datetime import timedelta

import pytest

from snapvault.adapters.sources.combined import CombinedSource
from snapvault.errors import ConfigError, SourceError
from snapvault.ports.source import NO_MARKS, Consistency, Finding, View
from tests.support.sources import FIRST_NIGHT, Faults, MemoryByteSource, MemoryDiskSource


def disks(*, consistency: Consistency = Consistency.CRASH) -> MemoryDiskSource:
    later = FIRST_NIGHT + timedelta(seconds=5)
    return MemoryDiskSource("a", {"root": b"1"}, consistency=consistency, taken_at=later)


def dump(*, on_open: bool = False) -> MemoryByteSource:
    return MemoryByteSource("b", {"dump": b"2"}, faults=Faults(on_open=on_open))


class Stubborn:
    """A source whose views refuse to close."""

    def __init__(self, name: str) -> None:
        self._inner = MemoryDiskSource(name, {name: b""})

    @property
    def name(self) -> str:
        return self._inner.name

    def check(self) -> Iterator[Finding]:
        return self._inner.check()

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> View:
        view = self._inner.open(marks)

        def refuse() -> None:
            raise SourceError(f'could not release "{self.name}"')

        view.close = refuse  # type: ignore[method-assign] # this one object refuses
        return view


def test_a_view_is_as_old_as_its_oldest_part_and_as_weak_as_its_weakest() -> None:
    view = CombinedSource("web01", [disks(consistency=Consistency.NONE), dump()]).open()

    assert view.taken_at == FIRST_NIGHT
    assert view.finish().consistency is Consistency.NONE
    view.close()


def test_a_part_that_cannot_be_opened_closes_those_before_it() -> None:
    first = disks()

    with pytest.raises(SourceError):
        CombinedSource("web01", [first, dump(on_open=True)]).open()

    assert (first.record.opened, first.record.left_open) == (1, 0)


def test_two_streams_of_one_name_are_refused_and_everything_is_closed() -> None:
    first, second = disks(), disks()

    with pytest.raises(ConfigError, match='source "web01" has 2 streams named "root"'):
        CombinedSource("web01", [first, second]).open()

    assert (first.record.left_open, second.record.left_open) == (0, 0)


def test_every_part_is_closed_though_some_refuse_and_the_others_are_notes() -> None:
    good = disks()
    view = CombinedSource("web01", [good, Stubborn("x"), Stubborn("y")]).open()

    with pytest.raises(SourceError, match='could not release "y"') as caught:
        view.close()

    assert caught.value.__notes__ == ['closing another part failed too: could not release "x"']
    assert good.record.left_open == 0


def test_a_part_that_refuses_to_close_does_not_hide_why_opening_failed() -> None:
    with pytest.raises(SourceError, match="broke") as caught:
        CombinedSource("web01", [Stubborn("x"), dump(on_open=True)]).open()

    assert caught.value.__notes__ == ['closing a part failed too: could not release "x"']


def test_a_source_without_parts_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no streams"):
        CombinedSource("web01", [])
