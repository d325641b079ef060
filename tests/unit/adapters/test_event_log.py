# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.event_log import EventLog


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: datetime(2026, 11, 20, 1, 30, tzinfo=UTC))


def test_an_event_is_one_line_with_its_time_and_its_fields() -> None:
    stream = io.StringIO()

    EventLog(stream, bound={"source": "web01"}).emit(
        "volume.stored", size_bytes=7, note="two words"
    )

    assert stream.getvalue() == (
        "2026-11-20T01:30:00.000000Z level=info event=volume.stored source=web01"
        ' size_bytes=7 note="two words"\n'
    )


def test_a_warning_carries_its_message() -> None:
    stream = io.StringIO()

    EventLog(stream).warn("hint.lost", 'lost "vg0/a"')

    assert 'level=warning event=hint.lost message="lost \\"vg0/a\\""' in stream.getvalue()


def test_json_lines_are_documents() -> None:
    stream = io.StringIO()

    EventLog(stream, as_json=True, bound={"run": "r1"}).error("run.failed", "no\nroom", tries=2)

    assert stream.getvalue().count("\n") == 1
    assert json.loads(stream.getvalue()) == {
        "at": "2026-11-20T01:30:00.000000Z",
        "level": "error",
        "event": "run.failed",
        "message": "no\nroom",
        "run": "r1",
        "tries": 2,
    }


def test_a_text_cannot_break_out_of_its_line() -> None:
    stream = io.StringIO()

    EventLog(stream).warn("x", "one\ntwo\x1b[31m", note="a=b")

    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert 'note="a=b"' in stream.getvalue()


def test_journald_gets_a_priority_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")

        EventLog(stream).warn("hint.lost", "lost")

        stream.seek(0)
        assert stream.read() == "<4>level=warning event=hint.lost message=lost\n"


def test_a_stream_that_is_gone_fails_nobody() -> None:
    stream = io.StringIO()
    stream.close()

    EventLog(stream).emit("volume.stored")
