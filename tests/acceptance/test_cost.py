# SPDX-License-Identifier: Apache-2.0
"""Costs are shown, and what is foreseen is what is counted, through the command line."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import Host, image
from tests.support import s3

pytestmark = pytest.mark.integration

CHANCE = random.Random(13)
PRICES = {
    "currency": "EUR",
    "egress": 100,
    "classes": {
        "STANDARD": {"storage": 200, "put": 1, "get": 1},
        "STANDARD_IA": {"storage": 100, "put": 2, "get": 1, "retrieval": 50, "minimum_days": 30},
    },
}


def usage_of(host: Host) -> dict[str, dict[str, int]]:
    """Return what was counted on a host, by verb."""
    (vault,) = host.does("status", "--json").json["vaults"]
    usage: dict[str, dict[str, int]] = vault["usage"]
    return usage


def test_what_is_foreseen_is_what_is_counted(
    s3_store: dict[str, Any], tmp_path: Path, host_home: Path, recovery_home: Path
) -> None:
    server = s3.server()
    store = {**s3_store, "volume_storage_class": "STANDARD_IA", "prices": PRICES}
    host = Host(tmp_path / "host", host_home, store, environment=server.environment()).set_up()
    recovery = Host(
        tmp_path / "recovery", recovery_home, store, environment=server.environment()
    ).set_up()
    disk = tmp_path / "disk.img"
    host.protect({"web01": image(disk)}, retention={"last": 1})
    host.does("init")
    for _ in range(2):
        disk.write_bytes(CHANCE.randbytes(2_000_000))
        host.does("backup")
    target = str(tmp_path / "restored")

    (cost,) = host.does("cost", "--backup", "500GiB", "--json").json
    (data,) = host.does("verify", "--level", "data", "--dry-run", "--json").json
    host.does("verify", "--level", "data")
    restoring = recovery.does("restore", "web01", "--to", target, "--dry-run", "--json").json
    assert not Path(target).exists()
    recovery.does("restore", "web01", "--to", target)
    host.does("prune")
    (pruned,) = host.does("prune", "--grace", "0s", "--json").json

    counted = usage_of(host)
    assert data["foreseen"]["usage"] == counted["verify"]
    assert restoring["foreseen"]["usage"] == usage_of(recovery)["restore"]
    assert restoring["prices"]["currency"] == "EUR"
    foreseen = {each["what"]: each for each in cost["foreseen"]}
    assert foreseen["verify --level data"]["usage"] == counted["verify"]
    assert foreseen["restore web01"] == restoring["foreseen"]
    assert foreseen["first backup"]["usage"]["volume_put_requests"] == 8000
    read = restoring["foreseen"]["cost"]
    assert 0.09 < read["retrieval"] < 0.1 < read["egress"] < 0.2
    stored = {each["storage_class"]: each for each in cost["stored"]}
    assert stored["STANDARD_IA"]["bytes"] > 4_000_000 > stored["STANDARD"]["bytes"]
    assert 0.37 < stored["STANDARD_IA"]["month"] < 0.4
    backup = cost["used"]["backup"]
    assert backup["usage"] == counted["backup"]
    assert backup["usage"]["uploaded_bytes"] > 4_000_000
    assert backup["usage"]["volume_put_requests"] == 2
    # The volumes of the expired point are paid for a month; its metadata is not.
    assert pruned["paid"]["bytes"] > 2_000_000 > pruned["deleted"]["bytes"] > 0


def test_a_vault_without_prices_says_so(tmp_path: Path, host_home: Path) -> None:
    store = {"store": f"file://{tmp_path / 'vault'}"}
    host = Host(tmp_path / "host", host_home, store).set_up()
    host.does("init")

    told = host.does("cost")
    wrong = host.fails(2, "cost", "--backup", "much")

    assert 'prices are not known: write them into "prices" of the vault' in told.stdout
    assert "--backup" in wrong
