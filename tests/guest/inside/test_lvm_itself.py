# SPDX-License-Identifier: Apache-2.0
"""What the LVM source relies on and LVM's manuals do not promise, asked of the real one."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1 << 20
CHUNK = 64 << 10


def _run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, check=check, capture_output=True, text=True, timeout=300)


def _lvs(volume: str, *fields: str) -> dict[str, str]:
    output = _run(
        *("lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", ",".join(fields)),
        volume,
    ).stdout
    row: dict[str, str] = json.loads(output)["report"][0]["lv"][0]
    return row


def _write(volume: str, offset: int, data: bytes) -> None:
    with Path(f"/dev/{volume}").open("r+b", buffering=0) as device:
        device.seek(offset)
        device.write(data)
        os.fsync(device.fileno())


def _writer(volume: str, data: bytes) -> threading.Thread:
    writer = threading.Thread(target=_write, args=(volume, 0, data), daemon=True)
    writer.start()
    return writer


def _content(volume: str) -> bytes:
    return Path(f"/dev/{volume}").read_bytes()


@pytest.fixture
def thick(volume_group: str) -> str:
    _run("lvcreate", "-y", "-Wn", "-n", "thick", "-L", "16M", volume_group)
    return f"{volume_group}/thick"


@pytest.fixture
def thin(volume_group: str) -> str:
    _run(
        *("lvcreate", "-y", "-Zn", "-n", "pool-0", "-L", "64M", "--type", "thin-pool"),
        *("--chunksize", "64k", "--poolmetadatasize", "4M", volume_group),
    )
    _run("lvcreate", "-y", "-V", "16M", "--thin", "-n", "thin", f"{volume_group}/pool-0")
    return f"{volume_group}/thin"


def _snapshot(origin: str, name: str, *options: str) -> str:
    _run("lvcreate", "-y", "-s", "-n", name, *options, origin)
    return f"{origin.partition('/')[0]}/{name}"


def _thin_snapshot(origin: str, name: str = "snap") -> str:
    return _snapshot(origin, name, "-kn")


def _chunks(volume: str) -> list[bytes]:
    with Path(f"/dev/{volume}").open("rb") as device:
        return list(iter(lambda: device.read(CHUNK), b""))


# --- lvs -------------------------------------------------------------------------------------


def test_sizes_are_in_bytes_without_a_suffix(thick: str) -> None:
    assert _lvs(thick, "lv_size", "vg_free", "vg_extent_size") == {
        "lv_size": str(16 * MIB),
        "vg_free": str((1020 - 16) * MIB),
        "vg_extent_size": str(4 * MIB),
    }


def test_names_of_devices_are_told_so_that_none_is_built(thin: str) -> None:
    assert _lvs(thin, "lv_path", "lv_dm_path") == {
        "lv_path": f"/dev/{thin}",
        "lv_dm_path": "/dev/mapper/vg--guest-thin",
    }


def test_tags_are_listed_and_selected_by(thick: str) -> None:
    snapshot = _snapshot(
        thick, "snap", "-L", "8M", "--addtag", "snapvault", "--addtag", "a.b+c_d-e/f=1"
    )

    assert _lvs(snapshot, "lv_tags")["lv_tags"] == "a.b+c_d-e/f=1,snapvault"
    listed = _run("lvs", "--noheadings", "-o", "lv_name", "--select", "lv_tags=snapvault").stdout
    assert listed.split() == ["snap"]


# --- thick -----------------------------------------------------------------------------------


def test_a_thick_snapshot_stays_as_its_origin_was(thick: str) -> None:
    _write(thick, 0, b"old" * 1000)
    before = _content(thick)
    snapshot = _snapshot(thick, "snap", "-L", "8M")

    _write(thick, 0, b"new" * 1000)

    assert _content(snapshot) == before
    assert _content(thick) != before
    assert _lvs(snapshot, "lv_snapshot_invalid", "origin") == {
        "lv_snapshot_invalid": "",
        "origin": "thick",
    }


def test_a_full_thick_snapshot_is_invalid_and_its_origin_goes_on(thick: str) -> None:
    snapshot = _snapshot(thick, "snap", "-L", "4M")

    _write(thick, 0, os.urandom(8 * MIB))

    assert _lvs(snapshot, "lv_snapshot_invalid", "snap_percent") == {
        "lv_snapshot_invalid": "snapshot invalid",
        "snap_percent": "100.00",
    }
    with pytest.raises(OSError, match="Input/output error"):
        _content(snapshot)
    _write(thick, 0, b"and on")


# --- thin ------------------------------------------------------------------------------------


def _thin_delta(older: str, newer: str) -> list[tuple[str, int, int]]:
    """Return what thin_delta tells, in chunks, but for those that are the same."""
    group = older.partition("/")[0].replace("-", "--")
    pool = f"{group}-pool--0"
    ids = [_lvs(volume, "thin_id")["thin_id"] for volume in (older, newer)]
    _run("dmsetup", "message", f"{pool}-tpool", "0", "reserve_metadata_snap")
    try:
        told = _run(
            *("thin_delta", "-m", "--snap1", ids[0], "--snap2", ids[1]),
            f"/dev/mapper/{pool}_tmeta",
        ).stdout
    finally:
        _run("dmsetup", "message", f"{pool}-tpool", "0", "release_metadata_snap")
    assert f'data_block_size="{CHUNK // 512}"' in told
    found = re.findall(r'<(\w+) begin="(\d+)" length="(\d+)"/>', told)
    return [(kind, int(begin), int(length)) for kind, begin, length in found if kind != "same"]


def test_thin_delta_tells_the_changed_chunks_and_no_others(thin: str) -> None:
    _write(thin, 0, os.urandom(16 * CHUNK))
    older = _thin_snapshot(thin, "older")
    _write(thin, 3 * CHUNK + 17, b"x")
    _write(thin, 51 * CHUNK - 512, os.urandom(1024))
    _write(thin, 100 * CHUNK, os.urandom(5 * CHUNK))
    _run("blkdiscard", "-o", str(7 * CHUNK), "-l", str(CHUNK), f"/dev/{thin}")
    newer = _thin_snapshot(thin, "newer")

    told = _thin_delta(older, newer)

    assert told == [
        ("different", 3, 1),
        ("left_only", 7, 1),
        ("right_only", 50, 2),
        ("right_only", 100, 5),
    ]
    old, new = _chunks(older), _chunks(newer)
    assert [number for number, chunk in enumerate(old) if chunk != new[number]] == [
        *(3, 7, 50, 51),
        *range(100, 105),
    ]
    assert new[7] == bytes(CHUNK)


def test_a_held_metadata_snapshot_refuses_a_second_one(thin: str) -> None:
    pool = f"{thin.partition('/')[0].replace('-', '--')}-pool--0-tpool"
    reserve = ("dmsetup", "message", pool, "0", "reserve_metadata_snap")
    assert _run("dmsetup", "status", pool).stdout.split()[6] == "-"
    _run(*reserve)
    assert _run("dmsetup", "status", pool).stdout.split()[6] != "-"

    second = _run(*reserve, check=False)

    assert second.returncode != 0
    assert "busy" in second.stderr
    _run("dmsetup", "message", pool, "0", "release_metadata_snap")


def test_a_thin_snapshot_is_active_only_when_asked_for(thin: str) -> None:
    _run("lvcreate", "-y", "-s", "-n", "dormant", thin)

    assert _lvs(f"{thin.partition('/')[0]}/dormant", "lv_active")["lv_active"] == ""


# --- several volumes at one moment -----------------------------------------------------------


@contextmanager
def _suspended(volumes: Sequence[str]) -> Iterator[None]:
    names = [volume.replace("-", "--").replace("/", "-") for volume in volumes]
    for name in names:
        _run("dmsetup", "suspend", name)
    try:
        yield
    finally:
        for name in names:
            _run("dmsetup", "resume", name)


def test_a_suspended_thick_origin_gets_its_snapshot_and_is_resumed_by_it(volume_group: str) -> None:
    volumes = [f"{volume_group}/{name}" for name in ("one", "two")]
    for volume in volumes:
        _run("lvcreate", "-y", "-Wn", "-n", volume.partition("/")[2], "-L", "8M", volume_group)
        _write(volume, 0, b"before")
    with _suspended(volumes):
        writers = [_writer(volume, b"after!") for volume in volumes]
        snapshots = [
            _snapshot(volume, f"snap{number}", "-L", "8M") for number, volume in enumerate(volumes)
        ]
        for writer in writers:
            writer.join(60)
            assert not writer.is_alive()

    assert [_content(snapshot)[:6] for snapshot in snapshots] == [b"before"] * 2
    assert [_content(volume)[:6] for volume in volumes] == [b"after!"] * 2


def test_a_suspended_thin_origin_gets_none_and_its_pool_takes_no_more(thin: str) -> None:
    with _suspended([thin]):
        while_suspended = _run("lvcreate", "-y", "-s", "-kn", "-n", "snap", thin, check=False)

    afterwards = _run("lvcreate", "-y", "-s", "-kn", "-n", "snap", thin, check=False)
    assert while_suspended.returncode != 0
    assert afterwards.returncode != 0
    assert "unexpected transaction id" in afterwards.stderr


def test_a_dormant_snapshot_can_be_aimed_again_at_an_origin_that_is_suspended(thin: str) -> None:
    """How snapshots of several thin volumes show one moment, which lvcreate alone cannot."""
    group = thin.partition("/")[0]
    pool = f"{group.replace('-', '--')}-pool--0-tpool"
    _write(thin, 0, b"before")
    _run("lvcreate", "-y", "-s", "-n", "dormant", thin)
    _write(thin, 0, b"moment")
    origin, snapshot = (_lvs(name, "thin_id")["thin_id"] for name in (thin, f"{group}/dormant"))
    with _suspended([thin]):
        _run("dmsetup", "message", pool, "0", f"delete {snapshot}")
        _run("dmsetup", "message", pool, "0", f"create_snap {snapshot} {origin}")
    _write(thin, 0, b"after!")

    _run("lvchange", "-ay", "-K", f"{group}/dormant")

    assert _content(f"{group}/dormant")[:6] == b"moment"
    _snapshot(thin, "another", "-kn")
    _run("lvremove", "-y", f"{group}/dormant")


def test_a_snapshot_that_only_lvm_knows_is_removed_without_harm(thin: str) -> None:
    group = thin.partition("/")[0]
    pool = f"{group.replace('-', '--')}-pool--0-tpool"
    _run("lvcreate", "-y", "-s", "-n", "dormant", thin)
    number = _lvs(f"{group}/dormant", "thin_id")["thin_id"]
    _run("dmsetup", "message", pool, "0", f"delete {number}")

    _run("lvremove", "-y", f"{group}/dormant")

    _thin_snapshot(thin)


@pytest.mark.parametrize("kind", ["thick", "thin"])
def test_lvm_freezes_a_mounted_file_system_itself(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    origin: str = request.getfixturevalue(kind)
    _run("mkfs.ext4", "-q", f"/dev/{origin}")
    _run("mount", f"/dev/{origin}", str(tmp_path))
    try:
        (tmp_path / "file").write_bytes(b"not synced")
        snapshot = _snapshot(origin, "snap", *(["-L", "8M"] if kind == "thick" else ["-kn"]))
    finally:
        _run("umount", str(tmp_path))

    _run("mount", "-o", "ro,noload", f"/dev/{snapshot}", str(tmp_path))
    try:
        assert (tmp_path / "file").read_bytes() == b"not synced"
    finally:
        _run("umount", str(tmp_path))


def test_a_file_system_that_somebody_froze_gets_no_snapshot(thin: str, tmp_path: Path) -> None:
    _run("mkfs.ext4", "-q", f"/dev/{thin}")
    _run("mount", f"/dev/{thin}", str(tmp_path))
    try:
        _run("fsfreeze", "-f", str(tmp_path))
        refused = _run("lvcreate", "-y", "-s", "-kn", "-n", "snap", thin, check=False)
        _run("fsfreeze", "-u", str(tmp_path))
    finally:
        _run("umount", str(tmp_path))

    assert refused.returncode != 0
    assert "busy" in refused.stderr
    _thin_snapshot(thin)
