# SPDX-License-Identifier: Apache-2.0
"""What every store promises: snapvault/ports/store.py."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from snapvault.errors import IntegrityError, ObjectMissingError, SnapVaultError
from snapvault.ports.store import Store, StoredObject

VOLUME = "volumes/ab/abcdef.vol"
LARGE = bytes(range(256)) * (12 << 10)  # 3 MiB: more than one piece of any transfer

S3 = pytest.mark.integration


@pytest.fixture(
    params=[
        "memory_store",
        "directory_store",
        pytest.param("s3_http_store", marks=S3),
        pytest.param("s3_https_store", marks=S3),
        pytest.param("s3_without_checksums_store", marks=S3),
    ]
)
def store(request: pytest.FixtureRequest) -> Store:
    adapter: Store = request.getfixturevalue(request.param)
    return adapter


def put_file(store: Store, path: Path, data: bytes, *, name: str = VOLUME) -> None:
    path.write_bytes(data)
    store.put_file(name, path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def read_all(store: Store, name: str, *, piece: int) -> bytes:
    with store.open(name) as readable:
        pieces = []
        while data := readable.read(piece):
            pieces.append(data)
        return b"".join(pieces)


@pytest.mark.parametrize("data", [b"", b"sealed", LARGE], ids=["empty", "small", "large"])
def test_put_makes_the_bytes_readable(store: Store, data: bytes) -> None:
    store.put(VOLUME, data)

    assert store.get(VOLUME) == data
    assert store.stat(VOLUME) == StoredObject(VOLUME, len(data))
    assert read_all(store, VOLUME, piece=1 << 20) == data


@pytest.mark.parametrize("data", [b"", b"sealed", LARGE], ids=["empty", "small", "large"])
def test_put_file_makes_the_bytes_readable(store: Store, tmp_path: Path, data: bytes) -> None:
    put_file(store, tmp_path / "spooled", data)

    assert store.get(VOLUME) == data
    assert list(store.names()) == [StoredObject(VOLUME, len(data))]


def test_open_gives_the_bytes_in_order_in_pieces_of_any_size(store: Store) -> None:
    store.put(VOLUME, LARGE)

    with store.open(VOLUME) as readable:
        first = readable.read(1)
        second = readable.read(70_000)
        third = readable.read(10)

    assert first + second + third == LARGE[: 1 + len(second) + 10]


def test_read_at_the_end_keeps_returning_nothing(store: Store) -> None:
    store.put(VOLUME, b"sealed")

    with store.open(VOLUME) as readable:
        readable.read(100)

        assert (readable.read(100), readable.read(100)) == (b"", b"")


def test_open_can_be_left_before_the_end(store: Store) -> None:
    store.put(VOLUME, LARGE)

    with store.open(VOLUME) as readable:
        readable.read(10)

    assert store.get(VOLUME) == LARGE


@pytest.mark.parametrize("part", [(0, 1), (1, 70_000), (3 << 20, 0), (1 << 20, 1 << 20)])
def test_get_part_gives_just_these_bytes(store: Store, part: tuple[int, int]) -> None:
    store.put(VOLUME, LARGE)
    offset, size = part[0] - (not part[1]), part[1] or 1  # the last byte

    assert store.get_part(VOLUME, offset, size) == LARGE[offset : offset + size]


@pytest.mark.parametrize("part", [(0, 7), (5, 2), (6, 1), (900, 10)])
def test_a_part_beyond_the_end_is_never_given_in_part(store: Store, part: tuple[int, int]) -> None:
    store.put(VOLUME, b"sealed")

    with pytest.raises(IntegrityError, match=f"{VOLUME}.* is shorter"):
        store.get_part(VOLUME, *part)


def test_get_stat_and_open_name_the_missing_object(store: Store) -> None:
    store.put("vault.json", b"{}")

    with pytest.raises(ObjectMissingError, match=VOLUME):
        store.get(VOLUME)
    with pytest.raises(ObjectMissingError, match=VOLUME):
        store.get_part(VOLUME, 0, 1)
    with pytest.raises(ObjectMissingError, match=VOLUME):
        store.stat(VOLUME)
    with pytest.raises(ObjectMissingError, match=VOLUME), store.open(VOLUME):
        pass


def test_a_folder_is_no_object(store: Store) -> None:
    store.put(VOLUME, b"sealed")

    with pytest.raises(ObjectMissingError):
        store.stat("volumes/ab")
    with pytest.raises(ObjectMissingError):
        store.get("volumes/ab")


def test_putting_the_same_bytes_again_is_no_error(store: Store, tmp_path: Path) -> None:
    store.put(VOLUME, b"sealed")

    store.put(VOLUME, b"sealed")
    put_file(store, tmp_path / "spooled", b"sealed")

    assert list(store.names()) == [StoredObject(VOLUME, 6)]


@pytest.mark.parametrize("other", [b"forged", b"longer than it was", b""])
def test_put_never_replaces_other_bytes(store: Store, other: bytes) -> None:
    store.put(VOLUME, b"sealed")

    with pytest.raises(IntegrityError, match=VOLUME):
        store.put(VOLUME, other)

    assert store.get(VOLUME) == b"sealed"


def test_put_file_never_replaces_other_bytes(store: Store, tmp_path: Path) -> None:
    put_file(store, tmp_path / "first", b"sealed")

    with pytest.raises(IntegrityError, match=VOLUME):
        put_file(store, tmp_path / "second", b"forged")

    assert store.get(VOLUME) == b"sealed"


def test_a_file_that_is_not_what_its_digest_says_is_not_stored(
    store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "spooled"
    path.write_bytes(b"sealed")
    digest = hashlib.sha256(b"forged").hexdigest()

    with pytest.raises(IntegrityError, match=VOLUME):
        store.put_file(VOLUME, path, size=6, sha256=digest)

    assert list(store.names()) == []


def test_a_file_that_is_not_as_long_as_it_should_be_is_not_stored(
    store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "spooled"
    path.write_bytes(b"sealed")
    digest = hashlib.sha256(b"sealed").hexdigest()

    with pytest.raises(IntegrityError, match=VOLUME):
        store.put_file(VOLUME, path, size=7, sha256=digest)

    assert list(store.names()) == []


def test_of_several_writers_of_one_name_exactly_one_wins(store: Store) -> None:
    gate = threading.Barrier(4)

    def write(data: bytes) -> bytes | None:
        gate.wait()
        try:
            store.put(VOLUME, data)
        except IntegrityError:
            return None
        return data

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(write, [b"one", b"two", b"three", b"four"]))

    assert [data for data in results if data is not None] == [store.get(VOLUME)]


def test_names_are_sorted_and_whole(store: Store) -> None:
    names = ["a/b", "a-b", "a0", "a.c", "a/c-", "a/c/d", "A", "b_"]
    for name in names:
        store.put(name, name.encode())

    listed = [item.name for item in store.names()]

    assert listed == sorted(names)


def test_names_start_with_the_prefix_whether_it_ends_a_folder_or_not(store: Store) -> None:
    for name in ["points/web/1.point", "points/web2/1.point", "points/www/1.point", "x/points"]:
        store.put(name, b"sealed")

    assert [item.name for item in store.names("points/web/")] == ["points/web/1.point"]
    assert [item.name for item in store.names("points/we")] == [
        "points/web/1.point",
        "points/web2/1.point",
    ]
    assert list(store.names("nothing/")) == []


def test_delete_removes_and_ignores_what_is_not_there(store: Store) -> None:
    store.put(VOLUME, b"sealed")
    store.put("vault.json", b"{}")

    store.delete([VOLUME, "volumes/ab/other.vol", "vault.json/x"])

    assert [item.name for item in store.names()] == ["vault.json"]


def test_delete_of_nothing_does_nothing(store: Store) -> None:
    store.put("vault.json", b"{}")

    store.delete([])

    assert [item.name for item in store.names()] == ["vault.json"]


def test_a_deleted_name_is_free_again(store: Store) -> None:
    store.put(VOLUME, b"sealed")
    store.delete([VOLUME])

    store.put(VOLUME, b"anew")

    assert store.get(VOLUME) == b"anew"


def test_probe_finds_create_only_and_leaves_nothing_behind(store: Store) -> None:
    traits = store.probe()

    assert traits.create_only
    assert list(store.names()) == []


def test_what_is_no_object_name_is_refused(store: Store) -> None:
    for name in ["", "/x", "../x", "a/../b", "a//b", "a/", ".incoming/x", "a b", "ä", "a\n"]:
        with pytest.raises(ValueError, match="not an object name"):
            store.put(name, b"sealed")
        with pytest.raises(ValueError, match="not an object name"):
            store.get(name)


def test_errors_are_one_line_and_say_where(store: Store) -> None:
    store.put("vault.json", b"{}")

    with pytest.raises(SnapVaultError) as caught:
        store.get(VOLUME)

    assert store.location in str(caught.value)
    assert "\n" not in str(caught.value)
