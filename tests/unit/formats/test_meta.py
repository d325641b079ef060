# SPDX-License-Identifier: Apache-2.0
"""The container of maps and signatures."""

import io
import struct
from collections.abc import Iterable
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from snapvault.errors import FormatVersionError, IntegrityError, SignatureError
from snapvault.formats import meta
from snapvault.formats.meta import Section

HEADERS = st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.integers(), max_size=4)
PARTS = st.lists(st.tuples(HEADERS, st.binary(max_size=200)), max_size=4)


def encode(parts: Iterable[tuple[dict[str, object], bytes]]) -> bytes:
    return b"".join(
        meta.encode([Section(header, len(payload), [payload]) for header, payload in parts])
    )


def unpack(pieces: Iterable[bytes]) -> io.BytesIO:
    file = io.BytesIO()
    unpacker = meta.Unpacker(file)
    for piece in pieces:
        unpacker.feed(piece)
    unpacker.finish()
    return file


def clear_of(packed: bytes) -> bytes:
    return unpack([packed]).getvalue()


@given(PARTS, st.data())
def test_any_sections_come_back_however_the_bytes_are_cut(
    parts: list[tuple[dict[str, object], bytes]], data: st.DataObject
) -> None:
    packed = encode(parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(packed)), max_size=6)))

    file = unpack(packed[a:b] for a, b in pairwise([0, *cuts, len(packed)]) if a < b)
    found = meta.sections(file)

    content = file.getvalue()
    assert [
        (part.header, content[part.position : part.position + part.size]) for part in found
    ] == parts


@given(PARTS, st.data())
def test_any_flipped_bit_of_the_stored_bytes_is_refused(
    parts: list[tuple[dict[str, object], bytes]], data: st.DataObject
) -> None:
    packed = encode(parts)
    damaged = bytearray(packed)
    damaged[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    try:
        clear = clear_of(bytes(damaged))
    except IntegrityError:
        return

    # A bit that zstd does not use; what it stands for is the same.
    assert clear == clear_of(packed)


@given(PARTS, st.data())
def test_a_container_cut_anywhere_is_refused(
    parts: list[tuple[dict[str, object], bytes]], data: st.DataObject
) -> None:
    packed = encode(parts)
    clear = clear_of(packed)
    stored_cut = data.draw(st.integers(0, len(packed) - 1))
    clear_cut = data.draw(st.integers(0, len(clear) - 1).filter(lambda cut: cut != 7))

    with pytest.raises(SignatureError):
        unpack([packed[:stored_cut]])
    with pytest.raises(SignatureError):
        meta.sections(io.BytesIO(clear[:clear_cut]))


def test_a_container_that_goes_on_is_refused() -> None:
    packed = encode([({"kind": "map"}, b"payload")])

    with pytest.raises(SignatureError, match="goes on after its end"):
        unpack([packed + b"x"])
    with pytest.raises(SignatureError, match="goes on after its end"):
        unpack([packed, b"x"])


def test_the_layout_is_the_documents() -> None:
    clear = clear_of(encode([({"stream": "root", "kind": "map"}, b"payload")]))

    header = b'{"kind":"map","stream":"root"}'
    assert clear == (
        b"SVMETA\x00\x01"
        + struct.pack("<I", len(header))
        + header
        + struct.pack("<Q", 7)
        + b"payload"
        + struct.pack("<I", 0)
    )


def test_it_is_one_zstd_frame_with_a_checksum() -> None:
    packed = encode([({}, b"payload")])

    parameters = zstandard.get_frame_parameters(packed)

    assert parameters.has_checksum


def test_payloads_are_written_as_they_come() -> None:
    pieces = (bytes([number]) * 1000 for number in range(5))

    packed = b"".join(meta.encode([Section({}, 5000, pieces)]))

    (found,) = meta.sections(unpack([packed]))
    assert found.size == 5000


def test_a_payload_that_is_not_as_long_as_announced_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="announced 3"):
        list(meta.encode([Section({}, 3, [b"payload"])]))


def test_a_newer_container_is_refused_by_its_number() -> None:
    with pytest.raises(FormatVersionError, match="format 2"):
        meta.sections(io.BytesIO(b"SVMETA\x00\x02" + bytes(4)))


@pytest.mark.parametrize(
    "clear",
    [
        b"",
        b"anything" + bytes(4),
        meta.MAGIC + struct.pack("<I", 0xFFFFFFFF),
        meta.MAGIC + struct.pack("<I", 3) + b"{:}" + bytes(12),
        meta.MAGIC + struct.pack("<I", 3) + b"\xff\xfe\xfd" + bytes(12),
        meta.MAGIC + struct.pack("<I", 2) + b"{}" + struct.pack("<Q", 99) + bytes(4),
    ],
)
def test_anything_else_is_no_container(clear: bytes) -> None:
    with pytest.raises(SignatureError):
        meta.sections(io.BytesIO(clear))


@pytest.mark.parametrize(
    "clear",
    [
        pytest.param(b"SVMETA\x00", id="a magic without its version"),
        pytest.param(
            meta.MAGIC + struct.pack("<I", 2) + b"{}" + struct.pack("<Q", 1 << 63) + bytes(4),
            id="a payload that no file can hold",
        ),
        pytest.param(
            meta.MAGIC + struct.pack("<I", 2) + b"[]" + bytes(8) + bytes(4),
            id="a header that is no object",
        ),
        pytest.param(meta.MAGIC + bytes(4) + b"more", id="bytes after the end"),
    ],
)
def test_strange_containers_are_refused(clear: bytes) -> None:
    with pytest.raises(SignatureError):
        meta.sections(io.BytesIO(clear))
