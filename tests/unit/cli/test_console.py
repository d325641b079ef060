# SPDX-License-Identifier: Apache-2.0
"""Events, warnings and progress on stderr."""

import json

import pytest

from snapvault import clock
from snapvault.adapters.event_log import logfmt
from snapvault.cli import boundary
from snapvault.cli.console import Console, one_line
from snapvault.errors import StoreUnavailableError


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the clock's hand; tests move it."""
    hand = [0.0]
    monkeypatch.setattr(clock, "monotonic", lambda: hand[0])
    return hand


def console(*, progress: bool = True, notes: bool = True, events: bool = False) -> Console:
    return Console(progress=progress, notes=notes, events=events)


def test_events_are_lines_of_fields_and_only_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    console(events=True).emit("volume.stored", volume="v1", size_bytes=5, last=True, path="a b")
    console().emit("volume.stored", volume="v2")

    assert capsys.readouterr().err == (
        'event=volume.stored volume=v1 size_bytes=5 last=true path="a b"\n'
    )


def test_warnings_are_shown_however_quiet_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = console(progress=False, notes=False)

    quiet.note("backing up")
    quiet.warn("vault.damaged", "something is gone", source="web01")

    assert capsys.readouterr().err == "warning: something is gone\n"


def test_short_work_shows_no_progress(
    ticking: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    work = console().progress("reading", total=100)

    for _ in range(9):
        ticking[0] += 0.1
        work.advance(10)
    work.close()

    assert capsys.readouterr().err == ""


def test_long_work_shows_a_line_for_every_tenth(
    ticking: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    speaking = console()
    speaking.subject = "web01"
    work = speaking.progress("reading", total=100 << 20)

    for _ in range(100):
        ticking[0] += 0.5
        work.advance(1 << 20)
    work.close()

    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "web01: reading: 10 %, 10.0 MiB of 100.0 MiB, 2.0 MiB/s, 45s left"
    assert len(lines) == 10


def test_work_of_unknown_size_shows_a_line_every_ten_seconds(
    ticking: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    work = console().progress("reading", total=None)

    for _ in range(25):
        ticking[0] += 1
        work.advance(1 << 20)
    work.close()

    assert capsys.readouterr().err.splitlines() == [
        "reading: 10.0 MiB, 1.0 MiB/s",
        "reading: 20.0 MiB, 1.0 MiB/s",
    ]


def test_no_progress_where_none_is_wanted(
    ticking: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    work = console(progress=False).progress("reading", total=10)

    ticking[0] = 100
    work.advance(5)
    work.close()
    work.close()

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("value", "written"),
    [("plain", "k=plain"), ("", 'k=""'), ('a"b', 'k="a\\"b"'), (None, "k="), (1.5, "k=1.5")],
)
def test_values_are_quoted_where_they_would_not_read_as_one_word(
    value: str | float | None, written: str
) -> None:
    assert logfmt({"k": value}) == written


def test_a_message_cannot_steer_the_terminal() -> None:
    assert one_line("a\nb\x1b[2Jc") == "a\\nb\\x1b[2Jc"


@pytest.fixture
def as_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPVAULT_LOG", "json")


@pytest.mark.usefixtures("as_objects")
def test_everything_is_an_object_where_objects_are_wanted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    speaking = console(events=True)

    speaking.note("backing up")
    speaking.warning("look out")
    speaking.emit("volume.stored", volume="v1", size_bytes=5)
    speaking.warn("hint.lost", "everything is read", stream="root")
    boundary.show(StoreUnavailableError("no answer", hint="Wait."), about="could not list: ")

    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all(clock.from_text(entry.pop("at")) for entry in found)
    assert found == [
        {"level": "info", "event": "note", "message": "backing up"},
        {"level": "warning", "event": "warning", "message": "look out"},
        {"level": "info", "event": "volume.stored", "volume": "v1", "size_bytes": 5},
        {
            "level": "warning",
            "event": "hint.lost",
            "message": "everything is read",
            "stream": "root",
        },
        {
            "level": "error",
            "event": "failed",
            "message": "could not list: no answer",
            "hint": "Wait.",
            "notes": None,
            "exit_status": 14,
        },
    ]


@pytest.mark.usefixtures("as_objects")
def test_progress_is_objects_where_objects_are_wanted(
    ticking: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    work = console().progress("reading", total=None)

    ticking[0] = 11
    work.advance(11 << 20)

    found = json.loads(capsys.readouterr().err)
    assert (found["event"], found["message"]) == ("progress", "reading: 11.0 MiB, 1.0 MiB/s")
