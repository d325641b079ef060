# SPDX-License-Identifier: Apache-2.0
"""The files in systemd/ agree with the code, with the manual, and with systemd."""

import inspect
import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault import errors
from snapvault.model.settings import DaemonSettings

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
MANUAL = (ROOT / "docs/operations.md").read_text()
SERVICES = ["snapvault.service", "snapvault-due.service"]
SPANS = {"s": 1, "min": 60}

SCORE = re.compile(r"^\| `(\S+)` \| [^|]+ \| (\d\.\d) \|$", re.MULTILINE)
OVERALL = re.compile(r"exposure level for \S+: (\d+\.\d)")
UNMET = re.compile(r"^✗ (\w+)=(\S*)", re.MULTILINE)


def settings(name: str) -> list[tuple[str, str]]:
    """Return the settings of a unit's section [Service], in order."""
    text = (UNITS / name).read_text().partition("[Service]\n")[2].partition("\n[")[0]
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


def setting(name: str, key: str) -> str:
    (value,) = [value for each, value in settings(name) if each == key]
    return value


def seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)(s|min)", text)
    assert match, text
    return int(match[1]) * SPANS[match[2]]


def systemd(program: str, *words: str) -> str:
    """Run one of systemd's programs, which must succeed, and return all that it says."""
    assert shutil.which(program), f'"{program}" is missing: apt-get install systemd'
    done = subprocess.run(
        [program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": ""},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Return the root of a machine with systemd's own units and ours."""
    units = tmp_path / "usr/local/lib/systemd/system"
    units.mkdir(parents=True)
    for path in [*UNITS.glob("*.service"), *UNITS.glob("*.timer")]:
        shutil.copy(path, units)
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    for program in ("usr/local/bin/snapvault", "bin/kill"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", tmp_path / program)
    return tmp_path


def unprivileged(machine: Path) -> None:
    for service in SERVICES:
        folder = machine / "etc/systemd/system" / f"{service}.d"
        folder.mkdir(parents=True)
        shutil.copy(UNITS / "unprivileged.conf", folder)


def security(machine: Path, service: str) -> str:
    return systemd(
        "systemd-analyze", "security", "--no-pager", "--offline=true", f"--root={machine}", service
    )


def score(report: str) -> float:
    match = OVERALL.search(report)
    assert match, report
    return float(match[1])


def verified(machine: Path) -> str:
    names = [path.name for path in UNITS.iterdir() if path.suffix in (".service", ".timer")]
    return systemd("systemd-analyze", "verify", "--man=no", f"--root={machine}", *names)


def test_systemd_takes_every_unit_without_a_word(machine: Path) -> None:
    assert verified(machine) == ""


def test_systemd_takes_the_unprivileged_variant_without_a_word(machine: Path) -> None:
    unprivileged(machine)

    assert verified(machine) == ""


def test_systemd_complains_of_a_unit_that_is_wrong(machine: Path) -> None:
    path = machine / "usr/local/lib/systemd/system/snapvault.service"
    path.write_text(path.read_text().replace("ProtectClock=yes", "ProtectClock=perhaps"))

    assert "perhaps" in verified(machine)


@pytest.mark.parametrize("service", SERVICES)
def test_what_services_may_do_is_no_more_than_the_manual_says(machine: Path, service: str) -> None:
    documented = dict(SCORE.findall(MANUAL))

    as_root = score(security(machine, service))
    unprivileged(machine)
    as_user = score(security(machine, service))

    assert as_root <= float(documented[service])
    assert as_user <= float(documented["unprivileged.conf"])
    assert as_user < as_root


@pytest.mark.parametrize("service", SERVICES)
def test_each_protection_that_a_service_lacks_has_its_reason(machine: Path, service: str) -> None:
    unit = (UNITS / service).read_text()

    lacking = UNMET.findall(security(machine, service))

    assert len(lacking) > 5
    for name, what in lacking:
        assert f"{name}" in unit, name
        if what.startswith("~CAP_"):
            given = set(setting(service, "CapabilityBoundingSet").split())
            wanted = re.compile(what[1:].replace("*", r"\w+"))
            assert any(wanted.fullmatch(each) for each in given), what


@pytest.mark.parametrize("service", SERVICES)
def test_each_capability_of_a_service_has_its_reason(service: str) -> None:
    unit = (UNITS / service).read_text()

    for name in setting(service, "CapabilityBoundingSet").split():
        assert re.search(rf"^# [\w, ]*{name}[\w, ]*: ", unit, re.MULTILINE), name


def test_the_round_of_the_timer_may_do_what_the_daemon_may() -> None:
    daemon, due = settings("snapvault.service"), settings("snapvault-due.service")

    first = ("KillMode", "process")
    assert daemon[daemon.index(first) :] == due[due.index(first) :]


def test_a_restart_is_not_tried_where_it_cannot_help() -> None:
    named = [
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.SnapVaultError) and value is not errors.SnapVaultError
    ]
    may_help = {error.exit_status for error in named if error.retryable}
    # A store or a source that says no may say yes later, and so its status is not in the list.
    hopeless = {error.exit_status for error in named} - may_help | {errors.EXIT_USAGE}

    prevented = setting("snapvault.service", "RestartPreventExitStatus").split()

    assert sorted(map(int, prevented)) == sorted(hopeless)
    assert errors.EXIT_BUG not in hopeless


@pytest.mark.parametrize("service", SERVICES)
def test_a_stop_has_more_time_than_the_daemon_takes(service: str) -> None:
    taken = DaemonSettings().stop_timeout + timedelta(seconds=30)

    assert seconds(setting(service, "TimeoutStopSec")) >= taken.total_seconds()


def test_the_watchdog_waits_for_many_looks_at_the_clock() -> None:
    assert 60 <= seconds(setting("snapvault.service", "WatchdogSec")) <= 300


@pytest.mark.parametrize("service", SERVICES)
def test_guards_outlive_a_daemon_that_is_killed(service: str) -> None:
    # With any other mode systemd kills what thaws guests once the main process is dead.
    assert setting(service, "KillMode") == "process"
    assert setting(service, "OOMPolicy") == "continue"


@pytest.mark.parametrize("service", SERVICES)
def test_services_are_given_the_credentials_that_the_manual_names(service: str) -> None:
    rows = (ROOT / "docs/policies.md").read_text().splitlines()
    named = {
        row.split("|")[-2].strip(" `") for row in rows if re.match(r"\| `\S+_credential`", row)
    }

    loaded = {value for key, value in settings(service) if key == "LoadCredential"}

    assert "snapvault-passphrase" in named
    assert loaded == named


def test_users_and_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    root = f"--root={tmp_path}"

    systemd("systemd-sysusers", root, str(UNITS / "sysusers.d/snapvault.conf"))
    systemd("systemd-tmpfiles", root, "--create", str(UNITS / "tmpfiles.d/snapvault.conf"))

    assert "snapvault" in (tmp_path / "etc/passwd").read_text()
    modes = {
        path: (tmp_path / path).stat().st_mode & 0o7777
        for path in (
            "etc/snapvault",
            "etc/snapvault/policies",
            "etc/credstore",
            "var/lib/snapvault",
        )
    }
    assert list(modes.values()) == [0o750, 0o750, 0o700, 0o700]
