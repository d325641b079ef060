# SPDX-License-Identifier: Apache-2.0
"""What can be snapshot, and in what words the rest is refused."""

from dataclasses import replace
from typing import Any

import pytest

from snapvault.adapters.sources.lvm import LvmSource
from snapvault.adapters.sources.lvm_commands import Volume
from snapvault.adapters.sources.lvm_names import OURS
from snapvault.adapters.sources.lvm_plan import Plan, plan_snapshot, pool_warning, require_space
from snapvault.errors import ConfigError, SourceError
from snapvault.model.policy import LvmSpec
from snapvault.units import GIB, MIB
from tests.support.events import RecordedEvents

ROOT = Volume(
    "vg0",
    "web-root",
    "u-root",
    10 * GIB,
    "/dev/mapper/vg0-web--root",
    (253, 1),
    layout=frozenset({"linear"}),
    role=frozenset({"public"}),
    group_free=3 * GIB,
    extent_size=4 * MIB,
)
THIN = replace(ROOT, name="web-data", uuid="u-data", pool="u-pool", thin_id=3)
POOL = replace(
    ROOT,
    name="pool",
    uuid="u-pool",
    layout=frozenset({"thin", "pool"}),
    role=frozenset({"private"}),
    metadata="u-meta",
    chunk_size=64 << 10,
    data_percent=10.0,
    metadata_percent=5.0,
)
META = replace(ROOT, name="pool_tmeta", uuid="u-meta", role=frozenset({"private"}))


def plan(spec: str | LvmSpec, *volumes: Volume, groups: tuple[str, ...] = ("vg0",)) -> Plan:
    spec = LvmSpec(spec) if isinstance(spec, str) else spec
    return plan_snapshot("root", spec, frozenset(), volumes, lambda: groups)


def refusal(spec: str, *volumes: Volume, groups: tuple[str, ...] = ("vg0",)) -> str:
    with pytest.raises(SourceError) as caught:
        plan(spec, *volumes, groups=groups)
    return f"{caught.value} | {caught.value.hint}"


@pytest.mark.parametrize(
    ("spec", "space"),
    [
        (LvmSpec("vg0/web-root"), 2 * GIB),
        (LvmSpec("vg0/web-root", snapshot_percent=1), 104 * MIB),
        (LvmSpec("vg0/web-root", snapshot_size=9 * MIB), 12 * MIB),
        (LvmSpec("vg0/web-root", snapshot_size=1), 4 * MIB),
        (LvmSpec("vg0/web-root", snapshot_size=100 * GIB), 10 * GIB + 52 * MIB),
    ],
)
def test_the_space_of_a_thick_snapshot_is_whole_extents_that_can_be_used(
    spec: LvmSpec, space: int
) -> None:
    found = plan(spec, ROOT)

    assert (found.space, found.pool) == (space, None)


def test_a_thin_snapshot_lives_in_the_pool_and_needs_no_space() -> None:
    found = plan("vg0/web-data", ROOT, THIN, POOL, META)

    assert (found.space, found.pool, found.metadata) == (0, POOL, META)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("vg1/web-root", 'volume group "vg1" is not there | Did you mean "vg0"?'),
        ("other/web-root", 'volume group "other" is not there | Correct its name'),
        ("vg0/web-rot", 'logical volume "vg0/web-rot" is not there | Did you mean "vg0/web-root"?'),
        ("vg0/pool_tmet", 'logical volume "vg0/pool_tmet" is not there | Correct its name'),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest_name(spec: str, words: str) -> None:
    assert words in refusal(spec, ROOT, META)


def test_an_empty_group_is_one_that_is_there() -> None:
    assert 'logical volume "vg1/a" is not there' in refusal("vg1/a", ROOT, groups=("vg0", "vg1"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"device": None}, 'is not active on this host | Run "lvchange -ay vg0/web-root"'),
        ({"is_suspended": True}, "dmsetup resume /dev/mapper/vg0-web--root"),
        ({"role": frozenset({"public", "snapshot", "thicksnapshot"})}, "is a snapshot itself"),
        ({"role": frozenset({"private", "raid"})}, "is hidden: a part of another"),
        ({"layout": frozenset({"cache", "pool"})}, "is a pool, and no disk"),
        ({"tags": frozenset({OURS})}, "is a snapshot of SnapVault's own"),
        ({"is_merging": True}, "is being merged"),
        ({"health": "partial"}, "lacks a physical volume"),
    ],
)
def test_what_is_no_disk_in_use_is_refused(change: dict[str, Any], words: str) -> None:
    assert words in refusal("vg0/web-root", replace(ROOT, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"layout": frozenset({"cache"})},
        {"layout": frozenset({"raid", "raid1"}), "health": "mismatches exist"},
        {"role": frozenset({"public", "origin", "thickorigin"})},
    ],
)
def test_caches_raids_and_origins_of_others_are_disks_like_any(change: dict[str, Any]) -> None:
    assert plan("vg0/web-root", replace(ROOT, **change)).origin.name == "web-root"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"health": "failed"}, 'thin pool "vg0/pool" has failed'),
        ({"needs_check": True}, "needs a check"),
        ({"health": "metadata_read_only"}, "is read-only"),
        ({"health": "out_of_data"}, 'is out of data space | Run "lvextend --size +SIZE vg0/pool"'),
        ({"data_percent": 100.0}, "is out of data space"),
        ({"metadata_percent": 100.0}, 'is out of metadata space | Run "lvextend --poolmetadata'),
    ],
)
def test_a_pool_that_cannot_take_more_is_refused(change: dict[str, Any], words: str) -> None:
    assert words in refusal("vg0/web-data", THIN, replace(POOL, **change), META)


@pytest.mark.parametrize(
    ("data", "metadata", "words"),
    [(90.0, 90.0, None), (90.5, 1.0, "90.5 % of its data"), (1.0, 99.0, "99 % of its metadata")],
)
def test_a_pool_that_is_nearly_full_is_warned_of(
    data: float, metadata: float, words: str | None
) -> None:
    warning = pool_warning(replace(POOL, data_percent=data, metadata_percent=metadata))

    assert (warning is None) == (words is None)
    assert words is None or (warning is not None and words in warning)


def test_a_group_needs_room_for_all_its_snapshots_together() -> None:
    first = plan(LvmSpec("vg0/web-root", snapshot_size=2 * GIB), ROOT)
    require_space([first])

    with pytest.raises(SourceError, match='no free extents in volume group "vg0"') as caught:
        require_space([first, replace(first, stream="data")])

    assert caught.value.hint is not None
    assert "Free at least 1.0 GiB" in caught.value.hint


@pytest.mark.parametrize(
    ("volumes", "words"),
    [
        ({}, "has no logical volumes"),
        ({"root": LvmSpec("vg0")}, '"vg0" does not name a logical volume'),
        ({"root": LvmSpec("/dev/vg0/root")}, "does not name a logical volume"),
        ({"a": LvmSpec("vg0/root"), "b": LvmSpec("vg0/root")}, '"vg0/root" twice'),
    ],
)
def test_what_the_policy_alone_shows_to_be_wrong_is_refused_at_once(
    volumes: dict[str, LvmSpec], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        LvmSource("web01", volumes, owner="v/web01", events=RecordedEvents())
