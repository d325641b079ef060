# SPDX-License-Identifier: Apache-2.0
"""Where a restore point may be served, and how that is told."""

from pathlib import Path

import pytest
import typer

from snapvault.cli.serve_places import Place, parse


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (None, Place()),
        ("unix:/run/nbd", Place(path=Path("/run/nbd"))),
        ("127.0.0.1:10809", Place(host="127.0.0.1", port=10809)),
        ("127.8.0.1:0", Place(host="127.8.0.1", port=0)),
        ("localhost:5", Place(host="127.0.0.1", port=5)),
        ("[::1]:5", Place(host="::1", port=5)),
    ],
)
def test_sockets_and_ports_of_this_machine_are_taken(text: str | None, place: Place) -> None:
    assert parse(text) == place


@pytest.mark.parametrize("text", ["0.0.0.0:0", "192.0.2.1:99", "[::]:5"])
def test_other_addresses_are_refused_with_the_reason(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="NBD has no password"):
        parse(text)


@pytest.mark.parametrize(
    "text", ["somewhere", "example.org:5", "127.0.0.1", "127.0.0.1:x", "unix:", "unix:" + "x" * 108]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected"):
        parse(text)


def test_names_that_are_strange_survive_in_addresses_and_command_lines() -> None:
    place = Place(path=Path("/run/my nbd,1"))

    assert place.uri("sda/1 ä") == "nbd+unix:///sda%2F1%20%C3%A4?socket=/run/my%20nbd%2C1"
    assert place.commands("a b")["nbd-client"] == (
        "nbd-client -unix '/run/my nbd,1' /dev/nbd0 -N 'a b' -readonly"
    )
    assert Place(host="::1", port=5).uri("root") == "nbd://[::1]:5/root"


def test_a_port_that_is_none_is_refused_as_one() -> None:
    with pytest.raises(typer.BadParameter, match="port from 0 to 65535, found 65536"):
        parse("127.0.0.1:65536")
