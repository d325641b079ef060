# SPDX-License-Identifier: Apache-2.0
"""The disks of the benchmarks: what is changed in them is there, in order, and nothing else."""

import random
from pathlib import Path

import pytest

from benchmarks import ext4
from benchmarks.differences import Watcher
from benchmarks.measure import BenchmarkError
from benchmarks.mirror import Mirror

pytestmark = pytest.mark.integration

MIB = 1 << 20


def folder_of_a_database(folder: Path) -> Path:
    (folder / "shop").mkdir(parents=True)
    (folder / "shop/orders.ibd").write_bytes(random.Random(1).randbytes(4 * MIB))
    (folder / "log").write_bytes(bytes(MIB))
    (folder / "state").write_bytes(b"one")
    return folder


def change(folder: Path) -> None:
    with (folder / "shop/orders.ibd").open("r+b") as file:
        file.seek(2 * MIB + 5)
        file.write(b"page")
        file.seek(0, 2)
        file.write(b"grown" * 10_000)
    (folder / "log").write_bytes(b"x" + bytes(MIB - 1))
    (folder / "state").unlink()
    (folder / "shop/lines.ibd").write_bytes(b"new" * 10_000)


def contents(image: Path, folder: Path, scratch: Path) -> dict[str, bytes]:
    names = [f"/data/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()]
    return ext4.fetch(image, names, scratch)


@pytest.mark.parametrize("cluster", [None, 16 << 10])
def test_a_disk_changes_as_the_folder_that_it_mirrors(tmp_path: Path, cluster: int | None) -> None:
    folder, image = folder_of_a_database(tmp_path / "data"), tmp_path / "disk.raw"
    ext4.make(image, 64 * MIB, cluster=cluster)
    mirror, watcher = Mirror(folder, image, "/data"), Watcher(tmp_path / "before", level=3)
    mirror.update(ext4.FIRST_DAY)
    watcher.first(image)
    change(folder)

    mirror.update(ext4.FIRST_DAY + ext4.DAY)

    found = contents(image, folder, tmp_path / "scratch")
    assert found == {
        f"/data/{path.relative_to(folder)}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    with pytest.raises(BenchmarkError, match="/data/state"):
        ext4.fetch(image, ["/data/state"], tmp_path / "scratch")
    # Four pages of what changed, what came, and some of the file system's own.
    assert 0 < watcher.next(image).changed_blocks < 4 + 4 + 2 + 12


def test_the_same_steps_make_the_same_disk(tmp_path: Path) -> None:
    images = []
    for name in ("one", "other"):
        folder, image = folder_of_a_database(tmp_path / name / "data"), tmp_path / f"{name}.raw"
        ext4.make(image, 64 * MIB)
        mirror = Mirror(folder, image, "/data")
        mirror.update(ext4.FIRST_DAY)
        change(folder)
        mirror.update(ext4.FIRST_DAY + ext4.DAY)
        ext4.trim(image, ext4.FIRST_DAY + ext4.DAY)
        images.append(image.read_bytes())

    assert images[0] == images[1]


def test_a_step_that_does_not_work_is_told(tmp_path: Path) -> None:
    ext4.make(tmp_path / "disk.raw", 64 * MIB)
    script = ext4.Script()
    script.remove("/home/nobody")

    with pytest.raises(BenchmarkError, match="File not found"):
        script.run(tmp_path / "disk.raw", ext4.FIRST_DAY)


def test_a_damaged_file_system_is_told(tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    ext4.make(image, 64 * MIB)
    with image.open("r+b") as file:
        file.seek(1024)
        file.write(bytes(64))

    with pytest.raises(BenchmarkError, match="e2fsck"):
        ext4.check(image)
