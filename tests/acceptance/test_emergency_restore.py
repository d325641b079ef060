# SPDX-License-Identifier: Apache-2.0
"""The script that every vault carries restores it with gpg and zstd alone.

The vaults here come from a builder that knows the formats and no engine, so that the
script is held to the format and not to one writer of it.
"""

import os
import random
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import zstandard

from snapvault.formats import manifest, maps, meta, names, volume_list
from snapvault.formats.emergency import restore
from snapvault.model import extents
from snapvault.model.extents import FIRST_VOLUME, PARENT
from snapvault.model.point import LogEntry, Point
from tests.support.keys import (
    HOST,
    HOST2,
    PASSPHRASE,
    PROTECTED,
    RECOVERY,
    RECOVERY2,
    gnupg_home,
    host_home,
    recovery_home,
)
from tests.support.vault_builder import VaultBuilder, pack_volume

pytestmark = pytest.mark.integration

NIGHTS = 6


@dataclass(frozen=True)
class Built:
    """A vault, and what each of its points must give back."""

    folder: Path
    points: list[Point]
    history: list[dict[str, bytes]]
    single: bytes


@dataclass
class Script:
    """The vault's own script, run by a person whose GnuPG home holds the recovery key."""

    home: Path

    def __call__(
        self, folder: Path, *arguments: str | Path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        for program in ("gpg", "zstd"):
            assert shutil.which(program), f"{program} is missing: apt-get install gnupg zstd"
        # -S and -I: nothing but the standard library can be imported.
        command = [sys.executable, "-I", "-S", str(folder / "restore.py"), str(folder)]
        return subprocess.run(
            [*command, *map(str, arguments)],
            env={**os.environ, "GNUPGHOME": str(self.home), "TZ": "UTC", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def host() -> Iterator[Path]:
    with host_home() as home:
        yield home


@pytest.fixture(scope="module")
def both_hosts() -> Iterator[Path]:
    with gnupg_home(secret=["host", "host2"], public=["recovery", "recovery2"]) as home:
        yield home


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    with recovery_home() as home:
        yield Script(home)


@pytest.fixture(scope="module")
def built(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("vault")
    builder = VaultBuilder(folder, host, recipients=[RECOVERY, RECOVERY2], signer=HOST)
    chance = random.Random(1)
    root = bytearray(chance.randbytes(150_000) + bytes(200_000) + chance.randbytes(50_123))
    dump = bytearray(chance.randbytes(20_000))
    points, history = [], []
    for _ in range(NIGHTS):
        streams = {"root": bytes(root), "dump": bytes(dump), "empty": b""}
        points.append(builder.commit("web01", streams, rolling=["dump"]))
        history.append(streams)
        at = chance.randrange(len(root) - 20_000)
        root[at : at + 10_000] = chance.randbytes(10_000)
        root[at // 2 : at // 2 + 8_192] = bytes(8_192)
        at = chance.randrange(len(dump) - 2_000)
        dump[at : at + 100] = chance.randbytes(333)
        root += chance.randbytes(5_000)
    builder.commit("etc", {"etc": b"first"}, rolling=["etc"])
    return Built(folder, points, history, b"first")


@pytest.fixture
def vault(built: Built, tmp_path: Path) -> Built:
    """The same vault, to be damaged."""
    folder = tmp_path / "vault"
    shutil.copytree(built.folder, folder)
    return replace(built, folder=folder)


@pytest.mark.parametrize("night", range(NIGHTS))
def test_every_point_comes_back_byte_for_byte(
    night: int, built: Built, script: Script, tmp_path: Path
) -> None:
    at = f"{built.points[night].taken_at:%Y-%m-%d}"

    done = script(built.folder, "web01", "--to", tmp_path / "out", "--at", at)

    assert done.returncode == 0, done.stderr
    assert read_folder(tmp_path / "out") == built.history[night]


def test_without_a_time_the_point_of_the_highest_sequence_is_restored(
    host: Path, script: Script, tmp_path: Path
) -> None:
    folder = tmp_path / "vault"
    builder = VaultBuilder(folder, host, recipients=[RECOVERY], signer=HOST)
    builder.commit("a", {"a": b"first"})
    second = builder.commit("a", {"a": b"second"})
    (folder / names.point("a", second.taken_at, second.point)).unlink()
    clock_was_wrong = second.taken_at.replace(year=2001)
    builder.put_point(replace(second, taken_at=clock_was_wrong))

    done = script(folder, "a", "--to", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == b"second"


def test_a_source_with_one_stream_restores_to_a_file(
    built: Built, script: Script, tmp_path: Path
) -> None:
    done = script(built.folder, "etc", "--to", tmp_path / "etc.tar")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "etc.tar").read_bytes() == built.single
    assert "its SHA-256 is the manifest's" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["etc.tar"]


def test_one_stream_of_several_restores_to_a_sparse_file_of_its_owner_alone(
    built: Built, script: Script, tmp_path: Path
) -> None:
    target = tmp_path / "root.img"

    done = script(built.folder, "web01", "--stream", "root", "--to", target)

    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == built.history[-1]["root"]
    assert target.stat().st_blocks * 512 < 300_000 < target.stat().st_size
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert "BLAKE3" in done.stdout


def test_the_list_shows_every_point_and_who_signed_it(built: Built, script: Script) -> None:
    done = script(built.folder)

    assert done.returncode == 0, done.stderr
    assert all(point.point in done.stdout for point in built.points)
    assert "web01" in done.stdout
    assert "etc" in done.stdout
    assert spaced(HOST) in done.stdout


def test_the_list_of_one_source_shows_that_one_only(built: Built, script: Script) -> None:
    done = script(built.folder, "etc")

    assert done.returncode == 0, done.stderr
    assert "web01" not in done.stdout


def test_a_listed_time_can_be_given_back_as_it_is_written(
    built: Built, script: Script, tmp_path: Path
) -> None:
    listed = next(
        line.split()[0] for line in script(built.folder).stdout.splitlines() if "2026-11-20" in line
    )

    done = script(built.folder, "web01", "--at", listed, "--stream", "dump", "--to", tmp_path / "o")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o").read_bytes() == built.history[2]["dump"]


@pytest.mark.parametrize(
    ("at", "night"),
    [
        ("2026-11-20", 2),
        ("2026-11-20 01:29", 1),
        ("2026-11-20 01:30", 2),
        ("2026-11-20T03:30:00+02:00", 2),
        ("2026-11-20T03:29:59+02:00", 1),
        ("20261120T013000Z", 2),
        ("2999-01-01", 5),
    ],
)
def test_the_newest_point_at_or_before_a_time_is_taken(
    at: str, night: int, built: Built, script: Script
) -> None:
    done = script(built.folder, "web01", "--at", at, "--needs")

    assert done.returncode == 0, done.stderr
    assert f"point {built.points[night].point}," in done.stderr


def test_a_time_without_a_zone_is_local(built: Built, script: Script) -> None:
    done = script(built.folder, "web01", "--at", "2026-11-20 02:29", "--needs", TZ="UTC-1")

    assert f"point {built.points[1].point}," in done.stderr


def test_the_signer_is_shown_and_must_be_compared_when_none_was_named(
    built: Built, script: Script, tmp_path: Path
) -> None:
    done = script(built.folder, "etc", "--to", tmp_path / "out")

    assert f"SIGNED BY   {spaced(HOST)}" in done.stderr
    assert "on paper" in done.stderr


def test_the_signer_that_was_named_is_enough_in_any_writing(
    built: Built, script: Script, tmp_path: Path
) -> None:
    done = script(built.folder, "etc", "--to", tmp_path / "out", "--signer", spaced(HOST).lower())

    assert done.returncode == 0, done.stderr
    assert "SIGNED BY" not in done.stderr


def test_another_signer_than_the_named_one_is_refused(
    built: Built, script: Script, tmp_path: Path
) -> None:
    done = script(built.folder, "etc", "--to", tmp_path / "out", "--signer", HOST2)

    assert_refused(done, 13, f"signed by {HOST}, not by the signer you named")
    assert not list(tmp_path.iterdir())


def test_a_newer_point_of_a_stranger_is_never_passed_over_in_silence(
    both_hosts: Path, script: Script, tmp_path: Path
) -> None:
    folder = tmp_path / "vault"
    builder = VaultBuilder(folder, both_hosts, recipients=[RECOVERY], signer=HOST)
    builder.commit("a", {"a": b"ours"})
    theirs = builder.commit("a", {"a": b"theirs"})
    builder.put_point(theirs, signer=HOST2)
    key = (Path(__file__).parents[1] / "support/keyring/host2.public.asc").read_bytes()
    builder.put(names.public_key(HOST2), key)

    refused = script(folder, "a", "--to", tmp_path / "out", "--signer", HOST)
    older = script(folder, "a", "--to", tmp_path / "o", "--signer", HOST, "--at", "2026-11-18")
    shown = script(folder, "a", "--to", tmp_path / "theirs")

    assert_refused(refused, 13, HOST2)
    assert "--at 2026-11-18T01:30:00Z" in refused.stderr
    assert older.returncode == 0
    assert (tmp_path / "o").read_bytes() == b"ours"
    assert spaced(HOST2) in shown.stderr
    assert f"other points of this source are signed by {HOST}" in shown.stderr


def test_the_keys_of_the_vault_do_not_enter_the_home_of_the_user(
    built: Built, tmp_path: Path
) -> None:
    with gnupg_home(secret=["recovery"]) as home:
        done = Script(home)(built.folder, "etc", "--to", tmp_path / "out")
        listed = subprocess.run(
            ["gpg", "--homedir", home, "--batch", "--list-keys", "--with-colons"],
            capture_output=True,
            text=True,
            check=True,
        )

    assert done.returncode == 0, done.stderr
    assert HOST not in listed.stdout


def test_without_the_recovery_key_it_says_which_keys_are_missing(
    built: Built, tmp_path: Path
) -> None:
    with gnupg_home(public=["recovery"]) as home:
        done = Script(home)(built.folder, "etc", "--to", tmp_path / "out")

    assert_refused(done, 12, "no secret key for")
    assert "gpg --import" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_host_key_opens_maps_and_no_data(built: Built, host: Path, tmp_path: Path) -> None:
    needed = Script(host)(built.folder, "etc", "--needs")

    done = Script(host)(built.folder, "etc", "--to", tmp_path / "out")

    assert needed.returncode == 0, needed.stderr
    assert_refused(done, 12, "no secret key for")
    assert not list(tmp_path.iterdir())


def test_a_passphrase_file_opens_a_protected_key(tmp_path: Path) -> None:
    folder = tmp_path / "vault"
    with gnupg_home(secret=["host"], public=["protected"]) as home:
        builder = VaultBuilder(folder, home, recipients=[PROTECTED], signer=HOST)
        builder.commit("a", {"a": b"secret"})
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text(PASSPHRASE)
    wrong.write_text("wrong")

    with gnupg_home(secret=["protected"]) as home:
        options = ["a", "--to", str(tmp_path / "out"), "--passphrase-file"]
        refused = Script(home)(folder, *options, wrong)
        done = Script(home)(folder, *options, right)

    assert_refused(refused, 12, "the passphrase is wrong")
    assert PASSPHRASE not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == b"secret"


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["volumes/*/*.vol", "meta/web01/*.map", "lists/*.list"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "swap"])
def test_a_damaged_object_is_named_and_never_restored(
    pattern: str, damage: str, vault: Built, script: Script, tmp_path: Path
) -> None:
    first, *others = sorted(vault.folder.glob(pattern))
    for path in [first, *others]:
        if damage == "flip":
            flip_bit(path)
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:-1])
        elif damage == "remove":
            path.unlink()
    if damage == "swap":
        contents = [path.read_bytes() for path in (first, *others)]
        for path, content in zip((first, *others), [*contents[1:], contents[0]], strict=True):
            path.write_bytes(content + b"x" * (path.stat().st_size - len(content)))

    done = script(vault.folder, "web01", "--to", tmp_path / "out")

    expected = {"remove": (14, "is missing"), "flip": (13, "SHA-256 differs")}
    status, words = expected.get(damage, (13, "is damaged"))
    assert_refused(done, status, words)
    assert [path.name for path in tmp_path.iterdir()] == ["vault"]


def test_a_damaged_manifest_is_not_replaced_by_an_older_one_in_silence(
    vault: Built, script: Script, tmp_path: Path
) -> None:
    newest = max(vault.folder.glob("points/web01/*"))
    flip_bit(newest)

    refused = script(vault.folder, "web01", "--to", tmp_path / "out")
    listed = script(vault.folder)
    older = script(vault.folder, "web01", "--to", tmp_path / "out", "--at", "2026-11-22")

    assert_refused(refused, 13, newest.name)
    assert "--at 2026-11-22T01:30:00Z" in refused.stderr
    assert listed.returncode == 13
    assert newest.name in listed.stdout
    assert older.returncode == 0, older.stderr
    assert read_folder(tmp_path / "out") == vault.history[-2]


def test_a_manifest_without_a_signature_does_not_count(
    vault: Built, script: Script, tmp_path: Path
) -> None:
    path = next(vault.folder.glob("points/etc/*"))
    with gnupg_home() as home:
        stored = subprocess.run(
            ["gpg", "--homedir", home, "--batch", "-z", "0", "--store"],
            input=manifest.encode(replace(vault.points[0], source="etc")),
            capture_output=True,
            check=True,
        )
    path.write_bytes(stored.stdout)

    done = script(vault.folder, "etc", "--to", tmp_path / "out")

    assert_refused(done, 13, "its signature does not hold")


def test_a_manifest_under_another_name_does_not_count(
    vault: Built, script: Script, tmp_path: Path
) -> None:
    first, *_, last = sorted(vault.folder.glob("points/web01/*"))
    last.write_bytes(first.read_bytes())

    done = script(vault.folder, "web01", "--to", tmp_path / "out")

    assert_refused(done, 13, "out of place")


def test_a_signer_whose_key_is_not_in_the_vault_is_named(
    vault: Built, script: Script, tmp_path: Path
) -> None:
    (vault.folder / names.public_key(HOST)).unlink()

    done = script(vault.folder, "etc", "--to", tmp_path / "out")

    assert_refused(done, 13, HOST[-16:])
    assert "keys/" in done.stderr


def test_a_newer_format_is_refused_by_its_number(
    vault: Built, script: Script, tmp_path: Path
) -> None:
    path = vault.folder / names.VAULT
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))

    done = script(vault.folder)

    assert_refused(done, 13, "the vault has format 2, this script reads 1")


# --- what a hostile or faulty writer may have signed ------------------------------------------


@pytest.mark.parametrize(
    ("rows", "size", "words"),
    [
        ([(10, FIRST_VOLUME, 0)], 10, "needs more of it"),
        ([(5, PARENT, 0)], 5, "not a full one"),
        ([(4, FIRST_VOLUME, 0)], 5, "its size is not the manifest's"),
    ],
)
def test_a_map_that_contradicts_its_volumes_or_its_manifest_is_refused(
    rows: list[tuple[int, int, int]],
    size: int,
    words: str,
    host: Path,
    script: Script,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "vault"
    builder = VaultBuilder(folder, host, recipients=[RECOVERY], signer=HOST)
    point = builder.commit("a", {"a": b"12345"})
    bad = extents.from_rows(rows, builder.map_of("a", "a").volumes)
    payload = b"".join(maps.encode(bad))
    stream = replace(point.streams[0], size=size, map_log=(LogEntry(point.point, len(payload)),))
    packed = b"".join(meta.encode([meta.Section(maps.header("a", bad), len(payload), [payload])]))
    sealed = builder.seal(packed, [RECOVERY, HOST])
    builder.put_again(replace(point, streams=(stream,)), names.map_of("a", point.point), sealed)

    done = script(folder, "a", "--to", tmp_path / "out")

    assert_refused(done, 13, words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda clear: clear[:-2], "cut short"),
        (lambda clear: clear + b"more", "goes on after its end"),
        (lambda clear: b"SVMETA\x00\x02" + clear[8:], "has format 2"),
        (lambda clear: b"anything" + clear[8:], "not a container"),
        (lambda clear: clear[:8] + struct.pack("<I", 0), "no part for stream"),
    ],
)
def test_a_container_that_is_not_whole_is_refused(
    change: Callable[[bytes], bytes], words: str, host: Path, script: Script, tmp_path: Path
) -> None:
    folder = tmp_path / "vault"
    builder = VaultBuilder(folder, host, recipients=[RECOVERY], signer=HOST)
    point = builder.commit("a", {"a": b"12345"})
    full = builder.map_of("a", "a")
    payload = b"".join(maps.encode(full))
    packed = b"".join(meta.encode([meta.Section(maps.header("a", full), len(payload), [payload])]))
    clear = change(zstandard.ZstdDecompressor().decompressobj().decompress(packed))
    sealed = builder.seal(zstandard.compress(clear), [RECOVERY])
    builder.put_again(point, names.map_of("a", point.point), sealed)

    done = script(folder, "a", "--to", tmp_path / "out")

    assert_refused(done, 13, words)


def test_a_rolling_stream_that_is_not_what_its_manifest_says_is_removed(
    host: Path, script: Script, tmp_path: Path
) -> None:
    folder = tmp_path / "vault"
    builder = VaultBuilder(folder, host, recipients=[RECOVERY], signer=HOST)
    point = builder.commit("a", {"a": b"12345"}, rolling=["a"])
    builder.put_point(replace(point, streams=(replace(point.streams[0], digest="0" * 64),)))

    done = script(folder, "a", "--to", tmp_path / "out")

    assert_refused(done, 13, 'stream "a" is damaged: SHA-256 differs')
    assert [path.name for path in tmp_path.iterdir()] == ["vault"]


def test_a_stream_name_that_leaves_the_target_is_refused(
    host: Path, script: Script, tmp_path: Path
) -> None:
    folder = tmp_path / "vault"
    builder = VaultBuilder(folder, host, recipients=[RECOVERY], signer=HOST)
    point = builder.commit("a", {"a": b"12345", "b": b""})
    hostile = replace(point.streams[0], name="../../escaped")
    builder.put_point(replace(point, streams=(hostile, point.streams[1])))

    done = script(folder, "a", "--to", tmp_path / "out")

    assert_refused(done, 13, "escaped")
    assert not list(tmp_path.glob("**/escaped"))


def test_bytes_used_at_several_places_are_written_at_each(
    host: Path, script: Script, tmp_path: Path
) -> None:
    folder = tmp_path / "vault"
    builder = VaultBuilder(folder, host, recipients=[RECOVERY], signer=HOST)
    point = builder.commit("a", {"a": bytes(60)})
    raw = random.Random(3).randbytes(3 << 20)
    record = builder.store_volume(names.new_volume_id(), raw)
    encoded = volume_list.encode([record])
    listed = builder.put(names.volume_list(volume_list.digest(encoded)), encoded)
    edge = (1 << 20) - 5
    rows = [(10, FIRST_VOLUME, edge), (7, 0, 0), (20, FIRST_VOLUME, edge - 3), (3 << 20, 2, 0)]
    full = extents.from_rows(rows, [record.volume])
    payload = b"".join(maps.encode(full))
    stream = replace(
        point.streams[0], size=full.size, map_log=(LogEntry(point.point, len(payload)),)
    )
    packed = b"".join(meta.encode([meta.Section(maps.header("a", full), len(payload), [payload])]))
    builder.put_again(
        replace(point, streams=(stream,), lists=(listed,)),
        names.map_of("a", point.point),
        builder.seal(packed, [RECOVERY]),
    )

    done = script(folder, "a", "--to", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == (
        raw[edge : edge + 10] + bytes(7) + raw[edge - 3 : edge + 17] + raw
    )


def test_the_raw_bytes_of_a_volume_come_back_from_gpg_and_zstd_alone(
    built: Built, script: Script
) -> None:
    path = next(built.folder.glob("volumes/*/*.vol"))

    done = subprocess.run(
        f"gpg --homedir {script.home} --batch -d {path} 2>/dev/null | zstd -dc",
        shell=True,
        capture_output=True,
        check=True,
    )

    assert done.stdout
    assert (
        zstandard.ZstdDecompressor()
        .decompressobj(read_across_frames=True)
        .decompress(pack_volume(done.stdout))
        == done.stdout
    )


# --- targets ----------------------------------------------------------------------------------


def test_a_target_that_exists_is_refused(built: Built, script: Script, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    (tmp_path / "folder").mkdir()

    onto_file = script(built.folder, "etc", "--to", tmp_path / "file", "--force")
    onto_folder = script(built.folder, "web01", "--to", tmp_path / "folder")
    nowhere = script(built.folder, "etc", "--to", tmp_path / "missing" / "file")

    assert_refused(onto_file, 16, "exists already")
    assert_refused(onto_folder, 16, "exists already")
    assert_refused(nowhere, 16, "it is not there")
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_a_device_is_written_in_place_zeros_too_once_forced(
    built: Built, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A plain file stands for the device: making one needs root.
    wanted = built.history[-1]["root"]
    device = tmp_path / "device"
    device.write_bytes(b"\xff" * (len(wanted) + 7))
    monkeypatch.setattr("stat.S_ISBLK", lambda mode: True)
    monkeypatch.setenv("GNUPGHOME", str(script.home))
    arguments = [str(built.folder), "web01", "--stream", "root", "--to", str(device)]

    refused = restore.main(arguments)
    done = restore.main([*arguments, "--force"])

    assert (refused, done) == (16, 0)
    assert device.read_bytes() == wanted + b"\xff" * 7


def test_a_device_that_is_too_small_is_left_alone(
    built: Built, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "device"
    device.write_bytes(b"\xff" * 10)
    monkeypatch.setattr("stat.S_ISBLK", lambda mode: True)
    monkeypatch.setenv("GNUPGHOME", str(script.home))

    done = restore.main(
        [str(built.folder), "web01", "--stream", "root", "--to", str(device), "--force"]
    )

    assert done == 16
    assert device.read_bytes() == b"\xff" * 10


def test_only_the_volumes_that_are_needed_must_have_been_fetched(
    vault: Built, script: Script, tmp_path: Path
) -> None:
    needed = script(vault.folder, "etc", "--needs").stdout.split()
    for path in vault.folder.glob("volumes/*/*.vol"):
        if str(path.relative_to(vault.folder)) not in needed:
            path.unlink()

    done = script(vault.folder, "etc", "--to", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == vault.single


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nobody", "--to", "x"], 16, 'no source "nobody" in the vault'),
        (["nobody"], 16, 'no source "nobody" in the vault'),
        (["web01", "--to", "x", "--stream", "swap"], 16, 'has no stream "swap"'),
        (["web01", "--to", "x", "--at", "2001-01-01"], 16, "at or before 2001-01-01"),
        (["web01", "--to", "x", "--at", "soon"], 2, "is not a time"),
        (["web01", "--to", "x", "--at", "0001-01-01T00:00:00+14:00"], 2, "is not a time"),
        (["web01", "--to", "x", "--signer", "F00D"], 2, "is not a whole fingerprint"),
        (["--to", "x"], 2, "needs a SOURCE"),
        (["etc", "--to", "x", "--passphrase-file", "/missing"], 10, "no passphrase file"),
    ],
)
def test_a_request_that_cannot_be_met_says_why(
    arguments: list[str], status: int, words: str, built: Built, script: Script
) -> None:
    done = script(built.folder, *arguments)

    assert_refused(done, status, words)


def test_a_folder_that_is_no_vault_is_refused(built: Built, script: Script, tmp_path: Path) -> None:
    (tmp_path / "restore.py").write_bytes((built.folder / "restore.py").read_bytes())

    done = script(tmp_path)

    assert_refused(done, 14, 'it has no "vault.json"')


def test_missing_programs_are_named_with_what_installs_them(
    built: Built, script: Script, tmp_path: Path
) -> None:
    done = script(built.folder, PATH=str(tmp_path))

    assert_refused(done, 10, "not installed: gpg, zstd")
    assert "apt-get install gnupg zstd" in done.stderr


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def spaced(fingerprint: str) -> str:
    return " ".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4))


def assert_refused(done: subprocess.CompletedProcess[str], status: int, words: str) -> None:
    assert done.returncode == status, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "restored" not in done.stdout
