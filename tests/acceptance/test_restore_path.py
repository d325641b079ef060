# SPDX-License-Identifier: Apache-2.0
"""Folder trees, and parts of them, through the command line."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import Host, shell

pytestmark = pytest.mark.integration


def make_tree(folder: Path) -> Path:
    """Make a folder with some configuration."""
    for name in ("hosts", "ssh/sshd_config", "ssh/keys/host key", "nginx/nginx.conf"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"this is {name}\n")
    (folder / "ssh/keys").chmod(0o700)
    (folder / "ssh/keys/host key").chmod(0o600)
    os.link(folder / "hosts", folder / "ssh/hosts too")
    (folder / "ssh/link").symlink_to("keys/host key")
    return folder


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, host_home: Path) -> Path:
    """Make the tree, and the vault that `backed_up` gets a copy of."""
    folder = tmp_path_factory.mktemp("once")
    tree = make_tree(folder / "machine" / "etc")
    host = Host(folder / "host", host_home, {"store": f"file://{folder}/vault"}).set_up()
    host.protect(
        {
            "etc": {"directory": {"path": str(tree)}},
            "both": {
                "streams": {
                    "settings": {"directory": {"path": str(tree / "nginx")}},
                    "dump": shell("echo dump"),
                }
            },
        }
    )
    host.does("init")
    host.does("backup")
    return folder


@pytest.fixture
def tree(once: Path) -> Path:
    """Return the folder that was backed up, to look at."""
    return once / "machine" / "etc"


@pytest.fixture
def backed_up(once: Path, recovery: Host, tmp_path: Path) -> Host:
    """Return the recovery host, after one night of the tree."""
    shutil.copytree(once / "vault", tmp_path / "vault")
    return recovery


def content(folder: Path) -> dict[str, str]:
    """Return the files below a folder, and its own empty folders, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if path.is_file() or not any(path.iterdir())
    }


def test_a_night_that_changed_a_little_stores_little(host: Host, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "etc")
    chance = os.urandom(3 << 20)
    for number in range(300):
        (tree / f"file {number}").write_bytes(chance[number * 10_000 : (number + 1) * 10_000])
    host.protect({"etc": {"directory": {"path": str(tree)}}})
    host.does("init")
    host.does("backup")
    (tree / "file 150").write_bytes(b"changed in the middle")

    (second,) = host.does("backup", "--json").json
    (third,) = host.does("backup", "--json").json

    assert second["size_bytes"] > 3_000_000
    assert second["stored_bytes"] < 100_000
    assert third["stored_bytes"] < 20_000
    assert second["consistency"] == "crash"


def test_a_folder_takes_the_whole_tree(backed_up: Host, tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "there"

    done = backed_up.does("restore", "etc", "--to", f"{target}/")

    assert content(target) == content(tree)
    assert (target / "hosts").samefile(target / "ssh/hosts too")
    assert (target / "ssh/keys").stat().st_mode & 0o777 == 0o700
    assert 'restored stream "directory" of source "etc"' in done.stdout
    assert "content digest verified" in done.stdout


def test_an_existing_folder_is_added_to_and_keeps_what_it_has(
    backed_up: Host, tree: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    (target / "ssh").mkdir(parents=True)
    (target / "ssh/mine").write_text("mine")
    (target / "ssh").chmod(0o711)

    backed_up.does("restore", "etc", "--to", str(target))

    assert content(target) == {**content(tree), "ssh/mine": "mine"}
    assert (target / "ssh").stat().st_mode & 0o777 == 0o711


def test_paths_come_back_with_the_folders_above_them_and_nothing_else(
    backed_up: Host, tree: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"

    done = backed_up.does(
        "restore",
        "etc",
        "--path",
        "ssh/keys/",
        "--path",
        str(tree / "nginx/nginx.conf"),
        "--to",
        str(target),
    )

    assert content(target) == {
        "nginx/nginx.conf": "this is nginx/nginx.conf\n",
        "ssh/keys/host key": "this is ssh/keys/host key\n",
    }
    assert (target / "ssh/keys").stat().st_mode & 0o777 == 0o700
    assert 'restored "ssh/keys", "nginx/nginx.conf" of stream' in done.stdout
    assert ": 2 files, 51 bytes, content digest verified" in done.stdout


def test_a_hard_link_comes_back_without_the_file_it_was_another_name_of(
    backed_up: Host, tree: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"

    done = backed_up.does("restore", "etc", "--path", "ssh/hosts too", "--to", str(target))

    assert content(target) == {"ssh/hosts too": "this is hosts\n"}
    assert ": 1 file, 14 bytes, content digest verified" in done.stdout
    assert (target / "ssh/hosts too").stat().st_nlink == 1
    assert (target / "ssh").stat().st_mtime_ns == (tree / "ssh").stat().st_mtime_ns


def test_a_dot_is_the_whole_tree(backed_up: Host, tree: Path, tmp_path: Path) -> None:
    backed_up.does("restore", "etc", "--path", ".", "--to", str(tmp_path / "out"))

    assert content(tmp_path / "out") == content(tree)


def test_a_file_takes_the_archive(backed_up: Host, tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "etc.tar"

    backed_up.does("restore", "etc", "--to", str(archive))

    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "-x", "-f", archive, "-C", unpacked], check=True)
    assert content(unpacked) == content(tree)


def test_a_file_that_is_there_stops_the_restore_unless_force_is_given(
    backed_up: Host, tree: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    (target / "ssh").mkdir(parents=True)
    (target / "ssh/sshd_config").write_text("mine")

    said = backed_up.fails(16, "restore", "etc", "--to", str(target))
    before = content(target)
    backed_up.does("restore", "etc", "--to", str(target), "--force")

    assert f'"{target}/ssh/sshd_config" is there already' in said
    assert "--force" in said
    assert before == {"ssh/sshd_config": "mine"}
    assert content(target) == content(tree)


def test_a_file_in_the_place_of_a_folder_stops_it_in_any_case(
    backed_up: Host, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "ssh").symlink_to("/etc")

    said = backed_up.fails(16, "restore", "etc", "--to", str(target), "--force")

    assert f'"{target}/ssh" is in the way' in said
    assert [each.name for each in target.iterdir()] == ["ssh"]


def test_a_path_that_is_not_there_is_named_with_the_nearest_and_leaves_nothing(
    backed_up: Host, tmp_path: Path
) -> None:
    target = tmp_path / "new" / "out"

    said = backed_up.fails(
        16, "restore", "etc", "--path", "hosts", "--path", "ssh/sshd_confg", "--to", str(target)
    )

    assert 'stream "directory" of source "etc" has no path "ssh/sshd_confg"' in said
    assert 'Did you mean "ssh/sshd_config"?' in said
    assert not (tmp_path / "new").exists()


def test_a_damaged_vault_leaves_nothing_in_the_folder(backed_up: Host, tmp_path: Path) -> None:
    for volume in (tmp_path / "vault/volumes").rglob("*.vol"):
        data = bytearray(volume.read_bytes())
        data[-40] ^= 1
        volume.chmod(0o600)
        volume.write_bytes(data)
    target = tmp_path / "out"
    target.mkdir()

    said = backed_up.fails(13, "restore", "etc", "--to", str(target))

    assert "volume" in said
    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["etc", "--path", "../x", "--to", "out"], 2, '"../x" is no path in a folder tree'),
        (["etc", "--path", "/usr", "--to", "out"], 2, '"/usr" is not below "'),
        (["etc", "--path", "hosts", "--to", "-"], 2, "into a folder, not to stdout"),
        (["etc", "--path", "hosts", "--to", "file"], 16, "it is a file, a folder is meant"),
        (["both", "--path", "x", "--to", "out"], 16, "Folder trees are: settings."),
        (["both", "--stream", "dump", "--path", "x", "--to", "out"], 16, "is no folder tree"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    words: list[str], status: int, said: str, backed_up: Host, tmp_path: Path
) -> None:
    target = tmp_path / words[-1]
    if words[-1] == "file":
        target.touch()
    to = "-" if words[-1] == "-" else str(target)

    complaint = backed_up.fails(status, "restore", *words[:-1], to)

    assert said in complaint
    assert not (tmp_path / "out").exists()


def test_a_stream_of_several_is_unpacked_when_it_is_chosen(backed_up: Host, tmp_path: Path) -> None:
    report: list[Any] = []
    target = tmp_path / "out"
    target.mkdir()

    done = backed_up.does("restore", "both", "--stream", "settings", "--to", str(target), "--json")
    report.append(done.json)

    assert content(target) == {"nginx.conf": "this is nginx/nginx.conf\n"}
    restored = report[0]["restored"][0]
    assert restored["paths"] == ["."]
    assert (restored["files"], restored["size_bytes"]) == (1, 25)
