# SPDX-License-Identifier: Apache-2.0
"""A source over disks in memory whose platform tells what changed, and may be wrong.

It keeps snapshots by name as thin pools and EBS do: one is made when a view opens, those that no
mark names go when the next opens, the parent's goes once the point is committed, and one whose
point was never committed goes with its view.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count

from snapvault.model.ranges import Range, align
from snapvault.ports.source import NO_MARKS, Changes, Consistency, Finding, Outcome, Trust
from tests.support.sources import FIRST_NIGHT, Faults, Record, _Meter
from tests.support.vaults import SparseContent, SparseDisk

PAGE = 4096


@dataclass(slots=True)
class Platform:
    """What the platform keeps, by name; `hidden` pages are changes that it will not tell of."""

    grain: int = PAGE
    trust: Trust = Trust.COMPARED
    snapshots: dict[str, dict[str, SparseContent]] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)
    nonsense: list[Range] | None = None
    numbers: Iterator[int] = field(default_factory=lambda: count(1))


class HintedDisk(SparseDisk):
    """A disk that tells what differs from the snapshot of its mark."""

    def __init__(
        self,
        name: str,
        content: SparseContent,
        meter: _Meter,
        platform: Platform,
        before: SparseContent | None,
    ) -> None:
        super().__init__(name, content, meter)
        self._platform = platform
        self._before = before

    def changes(self) -> Changes | None:
        if self._before is None:
            return None
        ranges = self._platform.nonsense
        if ranges is None:
            ranges = list(align(self._differences(self._before), self._platform.grain, self.size))
        return Changes(ranges, self._platform.grain, self._platform.trust, "the platform")

    def _differences(self, before: SparseContent) -> Iterator[Range]:
        now, then = self._content.pages, before.pages
        last = -(-self.size // PAGE)
        for number in sorted({*now, *then} - self._platform.hidden):
            if number < last and now.get(number) != then.get(number):
                yield number * PAGE, min(self.size, (number + 1) * PAGE)


class HintedView:
    """One snapshot of all disks."""

    def __init__(self, source: "HintedSource", name: str, marks: Mapping[str, str]) -> None:
        platform = source.platform
        contents = platform.snapshots[name]
        meter = _Meter(source.faults, source.record)
        self._source = source
        self._name = name
        self._marks = dict(marks)
        self._committed = False
        self._closed = False
        self.taken_at = FIRST_NIGHT + timedelta(days=int(name.removeprefix("s")))
        self.streams = tuple(
            HintedDisk(
                disk,
                content,
                meter,
                platform,
                platform.snapshots.get(marks.get(disk, ""), {}).get(disk),
            )
            for disk, content in contents.items()
        )

    def finish(self) -> Outcome:
        if self._source.faults.on_finish:
            raise self._source.faults.error
        return Outcome(Consistency.CRASH, dict.fromkeys(self._source.disks, self._name))

    def committed(self, point: str) -> None:
        self._source.record.committed.append(point)
        self._committed = True
        if self._source.faults.on_committed:
            raise self._source.faults.error
        for name in self._marks.values():
            self._source.platform.snapshots.pop(name, None)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._source.record.closed += 1
            if not self._committed:
                del self._source.platform.snapshots[self._name]


class HintedSource:
    """Disks whose platform tells what changed. A test writes to `disks` between nights."""

    def __init__(
        self, disks: Mapping[str, SparseContent], platform: Platform | None = None
    ) -> None:
        self.name = "web01"
        self.disks = dict(disks)
        self.platform = platform or Platform()
        self.faults = Faults()
        self.record = Record()

    def check(self) -> Iterator[Finding]:
        yield Finding("memory", "is there")

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> HintedView:
        self.record.marks_given.append(dict(marks))
        self.record.opened += 1
        kept = self.platform.snapshots
        for name in set(kept) - set(marks.values()):
            del kept[name]
        name = f"s{next(self.platform.numbers)}"
        kept[name] = {disk: content.copy() for disk, content in self.disks.items()}
        return HintedView(self, name, marks)
