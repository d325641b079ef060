# SPDX-License-Identifier: Apache-2.0
"""Hooks, as small shell scripts that write into a journal."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.sources.hooked import HookedSource, HookQuiesce, hook_environment
from snapvault.adapters.sources.hooked_program import LINE_LENGTH, LINES_LOGGED
from snapvault.errors import QuiesceError, SourceError
from snapvault.model.policy import HookSpec, HooksSpec
from snapvault.ports.source import Consistency
from tests.support.events import RecordedEvents
from tests.support.sources import MemoryByteSource

ENVIRONMENT = hook_environment(source="web01", vault="offsite", policy="nightly")
POINT = "00112233aabbccdd"


class Interrupted(BaseException):
    """What a signal is turned into."""


class Journal:
    """What the hooks write, in order."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal"
        self.events = RecordedEvents()

    def hook(self, script: str = "true", **more: object) -> HookSpec:
        """Return a hook that notes its kind, result and point, and then runs a script."""
        note = 'echo "$SNAPVAULT_HOOK $SNAPVAULT_RESULT $SNAPVAULT_POINT" >>"$JOURNAL"'
        return HookSpec(
            ("sh", "-c", f"{note}; {script}"),
            environment={"JOURNAL": str(self.path)},
            **more,  # type: ignore[arg-type]  # the fields of the spec, by name
        )

    def source(self, inner: MemoryByteSource, **hooks: HookSpec) -> HookedSource:
        return HookedSource(inner, HooksSpec(**hooks), ENVIRONMENT, self.events)

    def quiesce(self, **hooks: HookSpec) -> HookQuiesce:
        return HookQuiesce(HooksSpec(**hooks), ENVIRONMENT, self.events)

    def lines(self) -> list[str]:
        if not self.path.exists():
            return []
        return [line.rstrip() for line in self.path.read_text().splitlines()]

    def output(self) -> list[object]:
        return [fields["line"] for event, fields in self.events.events if event == "hook.output"]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


@pytest.fixture
def inner() -> MemoryByteSource:
    return MemoryByteSource("web01", {"dump": b"bytes"})


# --- before and after -----------------------------------------------------------------------


def test_hooks_run_around_a_committed_point_and_after_is_told_of_it(
    journal: Journal, inner: MemoryByteSource
) -> None:
    source = journal.source(inner, before=journal.hook(), after=journal.hook())

    view = source.open({"dump": "mark"})
    while_open = journal.lines(), inner.record.left_open
    outcome = view.finish()
    view.committed(POINT)
    view.close()
    view.close()

    assert while_open == (["before"], 1)
    assert journal.lines() == ["before", f"after committed {POINT}"]
    assert inner.record.marks_given == [{"dump": "mark"}]
    assert inner.record.committed == [POINT]
    assert inner.record.left_open == 0
    assert outcome.consistency is Consistency.APPLICATION
    assert [stream.name for stream in view.streams] == ["dump"]


def test_after_is_told_of_a_view_that_was_not_committed(
    journal: Journal, inner: MemoryByteSource
) -> None:
    source = journal.source(inner, before=journal.hook(), after=journal.hook())

    source.open().close()

    assert journal.lines() == ["before", "after failed"]


def test_after_runs_when_the_source_could_not_be_opened(
    journal: Journal, inner: MemoryByteSource
) -> None:
    inner.faults.on_open = True
    source = journal.source(inner, before=journal.hook(), after=journal.hook())

    with pytest.raises(SourceError, match='source "memory" broke'):
        source.open()

    assert journal.lines() == ["before", "after failed"]


def test_after_is_told_of_a_point_that_exists_though_the_source_could_not_let_go(
    journal: Journal, inner: MemoryByteSource
) -> None:
    inner.faults.on_committed = True
    source = journal.source(inner, after=journal.hook())
    view = source.open()

    with pytest.raises(SourceError):
        view.committed(POINT)
    view.close()

    assert journal.lines() == [f"after committed {POINT}"]


def test_a_failing_before_stops_the_backup_and_after_runs(
    journal: Journal, inner: MemoryByteSource
) -> None:
    script = "echo all is; echo lost >&2; exit 7"
    source = journal.source(inner, before=journal.hook(script), after=journal.hook())

    with pytest.raises(
        SourceError,
        match=r'hook "before" of source "web01" failed: program "sh" failed with '
        r"exit status 7: all is; lost$",
    ):
        source.open()

    assert journal.lines() == ["before", "after failed"]
    assert inner.record.opened == 0


def test_a_failing_before_that_only_warns_stops_nothing(
    journal: Journal, inner: MemoryByteSource
) -> None:
    source = journal.source(inner, before=journal.hook("exit 7", on_failure="warn"))

    source.open().close()

    assert inner.record.opened == 1
    (warning,) = journal.events.warnings
    assert 'hook "before" of source "web01" failed' in warning
    assert "exit status 7" in warning


def test_a_hook_that_takes_too_long_is_ended_and_named(
    journal: Journal, inner: MemoryByteSource
) -> None:
    # Long enough to write to the journal, on a busy machine too.
    slow = journal.hook("exec sleep 600", timeout=timedelta(seconds=5))
    source = journal.source(inner, before=slow, after=journal.hook())

    with pytest.raises(SourceError, match=r'hook "before" of source "web01" .* ran out of time'):
        source.open()

    assert journal.lines() == ["before", "after failed"]


def test_a_hook_that_never_stops_talking_is_ended_too(
    journal: Journal, inner: MemoryByteSource
) -> None:
    source = journal.source(inner, before=journal.hook("yes", timeout=timedelta(seconds=1)))

    with pytest.raises(SourceError, match=r'hook "before" of source "web01" .* ran out of time'):
        source.open()


def test_a_failing_after_is_a_warning(journal: Journal, inner: MemoryByteSource) -> None:
    source = journal.source(inner, after=journal.hook("exit 1"))
    view = source.open()
    view.committed(POINT)

    view.close()

    assert 'hook "after" of source "web01" failed' in journal.events.warnings[0]


def test_after_runs_though_closing_the_source_fails(
    journal: Journal, inner: MemoryByteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = journal.source(inner, after=journal.hook())
    view = source.open()

    def break_down(_: object) -> None:
        raise Interrupted

    monkeypatch.setattr("tests.support.sources.MemoryView.close", break_down)
    with pytest.raises(Interrupted):
        view.close()

    assert journal.lines() == ["after failed"]


@pytest.mark.parametrize("kind", ["before", "after"])
def test_nothing_is_started_when_a_program_is_missing(
    kind: str, journal: Journal, inner: MemoryByteSource
) -> None:
    hooks = {"before": journal.hook(), "after": journal.hook(), kind: HookSpec(("no-such-hook",))}

    with pytest.raises(SourceError, match=f'hook "{kind}" .* could not start .*"no-such-hook"'):
        journal.source(inner, **hooks).open()

    assert journal.lines() == []
    assert inner.record.opened == 0


def test_hooks_are_told_what_is_going_on_and_a_policy_cannot_lie_to_them(
    journal: Journal, inner: MemoryByteSource
) -> None:
    script = "env | grep -e ^SNAPVAULT_ -e ^OWN= | sort"
    hook = HookSpec(("sh", "-c", script), environment={"OWN": "1", "SNAPVAULT_HOOK": "lie"})
    view = journal.source(inner, after=hook).open()
    view.committed(POINT)

    view.close()

    assert journal.output() == [
        "OWN=1",
        "SNAPVAULT_HOOK=after",
        f"SNAPVAULT_POINT={POINT}",
        "SNAPVAULT_POLICY=nightly",
        "SNAPVAULT_RESULT=committed",
        "SNAPVAULT_SOURCE=web01",
        "SNAPVAULT_VAULT=offsite",
    ]


def test_what_a_hook_says_is_in_the_log_line_by_line_and_its_environment_is_not(
    journal: Journal, inner: MemoryByteSource
) -> None:
    script = "echo one; echo two >&2; printf 'no end \\377'"
    hook = HookSpec(("sh", "-c", script), environment={"TOKEN": "secret-word"})

    journal.source(inner, before=hook).open().close()

    assert journal.output() == ["one", "two", "no end \ufffd"]
    assert journal.events.names() == ["hook.started", *["hook.output"] * 3, "hook.ended"]
    assert "secret-word" not in repr(journal.events)


def test_a_talkative_hook_is_cut_off_in_the_log_and_runs_to_its_end(
    journal: Journal, inner: MemoryByteSource
) -> None:
    script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; seq 5000"

    journal.source(inner, before=HookSpec(("sh", "-c", script))).open().close()

    output = journal.output()
    assert output[0] == "x" * LINE_LENGTH + "…"
    assert output[1:] == [str(number) for number in range(1, LINES_LOGGED)]
    assert ("hook.output_cut", {"hook": "before", "source": "web01", "lines_left_out": 4801}) in (
        journal.events.events
    )


def test_a_hook_need_not_wait_for_what_it_leaves_running(
    journal: Journal, inner: MemoryByteSource
) -> None:
    source = journal.source(inner, before=HookSpec(("sh", "-c", "sleep 600 & echo done")))

    source.open().close()

    assert journal.output() == ["done"]


def test_check_looks_at_every_program_and_at_the_source(
    journal: Journal, inner: MemoryByteSource
) -> None:
    source = journal.source(inner, before=journal.hook(), thaw=HookSpec(("no-such-thaw",)))

    findings = list(source.check())

    assert [finding.check for finding in findings] == ['hook "before"', 'hook "thaw"', "memory"]
    assert [finding.error is None for finding in findings] == [True, False, True]
    assert journal.lines() == []


# --- freeze and thaw ------------------------------------------------------------------------


def test_a_snapshot_is_taken_between_freeze_and_thaw(journal: Journal) -> None:
    quiesce = journal.quiesce(freeze=journal.hook("echo still"), thaw=journal.hook())

    with quiesce() as consistency:
        inside = journal.lines(), journal.events.names()

    assert consistency is Consistency.APPLICATION
    assert inside == (["freeze"], [])  # the log may lie on what is frozen
    assert journal.lines() == ["freeze", "thaw"]
    assert journal.output() == ["still"]


def test_without_a_freeze_nothing_runs(journal: Journal) -> None:
    with journal.quiesce(thaw=journal.hook())() as consistency:
        pass

    assert consistency is Consistency.CRASH
    assert journal.lines() == []


def test_thaw_runs_when_the_snapshot_failed(journal: Journal) -> None:
    quiesce = journal.quiesce(freeze=journal.hook(), thaw=journal.hook())

    with pytest.raises(Interrupted), quiesce():
        raise Interrupted

    assert journal.lines() == ["freeze", "thaw"]


@pytest.mark.parametrize("script", ["echo half; exit 5", "kill -9 $$", "exec sleep 600"])
def test_a_freeze_that_failed_is_thawed_and_named(script: str, journal: Journal) -> None:
    # Long enough to write to the journal, on a busy machine too.
    freeze = journal.hook(script, timeout=timedelta(seconds=5))
    quiesce = journal.quiesce(freeze=freeze, thaw=journal.hook())

    with pytest.raises(QuiesceError, match=r'hook "freeze" of source "web01" failed: '), quiesce():
        pytest.fail("the context was entered")

    assert journal.lines() == ["freeze", "thaw"]


def test_a_freeze_that_failed_and_only_warns_is_worth_a_crash(journal: Journal) -> None:
    freeze = journal.hook("exit 5", on_failure="warn")

    with journal.quiesce(freeze=freeze, thaw=journal.hook())() as consistency:
        pass

    assert consistency is Consistency.CRASH
    assert "as after a power cut" in journal.events.warnings[0]
    assert journal.lines() == ["freeze", "thaw"]


def test_nothing_is_frozen_that_could_not_be_thawed(journal: Journal) -> None:
    quiesce = journal.quiesce(freeze=journal.hook(), thaw=HookSpec(("no-such-thaw",)))

    with pytest.raises(QuiesceError, match=r'hook "thaw" .*"no-such-thaw"'), quiesce():
        pytest.fail("the context was entered")

    assert journal.lines() == []


def test_a_missing_freeze_is_told_and_nothing_is_thawed(journal: Journal) -> None:
    quiesce = journal.quiesce(freeze=HookSpec(("no-such-freeze",)), thaw=journal.hook())

    with pytest.raises(QuiesceError, match=r'hook "freeze" .*"no-such-freeze"'), quiesce():
        pytest.fail("the context was entered")

    assert journal.lines() == []


def test_a_failing_thaw_is_a_loud_warning(journal: Journal) -> None:
    quiesce = journal.quiesce(freeze=journal.hook(), thaw=journal.hook("exit 1"))

    with quiesce():
        pass

    assert "what was frozen may still be" in journal.events.warnings[0]


# --- a process that is ended -----------------------------------------------------------------

ENDED = """
import sys
from snapvault.adapters.sources.hooked import HookedSource, HookQuiesce, hook_environment
from snapvault.cli import boundary
from snapvault.model.policy import HooksSpec, HookSpec
from tests.support.events import RecordedEvents
from tests.support.sources import MemoryByteSource

ENVIRONMENT = hook_environment(source="web01", vault="offsite", policy="nightly")
FIRST, SECOND, START, END = sys.argv[1:]

def hook(script):
    note = 'echo "$SNAPVAULT_HOOK $SNAPVAULT_RESULT" >>journal'
    return HookSpec(("sh", "-c", note + ";" + script))

def work():
    hooks = HooksSpec(**{START: hook(FIRST), END: hook(SECOND)})
    if START == "freeze":
        with HookQuiesce(hooks, ENVIRONMENT, RecordedEvents())():
            print("inside", flush=True)
            sys.stdin.read()
    else:
        source = MemoryByteSource("web01", {"dump": b""})
        view = HookedSource(source, hooks, ENVIRONMENT, RecordedEvents()).open()
        print("inside", flush=True)
        try:
            sys.stdin.read()
        finally:
            view.close()
    return 0

sys.exit(boundary.run(work))
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., "subprocess.Popen[bytes]"]:
    """Return what starts a process whose hooks run in the test's folder."""

    def start(
        kinds: tuple[str, str], first: str = "true", second: str = "true"
    ) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-c", ENDED, first, second, *kinds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path),
            },
        )

    return start


FREEZE = ("freeze", "thaw")
AROUND = ("before", "after")


def comes(path: Path, content: list[str]) -> bool:
    """Wait until a journal has some lines, for a while."""
    deadline = clock.monotonic() + 60
    while clock.monotonic() < deadline:
        if path.exists() and [line.rstrip() for line in path.read_text().splitlines()] == content:
            return True
        clock.sleep(0.01)
    return False


EXPECTED: Mapping[tuple[str, str], list[str]] = {
    FREEZE: ["freeze", "thaw"],
    AROUND: ["before", "after failed"],
}


@pytest.mark.parametrize("kinds", [FREEZE, AROUND])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_begun_is_undone_when_the_process_is_ended_inside(
    number: signal.Signals,
    kinds: tuple[str, str],
    start: Callable[..., "subprocess.Popen[bytes]"],
    tmp_path: Path,
) -> None:
    process = start(kinds)
    assert process.stdout is not None
    assert process.stdout.readline() == b"inside\n"

    process.send_signal(number)
    process.communicate()

    assert comes(tmp_path / "journal", EXPECTED[kinds])


@pytest.mark.parametrize("kinds", [FREEZE, AROUND])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_half_begun_is_undone_when_the_process_is_ended(
    number: signal.Signals,
    kinds: tuple[str, str],
    start: Callable[..., "subprocess.Popen[bytes]"],
    tmp_path: Path,
) -> None:
    process = start(kinds, "exec sleep 600")
    assert comes(tmp_path / "journal", EXPECTED[kinds][:1])

    process.send_signal(number)
    process.communicate()

    assert comes(tmp_path / "journal", EXPECTED[kinds])


@pytest.mark.parametrize("kinds", [FREEZE, AROUND])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_undoing_begins_anew_when_the_process_is_ended_in_it(
    number: signal.Signals,
    kinds: tuple[str, str],
    start: Callable[..., "subprocess.Popen[bytes]"],
    tmp_path: Path,
) -> None:
    undo = "mkdir once && echo half >>journal && exec sleep 600; echo whole >>journal"
    process = start(kinds, "true", undo)
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    begun = [*EXPECTED[kinds], "half"]
    assert comes(tmp_path / "journal", begun)

    process.send_signal(number)
    process.communicate()

    assert comes(tmp_path / "journal", [*begun, EXPECTED[kinds][1], "whole"])
