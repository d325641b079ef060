# SPDX-License-Identifier: Apache-2.0
"""The bucket's contents are deleted by somebody who may; the command line brings them back."""

import random
from pathlib import Path
from typing import Any

import pytest

from snapvault.adapters.stores.opening import StoreOptions, open_store
from tests.acceptance.program import Host, image
from tests.support import s3

pytestmark = pytest.mark.integration


@pytest.fixture
def locking_store() -> dict[str, Any]:
    return {
        "store": f"s3://{s3.LOCKING_BUCKET}/{s3.fresh_prefix()}",
        "endpoint_url": s3.locking_server().endpoint_url,
        "object_lock": {"mode": "governance", "for": "1d"},
    }


def test_a_vault_that_was_deleted_comes_back_as_it_was(
    locking_store: dict[str, Any],
    tmp_path: Path,
    host_home: Path,
    recovery_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = s3.server().environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    host = Host(tmp_path / "host", host_home, locking_store, environment=environment).set_up()
    recovery = Host(
        tmp_path / "recovery", recovery_home, locking_store, environment=environment
    ).set_up()
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"content" * 10_000)
    host.protect({"web01": image(disk)})
    host.does("init")
    host.does("backup")
    attacker = open_store(
        locking_store["store"], StoreOptions(endpoint_url=locking_store["endpoint_url"])
    )
    doctor = host.does("doctor", "--json").json
    (lock,) = (each for each in doctor if each["check"] == "offsite: object lock")
    (rights,) = (each for each in doctor if each["check"] == "offsite: rights")
    assert (lock["state"], lock["message"]) == (
        "ok",
        "governance, for 1d: a probe could be neither deleted nor its lock shortened",
    )
    assert rights["state"] == "warn"  # an administrator's credentials
    assert "may end locks early" in rights["message"]
    everything = [found.name for found in attacker.names()]
    attacker.delete(everything)
    assert "there is no vault" in host.fails(10, "list")

    told = recovery.does("repair", "--dry-run").stdout
    done = recovery.does("repair", "--json").json

    assert "vault.json: removed, but still there underneath" in told
    (vault,) = done
    assert vault["vault_record"] == "the delete marker was removed"
    assert {each["object"] for each in vault["steps"][0]["mended"]} == {*everything} - {
        "vault.json"
    }
    assert vault["steps"][0]["left"] == []
    recovery.does("restore", "web01", "--to", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == disk.read_bytes()


def test_init_refuses_a_bucket_that_does_not_lock_and_leaves_nothing(
    tmp_path: Path, host_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = s3.server().environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = {
        "store": f"s3://{s3.BUCKET}/{s3.fresh_prefix()}",
        "endpoint_url": s3.server().endpoint_url,
    }
    lock = {"object_lock": {"mode": "compliance"}}
    host = Host(tmp_path / "host", host_home, store | lock, environment=environment).set_up()

    refusal = host.fails(14, "init")

    assert "the bucket has no Object Lock" in refusal
    assert 'leave out "object_lock"' in refusal
    plain = open_store(store["store"], StoreOptions(endpoint_url=store["endpoint_url"]))
    assert list(plain.names()) == []


def test_repair_of_a_vault_in_a_folder_has_nothing_to_look_under(used: Host) -> None:
    assert "nothing to mend" in used.does("repair").stdout
    assert 'no vault "offsit"' in used.fails(10, "repair", "offsit")


def test_what_is_lost_is_told_and_stored_again_by_the_next_backup(
    host: Host, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(random.Random(3).randbytes(200_000))
    host.protect({"web01": image(disk)})
    host.does("init")
    (first,) = host.does("backup", "--json").json
    (volume,) = (tmp_path / "vault").glob("volumes/*/*.vol")
    volume.unlink()

    told = host.run("repair")
    host.does("backup")
    later = host.run("repair", "--json")

    assert told.status == later.status == 13
    assert f"{volume.name}" in told.stderr
    assert '"snapvault backup web01" stores again what the source still has' in told.stderr
    assert "mended 0 objects; " in told.stdout
    steps = {each["step"]: each["left"] for each in later.json[0]["steps"]}
    assert {point for left in steps["what points need"] for point in left["points"]} == {
        first["id"]
    }


def test_object_lock_is_refused_for_a_folder(used: Host) -> None:
    text = used.settings.read_text().replace(
        '"store"', '"object_lock": {"mode": "governance", "for": "30d"}, "store"', 1
    )
    used.settings.write_text(text)

    assert 'expected "object_lock" for a store in S3 only' in used.fails(10, "list")
