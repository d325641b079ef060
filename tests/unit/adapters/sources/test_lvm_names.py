# SPDX-License-Identifier: Apache-2.0
"""Names and tags of snapshots, and which of them a run may remove."""

import re
from datetime import UTC, datetime

import pytest

from snapvault.adapters.sources.lvm_commands import Volume
from snapvault.adapters.sources.lvm_names import find_kept, find_leftovers, new_name, tags_of

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
OWNER = "v/web01"
STREAMS = ("root", "data")


def volume(
    name: str, *, uuid: str = "", tags: frozenset[str] = frozenset(), is_read_only: bool = True
) -> Volume:
    return Volume("vg0", name, uuid or name, 1, "", None, tags=tags, is_read_only=is_read_only)


def test_a_name_says_what_the_snapshot_is_of_and_when_it_was_taken() -> None:
    assert re.fullmatch(
        r"snapvault_web01-root_20261120T120000Z_[0-9a-f]{8}", new_name(volume("web01-root"), NOON)
    )


def test_two_names_of_one_moment_differ() -> None:
    assert new_name(volume("root"), NOON) != new_name(volume("root"), NOON)


@pytest.mark.parametrize("group", ["vg", "v-" * 25, "v" * 126])
@pytest.mark.parametrize("origin", ["r", "a-" * 60, "x" * 100])
def test_a_name_is_short_enough_for_the_device_mapper(group: str, origin: str) -> None:
    name = new_name(Volume(group, origin, "u", 1, "", None), NOON)

    assert re.fullmatch(r"[a-zA-Z0-9_.-]+", name)
    if len(group) < 100:
        mapped = f"{group.replace('-', '--')}-{name.replace('-', '--')}-cow"
        assert len(mapped) <= 127


def test_tags_are_what_lvm_takes_and_differ_by_owner_and_stream() -> None:
    seen = {
        tags_of(owner, stream)
        for owner in ("v/a", "v/ab", "ü" * 2000, "v/ab b")
        for stream in ("b", "bb", "")
    }

    assert len(seen) == 12
    assert all(re.fullmatch(r"[A-Za-z0-9_+.\-/=!:#&]{1,128}", tag) for tags in seen for tag in tags)


def test_left_over_is_what_has_our_tags_and_no_mark() -> None:
    ours = tags_of(OWNER, "root")
    dead = volume("dead", tags=ours | {"somebody's"})
    named = volume("named", uuid="u1", tags=ours)
    others = [
        volume("snapvault_root_20261120T120000Z_1f2e3d4c"),
        volume("general", tags=frozenset({"snapvault"})),
        volume("other stream", tags=tags_of(OWNER, "swap")),
        volume("other owner", tags=tags_of("w/web01", "root")),
        volume("taken over", tags=ours, is_read_only=False),
    ]

    found = find_leftovers([dead, named, *others], OWNER, {"root": "u1"}, STREAMS)

    assert found == [dead]


def test_without_marks_everything_of_ours_is_left_over() -> None:
    ours = [volume("a", tags=tags_of(OWNER, "root")), volume("b", tags=tags_of(OWNER, "data"))]

    assert find_leftovers(ours, OWNER, {}, STREAMS) == ours
    assert find_kept(ours, OWNER, {}, STREAMS) == {}


def test_kept_is_what_the_mark_of_its_own_stream_names() -> None:
    root = volume("a", uuid="u1", tags=tags_of(OWNER, "root"))
    data = volume("b", uuid="u2", tags=tags_of(OWNER, "data"))

    assert find_kept([root, data], OWNER, {"root": "u1", "data": "u1"}, STREAMS) == {"root": root}
    assert find_leftovers([root, data], OWNER, {"root": "u1", "data": "u1"}, STREAMS) == [data]


def test_a_kept_snapshot_that_was_made_writable_is_not_ours_any_more() -> None:
    root = volume("a", uuid="u1", tags=tags_of(OWNER, "root"), is_read_only=False)

    assert find_kept([root], OWNER, {"root": "u1"}, STREAMS) == {}
    assert find_leftovers([root], OWNER, {}, STREAMS) == []
