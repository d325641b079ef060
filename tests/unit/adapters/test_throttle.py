# SPDX-License-Identifier: Apache-2.0
"""Limits, on a clock of the tests: what passes when, and who shares with whom."""

import errno
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import time
from pathlib import Path

import pytest

from snapvault.adapters.ending import Ending
from snapvault.adapters.shared_timeline import _RECORD, SharedTimeline, _boot_id
from snapvault.adapters.throttle import (
    PIECE,
    Flow,
    Limit,
    Traffic,
    take_all,
    upload_rate,
)
from snapvault.adapters.timeline import OwnTimeline
from snapvault.model.policy import Limits, UploadSpan, Window
from snapvault.model.settings import HostLimits
from snapvault.ports.throttle import GivenUp
from tests.support.events import RecordedEvents
from tests.support.throttles import Time

MIB = 1 << 20
ROOT = Path(__file__).parents[3]


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time.instead_of_ours(monkeypatch)


def flow_of(*rates: int, ending: Ending | None = None) -> Flow:
    limits = [Limit(lambda rate=rate: rate, OwnTimeline()) for rate in rates]  # type: ignore[misc]  # bound early
    return Flow(ending or Ending(), limits)


def traffic(limits: HostLimits, folder: Path, events: RecordedEvents | None = None) -> Traffic:
    return Traffic(limits, folder / "limits", Ending(), events or RecordedEvents())


# --- one run --------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1000, 1_000_000, 50_000_000])
def test_bytes_pass_at_the_rate(moment: Time, rate: int) -> None:
    take_all(flow_of(rate), 100 * rate)

    assert moment.passed == pytest.approx(100, rel=0.02)


def test_the_lowest_of_several_limits_counts(moment: Time) -> None:
    take_all(flow_of(5_000_000, 1_000_000, 3_000_000), 10_000_000)

    assert moment.passed == pytest.approx(10, abs=0.6)


def test_without_a_limit_everything_passes_at_once(moment: Time) -> None:
    assert Flow(Ending()).take(1 << 40) == 1 << 40
    assert moment.passed == 0


@pytest.mark.parametrize(
    ("rate", "wanted", "piece"),
    [
        (10**9, 1 << 40, PIECE),
        (400_000, 1 << 40, 100_000),
        (1000, 1 << 40, 1024),
        (10**9, 7, 7),
    ],
)
def test_pieces_are_small_and_smaller_where_it_is_slow(
    moment: Time, rate: int, wanted: int, piece: int
) -> None:
    assert flow_of(rate).take(wanted) == piece


def test_time_that_nobody_used_is_not_saved_up(moment: Time) -> None:
    flow = flow_of(1_000_000)
    take_all(flow, 1_000_000)
    moment.sleep(3600)
    before = moment.passed

    take_all(flow, 10_000_000)

    assert moment.passed - before == pytest.approx(10, abs=0.6)


def test_a_runs_own_limit_holds_for_its_run_alone(moment: Time, tmp_path: Path) -> None:
    host = traffic(HostLimits(upload=10_000_000, each=Limits(read=2_000_000)), tmp_path)

    with host.of_run(Limits(upload=1_000_000)):
        take_all(host.upload, 10_000_000)
        uploaded = moment.passed
        take_all(host.read, 10_000_000)
        read = moment.passed - uploaded
    after = moment.passed
    take_all(host.upload, 10_000_000)
    take_all(host.read, 10_000_000)

    assert uploaded == pytest.approx(10, abs=0.6)
    assert read == pytest.approx(5, abs=0.6)
    assert moment.passed - after == pytest.approx(1, abs=0.6)


def test_a_limit_of_a_policy_counts_instead_of_the_one_for_every_run(
    moment: Time, tmp_path: Path
) -> None:
    host = traffic(HostLimits(each=Limits(upload=1000, read=1000)), tmp_path)

    with host.of_run(Limits(upload=1_000_000, read=1_000_000)):
        take_all(host.upload, 5_000_000)
        take_all(host.read, 5_000_000)

    assert moment.passed == pytest.approx(10, abs=1)


# --- the time of day ------------------------------------------------------------------------

DAY = UploadSpan(Window(time(8), time(18)), 1_000_000)
NIGHT = UploadSpan(Window(time(22), time(6)), None)
ALWAYS = UploadSpan(Window(time(0), time(0)), 3_000_000)


@pytest.mark.parametrize(
    ("spans", "at", "rate"),
    [
        ((DAY, NIGHT), time(7, 59, 59), 2_000_000),
        ((DAY, NIGHT), time(8), 1_000_000),
        ((DAY, NIGHT), time(18), 2_000_000),
        ((DAY, NIGHT), time(22), None),
        ((DAY, NIGHT), time(5, 59, 59), None),
        ((DAY, NIGHT), time(6), 2_000_000),
        ((DAY, ALWAYS), time(9), 1_000_000),
        ((DAY, ALWAYS), time(20), 3_000_000),
        ((ALWAYS, DAY), time(9), 3_000_000),
        ((), time(9), 2_000_000),
    ],
)
def test_the_first_part_of_the_day_that_holds_the_moment_counts(
    spans: tuple[UploadSpan, ...], at: time, rate: int | None
) -> None:
    assert upload_rate(HostLimits(upload=2_000_000, uploads=spans), at) == rate


@pytest.mark.parametrize(("before", "passed"), [(None, 0.0), (20_000, 0.0), (4_000_000, 40e6)])
def test_a_limit_that_changes_at_eight_counts_in_the_middle_of_an_upload(
    moment: Time, tmp_path: Path, before: int | None, passed: float
) -> None:
    moment.begun = moment.begun.replace(hour=7, minute=59, second=50)
    host = traffic(HostLimits(upload=before, uploads=(DAY,)), tmp_path)
    sent_before_eight = 0

    def send(amount: int) -> None:
        nonlocal sent_before_eight
        while amount > 0:
            taken = host.upload.take(amount)
            amount -= taken
            if moment.passed < 10:
                sent_before_eight += taken
            if before is None and moment.passed < 10:
                moment.sleep(1)  # the network's own time

    send(45_000_000)

    after_eight = 45_000_000 - sent_before_eight
    assert moment.passed - 10 == pytest.approx(after_eight / 1_000_000, rel=0.03, abs=1.5)
    if passed:
        assert sent_before_eight == pytest.approx(passed, rel=0.05)


# --- several processes ----------------------------------------------------------------------


def test_two_runs_share_the_limit_of_their_host_half_and_half(moment: Time, tmp_path: Path) -> None:
    limits = HostLimits(upload=1_000_000)
    one, other = traffic(limits, tmp_path), traffic(limits, tmp_path)
    passed = [0, 0]

    while moment.passed < 20:
        for number, each in enumerate((one, other)):
            passed[number] += each.upload.take(MIB)

    assert sum(passed) == pytest.approx(20_000_000, rel=0.05)
    assert passed[0] == pytest.approx(passed[1], rel=0.05)


BOOKING = """
import sys
from pathlib import Path
from snapvault.adapters import shared_timeline
from snapvault.adapters.shared_timeline import SharedTimeline
from tests.support.events import RecordedEvents
shared_timeline._TRIES = 100_000  # a busy disk may hold up who has the lock
events = RecordedEvents()
timeline = SharedTimeline(Path(sys.argv[1]), events)
print(min([timeline.book(0.02) for _ in range(500)]), events.warnings)
"""


def test_no_booking_of_any_process_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BOOKING, str(path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=300)[0].decode().split(maxsplit=1) for process in processes]

    begun = min(float(each[0]) for each in said)
    _, free_from = _RECORD.unpack(path.read_bytes())
    assert [each[1].strip() for each in said] == ["[]"] * 3
    # Where booking was slower than time itself, a stretch went by unused.
    assert free_from - begun >= 3 * 499 * 0.02


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\xff" * 500,
        _RECORD.pack(_boot_id(), math.nan),
        _RECORD.pack(_boot_id(), math.inf),
        _RECORD.pack(_boot_id(), 1e12),
        _RECORD.pack(_boot_id(), -5.0),
        _RECORD.pack(b"another boot", 1030.0),
    ],
    ids=["empty", "short", "long", "nan", "infinite", "far", "negative", "boot"],
)
def test_a_timeline_that_makes_no_sense_begins_anew(
    moment: Time, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "upload"
    path.write_bytes(content)
    events = RecordedEvents()

    start = SharedTimeline(path, events).book(2.0)
    next_start = SharedTimeline(path, events).book(2.0)

    assert start == pytest.approx(1000, abs=0.3)
    assert next_start == pytest.approx(1002, abs=0.3)
    assert events.warnings == []


def test_a_timeline_that_is_removed_meanwhile_is_made_again_and_shared(
    moment: Time, tmp_path: Path
) -> None:
    path = tmp_path / "limits" / "upload"
    one, other = SharedTimeline(path, RecordedEvents()), SharedTimeline(path, RecordedEvents())
    one.book(5.0)
    other.book(5.0)
    path.unlink()
    path.parent.rmdir()

    one.book(5.0)
    other.book(5.0)

    _, free_from = _RECORD.unpack(path.read_bytes())
    assert free_from == pytest.approx(1010, abs=0.3)


def full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refuse)


def no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("a file")


def a_link(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "upload").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize("fault", [full_disk, no_folder, a_link])
def test_where_nothing_can_be_shared_each_run_keeps_to_the_limit_and_says_so_once(
    moment: Time,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    fault(tmp_path / "limits", monkeypatch)
    events = RecordedEvents()
    host = traffic(HostLimits(upload=1_000_000), tmp_path, events)

    take_all(host.upload, 10_000_000)

    assert moment.passed == pytest.approx(10, abs=0.6)
    (warning,) = events.warnings
    assert str(tmp_path / "limits" / "upload") in warning
    assert not (tmp_path / "elsewhere").exists()


def test_a_process_that_stopped_with_the_lock_does_not_stop_the_others(
    moment: Time, tmp_path: Path
) -> None:
    stopped = SharedTimeline(tmp_path / "upload", RecordedEvents())
    stopped._locked()
    events = RecordedEvents()

    start = SharedTimeline(tmp_path / "upload", events).book(1.0)

    assert start == pytest.approx(moment.seconds, abs=0.3)
    (warning,) = events.warnings
    assert "does not let go" in warning
    stopped.close()


# --- being asked to end ---------------------------------------------------------------------


class Asked(Exception):  # noqa: N818 - not an error
    """What the program's own handler of signals raises."""


@pytest.fixture
def asking() -> Callable[[], None]:
    return lambda: signal.raise_signal(signal.SIGHUP)


def test_who_waits_for_a_limit_ends_with_the_process(moment: Time) -> None:
    ending = Ending()
    flow = flow_of(1000, ending=ending)
    flow.take(1024)
    moment.on_sleep = lambda: setattr(ending, "_is_asked", True)

    with pytest.raises(GivenUp):
        flow.take(1024)

    assert moment.passed < 0.2


def test_nothing_passes_any_more_once_the_process_shall_end(moment: Time) -> None:
    ending = Ending()
    ending._is_asked = True

    with pytest.raises(GivenUp):
        Flow(ending).take(1)
    with pytest.raises(GivenUp):
        ending.sleep(0)
    assert moment.passed == 0


def test_a_signal_is_noticed_and_left_to_its_handler(asking: Callable[[], None]) -> None:
    def handler(*_: object) -> None:
        raise Asked

    before = signal.signal(signal.SIGHUP, handler)
    ending = Ending()
    try:
        with ending.noticed():
            ending.check()
            with pytest.raises(Asked):
                asking()
            with pytest.raises(GivenUp):
                ending.check()

        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_is_ignored_is_not_noticed(asking: Callable[[], None]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ending = Ending()
    try:
        with ending.noticed():
            asking()
            ending.check()

            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_that_was_changed_meanwhile_stays_changed(asking: Callable[[], None]) -> None:
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        with Ending().noticed():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
