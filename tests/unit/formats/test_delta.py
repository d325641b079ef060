# SPDX-License-Identifier: Apache-2.0
"""The reader of librsync's deltas."""

import struct
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.errors import SignatureError
from snapvault.formats.delta import Command, Copy, DeltaReader

MAGIC = b"rs\x026"
END = b"\x00"
WIDTHS = (">B", ">H", ">I", ">Q")


def encode_literal(data: bytes, power: int) -> bytes:
    """Encode as a wide literal, or a short one when `power` is negative."""
    if power < 0:
        return bytes([len(data)]) + data
    return bytes([0x41 + power]) + struct.pack(WIDTHS[power], len(data)) + data


def encode_copy(offset: int, length: int, offset_power: int, length_power: int) -> bytes:
    opcode = 0x45 + 4 * offset_power + length_power
    return (
        bytes([opcode])
        + struct.pack(WIDTHS[offset_power], offset)
        + struct.pack(WIDTHS[length_power], length)
    )


def read(pieces: Iterable[bytes]) -> list[Command]:
    reader = DeltaReader()
    commands = [command for piece in pieces for command in reader.feed(piece)]
    reader.finish()
    return commands


def joined(commands: Iterable[Command]) -> list[Copy | bytes]:
    """Join the pieces of neighboring literals, which a reader may cut anywhere."""
    whole: list[Copy | bytes] = []
    for command in commands:
        if isinstance(command, Copy):
            whole.append(command)
        elif whole and isinstance(whole[-1], bytes):
            whole[-1] += bytes(command)
        else:
            whole.append(bytes(command))
    return whole


@st.composite
def encoded_commands(draw: st.DrawFn) -> tuple[bytes, Copy | bytes]:
    if draw(st.booleans()):
        data = draw(st.binary(min_size=1, max_size=200))
        powers = range(-1 if len(data) <= 64 else 0, 4)
        return encode_literal(data, draw(st.sampled_from(powers))), data
    offset_power = draw(st.integers(0, 3))
    length_power = draw(st.integers(0, 3))
    offset = draw(st.integers(0, min(2 ** (8 << offset_power) - 1, 2**62)))
    length = draw(st.integers(1, min(2 ** (8 << length_power) - 1, 2**62)))
    return encode_copy(offset, length, offset_power, length_power), Copy(offset, length)


@given(st.lists(encoded_commands(), max_size=30), st.data())
def test_any_commands_in_any_widths_come_back_however_the_bytes_are_cut(
    history: list[tuple[bytes, Copy | bytes]], data: st.DataObject
) -> None:
    delta = MAGIC + b"".join(raw for raw, _ in history) + END
    cuts = sorted(data.draw(st.sets(st.integers(0, len(delta)), max_size=12)))
    bounds = [0, *cuts, len(delta)]

    commands = read(delta[start:end] for start, end in pairwise(bounds))

    expected = joined(
        command if isinstance(command, Copy) else memoryview(command) for _, command in history
    )
    assert joined(commands) == expected
    assert all(isinstance(command, Copy) or len(command) for command in commands)


def test_a_delta_fed_byte_by_byte_is_read_the_same() -> None:
    delta = MAGIC + encode_copy(7, 70_000, 3, 2) + encode_literal(b"new", 3) + END

    commands = read(bytes([byte]) for byte in delta)

    assert joined(commands) == [Copy(7, 70_000), b"new"]


def test_an_empty_delta_has_no_commands() -> None:
    assert read([MAGIC + END]) == []


def test_literals_are_views_of_the_bytes_that_were_fed() -> None:
    delta = MAGIC + encode_literal(b"x" * 1000, 1) + END

    (literal,) = read([delta])

    assert isinstance(literal, memoryview)
    assert literal.obj is delta


@pytest.mark.parametrize("length", range(len(MAGIC + b"\x42\x00\x05hello\x49\x00\x01\x02")))
def test_a_delta_cut_anywhere_is_refused(length: int) -> None:
    whole = MAGIC + b"\x42\x00\x05hello\x49\x00\x01\x02" + END

    with pytest.raises(SignatureError, match="cut short"):
        read([whole[:length]])


@pytest.mark.parametrize("opcode", range(0x55, 0x100))
def test_an_unknown_command_is_refused(opcode: int) -> None:
    with pytest.raises(SignatureError, match="unknown command"):
        read([MAGIC + bytes([opcode]) + END])


@pytest.mark.parametrize("magic", [b"rs\x016", b"RS\x026", b"\x00", b"rs\x0137"])
def test_other_magic_is_refused(magic: bytes) -> None:
    with pytest.raises(SignatureError, match="not a delta"):
        read([magic])


@pytest.mark.parametrize(
    "command",
    [
        encode_literal(b"", 0),
        encode_literal(b"", 3),
        b"\x44" + b"\xff" * 8 + b"x",
        encode_copy(1, 0, 0, 0),
        encode_copy(2**64 - 1, 1, 3, 0),
        encode_copy(2**63 - 1, 1, 3, 0),
    ],
    ids=["empty", "empty wide", "huge literal", "empty copy", "negative", "past the end"],
)
def test_impossible_numbers_are_refused(command: bytes) -> None:
    with pytest.raises(SignatureError):
        read([MAGIC + command])


def test_bytes_after_the_end_are_refused_in_the_same_piece_and_in_the_next() -> None:
    with pytest.raises(SignatureError, match="after its end"):
        read([MAGIC + END + END])
    with pytest.raises(SignatureError, match="after its end"):
        read([MAGIC + END, b"\x01a"])
