# SPDX-License-Identifier: Apache-2.0
"""A machine and its clone in one vault, with real keys, through the command line."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.program import Host, image

pytestmark = pytest.mark.integration


def test_a_clone_stores_what_differs_and_comes_back_when_the_first_has_gone(
    host: Host, recovery: Host, tmp_path: Path, recovery_home: Path
) -> None:
    chance = random.Random(1)
    content = chance.randbytes(3_000_000)
    changed = bytearray(content)
    changed[500_000:500_100] = chance.randbytes(100)
    web01, web02 = tmp_path / "web01.img", tmp_path / "web02.img"
    web01.write_bytes(content)
    web02.write_bytes(changed)
    host.protect({"web01": image(web01), "web02": image(web02)}, retention={"last": 1})
    host.does("init")

    first = host.does("backup", "web01", "--json").json[0]
    told = host.does("backup", "web02")

    assert first["deduplicated_bytes"] == 0
    assert "of which 2.9 MiB were there already" in told.stdout
    (clone,) = host.points("web02")
    assert clone["stored_bytes"] < 0.05 * first["stored_bytes"]
    shown = host.does("show", clone["id"])
    assert "deduplicated   2.9 MiB" in shown.stdout
    web01.write_bytes(chance.randbytes(3_000_000))
    host.does("backup", "web01")
    pruned = host.does("prune", "--json").json[0]
    assert pruned["removed_points"] == 1
    assert host.does("prune", "--grace", "0s", "--json").json[0]["deleted"]["objects"] > 0
    recovery.does("restore", "web02", "--to", str(tmp_path / "restored.img"))
    assert (tmp_path / "restored.img").read_bytes() == changed
    assert recovery.does("verify", "--level", "full", "--json").json[0]["findings"] == []
    script = [sys.executable, "-I", "-S", str(tmp_path / "vault" / "restore.py")]
    subprocess.run(
        [*script, str(tmp_path / "vault"), "web02", "--to", str(tmp_path / "by-hand")],
        env={**os.environ, "GNUPGHOME": str(recovery_home)},
        stdin=subprocess.DEVNULL,
        check=True,
    )
    assert (tmp_path / "by-hand").read_bytes() == changed
