# SPDX-License-Identifier: Apache-2.0
"""A second vault, made and used through the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import Host, image
from tests.acceptance.test_prune import nights
from tests.support import s3

pytestmark = pytest.mark.integration


def with_second(host: Host, second: dict[str, Any]) -> Host:
    """Add a second vault to the settings of a host, with the same keys."""
    document = json.loads(host.settings.read_text())
    places = ("store", "endpoint_url")
    same = {key: each for key, each in document["vaults"]["offsite"].items() if key not in places}
    document["vaults"]["second"] = {**same, **second}
    host.settings.write_text(json.dumps(document))
    return host


@pytest.fixture
def two(used: Host, tmp_path: Path) -> Host:
    """Return a host with points of two sources, and a second vault that is not there yet."""
    return with_second(used, {"store": f"file://{tmp_path}/second"})


@pytest.fixture
def other_account(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose credentials open nothing but with the profile `second`."""
    known = s3.server().environment()
    credentials = tmp_path / "credentials"
    credentials.write_text(
        "[second]\n"
        f"aws_access_key_id = {known['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {known['AWS_SECRET_ACCESS_KEY']}\n"
    )
    wrong = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "wrong"}
    return {**known, **wrong, "AWS_SHARED_CREDENTIALS_FILE": str(credentials)}


def test_a_copy_in_another_account_restores_when_the_first_vault_is_gone(
    folder_store: dict[str, Any],
    s3_store: dict[str, Any],
    other_account: dict[str, str],
    tmp_path: Path,
    host_home: Path,
    recovery_home: Path,
) -> None:
    second = {**s3_store, "profile": "second"}
    host = Host(tmp_path / "host", host_home, folder_store, environment=other_account).set_up()
    with_second(host, second)
    disk = tmp_path / "disk.img"
    host.protect({"web01": image(disk)})
    host.does("init", "offsite")
    made = nights(host, disk, 1)
    done = host.does("copy", "offsite", "--to", "second", "--json").json
    host.protect({"web01": image(disk)}, copy_to=["second"])
    made += nights(host, disk, 1)

    shutil.rmtree(tmp_path / "vault")

    assert done["bytes"] > 400_000
    recovery = Host(tmp_path / "recovery", recovery_home, second, environment=other_account)
    recovery.set_up()
    for point, content in made:
        target = tmp_path / f"restored {point}"
        recovery.does("restore", "web01", "--to", str(target), "--point", point)
        assert target.read_bytes() == content


def test_a_copy_of_a_bucket_in_a_folder_restores_by_its_own_script(
    s3_store: dict[str, Any], tmp_path: Path, host_home: Path, recovery_home: Path
) -> None:
    environment = s3.server().environment()
    host = Host(tmp_path / "host", host_home, s3_store, environment=environment).set_up()
    with_second(host, {"store": f"file://{tmp_path}/second"})
    disk = tmp_path / "disk.img"
    host.protect({"web01": image(disk)}, retention={"last": 1}, copy_to=["second"])
    host.does("init", "offsite")
    made = nights(host, disk, 2)
    host.does("prune", "--vault", "offsite")
    script, target = tmp_path / "second" / "restore.py", tmp_path / "restored"

    subprocess.run(
        [sys.executable, str(script), str(script.parent), "web01", "--to", str(target)],
        env={**os.environ, "GNUPGHOME": str(recovery_home)},
        check=True,
        capture_output=True,
        timeout=120,
    )

    assert target.read_bytes() == made[-1][1]
    assert len(host.points("--vault", "second")) == 2
    assert host.does("copy", "offsite", "--to", "second", "--json").json["objects"] == 0


def test_a_copy_from_one_bucket_to_another_restores(
    s3_store: dict[str, Any], tmp_path: Path, host_home: Path, recovery_home: Path
) -> None:
    endpoint_url = s3.locking_server().endpoint_url
    second = {
        "store": f"s3://{s3.LOCKING_BUCKET}/{s3.fresh_prefix()}",
        "endpoint_url": endpoint_url,
    }
    environment = s3.server().environment()
    host = Host(tmp_path / "host", host_home, s3_store, environment=environment).set_up()
    with_second(host, second)
    disk = tmp_path / "disk.img"
    host.protect({"web01": image(disk)})
    host.does("init", "offsite")
    ((point, content),) = nights(host, disk, 1)

    host.does("copy", "offsite", "--to", "second")

    recovery = Host(tmp_path / "recovery", recovery_home, second, environment=environment)
    target = tmp_path / "restored"
    recovery.set_up().does("restore", "web01", "--to", str(target), "--point", point)
    assert target.read_bytes() == content


def test_wrong_places_are_refused_and_nothing_is_written(two: Host, tmp_path: Path) -> None:
    second = tmp_path / "second"

    assert 'Did you mean "second"' in two.fails(10, "copy", "offsite", "--to", "secondd")
    assert "itself" in two.fails(10, "copy", "offsite", "--to", "offsite")
    assert "no restore point" in two.fails(16, "copy", "offsite", "--to", "second", "--point", "z")
    assert not second.exists()
    shutil.copytree(tmp_path / "vault", second)
    before = sorted(second.rglob("*"))
    assert "one and the same" in two.fails(10, "copy", "offsite", "--to", "second")
    assert sorted(second.rglob("*")) == before


def test_a_damaged_volume_is_named_and_stays_behind(two: Host, tmp_path: Path) -> None:
    (volume, *_) = sorted((tmp_path / "vault" / "volumes").rglob("*.vol"))
    data = volume.read_bytes()
    volume.chmod(0o600)
    volume.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    ended = two.run("copy", "offsite", "--to", "second", "--json")

    assert ended.status == 13
    assert volume.name in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [each["damaged"] for each in ended.json["left_out"]] == [True]
    assert len(ended.json["points"]) == 1
    assert two.does("verify", "--vault", "second", "--level", "data").status == 0
    assert two.does("show", "shop", "--json").json["vault"] == "offsite"  # the first of the two


def test_a_copy_takes_no_backups_until_it_takes_the_place_of_the_vault(
    two: Host, tmp_path: Path
) -> None:
    two.does("copy", "offsite", "--to", "second")
    policy = two.folder / "policies" / "nightly.yaml"
    document = json.loads(policy.read_text())
    policy.write_text(json.dumps({**document, "vault": "second"}))
    assert "is a copy" in two.run("backup", "web01").stderr
    policy.write_text(json.dumps(document))
    shutil.rmtree(tmp_path / "vault")
    record = tmp_path / "second" / "vault.json"
    told = json.loads(record.read_text())
    del told["copy"]
    record.chmod(0o600)
    record.write_text(json.dumps(told))
    two.store = {"store": f"file://{tmp_path}/second"}
    two.set_up()

    two.does("backup", "web01")

    assert len(two.points("web01")) == 2


def test_a_round_copies_what_it_backed_up_and_tells_of_a_copy_that_is_behind(
    two: Host, tmp_path: Path
) -> None:
    policy = two.folder / "policies" / "nightly.yaml"
    document = json.loads(policy.read_text())
    policy.write_text(json.dumps({**document, "copy_to": ["second"]}))
    two.does("list", "--vault", "offsite")

    two.does("run-due")

    after = two.run("status", "--json").json["vaults"][1]["copy"]
    told = (after["of"], after["behind_points"], after["behind_since"], after["failures"])
    assert told == (
        "offsite",
        0,
        None,
        0,
    )
    assert after["copied_at"] is not None
    two.does("backup", "shop")
    assert len(two.points("--vault", "second")) == 3
    (tmp_path / "second").rename(tmp_path / "away")
    (tmp_path / "second").write_text("no folder")
    ended = two.run("backup", "shop")
    assert ended.status == 3
    assert "could not copy to vault" in ended.stderr
    shown = two.run("status").stdout
    assert "second lacks 1 restore point of offsite" in shown
