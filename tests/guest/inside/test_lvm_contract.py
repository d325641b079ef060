# SPDX-License-Identifier: Apache-2.0
"""The contract of sources, over logical volumes: thick, thin, and of odd sizes."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import pytest

from snapvault.adapters.sources.lvm import LvmSource
from snapvault.model.policy import LvmSpec
from snapvault.ports.source import (
    NO_MARKS,
    ByteStream,
    DiskStream,
    Finding,
    Outcome,
    Source,
    View,
)
from tests.contract import test_source_contract as contract
from tests.contract.test_source_contract import Case
from tests.support import lvm
from tests.support.events import RecordedEvents

KIB = 1 << 10
REOPENING = (
    "test_a_view_that_was_read_leaves_no_file_open",
    "test_a_view_is_closed_unread_and_closed_twice",
    "test_a_source_is_opened_again_after_its_view_was_closed",
)
LAWS = {
    name: law
    for name, law in inspect.getmembers(contract, inspect.isfunction)
    if name.startswith("test_")
}


@dataclass(frozen=True, slots=True)
class HeldView:
    """A view that stays open when it is closed."""

    inner: View

    @property
    def taken_at(self) -> datetime:
        return self.inner.taken_at

    @property
    def streams(self) -> tuple[DiskStream | ByteStream, ...]:
        return self.inner.streams

    def finish(self) -> Outcome:
        return self.inner.finish()

    def committed(self, point: str) -> None:
        self.inner.committed(point)

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class OpenSource:
    """A source with one view for everybody: an opening costs seconds in here."""

    inner: Source
    view: HeldView

    @property
    def name(self) -> str:
        return self.inner.name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> View:
        return self.view

    def check(self) -> Iterator[Finding]:
        return self.inner.check()


@pytest.fixture(scope="module")
def case() -> Iterator[Case]:
    """One source with a thick volume, and a thin one with holes, that nobody writes to."""
    with lvm.volume_group(extent="4k") as group:
        pool = lvm.thin_pool(group, size="8M")
        volumes = {
            "root": lvm.thick(group, "web-root", "132k"),
            "data ä": lvm.thin(pool, "web-data", "516k"),
        }
        lvm.write(volumes["root"], 0, os.urandom(132 * KIB))
        lvm.write(volumes["data ä"], 100 * KIB, os.urandom(70_000))
        specs = {stream: LvmSpec(name) for stream, name in volumes.items()}
        source = LvmSource("web01", specs, owner="v/web01", events=RecordedEvents())
        yield Case(source, {stream: lvm.content(name) for stream, name in volumes.items()})
        assert lvm.snapshots_in(group) == []


@pytest.fixture(scope="module")
def open_case(case: Case) -> Iterator[Case]:
    view = case.source.open()
    yield Case(OpenSource(case.source, HeldView(view)), case.expected)
    view.close()


@pytest.fixture(scope="module")
def thick_case(case: Case) -> Case:
    """The thick volume alone, which is opened in half the time."""
    assert isinstance(case.source, LvmSource)
    specs = {"root": case.source._volumes["root"]}
    source = LvmSource("web01", specs, owner="v/web02", events=RecordedEvents())
    return Case(source, {"root": case.expected["root"]})


@pytest.mark.parametrize("law", REOPENING)
def test_logical_volumes_keep_the_contract_of_opening(law: str, thick_case: Case) -> None:
    check: Callable[..., None] = LAWS[law]

    check(thick_case)


@pytest.mark.parametrize("law", sorted(LAWS.keys() - set(REOPENING)))
def test_logical_volumes_keep_the_contract_of_reading(law: str, open_case: Case) -> None:
    check: Callable[..., None] = LAWS[law]

    if "skew" in inspect.signature(check).parameters:
        for skew in (0, 1, 512):
            check(open_case, skew)
    else:
        check(open_case)
