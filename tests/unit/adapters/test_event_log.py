# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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


@contextmanager
def unread(kind: str) -> Iterator[tuple[int, int]]:
    """Return both ends, to read from and to write to, of something that holds little."""
    with ExitStack() as stack:
        if kind == "pipe":
            near, far = os.pipe()
            stack.callback(os.close, near)
        else:
            left, right = socket.socketpair()
            stack.enter_context(left)
            near, far = left.fileno(), right.detach()
        yield near, far


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize(("size", "number"), [(10, 3000), (100_000, 50)])
def test_a_stream_that_nobody_reads_holds_up_nobody(
    kind: str, size: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapvault.adapters.log_stream._PATIENCE", 1)
    with unread(kind) as (near, far), os.fdopen(far, "w") as stream:
        log = EventLog(stream, as_json=True)

        def flood() -> None:
            for _ in range(number):
                log.emit("volume.stored", note="x" * size)

        writer = threading.Thread(target=flood, daemon=True)
        writer.start()
        writer.join(60)
        assert not writer.is_alive()

        said = os.read(near, 1 << 24)
        while said.count(b"\n") < 3 or b"log.lost" not in said:
            log.emit("volume.deleted")
            said += os.read(near, 1 << 24)

    whole = [json.loads(line) for line in said.splitlines() if line.endswith(b"}")]
    events = [event["event"] for event in whole]
    (lost,) = [event["lines"] for event in whole if event["event"] == "log.lost"]
    # What there was no room for is counted; one line may have been cut off.
    assert lost + events.count("volume.stored") + events.count("volume.deleted") >= number
    assert events[-1] == "volume.deleted"


def test_no_stream_at_all_fails_nobody() -> None:
    EventLog(None).emit("volume.stored")


def test_a_name_that_is_no_text_is_written(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+", encoding="utf-8") as stream:
        EventLog(stream, as_json=True).emit("file.skipped", name="caf\udce9")

        stream.seek(0)
        assert "caf" in stream.read()
