# SPDX-License-Identifier: Apache-2.0
"""The build of the tests' guest ends whole or not at all, whatever happens to it.

Stand-ins give it a package with a kernel that holds nothing, and die where a test wants it;
all else is the real build.
"""

import gzip
import lzma
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts/guest"
VERSION = "6.1.0-1-amd64"

# Runs the real program, unless everything is to be killed at it.
STAND_IN = """\
#!/bin/bash
[ "${{KILLED_AT-}}" != {name} ] || kill -KILL 0
{action}
"""

ACTIONS = {
    "apt-cache": f'printf "linux-image-amd64\\n  Depends: linux-image-{VERSION}\\n"',
    "apt-get": '[ -z "${OFFLINE-}" ] || exit 100; echo "$*" >>"$ASKED"; touch kernel.deb',
    "dpkg-deb": """[ -z "${FULL-}" ] || { printf 'tar: %s: no space left\\n' a b >&2; exit 2; }
cp -R "$PACKAGE" "$3" """,
    "depmod": "exit 0",
    "modprobe": 'echo "insmod $2/boot/config"',
    "busybox": "exit 0",
}
REAL = ("cpio", "gzip", "ln", "mv", "rm", "xz")


class Builder:
    """A checkout in which the guest is built, and the machine that does it."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.current = self.checkout / ".guest/current"
        self._programs = folder / "bin"
        self._package = folder / "package"
        self._asked = folder / "asked"
        (self.checkout / "scripts").mkdir(parents=True)
        shutil.copytree(SCRIPTS, self.checkout / "scripts/guest")
        (self._package / "boot").mkdir(parents=True)
        (self._package / "boot/config").touch()
        self.pack_kernel(lzma.compress(b"\x7fELF" + os.urandom(100_000)))
        self._programs.mkdir()
        for name in (*ACTIONS, *REAL):
            action = ACTIONS.get(name, f'exec {shutil.which(name)} "$@"')
            program = self._programs / name
            program.write_text(STAND_IN.format(name=name, action=action), encoding="utf-8")
            program.chmod(0o755)

    def pack_kernel(self, packed: bytes) -> None:
        """Let the package have this kernel, behind what starts a machine."""
        (self._package / f"boot/vmlinuz-{VERSION}").write_bytes(b"MZ" + bytes(5000) + packed)

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Start a build."""
        return subprocess.Popen(
            [str(self.checkout / "scripts/guest/build.sh")],
            cwd=self.checkout,
            env={
                "PATH": f"{self._programs}:{os.environ['PATH']}",
                "PACKAGE": str(self._package),
                "ASKED": str(self._asked),
                **environment,
            },
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def build(self, **environment: str) -> tuple[int, str]:
        """Run a build; return its exit status and what it said."""
        with self.start(**environment) as process:
            said = process.communicate(timeout=120)[1]
        return process.returncode, said

    @property
    def downloads(self) -> int:
        """How often the package was downloaded."""
        if not self._asked.exists():
            return 0
        return self._asked.read_text(encoding="utf-8").count("download")

    def is_whole(self) -> bool:
        """Whether the guest could boot from what is there, and nothing else is there."""
        whole = gzip.decompress((self.current / "initramfs.gz").read_bytes())
        return (
            (self.current / "vmlinux").stat().st_size == 100_004
            and b"TRAILER!!!" in whole
            and {file.name for file in self.current.parent.iterdir()}
            == {"lock", "current", self.current.readlink().name}
        )


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def test_a_build_that_is_there_is_not_made_again(builder: Builder) -> None:
    first = builder.build()
    again = builder.build()

    assert first[0] == 0, first[1]
    assert again == (0, "")
    assert builder.is_whole()
    assert builder.downloads == 1


@pytest.mark.parametrize("program", ["apt-get", "dpkg-deb", "modprobe", *REAL])
def test_a_build_after_one_that_was_killed_ends_whole(builder: Builder, program: str) -> None:
    killed = builder.build(KILLED_AT=program)
    status, said = builder.build()

    assert killed[0] == -9
    assert status == 0, said
    assert builder.is_whole()


def test_two_builds_at_once_are_one(builder: Builder) -> None:
    with builder.start() as one, builder.start() as other:
        said = one.communicate(timeout=120)[1] + other.communicate(timeout=120)[1]

    assert (one.returncode, other.returncode) == (0, 0), said
    assert builder.is_whole()
    assert builder.downloads == 1


def test_a_build_without_a_network_names_the_command_for_later(builder: Builder) -> None:
    status, said = builder.build(OFFLINE="yes")

    assert status == 1
    assert "could not download the guest's kernel, package linux-image-amd64" in said
    assert "Run: sudo apt-get update && scripts/guest/build.sh" in said
    assert not builder.current.exists()


def test_a_build_on_a_full_disk_says_so_once_and_works_when_there_is_room(builder: Builder) -> None:
    failed, said_then = builder.build(FULL="yes")
    status, said = builder.build()

    assert failed == 1
    assert "could not unpack the kernel's package: tar: a: no space left\nsetup: The" in said_then
    assert status == 0, said
    assert builder.is_whole()


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(lzma.compress(b"\x7fELF" + os.urandom(100_000))[:50_000], id="torn"),
        pytest.param(lzma.compress(b"a shell script"), id="something else"),
        pytest.param(b"\x28\xb5\x2f\xfd", id="packed otherwise"),
    ],
)
def test_a_kernel_that_cannot_be_unpacked_whole_is_none(builder: Builder, packed: bytes) -> None:
    builder.pack_kernel(packed)

    status, said = builder.build()

    assert status == 1
    assert "could not unpack the kernel with xz" in said
    assert not builder.current.exists()


def test_a_build_for_another_init_replaces_the_one_before(builder: Builder) -> None:
    builder.build()
    before = builder.current.readlink()
    with (builder.checkout / "scripts/guest/init").open("a", encoding="utf-8") as file:
        file.write("# changed\n")

    status, said = builder.build()

    assert status == 0, said
    assert builder.current.readlink() != before
    assert builder.is_whole()
