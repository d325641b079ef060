# SPDX-License-Identifier: Apache-2.0
"""Makes the golden vault of format 1. It was run once; what it made is never edited.

    python -m tests.format.make_v1 FOLDER

FOLDER gets `vault/` (a copy of a bucket), `keys/` and `expected.json`: every stream of every point
with its size and SHA-256. Disks shrink, grow and get holes; one stream comes and one goes; the host
loses its state; a dump has rows inserted, deleted and moved.
"""

import hashlib
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from snapvault.adapters.stores.directory import DirectoryStore
from tests.support import keys
from tests.support.sources import MemoryByteSource, MemoryDiskSource
from tests.support.vaults import VaultKit, gnupg_sealers

BLOCK = 4096  # bytes


def main(folder: Path) -> None:
    """Make the golden vault."""
    dice = random.Random("snapvault golden vault, format 1")
    expected: dict[str, list[dict[str, object]]] = {"web01": [], "shop": []}
    with gnupg_sealers() as sealers, tempfile.TemporaryDirectory() as scratch:
        kit = VaultKit(
            Path(scratch),
            store=DirectoryStore(folder / "vault"),
            sealers=sealers,
            block_size=BLOCK,
            volume_size=1 << 20,
        )
        _machine(kit, dice, expected["web01"])
        kit.lose_state()
        _dump(kit, dice, expected["shop"])
    (folder / "keys").mkdir()
    for name in ("recovery.secret.asc", "host.secret.asc"):
        shutil.copy(keys.FOLDER / name, folder / "keys" / name)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", "ascii")
    shutil.rmtree(folder / "vault" / ".incoming", ignore_errors=True)


def _machine(kit: VaultKit, dice: random.Random, expected: list[dict[str, object]]) -> None:
    root = bytearray(_text(dice, 40 * BLOCK) + bytes(60 * BLOCK) + _text(dice, 20 * BLOCK + 77))
    source = MemoryDiskSource("web01", {"root": root, "data": bytearray(_text(dice, 3 * BLOCK))})
    _night(kit, source, source.disks, expected)

    for _ in range(9):
        at = dice.randrange(len(root) - 100)
        root[at : at + 50] = _text(dice, 50)
    source.disks["root"] = root
    _night(kit, source, source.disks, expected)

    # The disk shrinks, a stream goes and another comes.
    del root[70 * BLOCK + 5 :]
    root[10 * BLOCK : 14 * BLOCK] = bytes(4 * BLOCK)
    source.disks = {"root": root, "swap": bytearray(2 * BLOCK)}
    _night(kit, source, source.disks, expected)

    # It grows again, on a host that has lost its state.
    kit.lose_state()
    root += bytes(30 * BLOCK) + _text(dice, 5 * BLOCK)
    source.disks = {"root": root, "swap": bytearray(0)}
    _night(kit, source, source.disks, expected)


def _dump(kit: VaultKit, dice: random.Random, expected: list[dict[str, object]]) -> None:
    rows = [_text(dice, dice.randrange(40, 200)) + b"\n" for _ in range(1500)]
    source = MemoryByteSource("shop", {"dump": b"".join(rows)})
    _night(kit, source, source.contents, expected)

    for at in (3, 400, 1200):
        rows[at] = _text(dice, 90) + b"\n"
    rows.insert(700, _text(dice, 333) + b"\n")
    del rows[900:905]
    source.contents["dump"] = b"".join(rows)
    _night(kit, source, source.contents, expected)

    rows = rows[800:] + rows[:800] + rows[100:300]
    source.contents["dump"] = b"".join(rows)
    _night(kit, source, source.contents, expected)


def _night(
    kit: VaultKit,
    source: MemoryDiskSource | MemoryByteSource,
    streams: dict[str, bytes | bytearray],
    expected: list[dict[str, object]],
) -> None:
    held = kit.night(source)
    expected.append(
        {
            "point": held.point.point,
            "streams": {
                name: [len(content), hashlib.sha256(content).hexdigest()]
                for name, content in streams.items()
            },
        }
    )


def _text(dice: random.Random, size: int) -> bytes:
    words = [b"restore", b"volume", b"extent", b"signature", b"night", b"0x%04x", b"42"]
    text = b""
    while len(text) < size:
        text += dice.choice(words) + b" " + str(dice.randrange(10**9)).encode() + b" "
    return text[:size]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
