# SPDX-License-Identifier: Apache-2.0
"""The manifest's JSON."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.errors import FormatVersionError, IntegrityError, ManifestError
from snapvault.formats import manifest
from snapvault.model.point import LogEntry, ObjectRecord, ParentRecord, Point, StreamRecord

SHA = "ab" * 32
COUNTS = st.integers(0, 1 << 62)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}", fullmatch=True)
IDS = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
DIGESTS = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
TIMES = st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC))
OBJECTS = st.builds(ObjectRecord, NAMES, COUNTS, DIGESTS)
LOGS = st.lists(st.builds(LogEntry, IDS, COUNTS), min_size=1, max_size=3).map(tuple)
STREAMS = st.builds(
    StreamRecord,
    name=NAMES,
    kind=st.sampled_from(["disk", "bytes"]),
    engine=st.sampled_from(["blocks", "rolling"]),
    size=COUNTS,
    block_size=st.integers(1, 1 << 30),
    digest=DIGESTS,
    map_log=LOGS,
    signature_log=LOGS,
)
POINTS = st.builds(
    Point,
    vault=st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    source=NAMES,
    point=IDS,
    sequence=st.integers(1, 1 << 40),
    taken_at=TIMES,
    finished_at=TIMES,
    parent=st.none() | st.builds(ParentRecord, IDS, NAMES, DIGESTS),
    consistency=st.sampled_from(["none", "crash", "file-system", "application"]),
    streams=st.lists(STREAMS, min_size=1, max_size=2).map(tuple),
    hash_key=OBJECTS,
    objects=st.lists(OBJECTS, max_size=2).map(tuple),
    lists=st.lists(OBJECTS, max_size=2).map(tuple),
    host=st.text(max_size=10),
    tool=st.text(max_size=10),
    counters=st.dictionaries(st.text(max_size=5), COUNTS, max_size=2),
)

POINT = Point(
    vault="0123456789abcdef" * 2,
    source="web01",
    point="0123456789abcdef",
    sequence=2,
    taken_at=datetime(2026, 11, 20, 1, 30, 0, 250_000, tzinfo=UTC),
    finished_at=datetime(2026, 11, 20, 1, 35, tzinfo=UTC),
    parent=ParentRecord("fedcba9876543210", "points/web01/x.point", SHA),
    consistency="crash",
    streams=(
        StreamRecord(
            name="root",
            kind="disk",
            engine="blocks",
            size=4096,
            block_size=4096,
            digest=SHA,
            map_log=(LogEntry("0123456789abcdef", 20),),
            signature_log=(LogEntry("0123456789abcdef", 26),),
        ),
    ),
    hash_key=ObjectRecord("keys/x.hash", 275, SHA),
    objects=(ObjectRecord("meta/web01/0123456789abcdef.map", 400, SHA),),
    lists=(ObjectRecord(f"lists/{SHA}.list", 300, SHA),),
    host="host1",
    tool="snapvault 0.1.0",
    counters={"stored_bytes": 12},
)
NAME = "points/web01/20261120T013000Z-0123456789abcdef.point"


def changed(path: str, value: object) -> bytes:
    """Write the manifest with one value replaced, by a path like `streams.0.name`."""
    document: Any = json.loads(manifest.encode(POINT))
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    inner = document
    for step in way:
        inner = inner[step]
    inner[last] = value
    return json.dumps(document).encode()


@given(POINTS)
def test_any_point_comes_back(point: Point) -> None:
    assert manifest.decode(manifest.encode(point)) == point


@given(POINTS)
def test_equal_points_have_equal_bytes_in_ascii(point: Point) -> None:
    encoded = manifest.encode(point)

    assert encoded == manifest.encode(replace(point))
    assert encoded.isascii()


@given(st.data())
def test_damaged_bytes_are_refused_or_a_manifest(data: st.DataObject) -> None:
    encoded = bytearray(manifest.encode(POINT))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))

    try:
        decoded = manifest.decode(bytes(encoded))
    except IntegrityError:
        return

    assert isinstance(decoded, Point)


def test_members_of_a_later_release_are_passed_over() -> None:
    assert manifest.decode(changed("weather", "rain")) == POINT


def test_a_manifest_under_its_own_name_is_read() -> None:
    assert manifest.decode_as(NAME, manifest.encode(POINT)) == POINT


@pytest.mark.parametrize(
    "name",
    [
        NAME.replace("web01", "web02"),
        NAME.replace("0130", "0131"),
        NAME.replace("0123456789abcdef", "1123456789abcdef"),
    ],
)
def test_a_manifest_under_another_name_is_refused(name: str) -> None:
    with pytest.raises(ManifestError, match="out of place"):
        manifest.decode_as(name, manifest.encode(POINT))


def test_a_newer_manifest_is_refused_by_its_number() -> None:
    with pytest.raises(FormatVersionError, match="format 2"):
        manifest.decode(changed("format", 2))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("vault", 7),
        ("source", "../web01"),
        ("source", "Web01"),
        ("source", ""),
        ("sequence", -1),
        ("sequence", "2"),
        ("sequence", True),
        ("sequence", 1.5),
        ("taken_at", "2026-11-20"),
        ("finished_at", None),
        ("parent", 7),
        ("parent.sha256", "AB" * 32),
        ("parent.name", None),
        ("consistency", None),
        ("streams", None),
        ("streams", 7),
        ("streams.0", []),
        ("streams.0.name", "../../root"),
        ("streams.0.kind", "tape"),
        ("streams.0.engine", "magic"),
        ("streams.0.engine", None),
        ("streams.0.size", -1),
        ("streams.0.block_size", 0),
        ("streams.0.digest", "ab"),
        ("streams.0.map", []),
        ("streams.0.map", [["0123456789abcdef"]]),
        ("streams.0.map", [["0123456789abcdef", -1]]),
        ("streams.0.signature", []),
        ("streams.0.signature", None),
        ("hash_key", None),
        ("hash_key.sha256", SHA + "0"),
        ("objects.0.size", "400"),
        ("objects.0.name", 7),
        ("lists", {"name": "x"}),
        ("counters", []),
        ("counters", {"stored_bytes": -1}),
    ],
)
def test_an_impossible_member_is_refused(path: str, value: object) -> None:
    with pytest.raises(ManifestError, match="manifest cannot be read"):
        manifest.decode(changed(path, value))


@pytest.mark.parametrize("member", sorted(json.loads(manifest.encode(POINT))))
def test_a_missing_member_is_refused(member: str) -> None:
    document = json.loads(manifest.encode(POINT))
    del document[member]

    with pytest.raises(ManifestError):
        manifest.decode(json.dumps(document).encode())


@given(st.binary(max_size=40) | st.sampled_from([b"[]", b"7", b"null", b"{}"]))
def test_anything_else_is_no_manifest(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        manifest.decode(content)


def test_a_point_finds_its_streams_and_objects() -> None:
    assert POINT.stream("root") is POINT.streams[0]
    assert POINT.stream("swap") is None
    assert POINT.object("meta/web01/0123456789abcdef.map") is POINT.objects[0]
    assert POINT.object("meta/web01/other.map") is None
    assert POINT.size == 4096
