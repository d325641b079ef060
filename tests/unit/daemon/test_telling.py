# SPDX-License-Identifier: Apache-2.0
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from snapvault import clock
from snapvault.daemon.teller import ASIDE_LENGTH
from snapvault.daemon.telling import Telling
from snapvault.errors import NotifyError, NotifyUnavailableError
from snapvault.model.notices import Notice, NoticeKind, NotifierStanding
from tests.support.events import RecordedEvents
from tests.support.notices import AT, a_notice

SECRET = "s3cr3t-Zq7"
PATIENCE = 60.0


@dataclass
class Listener:
    """A notifier that hears, and raises what it is told to, one error for each attempt."""

    name: str = "ops"
    errors: list[Exception] = field(default_factory=list)
    wanted: Callable[[Notice], bool] = lambda notice: True
    heard: list[str] = field(default_factory=list)
    attempts: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    is_called: threading.Event = field(default_factory=threading.Event)
    keeps_last_state: bool = False

    def __post_init__(self) -> None:
        self.gate.set()

    def wants(self, notice: Notice) -> bool:
        return self.wanted(notice)

    def tell(self, notice: Notice) -> None:
        self.attempts += 1
        self.is_called.set()
        self.gate.wait(PATIENCE)
        if self.errors:
            raise self.errors.pop(0)
        self.heard.append(notice.title)


class AskedToWaitError(NotifyUnavailableError):
    retry_after = 0.2


def until(condition: Callable[[], bool]) -> None:
    deadline = clock.monotonic() + PATIENCE
    while not condition():
        assert clock.monotonic() < deadline, "it did not happen"
        clock.sleep(0.002)


@pytest.fixture
def log() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    until(lambda: not any(each.name.startswith("tell ") for each in threading.enumerate()))


def standing(telling: Telling, name: str = "ops") -> NotifierStanding:
    return next(each for each in telling.standings() if each.name == name)


def titled(*titles: str, kind: NoticeKind = NoticeKind.FAILURE) -> list[Notice]:
    return [a_notice(kind, title=title) for title in titles]


def test_notices_are_delivered_in_order(log: RecordedEvents) -> None:
    listener = Listener()
    telling = Telling({"ops": listener}, log)

    for notice in titled("one", "two", "three"):
        telling.tell(notice)

    assert telling.close(PATIENCE) == 0
    assert listener.heard == ["one", "two", "three"]
    assert log.warnings == []


def test_nobody_told_costs_no_thread(log: RecordedEvents) -> None:
    before = set(threading.enumerate())

    telling = Telling({"ops": Listener(), "hc": Listener()}, log)

    assert set(threading.enumerate()) <= before
    assert telling.close(0) == 0


def test_a_policy_may_name_whom_to_tell(log: RecordedEvents) -> None:
    ops, boss = Listener("ops"), Listener("boss")
    telling = Telling({"ops": ops, "boss": boss}, log)

    telling.tell(a_notice(title="both"), None)
    telling.tell(a_notice(title="ops"), ["ops", "unknown"])
    telling.tell(a_notice(title="nobody"), [])

    telling.close(PATIENCE)
    assert (ops.heard, boss.heard) == (["both", "ops"], ["both"])


def test_who_does_not_want_it_is_not_told(log: RecordedEvents) -> None:
    listener = Listener(wanted=lambda notice: notice.kind is NoticeKind.BREACH)
    telling = Telling({"ops": listener}, log)

    telling.tell(a_notice(NoticeKind.START, title="start"))
    telling.tell(a_notice(NoticeKind.BREACH, title="breach"))

    telling.close(PATIENCE)
    assert listener.heard == ["breach"]


def test_one_that_hangs_does_not_delay_the_others_or_who_tells(log: RecordedEvents) -> None:
    hanging, quick = Listener("slow"), Listener("quick")
    hanging.gate.clear()
    telling = Telling({"slow": hanging, "quick": quick}, log)
    began = clock.monotonic()

    for notice in titled("one", "two"):
        telling.tell(notice)

    assert clock.monotonic() - began < PATIENCE
    until(lambda: quick.heard == ["one", "two"])
    assert hanging.heard == []
    assert standing(telling, "slow").waiting == 2
    hanging.gate.set()
    telling.close(PATIENCE)


def test_what_may_succeed_later_is_tried_again(log: RecordedEvents) -> None:
    listener = Listener(errors=[NotifyUnavailableError("busy"), NotifyUnavailableError("busy")])
    telling = Telling({"ops": listener}, log, pauses=(0.001, 0.001))

    telling.tell(a_notice(title="one"))

    until(lambda: listener.heard == ["one"])
    telling.close(PATIENCE)
    assert listener.attempts == 3
    assert log.warnings == ['could not tell notifier "ops" yet: busy']


def test_it_gives_up_in_the_end(log: RecordedEvents) -> None:
    listener = Listener(errors=[NotifyUnavailableError("busy")] * 3)
    telling = Telling({"ops": listener}, log, pauses=(0.001, 0.001))

    telling.tell(a_notice(title="one"))

    until(lambda: standing(telling).lost == 1)
    telling.close(PATIENCE)
    assert listener.heard == []
    assert log.warnings == [
        'could not tell notifier "ops" yet: busy',
        'could not tell notifier "ops": busy',
    ]
    [failed] = [fields for event, fields in log.events if event == "notice.failed"]
    assert (failed["attempts"], failed["source"], failed["kind"]) == (3, "web01", "failure")


@dataclass
class Picky(Listener):
    """One that never takes what has a certain title."""

    refused: str = "dead"

    def tell(self, notice: Notice) -> None:
        if notice.title.startswith(self.refused):
            self.attempts += 1
            raise NotifyUnavailableError("busy")
        super().tell(notice)


def test_newer_notices_do_not_wait_for_one_that_is_not_taken(log: RecordedEvents) -> None:
    listener = Picky()
    telling = Telling({"ops": listener}, log, pauses=(3600.0,))

    for notice in titled("dead", "one", "two"):
        telling.tell(notice)

    # What is heard waits until it is noted as delivered.
    until(lambda: standing(telling).waiting == 1)
    assert listener.heard == ["one", "two"]
    telling.close(PATIENCE)
    assert standing(telling).lost == 1


def test_so_many_notices_may_be_set_aside_and_no_more(log: RecordedEvents) -> None:
    listener = Picky()
    telling = Telling({"ops": listener}, log, pauses=(3600.0,))

    for notice in titled(*["dead"] * (ASIDE_LENGTH + 5), "one"):
        telling.tell(notice)

    until(lambda: listener.attempts == ASIDE_LENGTH)
    assert listener.heard == []
    assert standing(telling).waiting == ASIDE_LENGTH + 5 + 1
    telling.close(PATIENCE)
    assert listener.heard == ["one"]


def test_one_that_hears_again_hears_soon_what_was_set_aside(log: RecordedEvents) -> None:
    listener = Listener(errors=[NotifyUnavailableError("busy")] * 2)
    telling = Telling({"ops": listener}, log, pauses=(0.05, 3600.0))
    telling.tell(a_notice(title="one"))
    until(lambda: listener.attempts == 2)

    telling.tell(a_notice(title="two"))

    until(lambda: listener.heard == ["two", "one"])
    telling.close(PATIENCE)


@pytest.mark.parametrize(
    ("kind", "keeps_last_state", "heard"),
    [
        (NoticeKind.START, False, ["new"]),
        (NoticeKind.FAILURE, True, ["new"]),
        (NoticeKind.FAILURE, False, ["new", "old"]),
        (NoticeKind.BREACH, True, ["new", "old"]),
    ],
)
def test_a_state_that_is_over_is_not_told_last(
    log: RecordedEvents, kind: NoticeKind, *, keeps_last_state: bool, heard: list[str]
) -> None:
    listener = Listener(errors=[NotifyUnavailableError("busy")])
    listener.keeps_last_state = keeps_last_state
    telling = Telling({"ops": listener}, log, pauses=(3600.0,))
    telling.tell(a_notice(kind, title="old"))
    until(lambda: standing(telling).failures == 1)

    telling.tell(a_notice(NoticeKind.SUCCESS, title="new", at=AT + timedelta(minutes=5)))

    until(lambda: listener.heard == ["new"])
    telling.close(PATIENCE)
    assert listener.heard == heard


def test_a_start_of_another_source_is_still_told(log: RecordedEvents) -> None:
    listener = Listener(errors=[NotifyUnavailableError("busy")])
    telling = Telling({"ops": listener}, log, pauses=(3600.0,))
    telling.tell(a_notice(NoticeKind.START, title="old", source="shop"))
    until(lambda: standing(telling).failures == 1)

    telling.tell(a_notice(NoticeKind.SUCCESS, title="new"))

    until(lambda: listener.heard == ["new"])
    telling.close(PATIENCE)
    assert listener.heard == ["new", "old"]


def test_what_is_refused_is_not_tried_again(log: RecordedEvents) -> None:
    listener = Listener(errors=[NotifyError("no such user", hint="Ask them.")])
    telling = Telling({"ops": listener}, log, pauses=(0.001,))

    telling.tell(a_notice())

    telling.close(PATIENCE)
    assert listener.attempts == 1
    assert log.warnings == ['could not tell notifier "ops": no such user']


def test_a_server_is_asked_again_when_it_said(log: RecordedEvents) -> None:
    listener = Listener(errors=[AskedToWaitError("busy")])
    telling = Telling({"ops": listener}, log, pauses=(0.001,))
    began = clock.monotonic()

    telling.tell(a_notice(title="one"))

    until(lambda: listener.heard == ["one"])
    assert clock.monotonic() - began >= 0.2
    telling.close(PATIENCE)


def test_a_stop_waits_for_no_pause(log: RecordedEvents) -> None:
    listener = Listener(errors=[NotifyUnavailableError("busy")])
    telling = Telling({"ops": listener}, log, pauses=(3600.0,))
    for notice in titled("one", "two"):
        telling.tell(notice)
    until(lambda: listener.heard == ["two"])

    lost = telling.close(PATIENCE)

    assert lost == 0
    assert listener.heard == ["two", "one"]
    assert log.warnings == ['could not tell notifier "ops" yet: busy']


def test_a_stop_keeps_its_time_and_says_what_was_lost(log: RecordedEvents) -> None:
    listener = Listener()
    listener.gate.clear()
    telling = Telling({"ops": listener}, log)
    for notice in titled("one", "two", "three"):
        telling.tell(notice)
    began = clock.monotonic()

    lost = telling.close(0.1)

    assert clock.monotonic() - began < PATIENCE / 2
    assert lost == 3
    assert log.warnings == ['dropped notices for notifier "ops": 3 could not wait any longer']
    assert telling.close(0) == 0
    listener.gate.set()


def test_after_a_stop_nothing_is_told(log: RecordedEvents) -> None:
    listener = Listener()
    telling = Telling({"ops": listener}, log)
    telling.close(0)

    telling.tell(a_notice())

    assert listener.attempts == 0


def test_a_full_queue_loses_the_oldest_of_the_same_kind(log: RecordedEvents) -> None:
    listener = Listener()
    listener.gate.clear()
    telling = Telling({"ops": listener}, log, queue_length=3)
    telling.tell(a_notice(title="at work"))
    until(listener.is_called.is_set)
    [breach] = titled("breach", kind=NoticeKind.BREACH)
    for notice in (breach, *titled("f1", "f2", "f3", "f4")):
        telling.tell(notice)
    [recovery] = titled("recovery", kind=NoticeKind.RECOVERY)

    telling.tell(recovery)

    assert standing(telling).dropped == 3
    listener.gate.set()
    telling.close(PATIENCE)
    assert listener.heard == ["at work", "f3", "f4", "recovery"]
    dropped = [fields["count"] for event, fields in log.events if event == "notice.dropped"]
    assert dropped[0] == 1
    assert dropped == [1, 2]


def test_a_full_queue_loses_starts_before_failures(log: RecordedEvents) -> None:
    listener = Listener()
    listener.gate.clear()
    telling = Telling({"ops": listener}, log, queue_length=2)
    telling.tell(a_notice(title="at work"))
    until(listener.is_called.is_set)
    telling.tell(a_notice(NoticeKind.FAILURE, title="failure"))
    telling.tell(a_notice(NoticeKind.START, title="start"))

    telling.tell(a_notice(NoticeKind.BREACH, title="breach"))

    listener.gate.set()
    telling.close(PATIENCE)
    assert listener.heard == ["at work", "failure", "breach"]


def test_a_notifier_with_a_bug_loses_its_notice_alone(log: RecordedEvents) -> None:
    listener = Listener(errors=[ZeroDivisionError(f"https://example.org/{SECRET}")])
    telling = Telling({"ops": listener}, log)

    for notice in titled("one", "two"):
        telling.tell(notice)

    telling.close(PATIENCE)
    assert listener.heard == ["two"]
    assert log.warnings == [
        'could not tell notifier "ops": it failed unexpectedly (ZeroDivisionError)'
    ]
    assert SECRET not in repr(log.events)


def test_a_notifier_that_cannot_say_what_it_wants_harms_nobody(log: RecordedEvents) -> None:
    def fail(notice: Notice) -> bool:
        raise ZeroDivisionError

    other = Listener("other")
    telling = Telling({"ops": Listener(wanted=fail), "other": other}, log)

    telling.tell(a_notice(title="one"))

    telling.close(PATIENCE)
    assert other.heard == ["one"]
    assert "notice.bug" in log.names()


def test_a_system_without_threads_loses_nothing_yet(
    log: RecordedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    telling = Telling({"ops": listener}, log)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        telling.tell(a_notice(title="one"))
    telling.tell(a_notice(title="two"))

    telling.close(PATIENCE)
    assert listener.heard == ["one", "two"]
    assert "notice.stuck" in log.names()


def test_standings_say_how_each_fares(log: RecordedEvents) -> None:
    listener = Listener(errors=[NotifyError("no such user")])
    telling = Telling({"ops": listener, "hc": Listener()}, log)
    telling.tell(a_notice(), ["ops"])
    until(lambda: standing(telling).lost == 1)
    before = standing(telling)

    telling.tell(a_notice(NoticeKind.BREACH), ["ops"])

    until(lambda: standing(telling).delivered == 1)
    after = standing(telling)
    telling.close(PATIENCE)
    assert (before.is_up, before.problem, before.failures) == (False, "no such user", 1)
    assert before.failed_at is not None
    assert before.delivered_at is None
    assert after.is_up
    assert (after.problem, after.failures) == ("no such user", 1)
    assert after.delivered_at is not None
    assert standing(telling, "hc") == NotifierStanding("hc")


def test_how_each_stood_before_is_taken_over_and_counted_anew(log: RecordedEvents) -> None:
    known = NotifierStanding("ops", False, AT, AT, "busy", delivered=5, failures=4, waiting=2)

    telling = Telling({"ops": Listener()}, log, known=[known, replace(known, name="gone")])

    assert telling.standings() == [NotifierStanding("ops", False, AT, AT, "busy")]


def test_one_that_cannot_be_used_stands_there_as_such(log: RecordedEvents) -> None:
    telling = Telling({"ops": Listener()}, log, unusable={"hc": "no such file"})

    found = standing(telling, "hc")

    assert (found.is_up, found.problem) == (False, "no such file")
    telling.replace({"ops": Listener(), "hc": Listener()})
    assert standing(telling, "hc").is_up


def test_what_fails_while_its_notifier_is_exchanged_is_told_by_the_new_one_at_once(
    log: RecordedEvents,
) -> None:
    first, second = Listener(errors=[AskedToWaitError("busy")]), Listener()
    first.gate.clear()
    telling = Telling({"ops": first}, log, pauses=(3600.0,))
    telling.tell(a_notice(title="one"))
    assert first.is_called.wait(PATIENCE)

    telling.replace({"ops": second})
    first.gate.set()

    until(lambda: second.heard == ["one"])
    telling.close(PATIENCE)


def test_other_settings_take_over_what_waits(log: RecordedEvents) -> None:
    first, gone = Listener("ops", errors=[NotifyUnavailableError("busy")] * 9), Listener("gone")
    gone.errors.append(NotifyUnavailableError("busy"))
    second, new = Listener("ops"), Listener("new")
    telling = Telling({"ops": first, "gone": gone}, log, pauses=(3600.0, 3600.0))
    telling.tell(a_notice(title="one"))
    until(lambda: all(each.failures == 1 for each in telling.standings()))

    telling.replace({"ops": second, "new": new})
    telling.tell(a_notice(title="two"))

    until(lambda: sorted(second.heard) == ["one", "two"])
    assert telling.close(PATIENCE) == 0
    assert new.heard == ["two"]
    assert gone.heard == ["one"]
    assert [each.name for each in telling.standings()] == ["new", "ops"]
