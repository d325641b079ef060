# SPDX-License-Identifier: Apache-2.0
"""A source is released after every run, and what fails there hides nothing and undoes nothing."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from snapvault.errors import SourceError
from snapvault.ports.source import NO_MARKS
from tests.support.sources import Faults, MemoryByteSource, MemoryView
from tests.support.vaults import VaultKit


class StuckView(MemoryView):
    """A view that cannot be closed."""

    error: BaseException

    def close(self) -> None:
        super().close()
        raise self.error


class StuckSource(MemoryByteSource):
    """A source whose views cannot be closed."""

    def __init__(self, error: BaseException, faults: Faults | None = None) -> None:
        super().__init__("shop", {"dump": b"rows\n" * 5000}, faults=faults)
        self.error = error

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> MemoryView:
        view = super().open(marks)
        stuck = StuckView.__new__(StuckView)
        stuck.__dict__ = {**view.__dict__, "error": self.error}
        return stuck


class Ended(BaseException):
    """What a signal is turned into."""


STUCK = SourceError('could not remove snapshot "vg0/snap"')


def test_a_source_that_cannot_be_released_does_not_undo_the_point(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)

    held = kit.night(StuckSource(STUCK))

    assert kit.restored(held.point) == {"dump": b"rows\n" * 5000}
    assert kit.events.warnings == [f'could not release source "shop": {STUCK}']
    # What comes after the release is not left out: the next night goes on from this one.
    second = kit.night(StuckSource(STUCK))
    assert second.point.counters["new_volumes"] == 0


@pytest.mark.parametrize(
    "first", [SourceError("the dump broke"), OSError(5, "gone"), Ended("a signal")]
)
def test_what_failed_first_is_what_is_raised(tmp_path: Path, first: BaseException) -> None:
    kit = VaultKit(tmp_path)
    source = StuckSource(STUCK, Faults(on_finish=True, error=first))

    with pytest.raises(type(first)) as caught:
        kit.night(source)

    assert caught.value is first
    assert caught.value.__notes__ == [f"the source could not be released either: {STUCK}"]
    assert kit.inventory().held == ()


def test_of_a_foreign_error_only_its_kind_is_told(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    error = ValueError("perhaps a password")

    kit.night(StuckSource(error))
    with pytest.raises(SourceError) as caught:
        kit.night(StuckSource(error, Faults(on_finish=True)))

    assert kit.events.warnings == ['could not release source "shop": unforeseen ValueError']
    assert caught.value.__notes__ == [
        "the source could not be released either: unforeseen ValueError"
    ]


def test_a_signal_while_a_source_is_released_ends_the_run(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)

    with pytest.raises(Ended):
        kit.night(StuckSource(Ended("a signal")))
    with pytest.raises(Ended):
        kit.night(StuckSource(Ended("a signal"), Faults(on_finish=True)))

    assert len(kit.inventory().held) == 1
