# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/restore-by-hand.md restore a vault, as they stand."""

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import keys
from tests.support.vault_builder import VaultBuilder

pytestmark = pytest.mark.integration

DOCUMENT = Path(__file__).parents[2] / "docs" / "restore-by-hand.md"
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("stream", ["root", "dump", "empty"])
def test_the_commands_of_the_document_restore_the_newest_point(stream: str, tmp_path: Path) -> None:
    for program in ("gpg", "zstd"):
        assert shutil.which(program), f"{program} is missing: apt-get install gnupg zstd"
    wanted = build(tmp_path / "vault")
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(keys.FOLDER / "recovery.secret.asc", work / "recovery-key.asc")
    settings, *blocks = BLOCK.findall(DOCUMENT.read_text())
    assert "SOURCE=web01 STREAM=root" in settings
    ours = f"cd {tmp_path / 'vault'}\nWORK={work}\nSOURCE=web01 STREAM={stream}\n"

    with keys.empty_home() as home:
        done = subprocess.run(
            ["bash", "-eu", "-c", ours + "".join(blocks)],
            env={**os.environ, "GNUPGHOME": str(home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        keys.end_agent(work / "signers")

    assert done.returncode == 0, done.stdout + done.stderr
    assert (work / stream).read_bytes() == wanted[stream]
    assert keys.HOST in done.stderr.replace(" ", "")


def build(folder: Path) -> dict[str, bytes]:
    """Build a vault with three nights; return the last one's streams."""
    chance = random.Random(5)
    root = bytearray(chance.randbytes(90_000) + bytes(50_000) + chance.randbytes(10_001))
    dump = bytearray(chance.randbytes(9_000))
    streams: dict[str, bytes] = {}
    with keys.host_home() as home:
        builder = VaultBuilder(folder, home, recipients=[keys.RECOVERY], signer=keys.HOST)
        for _ in range(3):
            streams = {"dump": bytes(dump), "root": bytes(root), "empty": b""}
            builder.commit("web01", streams, rolling=["dump"])
            at = chance.randrange(80_000)
            root[at : at + 5_000] = chance.randbytes(5_000)
            root += bytes(4_096) + chance.randbytes(3_000)
            dump[4_000:4_010] = chance.randbytes(123)
    return streams
