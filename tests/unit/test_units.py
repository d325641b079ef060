# SPDX-License-Identifier: Apache-2.0
"""Sizes, durations and counts."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.units import format_count, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("500 MB", 500_000_000),
        ("0 B", 0),
        ("16 KiB", 16384),
        ("4 kB", 4000),
        (" 2 TiB ", 2**41),
        ("0.3 KiB", 307),
    ],
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "64", "64 M", "64 mib", "64 Mb", "-1 MiB", "1.5 B", "1e3 MiB", "MiB", "1  MiB", "٣ MiB"],
)
def test_sizes_without_a_clear_unit_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a size with its unit, .* found "):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("26h", 93600),
        ("7d", 604800),
        ("2w", 1209600),
        ("1h 30m", 5400),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("0s", 0),
    ],
)
def test_durations_are_read_with_their_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "10", "10 minutes", "30m 1h", "1h 1h", "-1h", "1H", "1h,30m", "h", "1e3s", "1:30"]
)
def test_durations_without_clear_units_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a duration with its unit, .* found "):
        parse_duration(text)


def test_a_duration_that_no_clock_can_count_is_refused() -> None:
    with pytest.raises(ValueError, match="less than a million years"):
        parse_duration("999999999999999w")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_288_490_189, "1.2 GiB"),
        (2**30 - 1, "1.0 GiB"),
        (2**40, "1.0 TiB"),
        (-2048, "-2.0 KiB"),
        (2**74, "16384.0 EiB"),
    ],
)
def test_sizes_are_written_with_one_decimal(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(min_value=0, max_value=2**60 - 2**50))
def test_written_sizes_are_read_back_to_a_tenth_of_their_unit(size: int) -> None:
    text = format_size(size)
    unit = parse_size("1 " + text.split()[1])

    assert abs(parse_size(text) - size) <= unit / 20 + 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.04, "0s"),
        (0.3, "0.3s"),
        (4.25, "4.2s"),
        (9.97, "10s"),
        (59.6, "1m"),
        (90, "1m 30s"),
        (3599.7, "1h"),
        (5400, "1h 30m"),
        (5429, "1h 30m"),
        (93600, "1d 2h"),
        (86399, "1d"),
        (-90, "-1m 30s"),
    ],
)
def test_durations_are_written_with_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert format_duration(timedelta(seconds=seconds)) == text


@given(st.floats(min_value=0, max_value=1e9))
def test_written_durations_are_read_back_to_their_second_unit(seconds: float) -> None:
    read = parse_duration(format_duration(seconds)).total_seconds()

    assert abs(read - seconds) <= max(0.5, seconds / 48)


def test_counts_agree_with_their_nouns() -> None:
    assert format_count(16384) == "16,384"
    assert format_count(1, "volume") == "1 volume"
    assert format_count(0, "volume") == "0 volumes"
    assert format_count(2, "policy", "policies") == "2 policies"
