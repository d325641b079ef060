# SPDX-License-Identifier: Apache-2.0
"""qcow2 images that restores write, looked at by QEMU's own programs."""

import random
import subprocess
from pathlib import Path

import pytest

from snapvault.adapters.targets.qcow2 import Qcow2Target, room_for
from snapvault.errors import RestoreError, TargetNotEmptyError

pytestmark = pytest.mark.integration

GIB = 1 << 30


def qemu_img(*argv: str | Path) -> str:
    """Run qemu-img, which must succeed."""
    done = subprocess.run(["qemu-img", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Sizes at which one more cluster, L2 table or refcount block is needed, and none that is round.
@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        513,
        65536,
        65537,
        GIB // 2,
        GIB // 2 + 1,
        2 * GIB - 5 * 65536,
        2 * GIB,
        (1 << 41) + 777,
    ],
)
def test_an_image_of_any_size_is_sound_and_holds_what_was_written(
    size: int, tmp_path: Path
) -> None:
    chance = random.Random(size)
    image, raw = tmp_path / "disk.qcow2", tmp_path / "disk.raw"
    target = Qcow2Target.create(image, size, force=False)
    with raw.open("wb") as file:
        file.truncate(-(-size // 512) * 512)
        for _ in range(20 if size else 0):
            length = min(size, chance.choice([1, 4096, 16384, 200_000]))
            offset = chance.choice([0, size - length, chance.randrange(size - length + 1)])
            data = chance.randbytes(length)
            file.seek(offset)
            file.write(data)
            target.write(offset, memoryview(data))

    target.commit()

    qemu_img("check", image)
    assert "identical" in qemu_img("compare", "-f", "qcow2", "-F", "raw", image, raw)
    assert image.stat().st_blocks * 512 < 32 << 20


def test_a_machine_can_go_on_writing(tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    target = Qcow2Target.create(image, 1 << 30, force=False)
    target.write(300_000, memoryview(b"restored" * 1000))
    target.commit()

    # Into what is there, into what is not, and past a table that is not.
    for command in ("write -P 1 301k 1k", "write -P 2 700M 300k", "discard 300k 64k"):
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, image], check=True)
    qemu_img("snapshot", "-c", "before", image)

    qemu_img("check", image)
    for command in ("read -P 2 700M 300k", "read -P 0 100M 1M"):
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, image], check=True)


def test_zeros_take_no_room(tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    target = Qcow2Target.create(image, 100 * GIB, force=False)
    target.zero(0, 100 * GIB)

    target.commit()

    assert image.stat().st_blocks * 512 < room_for(100 * GIB, 0) <= 1 << 20


def test_what_is_there_is_replaced_only_if_that_is_wanted(tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    image.write_bytes(b"old")

    with pytest.raises(TargetNotEmptyError):
        Qcow2Target.create(image, 1000, force=False)
    Qcow2Target.create(image, 1000, force=True).commit()

    qemu_img("check", image)


def test_a_disk_that_no_table_could_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RestoreError, match="at most"):
        Qcow2Target.create(tmp_path / "disk.qcow2", 1 << 61, force=False)

    assert list(tmp_path.iterdir()) == []
