# SPDX-License-Identifier: Apache-2.0
"""Hosts with real GnuPG homes, and vaults in folders and on a real S3 server."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import Host, image, shell
from tests.support import keys, s3


@pytest.fixture(scope="session")
def host_home() -> Iterator[Path]:
    with keys.host_home() as home:
        yield home


@pytest.fixture(scope="session")
def recovery_home() -> Iterator[Path]:
    with keys.recovery_home() as home:
        yield home


@pytest.fixture
def folder_store(tmp_path: Path) -> dict[str, Any]:
    return {"store": f"file://{tmp_path}/vault"}


@pytest.fixture
def s3_store() -> dict[str, Any]:
    return {
        "store": f"s3://{s3.BUCKET}/{s3.fresh_prefix()}",
        "endpoint_url": s3.server().endpoint_url,
    }


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.getfixturevalue(f"{request.param}_store")
    return found


@pytest.fixture
def host(tmp_path: Path, host_home: Path, folder_store: dict[str, Any]) -> Host:
    """Return a backup host whose vault, in a folder, is not made yet."""
    return Host(tmp_path / "host", host_home, folder_store).set_up()


@pytest.fixture
def recovery(tmp_path: Path, recovery_home: Path, folder_store: dict[str, Any]) -> Host:
    """Return a recovery host: the recovery key, the same vault, no folder of policies."""
    found = Host(tmp_path / "recovery", recovery_home, folder_store).set_up()
    (found.folder / "policies").rmdir()
    return found


@pytest.fixture(scope="session")
def used_once(tmp_path_factory: pytest.TempPathFactory, host_home: Path) -> Path:
    """Make the vault and the state that `used` gets a copy of."""
    folder = tmp_path_factory.mktemp("used")
    disk = folder / "disk.img"
    disk.write_bytes(b"content" * 10_000)
    host = Host(folder / "host", host_home, {"store": f"file://{folder}/vault"}).set_up()
    host.protect(
        {
            "web01": image(disk),
            "shop": {"streams": {"tables": shell("echo tables"), "files": shell("echo files")}},
        }
    )
    host.does("init")
    host.does("backup")
    return folder


@pytest.fixture
def used(host: Host, used_once: Path, tmp_path: Path) -> Host:
    """Return a host with a point of a disk, `web01`, and of a source with two streams, `shop`."""
    shutil.copytree(used_once / "vault", tmp_path / "vault")
    shutil.copytree(used_once / "host", host.folder, dirs_exist_ok=True)
    return host.set_up()
