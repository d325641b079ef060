# SPDX-License-Identifier: Apache-2.0
"""`snapvault files` and `snapvault mount`, as somebody uses them who lost a file."""

import filecmp
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from snapvault import clock
from tests.acceptance.program import Host, image, shell
from tests.support import file_systems as made
from tests.support.file_systems import MIB

pytestmark = pytest.mark.integration

DEADLINE = 90.0  # seconds


@pytest.fixture(scope="session")
def machine_once(tmp_path_factory: pytest.TempPathFactory, host_home: Path) -> Path:
    """Make a vault with a machine of two disks: partitions with ext4 and XFS, and a bare ext4."""
    folder = tmp_path_factory.mktemp("machine")
    tree = made.make_tree(folder / "tree")
    ext4, xfs = made.ext4(folder / "ext4", tree), made.xfs(folder / "xfs", tree)
    root = made.partitioned(
        folder / "root.raw",
        "gpt",
        ["size=18M", "size=330M"],
        {1: ext4, 19: xfs},
        size=360 * MIB,
    )
    host = Host(folder / "host", host_home, {"store": f"file://{folder}/vault"}).set_up()
    streams = {"root": image(root), "data": image(ext4), "dump": shell("echo dump")}
    host.protect({"web01": {"streams": streams}}, volume_size="1MiB")
    host.does("init")
    host.does("backup")
    return folder


@pytest.fixture
def machine(machine_once: Path, recovery: Host, tmp_path: Path) -> Host:
    """Return the recovery host, with a vault of its own that has the machine."""
    shutil.copytree(machine_once / "vault", tmp_path / "vault")
    return recovery


def test_file_systems_and_files_are_listed(machine: Host) -> None:
    volumes = machine.does("--json", "files", "web01").json["volumes"]
    listed = machine.does("files", "web01", "root:1/etc").stdout
    entries = machine.does("--json", "files", "web01", "root:2/srv").json["entries"]
    bare = machine.does("files", "web01", "data/etc/hostname").stdout

    assert [(each["name"], each["kind"], each["readable"]) for each in volumes] == [
        ("root:1", "ext4", True),
        ("root:2", "xfs", True),
        ("data", "ext4", True),
    ]
    assert "-rw-------" in listed
    assert "link -> hostname" in listed
    assert "hostname" in bare
    assert {each["name"]: each["size_bytes"] for each in entries}["large.bin"] == 1_280_000


@pytest.mark.parametrize("volume", ["root:1", "root:2"])
def test_one_file_comes_back_and_little_is_fetched_for_it(machine: Host, volume: str) -> None:
    done = machine.run("-v", "files", "web01", f"{volume}/etc/hostname", "--to", "-")
    stored = len(list((machine.state.parent.parent / "vault").glob("volumes/*/*")))

    assert done.status == 0, done.stderr
    assert done.stdout == "web01\n"
    assert 0 < done.stderr.count("volume.fetched") < stored
    assert not list(machine.state.glob("browse-*"))


def test_a_folder_comes_back_with_modes_links_and_times(
    machine: Host, machine_once: Path, tmp_path: Path
) -> None:
    target = tmp_path / "restored"

    said = machine.does("files", "web01", "root:1", "--to", str(target)).stdout
    machine.does("files", "web01", "root:1/etc", "--to", f"{tmp_path}/into/")
    machine.does("files", "web01", "root:1/etc/hostname", "--to", str(tmp_path / "renamed"))

    tree = machine_once / "tree"
    compared = filecmp.dircmp(tree, target)
    assert (compared.left_only, compared.right_only) == ([], ["lost+found"])
    for name, data in made.CONTENT.items():
        assert (target / name).read_bytes() == data
    assert (target / "etc/hostname").stat().st_mode & 0o777 == 0o600
    assert (target / "etc/hostname").stat().st_mtime == 1_700_000_000
    assert (target / "etc/link").readlink() == Path("hostname")
    assert (target / "srv/large.bin").samefile(target / "srv/second name.bin")
    assert (tmp_path / "into/etc/hostname").read_bytes() == b"web01\n"
    assert (tmp_path / "renamed").read_bytes() == b"web01\n"
    assert "files" in said
    assert not list(tmp_path.glob(".snapvault*"))


def test_what_is_there_is_replaced_only_by_force(machine: Host, tmp_path: Path) -> None:
    target = tmp_path / "hostname"
    target.write_text("mine\n")
    words = ("files", "web01", "root:1/etc/hostname", "--to", str(target))

    said = machine.fails(16, *words)

    assert str(target) in said
    assert target.read_text() == "mine\n"
    machine.does(*words, "--force")
    assert target.read_text() == "web01\n"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("web02",), 16, "web02"),
        (("web01", "root:1/etc/hostnam"), 16, 'no "etc/hostnam" in "root:1"'),
        (("web01", "root:1/etc/link/x"), 16, "links are not followed"),
        (("web01", "root:7/etc"), 16, "root:1, root:2, data"),
        (("web01", "/etc/hostname"), 16, "may be in any of 3 file systems"),
        (("web01", "root:1/../etc"), 2, "leads nowhere"),
        (("web01", "--stream", "dump"), 16, 'no disk "dump"'),
    ],
)
def test_a_wrong_request_is_told_in_a_line(
    machine: Host, words: tuple[str, ...], status: int, message: str
) -> None:
    assert message in machine.fails(status, "files", *words)


def test_a_host_without_the_recovery_key_cannot_look(
    machine_once: Path, host_home: Path, tmp_path: Path
) -> None:
    shutil.copytree(machine_once / "vault", tmp_path / "vault")
    host = Host(tmp_path / "host", host_home, {"store": f"file://{tmp_path}/vault"}).set_up()

    said = host.fails(12, "files", "web01")

    assert "recovery key" in said


@contextmanager
def mounted(host: Host, folder: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    folder.mkdir()
    process = host.start("mount", "web01", str(folder), *words)
    assert process.stdout
    assert process.stderr
    try:
        line = process.stdout.readline()
        assert b"web01" in line, process.stderr.read()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)
        process.stdout.close()
        process.stderr.close()


def wait_until_unmounted(folder: Path) -> None:
    deadline = clock.monotonic() + DEADLINE
    while f" {folder} fuse" in Path("/proc/self/mounts").read_text():
        assert clock.monotonic() < deadline
        clock.sleep(0.05)


def test_a_mounted_point_shows_disks_and_files(
    machine: Host, machine_once: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mnt"
    with mounted(machine, folder) as process:
        files, disks = folder / "files", folder / "disks"
        names = (
            sorted(path.name for path in files.iterdir()),
            sorted(path.name for path in disks.iterdir()),
        )
        content = {
            volume: {name: (files / volume / name).read_bytes() for name in made.CONTENT}
            for volume in ("root:1", "data")
        }
        link = (files / "root:2/etc/link").read_text()
        same = filecmp.cmp(machine_once / "ext4", disks / "data.raw", shallow=False)
        with pytest.raises(OSError, match="Read-only file system"):
            (files / "root:1/etc/new").write_text("x")
        with pytest.raises(FileNotFoundError):
            (files / "root:1/etc/nothing").read_text()
        process.send_signal(signal.SIGTERM)
        status = process.wait(DEADLINE)

    assert names == (
        ["data", "root:1", "root:2"],
        ["data.raw", "root:1.raw", "root:2.raw"],
    )
    assert content == {"root:1": made.CONTENT, "data": made.CONTENT}
    assert link == "web01\n"
    assert same
    assert status == 128 + signal.SIGTERM
    wait_until_unmounted(folder)
    assert list(folder.iterdir()) == []
    assert not list(machine.state.glob("browse-*"))


def test_unmounting_ends_the_program(machine: Host, tmp_path: Path) -> None:
    folder = tmp_path / "mnt"
    with mounted(machine, folder) as process:
        subprocess.run(["fusermount3", "-u", str(folder)], check=True)
        status = process.wait(DEADLINE)

    assert status == 0


def test_a_killed_mount_leaves_no_dead_folder(machine: Host, tmp_path: Path) -> None:
    folder = tmp_path / "mnt"
    with mounted(machine, folder) as process:
        process.kill()
        process.wait(DEADLINE)

        wait_until_unmounted(folder)
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "it is missing"),
        (lambda folder: folder.write_text("x"), "it is a file"),
        (lambda folder: (folder.mkdir(), (folder / "x").touch()), "it is not empty"),
    ],
)
def test_only_an_empty_folder_is_mounted_at(
    machine: Host, tmp_path: Path, make: object, message: str
) -> None:
    folder = tmp_path / "mnt"
    make(folder)  # type: ignore[operator]

    assert message in machine.fails(16, "mount", "web01", str(folder))


def test_what_is_damaged_is_named_and_nothing_of_it_comes_back(
    machine: Host, tmp_path: Path
) -> None:
    for volume in (tmp_path / "vault").glob("volumes/*/*"):
        data = volume.read_bytes()
        volume.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    target = tmp_path / "restored"

    said = machine.fails(13, "files", "web01", "root:1/srv", "--to", str(target))

    assert "volume" in said
    assert "damaged" in said
    assert not target.exists()
    assert not list(tmp_path.glob(".snapvault*"))
