# SPDX-License-Identifier: Apache-2.0
"""All volumes are asked for at once, and waited for; whoever was interrupted goes on waiting."""

from dataclasses import dataclass, field

import pytest

from snapvault.engine.thaw import FIRST_PAUSE, LONGEST_PAUSE, Cold, find_cold, thaw
from snapvault.model.point import ObjectRecord
from snapvault.ports.archive import ClassTraits, Frost, Lying, Tier


@dataclass
class Glacier:
    """An archive in which `hours` pass between a request and a copy that can be read."""

    hours: float
    now: float = 0.0
    frozen: set[str] = field(default_factory=set)
    asked_at: dict[str, float] = field(default_factory=dict)
    asked: list[tuple[str, Tier, int]] = field(default_factory=list)
    looks: int = 0
    pauses: list[float] = field(default_factory=list)

    def look(self, name: str) -> Lying:
        self.looks += 1
        if name not in self.frozen:
            return Lying(Frost.READABLE, "STANDARD")
        at = self.asked_at.get(name)
        if at is None:
            return Lying(Frost.FROZEN, "GLACIER")
        is_there = self.now >= at + self.hours * 3600
        return Lying(Frost.READABLE if is_there else Frost.THAWING, "GLACIER")

    def thaw(self, name: str, *, tier: Tier, days: int) -> None:
        self.asked.append((name, tier, days))
        self.asked_at.setdefault(name, self.now)

    def probe(self, storage_class: str) -> ClassTraits:
        raise NotImplementedError(storage_class)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


VOLUMES = [ObjectRecord(f"volumes/{number:02}", 10 + number, "") for number in range(20)]


def a_glacier(hours: float) -> Glacier:
    return Glacier(hours, frozen={each.name for each in VOLUMES[5:]})


def test_what_cannot_be_read_is_found_and_summed_up() -> None:
    cold = find_cold(a_glacier(1), VOLUMES)

    assert {record for record, _ in cold.frozen} == set(VOLUMES[5:])
    assert cold.thawing == ()
    assert cold.sums() == [("GLACIER", 15, sum(each.size for each in VOLUMES[5:]))]


def test_all_are_asked_for_before_the_first_pause_and_waited_for() -> None:
    glacier = a_glacier(4)
    told: list[tuple[int, int]] = []
    cold = find_cold(glacier, VOLUMES)

    thaw(
        glacier,
        cold,
        tier=Tier.BULK,
        days=3,
        on_wait=lambda left: told.append((left, len(glacier.asked))),
        sleep=glacier.sleep,
    )

    assert sorted(glacier.asked) == [(each.name, Tier.BULK, 3) for each in VOLUMES[5:]]
    assert told[0] == (15, 15)
    assert find_cold(glacier, VOLUMES) == Cold((), ())
    assert glacier.pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(glacier.pauses) == LONGEST_PAUSE
    # A look at each at the beginning and at the end, and one for each pause.
    assert glacier.looks <= 20 + len(glacier.pauses) + 15 + 20


def test_whoever_was_interrupted_goes_on_waiting_and_asks_for_nothing_again() -> None:
    glacier = a_glacier(4)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        thaw(
            glacier,
            find_cold(glacier, VOLUMES),
            tier=Tier.STANDARD,
            days=7,
            sleep=interrupted,
        )
    glacier.asked.clear()

    again = find_cold(glacier, VOLUMES)
    thaw(glacier, again, tier=Tier.STANDARD, days=7, sleep=glacier.sleep)

    assert (len(again.frozen), len(again.thawing)) == (0, 15)
    assert glacier.asked == []
    assert find_cold(glacier, VOLUMES).all == ()
