# SPDX-License-Identifier: Apache-2.0
"""`make install`, and the way from nothing to two nights, typed as docs/operations.md has it.

Everything goes below a scratch folder. A stand-in for pip takes what the package index would
bring from the Python that runs the tests; in place of systemd the tests start the service.
"""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.acceptance.program import ROOT, Host
from tests.support import s3
from tests.support.daemon import Daemon
from tests.support.keys import end_agent
from tests.support.mail_server import MailServer
from tests.support.moved_clock.moving import MovedClock
from tests.support.seaweed import claim_ports

pytestmark = pytest.mark.integration

MANUAL = (ROOT / "docs/operations.md").read_text()
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
BLOCK = re.compile(r"```(?:sh|yaml)\n(.*?)```", re.DOTALL)
METRIC = re.compile(r"\bsnapvault_\w+")
DISK = b"disk" * 100_000
USER = "snapvault"
POINT = "3f2a"  # stands for a restore point's id in the manual

# What takes a package index, systemd, a user of its own or a person.
NOT_TYPED = {
    "apt-get install git make",
    "git clone REPOSITORY /usr/local/src/snapvault",
    "cd /usr/local/src/snapvault",
    "cd /usr/local/src/snapvault && git pull && make install",
    "systemctl enable --now snapvault",
    "systemctl status snapvault",
    "systemctl daemon-reload && systemctl restart snapvault",
    "journalctl -u snapvault --since yesterday",
    f"chown -R root:{USER} /etc/{USER} && chown -R {USER}: /etc/{USER}/gnupg /var/lib/{USER}",
}

# A Python that makes environments whose pip installs a copy of SnapVault, and nothing else.
STAND_IN = """\
#!/bin/sh
case "$*" in
"-m venv "*) {python} -m venv --without-pip "$3" && {python} {folder}/equip.py "$3" ;;
*_base_executable*) echo "$0" ;;
*) exec {python} "$@" ;;
esac
"""
EQUIP = """\
import pathlib, sys, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib", "venv", {"base": sys.argv[1]}))
(site / "others.pth").write_text(sys.argv[2] if len(sys.argv) > 2 else OTHERS)
(site / "pip").mkdir()
(site / "pip/__init__.py").touch()  # or else a pip of the others goes before it
(site / "pip/__main__.py").write_text(PIP)
"""
PIP = """\
import pathlib, shutil, sys, sysconfig
site, scripts = (pathlib.Path(sysconfig.get_path(name)) for name in ("purelib", "scripts"))
copy = pathlib.Path(sys.argv[-1].removesuffix("[files]"))
shutil.copytree(copy / "snapvault", site / "snapvault", dirs_exist_ok=True)
program = scripts / "snapvault"
program.write_text("#!" + sys.executable + "\\nfrom snapvault.cli.main import main\\nmain()\\n")
program.chmod(0o755)
"""


@dataclass(slots=True)
class Installed(Host):
    """A host on which SnapVault was installed below a folder."""

    @property
    def settings(self) -> Path:
        return self.folder / "etc/snapvault/snapvault.yaml"

    def command(self, *words: str) -> list[str]:
        return [str(self.folder / "bin/snapvault"), "--config", str(self.settings), *words]

    def surroundings(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


@dataclass
class Machine:
    """Two machines in one folder: each has a home; the file system is the backup host's."""

    folder: Path
    host: Installed
    clock: MovedClock
    replaced: dict[str, str] = field(default_factory=dict)
    typed: set[str] = field(default_factory=set)

    def make(
        self, target: str, *variables: str, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["make", "--no-print-directory", target, f"DESTDIR={self.folder}", *variables],
            cwd=ROOT,
            env={**os.environ, "PYTHON": str(self.folder / "stand-in"), **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def install(self) -> str:
        done = self.make("install")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def text(self, code: str) -> str:
        for name, ours in self.replaced.items():
            code = code.replace(name, ours)
        return code

    def type(self, machine: str, code: str) -> str:
        """Run lines of the manual in bash, one after another, in a machine's home folder."""
        self.typed.update(code.splitlines())
        home = self.folder / machine
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", self.text(code)],
            cwd=home,
            env={
                **self.host.surroundings(),
                "HOME": str(home),
                "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                "SNAPVAULT_CONFIG": str(self.host.settings),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture
def machine() -> Iterator[Machine]:
    # LIMIT: a socket's path has at most 107 bytes (Linux), and gpg-agent's lies in its home.
    with tempfile.TemporaryDirectory(prefix="svi-", dir="/tmp") as name:
        folder = Path(name)
        for inner in ("bin", "host", "recovery", "own"):
            (folder / inner).mkdir()
        (folder / "recovery/.gnupg").mkdir(mode=0o700)
        others = sysconfig.get_path("purelib")
        equip = f"OTHERS = {others!r}\nPIP = {PIP!r}\n{EQUIP}"
        script(folder / "stand-in", STAND_IN.format(python=sys.executable, folder=folder))
        (folder / "equip.py").write_text(equip)
        script(
            folder / "bin/snapvault",
            f'#!/bin/sh\nexec {folder}/opt/snapvault/bin/python -m snapvault "$@"\n',
        )
        clock = MovedClock(folder / "clock")
        host = Installed(folder, folder / "etc/snapvault/gnupg", {})
        host.environment = {
            **s3.server().environment(),
            "SNAPVAULT_TEST_CLOCK": str(clock.file),
            "PYTHONPATH": str(ROOT / "tests/support/moved_clock"),
            "PYTHONSAFEPATH": "1",  # the copy that was installed, not the checkout
        }
        yield Machine(folder, host, clock)
        for home in ("etc/snapvault/gnupg", "recovery/.gnupg"):
            if (folder / home).exists():
                end_agent(folder / home)


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def make_older(folder: Path) -> tuple[Path, Path]:
    """Make what is installed that of an older release; return a module and a page of it."""
    (module,) = (folder / "opt/snapvault/lib").rglob("snapvault/errors.py")
    module.write_text(module.read_text() + "# older\n")
    page = folder / "usr/local/share/doc/snapvault/older.md"
    page.touch()
    stamp = folder / "opt/snapvault/setup.stamp"
    stamp.write_text(stamp.read_text().splitlines()[0] + "\nolder\n")
    return module, page


def section(title: str) -> str:
    return MANUAL.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- make install ---------------------------------------------------------------------------


def test_install_puts_everything_where_the_manual_says_and_names_the_next_steps(
    machine: Machine,
) -> None:
    said = machine.install()

    folder = machine.folder
    assert (folder / "usr/local/bin/snapvault").readlink() == Path("/opt/snapvault/bin/snapvault")
    program = (folder / "opt/snapvault/bin/snapvault").read_text()
    assert program.startswith("#!/opt/snapvault/bin/python")
    for unit in ("snapvault.service", "snapvault-due.service", "snapvault-due.timer"):
        assert (folder / "usr/local/lib/systemd/system" / unit).read_text() == (
            ROOT / "systemd" / unit
        ).read_text()
    assert (folder / "usr/local/lib/sysusers.d/snapvault.conf").is_file()
    assert (folder / "usr/local/lib/tmpfiles.d/snapvault.conf").is_file()
    manual = folder / "usr/local/share/doc/snapvault"
    assert (manual / "docs/operations.md").read_text() == MANUAL
    assert (manual / "unprivileged.conf").is_file()
    etc = folder / "etc/snapvault"
    assert [mode(etc), mode(etc / "policies"), mode(machine.host.settings)] == [0o750, 0o750, 0o640]
    assert machine.host.does("policy", "check").status == 0
    assert "systemctl enable --now snapvault" in said


def test_install_goes_where_it_is_told_and_uninstall_leaves_settings_keys_and_state(
    machine: Machine,
) -> None:
    before = {path for path in machine.folder.rglob("*") if path.is_file()}
    state = machine.folder / "var/lib/snapvault/history.sqlite"
    state.parent.mkdir(parents=True)
    state.touch()
    places = ("PREFIX=/srv/backup", "BINDIR=/usr/bin")

    installed = machine.make("install", *places)

    assert installed.returncode == 0, installed.stderr
    unit = machine.folder / "usr/local/lib/systemd/system/snapvault.service"
    assert "ExecStart=/usr/bin/snapvault daemon\n" in unit.read_text()
    assert (machine.folder / "usr/bin/snapvault").readlink() == Path("/srv/backup/bin/snapvault")

    removed = machine.make("uninstall", *places)

    assert removed.returncode == 0, removed.stderr
    left = {path for path in machine.folder.rglob("*") if path.is_file() or path.is_symlink()}
    assert left - before == {machine.host.settings, state}


def test_uninstalling_leaves_a_folder_that_install_did_not_make(machine: Machine) -> None:
    mine = machine.folder / "opt/snapvault/mine"
    mine.parent.mkdir(parents=True)
    mine.touch()

    refused = machine.make("install")
    removed = machine.make("uninstall")

    assert refused.returncode != 0
    assert "holds something that setup did not make" in refused.stderr
    assert removed.returncode == 0
    assert mine.exists()


@pytest.mark.parametrize("variable", ["PREFIX=opt/snapvault", "BINDIR=/usr/my bin", "PREFIX=/"])
def test_places_that_cannot_be_right_are_refused(machine: Machine, variable: str) -> None:
    done = machine.make("install", variable)

    assert done.returncode != 0
    assert "is not an absolute path" in done.stderr
    assert not (machine.folder / "etc").exists()


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, str]:
    """Return what lets every Python tell that it was asked for an environment, and make none."""
    (tmp_path / "venv.py").write_text(
        "import sys\nif __name__ == '__main__': sys.exit('asked ' + sys.executable)\n"
    )
    return {"PYTHONPATH": str(tmp_path)}


def test_the_systems_python_goes_before_another_that_is_first_in_the_path(
    machine: Machine, tmp_path: Path, asked: dict[str, str]
) -> None:
    (tmp_path / "python3").symlink_to(machine.folder / "stand-in")

    done = machine.make("install", PATH=f"{tmp_path}:{os.environ['PATH']}", PYTHON="", **asked)

    assert "asked /usr/bin/python3" in done.stderr


def test_a_python_in_a_home_folder_serves_its_owner_and_no_service(
    machine: Machine, tmp_path: Path, asked: dict[str, str]
) -> None:
    home = tmp_path / "home"
    (home / "lib").mkdir(parents=True)
    script(home / "lib/python3.13", (machine.folder / "stand-in").read_text())
    (tmp_path / "python3").symlink_to(home / "lib/python3.13")
    environment = {**asked, "HOME": str(home), "PYTHON": str(tmp_path / "python3")}

    refused = machine.make("install", **environment)
    own = subprocess.run(
        [ROOT / "scripts/setup.sh", "--runtime", home / "snapvault"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert refused.returncode != 0
    assert f'Python "{home}/lib/python3.13" lies in a home folder' in refused.stderr
    assert "sudo apt-get install python3" in refused.stderr
    assert not (machine.folder / "opt").exists()
    assert f"asked {sys.executable}" in own.stderr


# --- from nothing to the second night --------------------------------------------------------


def test_a_new_user_gets_from_nothing_to_two_unattended_nights(  # noqa: PLR0915 - one story
    machine: Machine,
) -> None:
    folder = machine.folder
    # It is written into the settings long before the daemon listens there.
    port, claim = claim_ports()
    (folder / "root.raw").write_bytes(DISK)
    (folder / "data.raw").write_bytes(DISK[:1000])
    (folder / "own/hostname").write_text("host1\n")
    paris = ZoneInfo("Europe/Paris")
    noon = machine.clock.now().astimezone(paris).replace(hour=12, minute=0, second=0)
    machine.clock.move_to(noon)
    first = section("From nothing to the first night")
    install, recovery, own, settings, policy, look, back_up, leave = BLOCK.findall(first)
    with claim, MailServer() as server:
        machine.replaced = {
            "gpg --quick-generate": "gpg --batch --passphrase '' --quick-generate",
            "/run/credentials/snapvault.service": f"{folder}/credentials",
            "/etc/snapvault": f"{folder}/etc/snapvault",
            "/usr/local/share": f"{folder}/usr/local/share",
            "/etc/systemd": f"{folder}/etc/systemd",
            "/var/lib/snapvault": f"{folder}/state",
            "{lvm: {volume: vg0/web01-root}}": f"{{image: {{path: {folder}/root.raw}}}}",
            "{lvm: {volume: vg0/web01-data}}": f"{{image: {{path: {folder}/data.raw}}}}",
            "{path: /etc}": f"{{path: {folder}/own}}",
            "s3://backups/vault1": f"s3://{s3.BUCKET}/{s3.fresh_prefix()}",
            "region: eu-west-1": f"endpoint_url: {s3.server().endpoint_url}\n    region: us-east-1",
            "notify:\n": f'daemon: {{listen: "127.0.0.1:{port}"}}\nnotify:\n',
            "host: mail.example.org": f"host: 127.0.0.1, port: {server.port}, security: none",
            "127.0.0.1:9797": f"127.0.0.1:{port}",
            "curl -s": f"{sys.executable} -c 'import sys, urllib.request as r; "
            "print(r.urlopen(sys.argv[1]).read().decode())'",
        }

        assert install.splitlines()[-1] == "make install"
        machine.install()
        machine.typed.add("make install")
        machine.type("recovery", recovery)
        (folder / "recovery/recovery.gpg").rename(folder / "host/recovery.gpg")
        machine.type("host", own)
        machine.host.settings.write_text(machine.text(settings))
        (folder / "etc/snapvault/policies/nightly.yaml").write_text(machine.text(policy))
        looked = machine.type("host", look)
        machine.type("host", back_up)
        machine.type("recovery", SHELL.findall(section("Keys"))[0])
        enable, _, status = leave.splitlines()
        assert enable == "systemctl enable --now snapvault"
        with Daemon(machine.host, machine.clock, folder / "log") as daemon:
            for night in (1, 2):
                before = daemon.night(noon + timedelta(days=night, hours=-10))
                for source in ("web01", "etc"):
                    daemon.await_event("notice.success", after=before, source=source)
            machine.type("host", status)
            watched = machine.type("host", SHELL.findall(section("What to watch"))[0])
            by_hand, variant = SHELL.findall(section("The service"))
            (folder / "credentials").mkdir()
            machine.type("host", by_hand)
            machine.type("host", "".join(variant.splitlines(keepends=True)[:3]))
            point = machine.host.points("web01")[-1]["id"]
            machine.replaced[POINT] = point
            logged = machine.type(
                "host", "".join(SHELL.findall(section("Logs"))[0].splitlines()[1])
            )
            assert daemon.stop() == 0
        again, check = SHELL.findall(section("Upgrade"))[0].splitlines()
        assert again.endswith("&& make install")
        module, page = make_older(folder)
        machine.install()
        machine.type("host", check)

    assert "2 sources" in looked
    assert module.read_text() == (ROOT / "snapvault/errors.py").read_text()
    assert not page.exists()
    assert machine.host.settings.read_text() == machine.text(settings)
    assert [len(machine.host.points(source)) for source in ("web01", "etc")] == [3, 3]
    assert set(METRIC.findall(MANUAL)) <= set(METRIC.findall(watched))
    assert point in logged
    assert server.mails == []
    lines = {line for block in SHELL.findall(MANUAL) for line in block.splitlines()}
    assert lines - machine.typed == NOT_TYPED


# --- what systemd sees ----------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Return the end at which a service manager would listen."""
    folder = Path(tempfile.mkdtemp(prefix="svn-", dir="/tmp"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(folder / "notify"))
        end.settimeout(60)
        yield end
    shutil.rmtree(folder)


def watched_by(manager: socket.socket, host: Host, tmp_path: Path) -> Daemon:
    """Return a daemon that has to be heard of every three seconds."""
    clock = MovedClock(tmp_path / "clock")
    environment = {
        **clock.environment,
        "PYTHONPATH": os.pathsep.join([clock.environment["PYTHONPATH"], str(ROOT)]),
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "3000000",
        "PYTHONFAULTHANDLER": "1",
    }
    host.environment = environment
    text = host.settings.read_text()
    host.settings.write_text(text[:-1] + ', "daemon": {"listen": "127.0.0.1:0"}}')
    host.protect({"etc": {"command": {"run": ["true"]}}}, schedule={"every": "1h"})
    host.does("init")
    return Daemon(host, clock, tmp_path / "log")


def heard(manager: socket.socket, wanted: str) -> list[str]:
    """Return what comes until a state is named, with it."""
    found: list[str] = []
    while wanted not in found:
        found += manager.recv(4096).decode().splitlines()
    return found


def test_systemd_hears_of_the_start_of_life_of_a_reload_and_of_the_end(
    tmp_path: Path, host: Host, manager: socket.socket
) -> None:
    with watched_by(manager, host, tmp_path) as daemon:
        started = heard(manager, "WATCHDOG=1")
        fed = [heard(manager, "WATCHDOG=1") for _ in range(3)]
        daemon.reload()
        reloaded = heard(manager, "RELOADING=1") + heard(manager, "READY=1")
        assert daemon.stop() == 0
        ended = heard(manager, "STOPPING=1")

    assert started[0] == "READY=1"
    assert len(fed) == 3
    assert any(state.startswith("MONOTONIC_USEC=") for state in reloaded)
    assert "READY=1" not in ended


def test_a_scheduler_that_hangs_is_not_fed_and_shows_where_when_it_is_ended(
    tmp_path: Path, host: Host, manager: socket.socket
) -> None:
    with watched_by(manager, host, tmp_path) as daemon:
        heard(manager, "WATCHDOG=1")
        process = daemon.process
        assert process is not None
        # Settings on a file system that does not answer.
        host.settings.unlink()
        os.mkfifo(host.settings)
        process.send_signal(signal.SIGHUP)
        heard(manager, "RELOADING=1")

        manager.settimeout(4)
        with pytest.raises(TimeoutError):
            heard(manager, "WATCHDOG=1")

        assert daemon.get("/health") == "ok\n"
        process.send_signal(signal.SIGABRT)
        assert process.wait(60) == -signal.SIGABRT
    assert "read_again" in daemon.texts()
