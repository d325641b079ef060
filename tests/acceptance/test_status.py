# SPDX-License-Identifier: Apache-2.0
"""What happened, and how every source stands: `status`, the logs of runs, and logs for programs."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from snapvault import clock
from snapvault.adapters.histories.sqlite import SqliteHistory
from snapvault.config.policies import load_policies
from snapvault.config.settings import load_settings
from snapvault.model.drills import DrillSummary, Verdict
from snapvault.model.notices import NotifierStanding
from snapvault.model.policy import Objectives
from snapvault.model.runs import Run, RunState, SourceKey, Trigger
from snapvault.model.status import Following, Watched
from snapvault.ports.jobs import Order
from snapvault.wiring import catalogs, runs
from tests.acceptance.program import Ended, Host, image, shell
from tests.support.events import RecordedEvents

pytestmark = pytest.mark.integration


@pytest.fixture
def known(used: Host) -> Host:
    """Return a host that has looked into its vault since its settings were written."""
    used.does("list")
    return used


def until(condition: Callable[[], Any]) -> Any:
    """Ask again and again, and return the first answer that is true."""
    deadline = clock.monotonic() + 120
    while not (found := condition()):
        assert clock.monotonic() < deadline
    return found


def status(host: Host) -> Any:
    """Return the status for programs, whatever the exit status."""
    return host.run("status", "--json").json


def of_source(document: Any, name: str) -> Any:
    return next(each for each in document["sources"] if each["source"] == name)


def history(host: Host) -> list[Run]:
    with SqliteHistory(host.state / "history.sqlite") as opened:
        return opened.runs()


def order(host: Host, source: str) -> Order:
    settings = load_settings(host.settings)
    (policy,) = load_policies(settings)
    spec = next(each for each in policy.sources if each.name == source)
    run = runs.new_run(policy, spec, Trigger.SCHEDULE)
    return Order(run, settings, policy, spec)


# --- status ---------------------------------------------------------------------------------


def test_status_shows_every_source_and_vault(known: Host) -> None:
    said = known.does("status").stdout

    assert "all 2 sources are protected" in said
    assert "no daemon is at work" in said
    assert "SOURCE  POLICY" in said
    assert "web01   nightly" in said
    assert "succeeded" in said
    assert f"offsite  file://{known.folder.parent}/vault       2" in said


def test_status_for_programs_has_it_all(known: Host, tmp_path: Path) -> None:
    known.protect({"web01": image(tmp_path / "x")}, objectives={"rpo": "26h"})
    (point,) = known.points("web01")

    document = known.does("status", "--json").json

    web = of_source(document, "web01")
    assert document["daemon"] is None
    assert document["alarms"] == document["problems"] == document["failures"] == []
    assert web["rpo"]["state"] == "met"
    assert web["rpo"]["seconds"] == 26 * 3600
    assert web["newest"]["id"] == web["last_success"]["point"] == point["id"]
    assert web["newest"]["stored_bytes"] == point["stored_bytes"]
    assert web["last_run"]["counters"]["requests"] > 0
    assert document["vaults"][0]["points"] == 2


def test_status_asks_no_vault(known: Host) -> None:
    before = status(known)["sources"]
    (known.folder.parent / "vault").rename(known.folder.parent / "elsewhere")
    known.home = known.folder / "no keys"
    known.set_up()

    after = status(known)["sources"]

    assert [each["newest"] for each in after] == [each["newest"] for each in before]


def test_a_host_that_never_backed_up_waits(host: Host) -> None:
    host.protect({"web01": shell("echo x")})

    said = host.does("status").stdout

    assert "nothing is backed up yet" in said
    assert "waiting for its first run" in said


def test_a_host_without_policies_says_so(host: Host) -> None:
    assert "no policy names a source" in host.does("status").stdout


def test_a_missed_objective_is_an_alarm_and_the_exit_status(known: Host) -> None:
    known.protect({"web01": image(known.folder.parent / "disk.img")}, objectives={"rpo": "1s"})
    until(lambda: of_source(status(known), "web01")["rpo"]["state"] == "breached")

    ended = known.run("status")
    document = known.run("status", "--json")

    assert ended.status == document.status == 17
    assert "the only source needs attention" in ended.stdout
    assert "offsite/web01: RPO breached at" in ended.stdout
    assert "hint: " in ended.stdout
    assert [alarm["kind"] for alarm in document.json["alarms"]] == ["rpo"]


def test_a_failure_is_shown_with_its_hint_and_its_log(host: Host) -> None:
    host.protect({"web01": shell("echo half; echo disk on fire >&2; exit 3")})
    host.does("init")
    host.run("backup")

    said = host.does("status").stdout

    (run,) = history(host)
    assert "last failures:" in said
    assert "disk on fire" in said
    assert f"run: {run.id}" in said
    assert run.failure is not None
    assert (run.state, run.trigger, run.due) == (RunState.FAILED, Trigger.MANUAL, None)
    assert run.counters["requests"] > 0
    assert status(host)["vaults"][0]["requests"] == run.counters["requests"]
    assert run.failure.exit_status == 15


def test_a_vault_that_cannot_be_opened_fails_the_runs(used: Host) -> None:
    (used.folder.parent / "vault").rename(used.folder.parent / "elsewhere")
    before = len(history(used))

    used.fails(10, "backup")

    failed = history(used)[:-before]
    assert sorted(run.key.source for run in failed) == ["shop", "web01"]
    assert {run.failure.exit_status for run in failed if run.failure} == {10}


def test_a_broken_policy_is_a_problem(known: Host) -> None:
    (known.folder / "policies" / "broken.yaml").write_text("vault: offsite\nsources: 5\n")

    ended = known.run("status")

    assert ended.status == 17
    assert 'line 2, field "sources"' in ended.stderr
    assert "web01" in ended.stdout


def test_a_catalog_that_is_lost_is_told_until_the_next_list(used: Host) -> None:
    lost = used.run("status")
    used.does("list")
    found = used.run("status")

    assert lost.status == 17
    assert "its catalog is lost on this host" in lost.stderr
    assert found.status == 0


# --- verifies, drills, notifiers ------------------------------------------------------------


def test_a_verify_is_remembered_and_what_it_found_alarms_until_one_is_clean(known: Host) -> None:
    vault = known.folder.parent / "vault"
    before = status(known)["vaults"][0]
    volume = next(path for path in sorted(vault.rglob("*.vol")))
    whole = volume.read_bytes()
    volume.chmod(0o600)
    volume.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    known.run("verify", "--level", "data")
    damaged = known.run("status", "--json")
    volume.write_bytes(whole)
    known.does("verify")
    known.does("verify", "--level", "data", "--sample", "50")
    still = known.run("status")
    known.does("verify", "--level", "data")
    clean = known.run("status", "--json")

    assert before["verifies"] == []
    (alarm,) = damaged.json["alarms"]
    assert damaged.status == still.status == 17
    assert (alarm["subject"], alarm["kind"]) == ("offsite", "verify-findings")
    assert volume.stem in alarm["message"]
    assert 'verify of vault "offsite" at level data came to 1 finding' in still.stdout
    assert "offsite, objects, today" in still.stdout
    assert clean.status == 0
    vault_now = clean.json["vaults"][0]
    assert [(one["level"], one["findings"]) for one in vault_now["verifies"]] == [
        ("objects", 0),
        ("data", 0),
    ]
    assert vault_now["verifies"][1]["requests"] > 0
    assert vault_now["requests"] > before["requests"] > 0


def test_a_verify_that_cannot_be_remembered_is_told_and_done(known: Host) -> None:
    (known.state / "history.sqlite").unlink()
    (known.state / "history.sqlite").mkdir()

    ended = known.run("verify")

    assert ended.status == 0
    assert "status and alarms do not know of this verify" in ended.stderr


def test_drills_are_shown_with_what_they_measured(known: Host) -> None:
    key = SourceKey("offsite", "web01")
    passed = DrillSummary("d1", key, "boot", "p1", clock.now(), Verdict.PASSED, 90.0, 60.0, "boots")
    known.protect(
        {"web01": image(known.folder.parent / "disk.img")},
        objectives={"rto": "1m", "drill": "7d"},
    )
    with SqliteHistory(known.state / "history.sqlite") as opened:
        opened.add_drill(passed)
        slow = known.run("status")
        opened.add_drill(replace(passed, id="d2", ended=clock.now(), verdict=Verdict.FAILED))
    bad = known.run("status")
    document = known.run("status", "--json").json

    assert slow.status == 17
    assert "boot passed: boots" in slow.stdout
    assert "recovery time 1m 30s of 1m RTO, longer than promised, recovery point 1m" in slow.stdout
    assert "report: snapvault drill report d1" in slow.stdout
    assert bad.status == 17
    assert "drill failed" in bad.stdout
    assert {alarm["kind"] for alarm in document["alarms"]} == {"drill-failed", "rto"}
    assert of_source(document, "web01")["last_drill"]["id"] == "d2"
    assert of_source(document, "web01")["last_good_drill"]["id"] == "d1"


def test_a_notifier_that_cannot_be_told_is_shown_and_the_exit_status(known: Host) -> None:
    settings = json.loads(known.settings.read_text())
    settings["notify"] = {"hc": {"ping": {"url": "http://127.0.0.1:9/x"}}}
    known.settings.write_text(json.dumps(settings))
    standing = NotifierStanding("hc", False, None, clock.now(), "the server said no", waiting=3)
    with SqliteHistory(known.state / "history.sqlite") as opened:
        opened.set_notifiers([standing, replace(standing, name="not in the settings any more")])

    ended = known.run("status")

    assert ended.status == 17
    assert "hc: cannot be told, 3 notices waiting" in ended.stdout
    assert "last failure just now: the server said no" in ended.stdout
    assert "any more" not in ended.stdout


def test_what_a_round_left_to_try_again_is_shown(known: Host) -> None:
    again = clock.now() + timedelta(minutes=5)
    web = Watched(
        SourceKey("offsite", "web01"),
        "nightly",
        ("image",),
        enabled=True,
        objectives=Objectives(),
        retry_at=again,
    )
    with SqliteHistory(known.state / "history.sqlite") as opened:
        opened.set_following(Following(1, is_round=True, sources=(web,)))
        of_round = of_source(status(known), "web01")
        opened.set_following(Following(1, is_round=False, sources=(web,)))
        of_dead = of_source(status(known), "web01")

    assert of_round["retry_at"] == clock.to_text(again)
    assert of_dead["retry_at"] is None


# --- the history ----------------------------------------------------------------------------


def test_a_history_that_is_damaged_begins_anew_and_the_backup_goes_on(known: Host) -> None:
    (known.state / "history.sqlite").write_bytes(b"no database" * 1000)

    ended = known.run("backup", "shop")

    assert ended.status == 0
    assert "warning: history was damaged and begins anew" in ended.stderr
    assert [run.state for run in history(known)] == [RunState.SUCCEEDED]


def test_a_history_that_cannot_be_used_fails_no_backup_and_no_status(known: Host) -> None:
    (known.state / "history.sqlite").unlink()
    (known.state / "history.sqlite").mkdir()

    ended = known.run("backup", "shop")
    shown = known.run("status")

    assert ended.status == 0
    assert ended.stderr.count("the backup goes on unrecorded") == 1
    assert shown.status == 17
    assert "could not use history" in shown.stderr
    assert "shop" in shown.stdout


def test_a_run_at_work_is_seen_and_a_signal_interrupts_it(host: Host, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    host.protect({"slow": shell(f"echo begin; cat {pipe}")})
    host.does("init")

    with host.start("backup") as process:
        at_work = until(lambda: of_source(status(host), "slow")["running"])
        shown = host.does("status").stdout
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)

    (run,) = history(host)
    assert at_work["id"] == run.id
    assert "running" in shown
    assert process.returncode == 128 + signal.SIGTERM
    assert run.state is RunState.INTERRUPTED
    assert of_source(status(host), "slow")["running"] is None


def test_a_run_that_was_killed_is_not_at_work_and_ended_by_the_next(
    host: Host, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    host.protect({"slow": shell(f"echo begin; cat {pipe}")})
    host.does("init")
    with host.start("backup") as process:
        until(lambda: of_source(status(host), "slow")["running"])
        process.kill()
        process.communicate(timeout=300)
    host.protect({"slow": shell("echo all")})

    killed = status(host)
    host.does("backup")

    assert of_source(killed, "slow")["running"] is None
    assert [run["state"] for run in killed["failures"]] == ["interrupted"]
    assert [run.state for run in history(host)] == [RunState.SUCCEEDED, RunState.INTERRUPTED]


# --- logs of runs ---------------------------------------------------------------------------


def test_show_names_the_run_and_prints_its_log(known: Host) -> None:
    (point,) = known.points("web01")
    run = next(each for each in history(known) if each.point == point["id"])

    shown = known.does("show", point["id"]).stdout
    logged = known.does("show", point["id"], "--log").stdout
    document = known.does("show", point["id"], "--json").json
    events = known.does("show", point["id"], "--log", "--json").json

    path = known.state / "runs" / f"{run.id[:4]}-{run.id[4:6]}" / f"{run.id}.jsonl"
    assert f"run            {run.id} of policy nightly (manual), took " in shown
    assert f"log            {path}" in shown
    assert "info  run.started" in logged
    assert "info  volume.stored  volume=" in logged
    assert "info  run.succeeded" in logged
    assert document["run"]["id"] == run.id
    assert document["run"]["log"] == str(path)
    assert events == [json.loads(line) for line in path.read_text().splitlines()]


def test_a_host_that_did_not_make_a_point_has_no_log_of_it(used: Host, recovery: Host) -> None:
    (point,) = used.points("web01")

    shown = recovery.does("show", point["id"]).stdout
    said = recovery.fails(10, "show", point["id"], "--log")

    assert "  run  " not in shown
    assert "there is no log of the run" in said
    assert os.uname().nodename in said
    assert not (recovery.state / "history.sqlite").exists()


# --- logs for programs ----------------------------------------------------------------------


def entries(ended: Ended) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ended.stderr.splitlines()]


def test_messages_for_programs_are_objects(host: Host) -> None:
    host.protect({"fine": shell("echo all"), "gone": image(host.folder / "not there.img")})
    host.does("init")

    ended = host.run("backup", "--verbose", "--log-format", "json")

    found = entries(ended)
    assert ended.status == 3
    assert all({"at", "level", "event"} <= set(entry) for entry in found)
    assert "point.committed" in [entry["event"] for entry in found]
    (failed,) = [entry for entry in found if entry["level"] == "error"]
    assert "not there.img" in failed["message"]
    assert failed["exit_status"] == 15


def test_the_environment_can_ask_for_objects_too(host: Host) -> None:
    host.environment = {"SNAPVAULT_LOG": "json"}

    (failed,) = entries(host.run("list"))

    assert failed["level"] == "error"
    assert "there is no vault" in failed["message"]
    assert "snapvault init offsite" in failed["hint"]


def test_an_unknown_format_is_wrong_usage(host: Host) -> None:
    assert "--log-format" in host.fails(2, "list", "--log-format", "xml")


# --- orders ---------------------------------------------------------------------------------


def test_an_order_is_carried_out_and_recorded(known: Host) -> None:
    wanted = order(known, "shop")
    events = RecordedEvents()

    run = runs.run_order(wanted, events)

    assert run.state is RunState.SUCCEEDED
    assert run.trigger is Trigger.SCHEDULE
    assert run.point in {point["id"] for point in known.points("shop")}
    assert run.counters["stored_bytes"] > 0
    assert history(known)[0] == run
    assert "point.committed" in events.names()


def test_an_order_that_fails_says_why_and_raises_nothing(known: Host) -> None:
    wanted = order(known, "shop")
    (known.folder.parent / "vault").rename(known.folder.parent / "elsewhere")

    run = runs.run_order(wanted, RecordedEvents())

    assert run.state is RunState.FAILED
    assert run.failure is not None
    assert run.failure.exit_status == 10
    assert history(known)[0] == run


def test_an_order_that_is_asked_to_end_is_interrupted_and_raises_nothing(known: Host) -> None:
    class Asked(BaseException):
        pass

    class Impatient(RecordedEvents):
        def emit(self, event: str, /, **fields: str | int | float | bool | None) -> None:
            raise Asked

    run = runs.run_order(order(known, "shop"), Impatient())

    assert run.state is RunState.INTERRUPTED
    assert history(known)[0] == run


def test_points_of_a_vault_are_known_where_it_was_opened(used: Host) -> None:
    settings = load_settings(used.settings)
    before = catalogs.point_summaries(settings, "offsite")
    used.does("list")

    after = catalogs.point_summaries(settings, "offsite")

    assert before == ()
    assert [summary.key.source for summary in after] == ["shop", "web01"]
    assert {summary.point for summary in after} == {point["id"] for point in used.points()}


def test_what_is_asked_of_a_store_without_a_run_is_counted(
    used: Host, recovery_home: Path, tmp_path: Path
) -> None:
    disk = image(tmp_path / "disk.img")
    drill = {"gnupg_home": str(recovery_home), "steps": [{"web01": {"files": {}}}]}
    used.protect({"web01": disk}, drill=drill)
    counts = [status(used)["vaults"][0]["requests"]]

    used.does("drill", "run")
    counts.append(status(used)["vaults"][0]["requests"])
    for words in (
        ["restore", "web01", "--to", str(tmp_path / "out")],
        ["files", "web01"],
        ["serve", "web01"],
    ):
        used.fails(12, *words)
        counts.append(status(used)["vaults"][0]["requests"])

    assert counts == sorted(set(counts))
