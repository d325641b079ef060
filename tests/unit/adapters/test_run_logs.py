# SPDX-License-Identifier: Apache-2.0
"""The logs of runs: private, by month, and let go where the disk is full."""

import json
import resource
import shutil
import signal
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters import run_logs
from snapvault.adapters.run_logs import FolderRunLogs
from snapvault.model.runs import Progress

RUN = "20261120T013000Z-1a2b3c4d"
STRANGE = [
    "",
    "..",
    "../../etc/passwd",
    "20261120T013000Z-../../../x",
    f"{RUN}/x",
    f"{RUN}\n",
    "20261320T013000Z-1a2b3c4d",
    "20261120T013000Z-",
    f"{RUN}\0",
]
AT = datetime(2026, 11, 20, 1, 31, tzinfo=UTC)
PROGRESS = Progress(RUN, "reading root", 5, 10, AT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "runs"


@pytest.fixture
def logs(folder: Path) -> FolderRunLogs:
    return FolderRunLogs(folder)


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the clock's hand; tests move it."""
    hand = [0.0]
    monkeypatch.setattr(clock, "monotonic", lambda: hand[0])
    return hand


def test_events_come_back_in_order_while_the_run_is_at_work(logs: FolderRunLogs) -> None:
    log = logs.open(RUN)

    log.write({"at": "now", "event": "volume.stored", "size_bytes": 5, "last": True, "x": None})
    log.write({"event": "é\n\x1b"})
    found = logs.read(RUN)
    log.close()

    assert found == logs.read(RUN)
    assert found == [
        {"at": "now", "event": "volume.stored", "size_bytes": 5, "last": True, "x": None},
        {"event": "é\n\x1b"},
    ]


def test_a_log_is_one_object_a_line_in_the_folder_of_its_month(
    logs: FolderRunLogs, folder: Path
) -> None:
    log = logs.open(RUN)
    log.write({"event": "one"})
    log.write({"event": "two"})
    log.close()

    path = logs.path(RUN)

    assert path == str(folder / "2026-11" / f"{RUN}.jsonl")
    assert [json.loads(line) for line in Path(path).read_text().splitlines()] == [
        {"event": "one"},
        {"event": "two"},
    ]


def test_logs_and_their_folders_are_private(logs: FolderRunLogs, folder: Path) -> None:
    log = logs.open(RUN)
    log.write({"event": "one"})
    log.progress(PROGRESS)

    modes = {path.name: path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}
    log.close()

    assert modes == {
        "runs": 0o700,
        "2026-11": 0o700,
        f"{RUN}.jsonl": 0o600,
        f"{RUN}.progress": 0o600,
    }


@pytest.mark.parametrize("run", STRANGE)
def test_an_id_that_is_none_leads_nowhere(logs: FolderRunLogs, run: str) -> None:
    assert logs.path(run) is None
    assert logs.progress(run) is None
    assert list(logs.read(run)) == []
    with pytest.raises(ValueError, match="not the id of a run"):
        logs.open(run)


def test_of_a_run_without_a_log_nothing_is_known(logs: FolderRunLogs) -> None:
    assert logs.path(RUN) is None
    assert logs.progress(RUN) is None
    assert list(logs.read(RUN)) == []


def test_damaged_lines_are_left_out(logs: FolderRunLogs) -> None:
    log = logs.open(RUN)
    log.write({"event": "one"})
    log.write({"event": "two"})
    log.close()
    path = Path(str(logs.path(RUN)))

    path.write_bytes(b'\xff\xfe\n[]\n{"event": "ha\n' + path.read_bytes() + b'{"event": "th')

    assert logs.read(RUN) == [{"event": "one"}, {"event": "two"}]


def test_a_log_that_is_opened_again_goes_on(logs: FolderRunLogs) -> None:
    for event in ("one", "two"):
        log = logs.open(RUN)
        log.write({"event": event})
        log.close()

    assert logs.read(RUN) == [{"event": "one"}, {"event": "two"}]


def test_progress_is_replaced_once_a_second_at_most(logs: FolderRunLogs, hand: list[float]) -> None:
    log = logs.open(RUN)

    log.progress(PROGRESS)
    hand[0] = 0.9
    log.progress(replace(PROGRESS, done=6))
    early = logs.progress(RUN)
    hand[0] = 1.0
    log.progress(replace(PROGRESS, done=7, total=None))
    late = logs.progress(RUN)
    log.close()

    assert early == PROGRESS
    assert late == replace(PROGRESS, done=7, total=None)
    assert logs.progress(RUN) is None


def test_what_comes_after_the_end_is_let_go(logs: FolderRunLogs, folder: Path) -> None:
    log = logs.open(RUN)
    log.close()

    log.write({"event": "late"})
    log.progress(PROGRESS)
    log.close()

    assert not folder.exists()


@pytest.mark.parametrize(
    "text", [b"", b"5", b"{}", b'{"label": "x", "done": "5", "total": 1, "at": 5}', b"\xff"]
)
def test_damaged_progress_is_none(logs: FolderRunLogs, folder: Path, text: bytes) -> None:
    (folder / "2026-11").mkdir(parents=True)
    (folder / "2026-11" / f"{RUN}.progress").write_bytes(text)

    assert logs.progress(RUN) is None


def test_a_full_disk_costs_lines_and_nothing_else(logs: FolderRunLogs) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = logs.open(RUN)

    log.write({"event": "first"})
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    try:
        log.write({"event": "lost", "text": "x" * 100})
        log.write({"event": "lost too"})
        log.progress(replace(PROGRESS, label="x" * 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    log.write({"event": "last"})
    log.close()

    assert logs.read(RUN) == [{"event": "first"}, {"event": "last"}]


def test_a_folder_that_cannot_be_made_costs_the_log_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder is meant")
    logs = FolderRunLogs(tmp_path / "runs")

    log = logs.open(RUN)
    log.write({"event": "lost"})
    log.progress(PROGRESS)
    log.close()

    assert logs.path(RUN) is None
    assert logs.expire(AT) == 0


def test_a_folder_that_is_removed_meanwhile_costs_the_log_and_nothing_else(
    logs: FolderRunLogs, folder: Path
) -> None:
    log = logs.open(RUN)
    log.write({"event": "one"})
    shutil.rmtree(folder)

    log.write({"event": "two"})
    log.progress(PROGRESS)
    log.close()

    assert list(logs.read(RUN)) == []


def test_a_log_does_not_grow_without_end(
    logs: FolderRunLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_logs, "_LOG_BYTES", 1000)
    log = logs.open(RUN)

    for _ in range(100):
        log.write({"event": "x" * 50})
    log.close()

    assert Path(str(logs.path(RUN))).stat().st_size < 1100


def test_logs_of_runs_from_before_a_time_go_and_the_others_stay(
    logs: FolderRunLogs, folder: Path
) -> None:
    names = ["20260901T000000Z-a", "20261120T013059Z-b", "20261120T013100Z-c", "20261201T000000Z-d"]
    for name in names:
        log = logs.open(name)
        log.write({"event": "one"})
        log.close()
    (folder / "2026-09" / "20260901T000000Z-a.progress").touch()
    (folder / "notes").mkdir()

    count = logs.expire(AT)

    assert count == 2
    assert [name for name in names if logs.path(name)] == names[2:]
    assert sorted(path.name for path in folder.iterdir()) == ["2026-11", "2026-12", "notes"]
