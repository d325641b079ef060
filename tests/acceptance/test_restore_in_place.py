# SPDX-License-Identifier: Apache-2.0
"""Disks that are overwritten where they lie, through the command line."""

import random
import shutil
from pathlib import Path

import pytest

from tests.acceptance.program import Host, image, shell
from tests.unit.adapters.targets.devices import block_device

pytestmark = pytest.mark.integration

CHANCE = random.Random(17)
MIB = 1 << 20


@pytest.fixture(scope="module")
def backed_up_once(tmp_path_factory: pytest.TempPathFactory, host_home: Path) -> Path:
    """Make a vault with a disk in volumes of a mebibyte, and a dump."""
    folder = tmp_path_factory.mktemp("backed-up")
    disk = folder / "disk.img"
    disk.write_bytes(random.Random(17).randbytes(4 * MIB) + bytes(MIB))
    host = Host(folder / "host", host_home, {"store": f"file://{folder}/vault"}).set_up()
    host.protect({"web01": image(disk), "shop": shell("echo dump")}, volume_size="1 MiB")
    host.does("init")
    host.does("backup")
    return folder


@pytest.fixture
def disk(backed_up_once: Path, tmp_path: Path) -> Path:
    """Return a disk as it was that night."""
    return Path(shutil.copy(backed_up_once / "disk.img", tmp_path))


@pytest.fixture
def backed_up(recovery: Host, backed_up_once: Path, tmp_path: Path) -> Host:
    """Return the recovery host, after the night."""
    shutil.copytree(backed_up_once / "vault", tmp_path / "vault")
    return recovery


def largest_volume(vault: Path) -> Path:
    return max(
        (vault / "volumes").rglob("*"), key=lambda path: path.is_file() * path.stat().st_size
    )


def damage(path: Path) -> bytes:
    """Change a disk here and there; return what it was."""
    content = path.read_bytes()
    changed = bytearray(content)
    changed[2 * MIB + 5 : 2 * MIB + 50_000] = CHANCE.randbytes(49_995)
    changed[-40_000:] = b"x" * 40_000
    path.write_bytes(changed)
    return content


def test_a_disk_becomes_what_it_was_for_a_part_of_the_fetches(backed_up: Host, disk: Path) -> None:
    content = damage(disk)

    said = backed_up.does("restore", "web01", "--to", str(disk), "--in-place")
    again = backed_up.does("restore", "web01", "--to", str(disk), "--in-place", "--json").json

    assert disk.read_bytes() == content
    assert "in place: compared 5.0 MiB" in said.stdout
    assert "made zeros" in said.stdout
    assert said.stdout.count("content digest verified") == 1
    assert " of 1 volume; a full restore fetches " in said.stdout
    assert " MiB of 4\n" in said.stdout
    (stream,) = again["restored"]
    assert stream["in_place"] is True
    assert (stream["compared_bytes"], stream["different_bytes"]) == (5 * MIB, 0)
    assert (stream["written_bytes"], stream["resized"]) == (0, False)
    assert (again["fetched_volumes"], again["fetched_bytes"]) == (0, 0)
    assert again["full_volumes"] == 4
    assert again["full_bytes"] > 4 * MIB


def test_a_half_restored_disk_is_marked_refused_by_backups_and_taken_up(
    host: Host, backed_up: Host, backed_up_once: Path, disk: Path, tmp_path: Path
) -> None:
    shutil.copytree(backed_up_once / "host", host.folder, dirs_exist_ok=True)
    host.set_up().protect({"web01": image(disk)})
    content = disk.read_bytes()
    disk.write_bytes(CHANCE.randbytes(6 * MIB))
    # A volume is not there for the moment.
    volume = largest_volume(tmp_path / "vault")
    volume.rename(tmp_path / "elsewhere")
    mark = disk.with_name(".disk.img.snapvault-restoring")

    failed = backed_up.fails(13, "restore", "web01", "--to", str(disk), "--in-place")
    refused = host.fails(15, "backup")
    is_marked = mark.exists()
    (tmp_path / "elsewhere").rename(volume)
    finished = backed_up.does("restore", "web01", "--to", str(disk), "--in-place")

    assert volume.name.partition(".")[0] in failed
    assert is_marked
    assert "half restored" in refused
    assert f'snapvault restore web01 --to "{disk}" --in-place' in refused
    assert "was interrupted" in finished.stderr
    assert disk.read_bytes() == content
    assert not mark.exists()
    assert host.does("backup", "--json").json[0]["changed_bytes"] == 0


def test_a_restore_over_a_half_restored_file_makes_it_whole(backed_up: Host, disk: Path) -> None:
    content = damage(disk)
    mark = disk.with_name(".disk.img.snapvault-restoring")
    mark.write_text("{}")

    backed_up.does("restore", "web01", "--to", str(disk), "--force")

    assert disk.read_bytes() == content
    assert not mark.exists()


def test_a_block_device_becomes_the_point(
    backed_up: Host, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = disk.read_bytes()
    with block_device(tmp_path / "backing", 8 * MIB, monkeypatch) as (device, _):
        said = backed_up.does("restore", "web01", "--to", str(device), "--in-place")

        there = (tmp_path / "backing" if device.is_file() else device).read_bytes()
    assert there[: 5 * MIB] == content
    if not device.is_file():
        assert there[5 * MIB :] == b"\xaa" * (3 * MIB)
        assert "stay as they are" in said.stderr
        assert list((backed_up.state / "restoring").iterdir()) == []


def test_an_interrupted_restore_to_a_device_is_marked_too(
    backed_up: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = largest_volume(tmp_path / "vault")
    with block_device(tmp_path / "backing", 8 * MIB, monkeypatch) as (device, is_real):
        if not is_real:
            return  # a file is never half restored, except in place
        volume.rename(tmp_path / "elsewhere")
        backed_up.fails(13, "restore", "web01", "--to", str(device), "--force")
        marks = len(list((backed_up.state / "restoring").iterdir()))
        (tmp_path / "elsewhere").rename(volume)
        backed_up.does("restore", "web01", "--to", str(device), "--force")

    assert marks == 1
    assert list((backed_up.state / "restoring").iterdir()) == []


def test_of_several_disks_each_is_restored_in_its_place_and_the_missing_are_made(
    host: Host, recovery: Host, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("root", "data"):
        (folder / name).write_bytes(CHANCE.randbytes(2 * MIB))
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    host.protect({"web01": {"streams": {name: image(folder / name) for name in contents}}})
    host.does("init")
    host.does("backup")
    (folder / "data").unlink()
    (folder / "root").write_bytes(contents["root"][: MIB + 7])

    report = recovery.does("restore", "web01", "--to", str(folder), "--in-place", "--json").json

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents
    by_name = {each["stream"]: each for each in report["restored"]}
    assert by_name["data"]["in_place"] is False
    assert by_name["root"]["in_place"] is True
    assert by_name["root"]["resized"] is True
    # Whole blocks: what was there of the one in the middle does not help.
    assert MIB - 7 <= by_name["root"]["different_bytes"] <= MIB


def test_what_cannot_be_restored_in_place_is_refused_in_plain_words(
    backed_up: Host, host: Host, disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "dump").write_text("old")
    before = disk.read_bytes()

    def refused(status: int, source: str, to: str, *more: str) -> str:
        said = backed_up.fails(status, "restore", source, "--to", to, "--in-place", *more)
        return " ".join(said.replace("│", " ").split())

    assert "stdout holds nothing yet" in refused(2, "web01", "-")
    missing = refused(16, "web01", str(tmp_path / "disk.imgg"))
    assert "it does not exist" in missing
    assert "leave out --in-place" in missing
    assert "it is no disk" in refused(16, "shop", str(tmp_path / "dump"))
    assert "--in-place" in backed_up.run("restore", "web01", "--to", "x", "--inplace").stderr
    assert disk.read_bytes() == before
    assert (tmp_path / "dump").read_text() == "old"
    assert not (tmp_path / "disk.imgg").exists()
    # Without the recovery key nothing is opened, written or marked.
    content = damage(disk)
    damaged = disk.read_bytes()
    assert "recovery key" in host.fails(12, "restore", "web01", "--to", str(disk), "--in-place")
    assert not disk.with_name(".disk.img.snapvault-restoring").exists()
    assert disk.read_bytes() == damaged != content
