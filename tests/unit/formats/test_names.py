# SPDX-License-Identifier: Apache-2.0
"""Names of objects."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.formats import names

SOURCES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
IDS = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC))


@given(SOURCES, TIMES, IDS)
def test_a_manifests_name_gives_its_source_and_point_back(
    source: str, taken_at: datetime, point: str
) -> None:
    name = names.point(source, taken_at, point)

    assert names.parse_point(name) == (source, point)
    assert name.startswith(names.points_of(source))


@given(SOURCES, TIMES, TIMES)
def test_manifests_of_a_source_sort_by_time(source: str, one: datetime, other: datetime) -> None:
    first, last = sorted([one, other])

    assert names.point(source, first, "0" * 16)[:-23] <= names.point(source, last, "0" * 16)[:-23]


def test_times_in_names_are_utc() -> None:
    taken_at = datetime(2026, 11, 20, 3, 30, 59, 999_999, tzinfo=timezone(timedelta(hours=2)))

    name = names.point("web01", taken_at, "0123456789abcdef")

    assert name == "points/web01/20261120T013059Z-0123456789abcdef.point"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "points/web01/20261120T013059Z-0123456789abcdef.point.tmp",
        "points/web01/20261120T013059Z-0123456789ABCDEF.point",
        "points/web01/20261120T013059Z-0123456789abcde.point",
        "points/web01/2026-11-20-0123456789abcdef.point",
        "points/Web01/20261120T013059Z-0123456789abcdef.point",
        "points/a/b/20261120T013059Z-0123456789abcdef.point",
        "points/../20261120T013059Z-0123456789abcdef.point",
        "other/points/web01/20261120T013059Z-0123456789abcdef.point",
        "points/web01/20261120T013059Z-0123456789abcdef.point\n",
    ],
)
def test_other_names_are_no_manifests(name: str) -> None:
    assert names.parse_point(name) is None


def test_the_names_are_the_documents() -> None:
    volume, point, digest = "0123456789abcdef" * 2, "0123456789abcdef", "ab" * 32

    assert names.volume(volume) == f"volumes/01/{volume}.vol"
    assert names.map_of("web01", point) == f"meta/web01/{point}.map"
    assert names.signature_of("web01", point) == f"meta/web01/{point}.sig"
    assert names.volume_list(digest) == f"lists/{digest}.list"
    assert names.public_key("F" * 40) == f"keys/{'F' * 40}.asc"
    assert names.hash_key("F" * 40) == f"keys/{'F' * 40}.hash"


def test_ids_are_fresh_and_have_their_form() -> None:
    volumes = {names.new_volume_id() for _ in range(100)}
    points = {names.new_point_id() for _ in range(100)}

    assert len(volumes) == len(points) == 100
    assert all(map(names.is_volume_id, volumes))
    assert all(len(point) == 16 and int(point, 16) >= 0 for point in points)


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 32 + "\n"])
def test_other_texts_are_no_volume_ids(text: str) -> None:
    assert not names.is_volume_id(text)


def test_a_drills_report_sorts_by_time_and_gives_its_id_back() -> None:
    started = datetime(2026, 11, 20, 1, 30, 59, 999_999, tzinfo=UTC)
    drill = names.new_drill_id()

    name = names.drill_report(started, drill)

    assert name == f"drills/20261120T013059Z-{drill}.report"
    assert names.parse_drill_report(name) == drill
    assert len(drill) == 16
    assert int(drill, 16) >= 0


@pytest.mark.parametrize(
    "name",
    [
        "drills/20261120T013059Z-.report",
        "drills/20261120T013059Z-../x.report",
        "drills/20261120-0123456789abcdef.report",
        "drills/20261120T013059Z-0123456789abcdef.report\n",
        "points/20261120T013059Z-0123456789abcdef.report",
    ],
)
def test_other_names_are_no_drill_reports(name: str) -> None:
    assert names.parse_drill_report(name) is None
