# SPDX-License-Identifier: Apache-2.0
"""Archived volumes are told of, thawed and restored, against a server that freezes them.

moto refuses to give out what is archived, and thaws it when it is told to.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.moto_api import state_manager
from moto.server import ThreadedMotoServer

from snapvault.adapters.stores.opening import StoreOptions, open_archive, open_store
from snapvault.engine.thaw import find_cold, thaw
from snapvault.errors import ObjectArchivedError
from snapvault.model.point import ObjectRecord
from snapvault.ports.archive import Archive, ClassTraits, Frost, Lying, Tier
from tests.acceptance.program import Host, image
from tests.support import keys

pytestmark = pytest.mark.integration

BUCKET = "frozen"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1,localhost",
}


@pytest.fixture
def moto_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        try:
            client.create_bucket(Bucket=BUCKET)
        finally:
            client.close()
        yield url
    finally:
        state_manager.unset_transition("s3::keyrestore")
        server.stop()


def opened(url: str) -> tuple[Any, Archive]:
    place = f"s3://{BUCKET}/vault"
    options = StoreOptions(endpoint_url=url, volume_storage_class="GLACIER")
    archive = open_archive(place, options)
    assert archive is not None
    return open_store(place, options), archive


def test_a_frozen_volume_is_asked_for_waited_for_and_read(moto_url: str) -> None:
    store, archive = opened(moto_url)
    record = ObjectRecord("volumes/ab/abcdef.vol", 4, "")
    store.put(record.name, b"data")
    store.put("meta/x", b"metadata")
    state_manager.set_transition("s3::keyrestore", {"progression": "manual", "times": 4})
    pauses: list[float] = []

    with pytest.raises(ObjectArchivedError, match=record.name):
        store.get(record.name)
    cold = find_cold(archive, [record, ObjectRecord("meta/x", 8, "")])
    thaw(archive, cold, tier=Tier.BULK, days=2, sleep=pauses.append)
    archive.thaw(record.name, tier=Tier.BULK, days=2)

    assert cold.sums() == [("GLACIER", 1, 4)]
    assert pauses
    assert archive.look(record.name) == Lying(Frost.READABLE, "GLACIER")
    assert store.get(record.name) == b"data"
    assert store.get("meta/x") == b"metadata"


def test_a_probe_tells_whether_a_class_freezes(moto_url: str) -> None:
    store, archive = opened(moto_url)

    frozen, kept = archive.probe("DEEP_ARCHIVE"), archive.probe("STANDARD_IA")

    assert frozen == ClassTraits(keeps=True, freezes=True)
    assert kept == ClassTraits(keeps=True, freezes=False)
    assert list(store.names("probe/")) == []


def test_a_vault_with_frozen_volumes_is_backed_up_verified_and_restored(
    moto_url: str, tmp_path: Path
) -> None:
    store = {
        "store": f"s3://{BUCKET}/vault",
        "endpoint_url": moto_url,
        "volume_storage_class": "GLACIER",
    }
    disk, target = tmp_path / "disk.img", tmp_path / "restored"
    with keys.host_home() as host_home, keys.recovery_home() as recovery_home:
        host = Host(tmp_path / "host", host_home, store, environment=ENVIRONMENT).set_up()
        recovery = Host(
            tmp_path / "recovery", recovery_home, store, environment=ENVIRONMENT
        ).set_up()
        host.protect({"web01": image(disk)})
        host.does("init")
        for _ in range(2):
            disk.write_bytes(random.Random(5).randbytes(300_000))
            host.does("backup")

        (verified,) = host.does("verify", "--level", "data", "--json").json
        wrong = recovery.run(
            "restore", "web01", "--to", str(target), "--tier", "expedited", "--thaw-days", "0"
        )
        restored = recovery.does("restore", "web01", "--to", str(target), "--tier", "bulk")
        again = recovery.does("restore", "web01", "--to", str(target), "--force")

    assert (verified["findings"], verified["archived"]) == ([], 1)
    assert (wrong.status, "--thaw-days" in wrong.stderr) == (2, True)
    assert target.read_bytes() == disk.read_bytes()
    told = "in GLACIER must be thawed: asking for them at tier Bulk, which takes 5h to 12h"
    assert told in restored.stderr
    assert "thawed" not in again.stderr
