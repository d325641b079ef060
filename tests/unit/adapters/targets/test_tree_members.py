# SPDX-License-Identifier: Apache-2.0
"""Archives that stream by, made by Python's own tarfile and by GNU tar."""

import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.adapters.targets.tree_members import Member, MemberFilter
from snapvault.adapters.targets.tree_selection import Selection
from snapvault.errors import IntegrityError

LONG = "folder/" * 60 + "name"


def archive_of(members: dict[str, bytes | None]) -> bytes:
    """Return an archive of files, and of folders where there is no content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.mtime = 1.5  # makes an extended header
            if content is None:
                info.type = tarfile.DIRTYPE
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def filtered(archive: bytes, wants: Callable[[Member], bool], *, piece: int = 1000) -> bytes:
    out = bytearray()
    work = MemberFilter(wants, out.extend)
    for offset in range(0, len(archive), piece):
        work.write(memoryview(archive)[offset : offset + piece])
    work.finish()
    return bytes(out)


def read(archive: bytes) -> dict[str, bytes | None]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        return {
            member.name: None if member.isdir() else found.extractfile(member).read()  # type: ignore[union-attr]
            for member in found
        }


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=150
).filter(lambda name: name not in {".", ".."})


@given(
    members=st.dictionaries(NAMES, st.one_of(st.none(), st.binary(max_size=2000)), max_size=8),
    data=st.data(),
)
def test_wanted_members_pass_whole_whatever_the_pieces(
    members: dict[str, bytes | None], data: st.DataObject
) -> None:
    wanted = data.draw(st.sets(st.sampled_from(sorted(members)))) if members else set()
    piece = data.draw(st.integers(1, 3000))
    seen: list[Member] = []

    def wants(member: Member) -> bool:
        seen.append(member)
        return member.name.decode() in wanted

    passed = read(filtered(archive_of(members), wants, piece=piece))

    assert passed == {name: members[name] for name in members if name in wanted}
    assert [member.name.decode() for member in seen] == list(members)
    assert [member.is_folder for member in seen] == [each is None for each in members.values()]


def test_an_archive_that_passes_whole_is_the_same_archive() -> None:
    archive = archive_of({"a": b"1" * 600, LONG: b"2", "ü": b"", "folder": None})

    passed = filtered(archive, lambda _: True)

    assert archive.startswith(passed)
    assert not any(archive[len(passed) :])


def test_hard_links_name_the_member_they_are_another_name_of() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            info = tarfile.TarInfo("./link")
            info.type, info.linkname = kind, f"./{LONG}"
            archive.addfile(info)
    seen: list[Member] = []

    def wants(member: Member) -> bool:
        seen.append(member)
        return True

    filtered(buffer.getvalue(), wants)

    assert seen == [Member(b"link", link=LONG.encode()), Member(b"link")]


@pytest.mark.parametrize("position", [0, 100, 130, 148, 300])
def test_a_damaged_header_is_found(position: int) -> None:
    archive = bytearray(archive_of({"a": b"1"}))
    archive[position] ^= 1

    with pytest.raises(IntegrityError):
        filtered(bytes(archive), lambda _: True)


@pytest.mark.parametrize("kept", [0, 100, 512, 1024, 1300, 2048])
def test_an_archive_that_ends_early_is_found(kept: int) -> None:
    archive = archive_of({"a": b"1", "b": b"2"})

    with pytest.raises(IntegrityError, match="ends in the middle"):
        filtered(archive[:kept], lambda _: True)


@pytest.mark.parametrize(
    "body", [b"x path=a\n", b"99 path=a\n", b"0 path=a\n", b"-5 path=a\n", b"nothing", b"3 \n"]
)
def test_a_wrong_extended_header_is_found(body: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(body)
    archive = info.tobuf(tarfile.USTAR_FORMAT) + body.ljust(512, b"\0") + archive_of({"a": b""})

    with pytest.raises(IntegrityError):
        filtered(archive, lambda _: True)


# --- selections ------------------------------------------------------------------------------


def taken(selection: Selection, *names: str) -> list[str]:
    """Return which folders (with a slash at their end) and files are taken."""
    return [
        name
        for name in names
        if selection.takes(Member(name.rstrip("/").encode(), name.endswith("/")))
    ]


TREE = ("./", "a/", "a/b", "a/bc", "ab", "c/", "c/a/", "c/a/b", "c/d/", "c/d/e")


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["."], list(TREE)),
        (["a"], ["./", "a/", "a/b", "a/bc"]),
        (["a/b"], ["./", "a/", "a/b"]),
        (["c/d/e", "ab"], ["./", "ab", "c/", "c/d/", "c/d/e"]),
        (["c/a", "c/a/b"], ["./", "c/", "c/a/", "c/a/b"]),
    ],
)
def test_paths_take_what_is_below_them_and_the_folders_above(
    paths: list[str], expected: list[str]
) -> None:
    selection = Selection(paths)

    assert taken(selection, *TREE) == expected
    assert selection.missing() == []


def test_paths_that_no_member_had_are_missing_and_have_neighbors() -> None:
    selection = Selection(["c/a/x", "ab", "b"])

    taken(selection, *TREE)

    assert selection.missing() == ["b", "c/a/x"]
    assert set(selection.near()) == {"a/b", "c/a/b", "a", "c", "."}


def test_the_other_name_of_a_hard_link_is_taken_once_it_is_asked_for() -> None:
    selection = Selection(["z"])
    first, link = Member(b"a/file"), Member(b"z", link=b"a/file")

    before = [selection.takes(first), selection.takes(link)]
    selection.fetch_links()
    after = [selection.takes(first), selection.takes(link)]

    assert (before, after) == ([False, False], [True, True])
    assert selection.fetched == {b"a/file"}
