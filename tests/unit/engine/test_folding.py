# SPDX-License-Identifier: Apache-2.0
"""Metadata logs are folded when what they keep alone has expired, and its space comes back."""

import random
from pathlib import Path

import pytest

from tests.support.nights import Nights

BLOCK = 16 << 10
BLOCKS = 100


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    nights = Nights(tmp_path, monkeypatch)
    nights.source.streams.clear()
    nights.source.disks["root"] = bytearray(random.Random(1).randbytes(BLOCKS * BLOCK))
    return nights


def pass_weeks(nights: Nights, count: int) -> list[tuple[int, int]]:
    """Back up a tenth of the disk and prune, a week apart; return how long the logs are."""
    chance, lengths = random.Random(2), []
    disk = nights.source.disks["root"]
    assert isinstance(disk, bytearray)
    for _ in range(count):
        nights.pass_days(8)
        for block in chance.sample(range(BLOCKS), 10):
            disk[block * BLOCK : (block + 1) * BLOCK] = chance.randbytes(BLOCK)
        (stream,) = nights.kit.night(nights.source).point.streams
        nights.prune()
        lengths.append((len(stream.map_log), len(stream.signature_log)))
    return lengths


def test_a_log_whose_points_have_expired_begins_anew_and_the_old_one_goes(nights: Nights) -> None:
    nights.rules = {nights.source.name: nights.rules_of(last=1)}

    lengths = pass_weeks(nights, 18)

    signatures = [length for _, length in lengths]
    assert max(signatures) == 7  # the first, five that are half of it, and the parent's
    assert signatures.count(1) == 3
    nights.settle()
    nights.require_settled()
    (newest,) = nights.there()
    assert sum(name.startswith("meta/") for name in nights.objects()) == len(newest.objects)
    nights.require_restorable()


def test_a_log_that_other_points_need_goes_on(nights: Nights) -> None:
    nights.rules = {nights.source.name: nights.rules_of(last=6)}

    lengths = pass_weeks(nights, 11)

    assert max(length for _, length in lengths) > 7
