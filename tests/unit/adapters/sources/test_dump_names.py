# SPDX-License-Identifier: Apache-2.0
"""Names of streams for databases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.adapters.sources.dump_names import Naming
from snapvault.errors import ConfigError
from snapvault.model.policy import is_name


@pytest.mark.parametrize("database", ["shop", "a.b-c_d", "x" * 61])
def test_a_name_that_a_stream_can_have_is_kept(database: str) -> None:
    assert Naming("db", "db.").own(database) == f"db.{database}"


@pytest.mark.parametrize(
    ("database", "kept"),
    [
        ("Shop", "shop"),
        ("-rf", "rf"),
        ("Süd West", "s-d-west"),
        ("🦀", "database"),
        ("", "database"),
        ("x" * 62, "x" * 52),
        ("globals", "globals"),
        ("shop-0123abcd", "shop-0123abcd"),
    ],
)
def test_any_other_gets_a_digest(database: str, kept: str) -> None:
    own = Naming("db", "db.").own(database, reserved={"globals"})

    start, _, digest = own.rpartition("-")
    assert start == f"db.{kept}"
    assert len(digest) == 8


@given(st.text(max_size=80), st.text(max_size=80))
def test_names_are_valid_stable_and_never_shared(first: str, second: str) -> None:
    naming = Naming("db", "db.")

    names = [naming.own(first), naming.own(second)]

    assert all(is_name(name) for name in names)
    assert (names[0] == names[1]) == (first == second)


def test_a_prefix_without_room_after_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="too long"):
        Naming("x" * 60, "x" * 60 + ".").own("shop")
