# SPDX-License-Identifier: Apache-2.0
"""The XML of thin_delta: what it means, and everything else refused."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.adapters.sources.thin_delta import DeltaError, DeltaParser

GRAIN = 64 << 10
SIZE = 40 * GRAIN - 512
GOOD = """<superblock uuid="" time="2" transaction="3" data_block_size="128" nr_data_blocks="0">
  <diff left="2" right="3">
    <same begin="0" length="3"/>
    <different begin="3" length="1"/>
    <same begin="4" length="3"/>
    <left_only begin="7" length="1"/>
    <right_only begin="20" length="2"/>
    <right_only begin="39" length="1"/>
  </diff>
</superblock>
"""

Runs = Sequence[tuple[int, int]]


def parse(text: str | bytes, *, piece: int = 1 << 20) -> tuple[Runs, Runs]:
    """Return what is mapped and what changed."""
    data = text.encode() if isinstance(text, str) else text
    parser = DeltaParser(2, 3, size=SIZE, grain=GRAIN)
    for start in range(0, len(data), piece):
        parser.feed(data[start : start + piece])
    parser.finish()
    return list(parser.mapped), list(parser.changed)


def delta(*runs: str) -> str:
    lines = "".join(f"<{run}/>" for run in runs)
    return f'<superblock data_block_size="128"><diff left="2" right="3">{lines}</diff></superblock>'


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_what_differs_and_what_is_mapped_are_told_in_bytes_of_the_volume(piece: int) -> None:
    mapped, changed = parse(GOOD, piece=piece)

    assert mapped == [(0, 7 * GRAIN), (20 * GRAIN, 22 * GRAIN), (39 * GRAIN, SIZE)]
    assert changed == [
        (3 * GRAIN, 4 * GRAIN),
        (7 * GRAIN, 8 * GRAIN),
        (20 * GRAIN, 22 * GRAIN),
        (39 * GRAIN, SIZE),
    ]


def test_what_a_shrunken_volume_left_beyond_its_end_is_left_out() -> None:
    runs = ('different begin="38" length="9"', 'same begin="47" length="1"')

    assert parse(delta(*runs)) == ([(38 * GRAIN, SIZE)], [(38 * GRAIN, SIZE)])


def test_two_volumes_without_data_differ_nowhere() -> None:
    assert parse(delta()) == ([], [])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not XML: no element found"),
        (GOOD[:-20], "not XML"),
        (GOOD + "x", "not XML"),
        ("rubbish", "not XML"),
        ("\0\1\2", "not XML"),
        (delta().replace('"128"', '"256"'), "another size"),
        (delta().replace('left="2"', 'left="3"'), "other volumes"),
        (delta().replace('right="3"', 'right="x"'), '"right" is not a number'),
        (delta('same begin="-1" length="1"'), '"begin" is not a number'),
        (delta('same begin="٣" length="1"'), '"begin" is not a number'),
        (delta(f'same begin="{"1" * 5000}" length="1"'), '"begin" is not a number'),
        (delta('same begin="1"'), '"length" is not a number'),
        (delta('same begin="1" length="0"'), "chunk 1 is out of order"),
        (delta('same begin="5" length="1"', 'same begin="4" length="1"'), "chunk 4 is out of"),
        (delta('same begin="5" length="2"', 'different begin="6" length="1"'), "chunk 6 is out"),
        (delta('strange begin="0" length="1"'), 'unexpected element "strange"'),
        (delta("diff"), 'unexpected element "diff"'),
        ('<diff left="2" right="3"/>', 'unexpected element "diff"'),
        ('<superblock data_block_size="128"/>', "no delta in it"),
        (delta().replace("</diff>", '</diff><diff left="2" right="3"/>'), "more than one"),
        (delta().replace("</diff>", "text</diff>"), "text between"),
        ("<!DOCTYPE a>" + delta(), "a document type in it"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + delta(), "a document type in it"),
        ("<?php x?>" + delta(), "a processing instruction in it"),
        ("<!--" + "x" * 300_000 + "-->" + delta(), "an element without an end"),
        ('<superblock data_block_size="' + "1" * 300_000, "an element without an end"),
    ],
)
def test_what_is_no_delta_of_these_volumes_is_refused(text: str, what: str) -> None:
    with pytest.raises(DeltaError, match=re.escape(what)):
        parse(text)


@given(st.binary(max_size=200), st.integers(0, len(GOOD)), st.integers(0, 30))
def test_any_damage_gives_a_delta_or_a_refusal(noise: bytes, at: int, cut: int) -> None:
    good = GOOD.encode()

    try:
        mapped, changed = parse(good[:at] + noise + good[at + cut :])
    except DeltaError:
        return
    assert all(0 <= start < end <= SIZE for start, end in (*mapped, *changed))
