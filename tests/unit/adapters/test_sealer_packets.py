# SPDX-License-Identifier: Apache-2.0
"""The shape of a signed message: one-pass signature, literal data, signature, in any lengths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.adapters.sealers.packets import require_one_signed_text
from snapvault.errors import IntegrityError


def old(tag: int, body: bytes, kind: int = 0) -> bytes:
    """Write a packet with an old header, its length in 1, 2 or 4 bytes."""
    return bytes([0x80 | tag << 2 | kind]) + len(body).to_bytes(1 << kind, "big") + body


def new(tag: int, body: bytes) -> bytes:
    """Write a packet with a new header and the shortest length."""
    size = len(body)
    if size < 192:
        length = bytes([size])
    elif size < 8384:
        length = bytes([(size - 192 >> 8) + 192, size - 192 & 0xFF])
    else:
        length = b"\xff" + size.to_bytes(4, "big")
    return bytes([0xC0 | tag]) + length + body


def in_parts(tag: int, body: bytes) -> bytes:
    """Write a packet in parts of 512 bytes, the last of them shorter."""
    parts = [b"\xe9" + body[at : at + 512] for at in range(0, len(body) // 512 * 512, 512)]
    last = body[len(body) // 512 * 512 :]
    return bytes([0xC0 | tag]) + b"".join(parts) + new(0, last)[1:]


START, TEXT, END = old(4, b"p" * 13), new(11, b"text"), old(2, b"s" * 117)


@pytest.mark.parametrize(
    "text",
    [
        new(11, b""),
        new(11, bytes(191)),
        new(11, bytes(192)),
        new(11, bytes(8383)),
        new(11, bytes(8384)),
        old(11, bytes(255)),
        old(11, bytes(300), kind=1),
        old(11, bytes(70_000), kind=2),
        in_parts(11, bytes(5000)),
    ],
)
def test_a_signed_text_of_any_length_is_one(text: bytes) -> None:
    require_one_signed_text(START + text + END)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        START,
        START + TEXT,
        TEXT + END,
        START + TEXT + END + TEXT,
        START + START + TEXT + END + END,
        START + TEXT + END + new(10, b"PGP"),
        new(1, b"k" * 84) + new(18, b"sealed"),
        START + old(8, b"compressed"),
        START + b"\xaf" + b"text without an end",
        b"-----BEGIN PGP MESSAGE-----",
    ],
)
def test_anything_else_is_refused(message: bytes) -> None:
    with pytest.raises(IntegrityError):
        require_one_signed_text(message)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_pass_or_be_refused(message: bytes) -> None:
    try:
        require_one_signed_text(message)
    except IntegrityError:
        return
    assert message


@given(st.integers(min_value=0, max_value=len(START + TEXT + END) - 1))
def test_a_message_that_ends_early_is_refused(size: int) -> None:
    with pytest.raises(IntegrityError):
        require_one_signed_text((START + TEXT + END)[:size])
