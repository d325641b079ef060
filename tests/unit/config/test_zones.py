# SPDX-License-Identifier: Apache-2.0
"""Time zones by name, and the host's own."""

from datetime import timedelta

import pytest

from snapvault import clock
from snapvault.config.zones import is_zone, local_zone, zone_named


def test_the_zone_of_a_person_is_the_one_that_tz_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":Asia/Tokyo")

    assert clock.now().astimezone(local_zone()).utcoffset() == timedelta(hours=9)
    assert clock.now().astimezone(zone_named(None)).utcoffset() == timedelta(hours=9)


@pytest.mark.parametrize("value", ["", "Nowhere/Else", "XXX-3"])
def test_the_host_always_has_a_zone(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TZ", value)

    assert clock.now().astimezone(local_zone()).utcoffset() is not None


def test_zones_are_known_by_name() -> None:
    assert is_zone("UTC")
    assert not is_zone("Europe")
    assert not is_zone("")
    assert zone_named("Europe/Paris").utcoffset(clock.now()) is not None
    with pytest.raises(ValueError, match='there is no time zone "Mars/Olympus"'):
        zone_named("Mars/Olympus")
