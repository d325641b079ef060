# SPDX-License-Identifier: Apache-2.0
"""What a host runs from, all the way down, as its /proc and /sys tell."""

import os
from pathlib import Path

import pytest

from snapvault.adapters.sources.lvm_host import Host

ROOT_LV, HOME_LV, POOL, DISK, LOOP = (253, 0), (253, 1), (253, 7), (8, 2), (7, 0)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "swaps").write_text("Filename Type Size Used Priority\n")
    return folder


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    folder = tmp_path / "sys"
    (folder / "dev" / "block").mkdir(parents=True)
    return folder


def mount(proc: Path, device: tuple[int, int], point: str, kind: str = "ext4 /dev/x rw") -> None:
    with (proc / "self" / "mountinfo").open("a") as file:
        file.write(f"25 1 {device[0]}:{device[1]} / {point} rw,relatime shared:1 - {kind}\n")


def lies_on(sysfs: Path, device: tuple[int, int], *below: tuple[int, int]) -> None:
    for number, (major, minor) in enumerate(below):
        slave = sysfs / "dev" / "block" / f"{device[0]}:{device[1]}" / "slaves" / f"d{number}"
        slave.mkdir(parents=True)
        (slave / "dev").write_text(f"{major}:{minor}\n")


def test_a_device_needs_what_it_lies_on(proc: Path, sysfs: Path) -> None:
    lies_on(sysfs, ROOT_LV, POOL)
    lies_on(sysfs, POOL, DISK, LOOP)

    below = Host(proc, sysfs).below({ROOT_LV, HOME_LV})

    assert below == {ROOT_LV, HOME_LV, POOL, DISK, LOOP}


def test_devices_that_lie_on_each_other_in_a_circle_end(proc: Path, sysfs: Path) -> None:
    lies_on(sysfs, ROOT_LV, POOL)
    lies_on(sysfs, POOL, ROOT_LV)

    assert Host(proc, sysfs).below({ROOT_LV}) == {ROOT_LV, POOL}


def test_a_partition_lies_on_its_disk(proc: Path, sysfs: Path) -> None:
    disk = sysfs / "devices" / "sda"
    (disk / "sda2").mkdir(parents=True)
    (disk / "dev").write_text("8:0\n")
    (disk / "sda2" / "partition").write_text("2\n")
    (sysfs / "dev" / "block" / "8:2").symlink_to(disk / "sda2")

    assert Host(proc, sysfs).below({DISK}) == {DISK, (8, 0)}


def test_a_loop_device_lies_on_what_its_file_lies_on(
    proc: Path, sysfs: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.touch()
    loop = sysfs / "dev" / "block" / "7:0" / "loop"
    loop.mkdir(parents=True)
    (loop / "backing_file").write_text(f"{image}\n")
    found = image.stat().st_dev

    assert (os.major(found), os.minor(found)) in Host(proc, sysfs).below({LOOP})


@pytest.mark.parametrize("point", ["/", "/usr", "/boot", "/var", "/tmp", "/etc"])
def test_what_is_mounted_at_a_place_of_the_system_is_needed(
    proc: Path, sysfs: Path, point: str
) -> None:
    mount(proc, ROOT_LV, point)
    mount(proc, HOME_LV, "/srv/data")
    lies_on(sysfs, ROOT_LV, POOL)

    needed = Host(proc, sysfs).needed()

    assert {ROOT_LV, POOL} <= needed
    assert HOME_LV not in needed


def test_what_this_process_stands_on_is_needed(proc: Path, sysfs: Path, tmp_path: Path) -> None:
    found = tmp_path.stat().st_dev

    needed = Host(proc, sysfs).needed([tmp_path / "state" / "not there yet"])

    assert (os.major(found), os.minor(found)) in needed


def test_what_a_file_system_without_a_device_of_its_own_lies_on_is_needed(
    proc: Path, sysfs: Path
) -> None:
    mount(proc, (0, 31), "/", "btrfs /dev/null rw,space_cache")
    members = sysfs / "fs" / "btrfs" / "1-2" / "devices"
    for name, device in (("dm-0", "0:31"), ("dm-1", "253:9")):
        (members / name).mkdir(parents=True)
        (members / name / "dev").write_text(f"{device}\n")

    assert (253, 9) in Host(proc, sysfs).needed()


def test_a_file_to_swap_to_is_needed(proc: Path, sysfs: Path, tmp_path: Path) -> None:
    swap = tmp_path / "swap"
    swap.touch()
    (proc / "swaps").write_text(f"Filename Type\n{swap} file 1 0 -2\n")
    found = tmp_path.stat().st_dev

    assert (os.major(found), os.minor(found)) in Host(proc, sysfs).needed()


def test_mounted_is_what_a_file_system_has_for_itself(proc: Path, sysfs: Path) -> None:
    mount(proc, ROOT_LV, "/mnt/with\\040space")
    with (proc / "self" / "mountinfo").open("a") as file:
        file.write("a line that is cut\n")

    host = Host(proc, sysfs)

    assert host.is_mounted(ROOT_LV)
    assert not host.is_mounted(HOME_LV)


def test_a_host_that_tells_nothing_needs_what_this_process_stands_on(tmp_path: Path) -> None:
    found = Path(__file__).stat().st_dev

    host = Host(tmp_path / "no proc", tmp_path / "no sys")

    assert (os.major(found), os.minor(found)) in host.needed()
