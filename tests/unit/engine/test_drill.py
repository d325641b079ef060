# SPDX-License-Identifier: Apache-2.0
"""Rehearsals: their order, what they prove, and what they leave."""

import io
import math
import os
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.engine.drill import Drill, default_kind, steps_for
from snapvault.engine.drill_choice import Pick
from snapvault.engine.drill_clock import Meters, PhaseClock
from snapvault.engine.drill_notes import Notes
from snapvault.engine.random_access import Disk
from snapvault.engine.vault import Vault
from snapvault.errors import MachineError, NoRestorePointError
from snapvault.formats import names, table_facts
from snapvault.model.drills import Phase, Result, StepReport, Verdict
from snapvault.model.policy import (
    CommandSpec,
    DirectorySpec,
    DrillSpec,
    ImageSpec,
    KindSpec,
    MysqlSpec,
    Objectives,
    Policy,
    SourceSpec,
    StreamSpec,
)
from snapvault.model.rehearsal import (
    AgentCheck,
    BootDrill,
    Choice,
    CommandCheck,
    ConsoleCheck,
    DatabaseDrill,
    DrillStep,
    FilesDrill,
    PortCheck,
    SqlCheck,
)
from snapvault.model.tables import TableFacts, Tables
from snapvault.ports.source import NO_MARKS
from tests.support.drills import Rig
from tests.support.sealers import PaperSealer
from tests.support.sources import MemoryView
from tests.support.stores import PowerCut
from tests.support.vaults import MixedSource, VaultKit

SYSTEM = b"loading\nweb01 login:\n\0" + random.Random(1).randbytes(200_000)
DUMP = b"shop orders 7\nshop orders 8\nshop customers 3\n"
CONSOLE = ConsoleCheck("login:")
SPECS: Mapping[str, KindSpec] = {
    "web01": ImageSpec(Path("/srv/web01.raw")),
    "shop": MysqlSpec(),
    "etc": DirectorySpec(Path("/nowhere")),
    "log": CommandSpec(("log",)),
}
STREAMS = {"web01": "image", "shop": "mysql", "etc": "directory", "log": "command"}


def archive(files: Mapping[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return raw.getvalue()


class Fixture:
    """A vault with a night of each source, and drills of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "scratch"
        self.folder.mkdir()
        self.kit = VaultKit(folder / "kit")
        self.rig = Rig()
        self.sources = {
            "web01": MixedSource("web01", disks={"image": SYSTEM}),
            "shop": MixedSource("shop", streams={"mysql": DUMP}),
            "etc": MixedSource("etc", streams={"directory": archive({"hostname": b"me\n"})}),
            "log": MixedSource("log", streams={"command": b"line\n" * 1000}),
        }
        self.specs = dict(SPECS)
        self.nights: set[str] = set()
        self.objectives = Objectives()

    def night(self, *sources: str) -> None:
        """Back sources up."""
        for name in sources:
            self.nights.add(name)
            self.kit.night(self.sources[name])

    def policy(self, *steps: DrillStep) -> Policy:
        return Policy(
            "nightly",
            Path("/p.yaml"),
            "offsite",
            tuple(
                SourceSpec(name, (StreamSpec(STREAMS[name], spec),), single=True)
                for name, spec in self.specs.items()
            ),
            objectives=self.objectives,
            drill=DrillSpec(steps),
        )

    def run(
        self, *steps: DrillStep, vault: Vault | None = None, pick: Pick | None = None
    ) -> tuple[StepReport, ...]:
        """Run steps; nothing of the vault is changed, and nothing is left, ever."""
        self.night(*{step.source for step in steps} - self.nights)
        before = self.kit.objects()
        drill = Drill(
            vault or self.vault(),
            self.policy(*steps),
            steps,
            pick or Pick(Choice.LATEST, clock.now(), 1),
            self.rig.tools(),
            self.folder,
        )
        try:
            return drill.run()
        finally:
            assert self.kit.objects() == before
            assert list(self.folder.iterdir()) == []
            assert all(machine.is_closed for machine in self.rig.machines.started)
            assert all(server.is_closed for server in self.rig.databases.started)

    def vault(self) -> Vault:
        vault = self.kit.recovery()
        vault.state.mkdir(parents=True)
        return vault

    def damage(self, source: str) -> str:
        """Flip a bit in the middle of the first volume of a source's newest point."""
        held = self.kit.inventory().of(source)[-1]
        contents = self.kit.contents(held.point)
        name = names.volume(next(iter(contents.maps[0].live_bytes())))
        data = bytearray(self.kit.store.get(name))
        data[len(data) // 2] ^= 1
        self.kit.replace(name, bytes(data))
        return name


@pytest.fixture
def made(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path)


def boot(*checks: ConsoleCheck | AgentCheck | PortCheck | CommandCheck, instant: bool = False,
         limit: timedelta = timedelta(minutes=1)) -> DrillStep:  # fmt: skip
    return DrillStep("web01", BootDrill(checks or (CONSOLE,), instant=instant, timeout=limit))


def verdicts(report: StepReport) -> Sequence[Verdict]:
    return [check.verdict for check in report.checks]


def three(report: StepReport) -> tuple[Verdict, Verdict, Verdict]:
    return report.restored.verdict, report.validated.verdict, report.cleaned.verdict


PASSED, FAILED, SKIPPED = Verdict.PASSED, Verdict.FAILED, Verdict.SKIPPED


def test_good_restores_pass_in_order(made: Fixture) -> None:
    shop = DrillStep("shop", DatabaseDrill((SqlCheck("orders", "shop", at_least=7),)))
    etc = DrillStep("etc", FilesDrill(paths=("hostname", "/hostname")))

    reports = made.run(shop, boot(CONSOLE, PortCheck(22), CommandCheck(("true",))), etc)

    assert [report.key.source for report in reports] == ["shop", "web01", "etc"]
    for report in reports:
        assert three(report) == (PASSED, PASSED, PASSED), report
        assert report.verdict is PASSED
        assert report.point == made.kit.inventory().of(report.key.source)[-1].point.point
        assert report.seconds_to_ready is not None
        assert 0 < report.seconds_to_ready <= report.seconds
    assert (reports[1].screenshot, reports[1].console.split("\n")[1]) == (
        b"\x89PNG screen",
        "web01 login:",
    )
    assert made.rig.databases.started[0].loaded == [("mysql", None)]


def test_the_phases_of_every_kind_add_up_to_the_whole(made: Fixture) -> None:
    reports = made.run(
        DrillStep("shop", DatabaseDrill()),
        boot(instant=True),
        boot(CONSOLE, AgentCheck()),
        DrillStep("etc", FilesDrill()),
        DrillStep("web01", FilesDrill(sample_percent=50)),
    )

    assert all(report.verdict is PASSED for report in reports), reports
    for report in reports:
        assert math.fsum(report.phases.values()) == report.seconds
        assert Phase.LOCATE in report.phases
    assert {Phase.FETCH, Phase.DECRYPT, Phase.WRITE, Phase.VERIFY, Phase.LOAD, Phase.READY} <= set(
        reports[0].phases
    )
    assert {Phase.BOOT, Phase.READY, Phase.CLEAN_UP} <= set(reports[2].phases)


def test_after_a_step_that_failed_the_others_are_skipped(made: Fixture) -> None:
    shop = DrillStep("shop", DatabaseDrill((SqlCheck("orders", at_least=8),)))

    failed, skipped = made.run(shop, boot())

    assert three(failed) == (PASSED, FAILED, PASSED)
    assert failed.validated.reason == "orders: the answer is 7, which is less than 8"
    assert failed.seconds_to_ready is None
    assert three(skipped) == (SKIPPED, SKIPPED, PASSED)
    assert (skipped.verdict, skipped.point) == (SKIPPED, None)
    assert skipped.restored.reason == 'step "shop" before it failed'
    assert made.rig.machines.started == []


def test_a_check_that_could_not_be_made_is_not_passed(made: Fixture) -> None:
    (alone,) = made.run(DrillStep("shop", DatabaseDrill()))

    assert verdicts(alone) == [PASSED, SKIPPED]
    assert alone.checks[1].reason == "the backup recorded nothing of its tables"
    assert alone.validated.reason == "1 check passed, 1 skipped"


def test_nothing_but_skipped_checks_validates_nothing(made: Fixture, tmp_path: Path) -> None:
    notes = Notes(made.vault(), SourceSpec("x", (StreamSpec("y", MysqlSpec()),)), tmp_path,
                  PhaseClock(), Meters())  # fmt: skip
    notes.skip(["a", "b"], "no time")

    assert notes.validated() == Result(SKIPPED, "no time")


def test_checks_of_a_machine_that_ended_are_skipped(made: Fixture) -> None:
    made.rig.machines.has_agent = False

    (report,) = made.run(boot(CONSOLE, AgentCheck(), PortCheck(22)))

    assert verdicts(report) == [PASSED, FAILED, SKIPPED]
    assert report.checks[2].reason == "the machine does not run any more"
    assert report.verdict is FAILED
    assert report.screenshot is not None


def test_a_check_that_the_machines_time_does_not_suffice_for_fails(made: Fixture) -> None:
    late = boot(CONSOLE, PortCheck(22), AgentCheck(), limit=timedelta(microseconds=1))

    (report,) = made.run(late)

    assert verdicts(report) == [PASSED, FAILED, SKIPPED]
    assert report.checks[1].reason.endswith("that the machine had were over")
    assert report.verdict is FAILED


def test_a_machine_that_ends_after_a_check_that_passed_fails(made: Fixture) -> None:
    made.rig.machines.ends_after_line = True

    (report,) = made.run(boot(CONSOLE, AgentCheck(), PortCheck(22)))

    assert verdicts(report) == [PASSED, FAILED, SKIPPED]
    assert report.checks[1].reason == "the machine does not run any more"
    assert report.verdict is FAILED


def test_a_program_in_the_guest_is_judged_by_status_and_output(made: Fixture) -> None:
    (report,) = made.run(
        boot(
            CommandCheck(("true",), output="^hello$"),
            CommandCheck(("false",), status=3),
            CommandCheck(("false",)),
            CommandCheck(("true",), output="bye"),
        )
    )

    assert verdicts(report) == [PASSED, PASSED, FAILED, FAILED]
    assert report.checks[2].reason == "it ended with status 3, not 0: hello"


@pytest.mark.parametrize("instant", [False, True])
def test_a_machine_starts_from_what_was_backed_up(made: Fixture, *, instant: bool) -> None:
    (report,) = made.run(boot(CONSOLE, instant=instant))

    assert report.verdict is PASSED
    (machine,) = made.rig.machines.started
    assert machine.said.startswith("loading\nweb01 login:\n")
    assert ("started from the vault" in report.restored.reason) == instant


def test_no_machines_here_is_no_failure_of_the_restore(made: Fixture) -> None:
    made.rig.machines.problem = MachineError("no QEMU", hint="Install it.")

    (report,) = made.run(boot())

    assert three(report) == (SKIPPED, FAILED, PASSED)
    assert (report.validated.reason, report.validated.hint) == ("no QEMU", "Install it.")
    assert verdicts(report) == [SKIPPED]
    assert report.counters.get("written_bytes", 0) == 0


@pytest.mark.parametrize(
    "step",
    [boot(), DrillStep("web01", FilesDrill()), DrillStep("web01", FilesDrill(sample_percent=99))],
    ids=["boot", "files", "sample"],
)
def test_a_damaged_volume_is_named_and_so_are_the_points_it_hits(
    made: Fixture, step: DrillStep
) -> None:
    made.night("web01")
    content = bytearray(SYSTEM)
    content[-1] ^= 1
    made.sources["web01"].disks["image"] = content
    made.night("web01")
    name = made.damage("web01")
    first, last = made.kit.inventory().of("web01")

    (report,) = made.run(step)

    assert report.point == last.point.point
    assert three(report) == (FAILED, SKIPPED, PASSED)
    assert name in report.restored.reason
    assert report.facts["failed_in"] == "verify"
    assert report.hits == (first.point.point,)
    assert FAILED not in verdicts(report)
    assert PASSED not in verdicts(report)


def test_a_read_that_failed_for_a_fault_of_ours_fails_the_restore(
    made: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Disk.read

    def read_some(disk: Disk, offset: int, length: int) -> memoryview:
        if length == disk.size:
            raise MemoryError
        return read(disk, offset, length)

    monkeypatch.setattr(Disk, "read", read_some)

    (report,) = made.run(boot(instant=True))

    assert three(report) == (FAILED, PASSED, PASSED)
    assert "MemoryError" in report.restored.reason


def test_damage_that_a_sample_comes_upon_hits_other_points_too(made: Fixture) -> None:
    made.sources["web01"].streams["notes"] = b"all of these are restored before"
    made.night("web01", "web01")
    made.damage("web01")
    first, _ = made.kit.inventory().of("web01")

    (report,) = made.run(DrillStep("web01", FilesDrill(sample_percent=99)))

    assert three(report) == (PASSED, FAILED, PASSED)
    assert report.hits == (first.point.point,)


def test_damage_that_a_running_machine_comes_upon_fails_the_restore(made: Fixture) -> None:
    made.night("web01")
    made.damage("web01")

    (report,) = made.run(boot(instant=True))

    # The machine itself noticed nothing: what it was looked at for lies before the damage.
    assert verdicts(report) == [PASSED]
    assert three(report) == (FAILED, PASSED, PASSED)
    assert "is damaged" in report.restored.reason
    assert report.verdict is FAILED


def test_a_missing_key_says_what_a_drill_needs(made: Fixture) -> None:
    made.night("web01")
    vault = replace(made.vault(), sealer=PaperSealer(holds="host"))

    (report,) = made.run(boot(), vault=vault)

    assert three(report) == (FAILED, SKIPPED, PASSED)
    assert "cannot open the data of vault" in report.restored.reason
    assert "gnupg_home" in str(report.restored.hint)
    assert report.facts["failed_in"] == "decrypt"


def test_room_is_looked_at_before_anything_is_fetched(made: Fixture) -> None:
    made.rig.room = 1000

    (report,) = made.run(boot())

    assert three(report) == (FAILED, SKIPPED, PASSED)
    assert report.facts["failed_in"] == "write"
    assert report.counters.get("written_bytes", 0) == 0


def test_an_interrupted_drill_leaves_nothing(made: Fixture) -> None:
    made.rig.machines.interrupt = PowerCut()

    with pytest.raises(PowerCut):
        made.run(boot())


def test_clean_up_that_fails_is_a_result_of_its_own(
    made: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    made.night("web01")
    pick = Pick(Choice.LATEST, clock.now(), 1)
    drill = Drill(made.vault(), made.policy(boot()), (boot(),), pick, made.rig.tools(), made.folder)
    monkeypatch.setattr("snapvault.engine.drill.shutil.rmtree", refuse)

    (report,) = drill.run()

    assert three(report) == (PASSED, PASSED, FAILED)
    assert report.verdict is PASSED
    assert "Permission denied" in report.cleaned.reason


def test_a_statement_that_the_drills_time_does_not_suffice_for_fails(made: Fixture) -> None:
    made.rig.databases.is_slow = True
    orders = SqlCheck("orders", at_least=1)

    (report,) = made.run(
        DrillStep("shop", DatabaseDrill((orders, orders), False, timedelta(seconds=2)))
    )

    assert verdicts(report) == [PASSED, FAILED, SKIPPED]
    assert report.checks[1].reason.endswith("that the drill had were over")
    assert report.verdict is FAILED


def test_a_dump_that_the_server_refuses_fails_the_drill(made: Fixture) -> None:
    made.sources["shop"].streams["mysql"] = DUMP + b"refuse\n"
    made.night("shop")

    (report,) = made.run(DrillStep("shop", DatabaseDrill((SqlCheck("orders", expect="7"),))))

    assert verdicts(report) == [FAILED, SKIPPED, SKIPPED]
    assert report.validated.reason == (
        'stream "mysql" is loaded: the scratch server refused stream "mysql": syntax error'
    )


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (SqlCheck("orders", expect="8"), 'the answer is "7", which does not match "8"'),
        (SqlCheck("orders", expect="7.+"), 'the answer is "7", which does not match "7.+"'),
        (SqlCheck("nothing", expect="7"), "it answered with no row"),
    ],
)
def test_an_answer_must_match_as_a_whole(made: Fixture, check: SqlCheck, reason: str) -> None:
    (report,) = made.run(DrillStep("shop", DatabaseDrill((check,))))

    assert report.checks[1].reason == reason
    assert report.verdict is FAILED


TABLES = {
    "shop": {"orders": TableFacts(2, "78"), "customers": TableFacts(1, "3")},
}


class CountedDumps(MixedSource):
    """Dumps whose tables were counted at the backup."""

    tables: Tables = TABLES

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> MemoryView:
        view = super().open(marks)
        facts = {"mysql": table_facts.encode(table_facts.summarize(self.tables))}
        outcome = replace(view.finish(), facts=facts)
        view.finish = lambda: outcome  # type: ignore[method-assign]  # this view's alone
        return view


def test_tables_that_came_back_as_they_were_pass(made: Fixture) -> None:
    made.sources["shop"] = CountedDumps("shop", streams={"mysql": DUMP})

    (report,) = made.run(DrillStep("shop", DatabaseDrill()))

    assert verdicts(report) == [PASSED, PASSED]
    assert report.checks[1].reason == "2 tables, 3 rows"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (
            TableFacts(3, "78"),
            'stream "mysql" has 2 tables with 3 rows now, at the backup 2 tables with 4 rows',
        ),
        (
            TableFacts(2, "77"),
            'stream "mysql" has 2 tables with 3 rows now, at the backup 2 tables with 3 rows and other contents',  # noqa: E501 - as it is said
        ),
    ],
)
def test_tables_that_are_not_those_of_the_backup_fail(
    made: Fixture, facts: TableFacts, reason: str
) -> None:
    source = CountedDumps("shop", streams={"mysql": DUMP})
    source.tables = {"shop": {**TABLES["shop"], "orders": facts}}
    made.sources["shop"] = source

    (report,) = made.run(DrillStep("shop", DatabaseDrill()))

    assert (verdicts(report), report.checks[1].reason) == ([PASSED, FAILED], reason)


def test_tables_that_a_server_lost_fail_by_name(made: Fixture) -> None:
    made.sources["shop"] = CountedDumps("shop", streams={"mysql": DUMP})
    made.rig.databases.loses = True

    (report,) = made.run(DrillStep("shop", DatabaseDrill()))

    assert verdicts(report) == [PASSED, FAILED]
    assert report.checks[1].reason == 'database "shop" is not there'


def test_tables_that_cannot_be_counted_are_skipped(made: Fixture) -> None:
    made.sources["shop"] = CountedDumps("shop", streams={"mysql": DUMP})
    made.rig.databases.counts = False

    (report,) = made.run(DrillStep("shop", DatabaseDrill()))

    assert verdicts(report) == [PASSED, SKIPPED]


def test_a_path_that_is_not_in_the_archive_fails_the_drill(made: Fixture) -> None:
    (report,) = made.run(DrillStep("etc", FilesDrill(paths=("hostname", "passwd"))))

    assert verdicts(report) == [PASSED, PASSED, PASSED, FAILED]
    assert report.checks[3].name == 'path "passwd" is there'


def test_a_path_is_not_in_a_point_that_has_no_archive(made: Fixture) -> None:
    (report,) = made.run(DrillStep("log", FilesDrill(paths=("hostname",), compare_live=True)))

    assert verdicts(report) == [PASSED, FAILED, SKIPPED]
    assert report.checks[1].reason == "the restore point has no archive of a folder"
    assert report.verdict is FAILED


@pytest.mark.parametrize("is_equal", [True, False])
def test_live_files_that_did_not_change_are_compared(
    made: Fixture, tmp_path: Path, *, is_equal: bool
) -> None:
    live = tmp_path / "live"
    live.mkdir()
    (live / "hostname").write_bytes(b"me\n" if is_equal else b"it\n")
    made.specs["etc"] = DirectorySpec(live)
    # The point is taken a second after the file was written, which is what counts.
    made.sources["etc"].next_taken_at = clock.now() + timedelta(seconds=1)
    made.night("etc")

    (report,) = made.run(DrillStep("etc", FilesDrill(compare_live=True)))

    assert report.checks[-1].verdict is (PASSED if is_equal else FAILED)
    assert is_equal or str(live / "hostname") in report.checks[-1].reason


def test_live_files_that_changed_since_are_left_alone(made: Fixture, tmp_path: Path) -> None:
    (tmp_path / "hostname").write_bytes(b"changed")
    made.specs["etc"] = DirectorySpec(tmp_path)

    (report,) = made.run(DrillStep("etc", FilesDrill(compare_live=True)))

    assert report.checks[-1].verdict is SKIPPED
    assert report.verdict is PASSED


def test_a_live_file_that_changes_while_it_is_compared_is_no_damage_of_the_backup(
    made: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("busy", "still"):
        (tmp_path / name).write_bytes(b"me\n")
    made.specs["etc"] = DirectorySpec(tmp_path)
    made.sources["etc"].streams["directory"] = archive({"busy": b"me\n", "still": b"me\n"})
    made.sources["etc"].next_taken_at = clock.now() + timedelta(seconds=1)
    made.night("etc")
    state_of = os.fstat

    def write_after_a_look(descriptor: int) -> os.stat_result:
        found = state_of(descriptor)
        (tmp_path / "busy").write_bytes(b"somebody else\n")
        return found

    # In another process, in truth; what counts is that it is between the look and the reading.
    monkeypatch.setattr(os, "fstat", write_after_a_look)
    (report,) = made.run(DrillStep("etc", FilesDrill(compare_live=True)))

    assert report.checks[-1].verdict is PASSED
    assert "1 file that did not change since the backup is equal" in report.checks[-1].reason
    assert "1 file changed while it was compared" in report.checks[-1].reason


def test_objectives_that_are_missed_are_findings(made: Fixture) -> None:
    made.objectives = Objectives(rpo=timedelta(seconds=1), rto=timedelta(microseconds=1))
    old = Pick(Choice.OLDEST, clock.now(), 1)
    made.night("web01")
    made.night("web01")

    (newest,) = made.run(boot())
    (older,) = made.run(boot(), pick=old)

    assert newest.verdict is PASSED
    assert [finding.split(" of ")[0] for finding in newest.findings] == [
        "the recovery time",
        "the recovery point",
    ]
    # That an old point is old says nothing of the newest.
    assert [finding.split(" of ")[0] for finding in older.findings] == ["the recovery time"]


def test_a_source_without_points_fails_in_its_own_words(made: Fixture) -> None:
    made.nights.add("log")

    (report,) = made.run(DrillStep("log", FilesDrill()))

    assert report.restored.verdict is FAILED
    assert 'source "log" has no restore point' in report.restored.reason
    assert report.facts["failed_in"] == "locate"


def test_a_point_or_time_that_one_source_does_not_have_is_refused_before_any_is_rehearsed(
    made: Fixture,
) -> None:
    asked = made.sources["etc"].next_taken_at
    made.sources["etc"].next_taken_at += timedelta(hours=1)
    pick = Pick(Choice.LATEST, clock.now(), 1, moment=asked)

    with pytest.raises(NoRestorePointError, match='source "etc" has no restore point at or'):
        made.run(*(DrillStep(name, FilesDrill()) for name in ("web01", "log", "etc")), pick=pick)

    assert "drill.step" not in made.kit.events.names()


def test_a_manifest_that_cannot_be_trusted_leaves_no_newest_point(made: Fixture) -> None:
    made.night("web01")
    newest = max(made.kit.objects("points/web01"))
    made.kit.replace(newest, b"forged" + made.kit.store.get(newest))

    (report,) = made.run(boot())

    assert report.restored.verdict is FAILED
    assert "cannot tell which restore point" in report.restored.reason


def test_what_nobody_planned_is_rehearsed_by_what_it_is(made: Fixture) -> None:
    policy = made.policy(boot())

    steps = steps_for(policy, ["shop", "web01", "log"])

    assert steps == (boot(), DrillStep("shop", DatabaseDrill()), DrillStep("log", FilesDrill()))
    assert steps_for(policy, ()) == (boot(),)
    lvm = SourceSpec(
        "d", (StreamSpec("mysql", MysqlSpec()), StreamSpec("x", ImageSpec(Path("/x"))))
    )
    assert isinstance(default_kind(lvm), FilesDrill)
