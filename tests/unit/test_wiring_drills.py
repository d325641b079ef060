# SPDX-License-Identifier: Apache-2.0
"""How a drill is assembled: where it works, and with which key."""

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault.model.drills import DrillReport, Verdict
from snapvault.model.policy import DirectorySpec, DrillSpec, Policy, SourceSpec, StreamSpec
from snapvault.model.rehearsal import DatabaseDrill, DrillStep, FilesDrill
from snapvault.model.settings import Settings, VaultSettings
from snapvault.ports.scratch_database import ScratchDatabases
from snapvault.wiring import databases, drills
from tests.support.events import RecordedEvents

STEPS = (DrillStep("etc", FilesDrill()), DrillStep("srv", FilesDrill()))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a vault that is not there, and keys that are not either."""
    vault = VaultSettings(
        "offsite",
        f"file://{tmp_path}/vault",
        ("r@example.org",),
        "s@example.org",
        gnupg_home=tmp_path / "own",
        passphrase_file=tmp_path / "own-secret",
    )
    return Settings(tmp_path / "s.yaml", tmp_path / "state", tmp_path, {"offsite": vault})


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    sources = tuple(
        SourceSpec(name, (StreamSpec("directory", DirectorySpec(tmp_path)),), single=True)
        for name in ("etc", "srv")
    )
    spec = DrillSpec(STEPS, gnupg_home=tmp_path / "escrow", scratch=tmp_path / "scratch")
    return Policy("nightly", tmp_path / "p.yaml", "offsite", sources, drill=spec)


def drill_of(settings: Settings, policy: Policy) -> DrillReport:
    return drills.run_drill(settings, policy, RecordedEvents(), drills.Wish(seed=7))


def test_what_keeps_a_drill_from_beginning_is_in_its_report(
    settings: Settings, policy: Policy, tmp_path: Path
) -> None:
    report = drill_of(settings, policy)

    assert report.problem == f'gnupg_home "{tmp_path}/escrow" is not a folder'
    assert (report.verdict, report.seed, report.choice) == (Verdict.FAILED, 7, "latest")
    first, second = report.steps
    assert (first.restored.verdict, first.restored.reason) == (Verdict.FAILED, report.problem)
    assert second.restored.verdict is Verdict.SKIPPED
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not settings.state_dir.exists()


def test_the_vaults_own_key_and_passphrase_count_where_the_drill_names_none(
    settings: Settings, policy: Policy, tmp_path: Path
) -> None:
    report = drill_of(settings, replace(policy, drill=DrillSpec(STEPS, scratch=tmp_path)))

    assert report.problem is not None
    assert str(tmp_path / "own-secret") in report.problem


@pytest.mark.parametrize("kind", ["file", "shared", "link"])
def test_a_scratch_folder_that_somebody_else_may_have_made_is_refused(
    kind: str, settings: Settings, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drills, "_TEMPORARY", tmp_path)
    planted = tmp_path / f"snapvault-drills-{os.geteuid()}"
    if kind == "file":
        planted.touch()
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir()
        planted.symlink_to(tmp_path / "elsewhere")
    else:
        planted.mkdir()
        planted.chmod(0o777)

    report = drill_of(settings, replace(policy, drill=DrillSpec(STEPS)))

    assert report.problem is not None
    assert f'folder "{planted}" for drills' in report.problem
    assert '"scratch"' in str(report.steps[0].restored.hint)


def test_folders_of_others_in_the_scratch_folder_stay(
    settings: Settings, policy: Policy, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    (scratch / "drill-notes").mkdir(parents=True)
    (scratch / "snapvault-drill-0123").mkdir()

    drill_of(settings, policy)

    assert [path.name for path in scratch.iterdir()] == ["drill-notes"]


def test_a_dump_takes_no_longer_than_the_longest_of_a_drills_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[timedelta | None] = []

    def take(limit: timedelta | None) -> Mapping[str, ScratchDatabases]:
        given.append(limit)
        return {}

    monkeypatch.setattr(databases, "scratch_databases", take)
    short, long = (DatabaseDrill(timeout=timedelta(minutes=each)) for each in (5, 90))

    drills._tools(RecordedEvents(), [DrillStep("a", short), DrillStep("b", long)])
    drills._tools(RecordedEvents(), STEPS)

    assert given == [timedelta(minutes=90), None]
