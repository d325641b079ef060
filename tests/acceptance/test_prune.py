# SPDX-License-Identifier: Apache-2.0
"""Points expire, are held and let go, and their space comes back, through the command line."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import Host, image
from tests.support import s3

pytestmark = pytest.mark.integration

CHANCE = random.Random(11)


def nights(host: Host, disk: Path, count: int) -> list[tuple[str, bytes]]:
    """Back changed content up, and return ids with what a restore has to bring back."""
    made = []
    for _ in range(count):
        content = CHANCE.randbytes(400_000)
        disk.write_bytes(content)
        (point,) = host.does("backup", "--json").json
        made.append((point["id"], content))
    return made


def test_points_expire_and_their_space_comes_back(
    store: dict[str, Any], tmp_path: Path, host_home: Path, recovery_home: Path
) -> None:
    environment = s3.server().environment() if "endpoint_url" in store else {}
    host = Host(tmp_path / "host", host_home, store, environment=environment).set_up()
    recovery = Host(tmp_path / "recovery", recovery_home, store, environment=environment).set_up()
    disk = tmp_path / "disk.img"
    host.protect({"web01": image(disk)}, retention={"last": 2})
    host.does("init")
    made = nights(host, disk, 4)
    ids = [point for point, _ in made]
    host.does("hold", ids[1], "--reason", "audit 2026")

    told = host.does("prune", "--dry-run")
    assert len(host.points("web01")) == 4
    (first,) = host.does("prune", "--json").json
    (second,) = host.does("prune", "--grace", "0s", "--json").json

    assert told.stdout.count("would go") == 1 + 1  # the point, and its objects
    assert [(each["id"], each["verdict"]) for each in first["points"]] == list(
        zip(ids, ["goes", "stays", "stays", "stays"], strict=True)
    )
    assert first["points"][1]["reasons"] == ["held: audit 2026"]
    assert first["points"][3]["reasons"] == ["newest", "last 1 of 2"]
    assert first["removed_points"] == 1
    assert first["deleted"]["objects"] == 0
    assert second["deleted"] == first["waiting"]
    assert second["deleted"]["bytes"] > 400_000
    listed = host.points("web01")
    assert [each["id"] for each in listed] == ids[1:]
    assert listed[0]["held"] == ["audit 2026"]
    assert "audit 2026" in host.does("show", ids[1]).stdout
    for point, content in (made[1], made[3]):
        target = tmp_path / f"restored {point}"
        recovery.does("restore", "web01", "--to", str(target), "--point", point)
        assert target.read_bytes() == content
    assert recovery.does("verify", "--level", "full", "--json").json[0]["findings"] == []
    assert host.does("verify", "--level", "data", "--json").json[0]["findings"] == []
    assert host.does("status", "--json").json["vaults"][0]["pruned_at"] is not None
    host.does("hold", ids[1], "--release")
    assert host.does("prune", "--json").json[0]["removed_points"] == 1


def test_a_point_that_somebody_deleted_stops_prunes_until_it_is_accepted(
    host: Host, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    host.protect({"web01": image(disk)}, retention={"last": 1})
    host.does("init")
    made = nights(host, disk, 3)
    (deleted,) = (tmp_path / "vault").glob(f"points/web01/*{made[1][0]}.point")
    deleted.unlink()

    refusal = host.fails(13, "prune")

    assert f'"{made[1][0]}"' in refusal
    assert "nothing was removed" in refusal
    assert len(host.points("web01")) == 2
    assert "is not one that was" in host.fails(16, "prune", "--accept-gone", made[0][0])
    host.does("prune", "--accept-gone", made[1][0])
    assert [each["id"] for each in host.points("web01")] == [made[2][0]]


def test_what_no_rule_of_a_readable_policy_speaks_of_stays(host: Host, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    host.protect({"web01": image(disk)})
    host.does("init")
    nights(host, disk, 2)

    (unlimited,) = host.does("prune", "--json").json
    host.protect({"other": image(disk)}, retention={"last": 1})
    (unnamed,) = host.does("prune", "--json").json

    assert {tuple(each["reasons"]) for each in unlimited["points"]} == {
        ("its policy has no retention",)
    }
    assert {tuple(each["reasons"]) for each in unnamed["points"]} == {
        ("no policy here has its source",)
    }
    assert len(host.points("web01")) == 2


def test_wrong_words_are_refused(used: Host) -> None:
    (point, *_) = used.points("web01")

    assert "duration" in used.fails(2, "prune", "--grace", "soon")
    assert "one line" in used.fails(2, "hold", point["id"], "--reason", "two\nlines")
    assert "not held" in used.fails(10, "hold", point["id"], "--release")
