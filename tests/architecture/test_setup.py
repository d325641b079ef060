# SPDX-License-Identifier: Apache-2.0
"""Setup makes what it says, nothing else, and can be repeated after anything.

A recorder stands in for Python, so that no test needs the package index: it makes a folder
with a recorder in it where a virtual environment is wanted, and writes down what pip is to do.
"""

import fnmatch
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What setup.sh itself runs, of programs that every Debian has.
BASICS = (
    *("bash", "cat", "chmod", "cp", "dirname", "find", "flock", "grep", "head", "id"),
    *("ls", "mkdir", "mktemp", "realpath", "rm", "rmdir", "sha256sum", "sort", "tr", "xargs"),
)

RECORDER = """\
#!/bin/bash
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "venv $3" >>"$RECORD" ;;
"-m pip")
    for copy in "$@"; do :; done
    echo "pip $(cd "$copy" && find . -type f | wc -l) files" >>"$RECORD"
    [ -z "${PIP_DIES-}" ] || kill -KILL $PPID
    ;;
*_base_executable*) echo "$0" ;;
*) exec {python} "$@" ;;
esac
"""


class Machine:
    """A machine on which setup runs: its programs, and a record of what it was told."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "bin"
        self.home = folder / "home"
        self._record = folder / "record"
        self.programs.mkdir()
        self.home.mkdir()
        for name in BASICS:
            found = shutil.which(name)
            assert found, name
            (self.programs / name).symlink_to(found)
        recorder = self.programs / "python3"
        recorder.write_text(RECORDER.replace("{python}", "/usr/bin/python3"), encoding="utf-8")
        recorder.chmod(0o755)

    def add(self, *names: str) -> None:
        """Give the machine programs that do nothing."""
        for name in names:
            (self.programs / name).symlink_to("/bin/true")

    def setup(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run setup in the home folder."""
        return subprocess.run(
            [str(ROOT / "scripts/setup.sh"), *arguments],
            cwd=self.home,
            env={
                "PATH": str(self.programs),
                "PYTHON": str(self.programs / "python3"),
                "RECORD": str(self._record),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def told(self) -> list[str]:
        """What Python was told since the last look."""
        if not self._record.exists():
            return []
        lines = self._record.read_text(encoding="utf-8").splitlines()
        self._record.unlink()
        return [line.split()[0] for line in lines]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def equipped(machine: Machine) -> Machine:
    machine.add("gpg", "gpg-agent", "zstd")
    return machine


def test_runtime_makes_the_folder_it_is_given_and_says_how_to_start_it(equipped: Machine) -> None:
    done = equipped.setup("--runtime", "some folder")

    assert done.returncode == 0, done.stderr
    assert f"setup: done: {equipped.home}/some folder/bin/snapvault" in done.stderr
    assert equipped.told() == ["venv", "pip"]


def test_runtime_does_nothing_when_nothing_changed(equipped: Machine) -> None:
    equipped.setup("--runtime", "here")
    equipped.told()

    again = equipped.setup("--runtime", "../home/here/")

    assert (again.returncode, again.stderr) == (0, "")
    assert equipped.told() == []


def test_runtime_starts_anew_after_it_was_killed_while_installing(equipped: Machine) -> None:
    killed = equipped.setup("--runtime", "here", PIP_DIES="yes")
    (equipped.home / "here/half").touch()
    equipped.told()

    again = equipped.setup("--runtime", "here")

    assert killed.returncode != 0
    assert again.returncode == 0, again.stderr
    assert equipped.told() == ["venv", "pip"]
    assert not (equipped.home / "here/half").exists()


def test_runtime_mends_an_environment_whose_python_is_gone(equipped: Machine) -> None:
    equipped.setup("--runtime", "here")
    (equipped.home / "here/bin/python").unlink()
    equipped.told()

    again = equipped.setup("--runtime", "here")

    assert again.returncode == 0, again.stderr
    assert equipped.told() == ["venv", "pip"]


def test_runtime_refuses_a_folder_that_holds_something_else(equipped: Machine) -> None:
    (equipped.home / "precious").write_text("data", encoding="utf-8")

    refused = equipped.setup("--runtime", ".")

    assert refused.returncode == 1
    assert f'folder "{equipped.home}" holds something that setup did not make' in refused.stderr
    assert [file.name for file in equipped.home.iterdir()] == ["precious"]
    assert equipped.told() == []


@pytest.mark.parametrize(
    "arguments", [["--runtime"], ["--runtime", ""], ["--runtime", "--help"], ["all"]]
)
def test_setup_refuses_arguments_it_does_not_know(equipped: Machine, arguments: list[str]) -> None:
    refused = equipped.setup(*arguments)

    assert refused.returncode == 2
    assert refused.stderr == "setup: usage: scripts/setup.sh [--runtime FOLDER]\n"
    assert equipped.told() == []


def test_runtime_names_what_is_missing_and_the_command_that_installs_it(machine: Machine) -> None:
    machine.add("gpg-agent")

    stopped = machine.setup("--runtime", "here")

    assert stopped.returncode == 1
    assert (
        "sudo apt-get update && sudo apt-get install --no-install-recommends gnupg zstd\n"
        in stopped.stderr
    )
    assert list(machine.home.iterdir()) == []


def test_setup_for_developers_names_what_only_tests_need(equipped: Machine) -> None:
    stopped = equipped.setup()

    assert stopped.returncode == 1
    assert "install --no-install-recommends" in stopped.stderr
    for package in ("qemu-system-x86", "busybox-static", "mariadb-client", "chromium"):
        assert package in stopped.stderr
    assert " zstd" not in stopped.stderr
    assert equipped.told() == []


def test_every_file_of_the_package_is_packed() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["*"]

    data = [
        file
        for file in (ROOT / "snapvault").rglob("*")
        # What Python compiles has another ending while it is written.
        if file.suffix != ".py" and "__pycache__" not in file.parts and file.is_file()
    ]
    left_out = [
        file
        for file in data
        if not any(fnmatch.fnmatch(_name_in_its_package(file), pattern) for pattern in patterns)
    ]

    assert data
    assert left_out == []


def _name_in_its_package(file: Path) -> str:
    package = next(folder for folder in file.parents if (folder / "__init__.py").exists())
    return str(file.relative_to(package))
