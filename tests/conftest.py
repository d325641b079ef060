# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: no home, no network, no strangers' settings, no orphans, one chance.

Done in hooks, not in fixtures, so that session fixtures and property tests are covered too.
"""

import compileall
import ipaddress
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Generator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

from tests.support.seaweed import LASTING

# Settings of the person who runs the tests that must not reach them.
_FOREIGN_PREFIXES = ("AWS_", "GIT_", "GPG_", "SNAPVAULT_", "XDG_")
_FOREIGN = (
    "CLICOLOR_FORCE",
    "COLUMNS",
    "FORCE_COLOR",
    "GNUPGHOME",
    "NO_COLOR",
    "PYTHONDONTWRITEBYTECODE",  # or each of hundreds of programs compiles all that it imports
    "PY_COLORS",
)
_PROXIES = ("all_proxy", "ftp_proxy", "http_proxy", "https_proxy")

# Helpers that Python itself starts once and keeps.
_PYTHONS_OWN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

_started_by_call = pytest.StashKey[set[int]]()
_homes = count()
_started = 0  # processes, ever
_session_folder = Path()

settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    max_examples=60,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("deep", deadline=None, max_examples=2000, print_blob=True)
_profile = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.load_profile(_profile)
if _profile == "ci":
    # QUIRK: Hypothesis 6.170 draws some values from the text of what was imported so far: examples
    # that are the same each time would still depend on which tests ran before.
    pytest.MonkeyPatch().setattr(
        providers, "_get_local_constants", lambda: providers._local_constants, raising=False
    )


# --- several workers ------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Have the longest files run first."""
    from tests.support.turns import LongestFirst

    return LongestFirst(config, log) if config.getoption("dist") == "loadfile" else None


# --- the environment ------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Give the session a home of its own, and close the way out."""
    global _session_folder  # noqa: PLW0603 - a session has one, and hooks have no other place
    # LIMIT: a socket's path has at most 107 bytes (Linux), and gpg-agent's lies in its home.
    _session_folder = Path(tempfile.mkdtemp(prefix="svt-", dir="/tmp"))
    for name in list(os.environ):
        if name.startswith(_FOREIGN_PREFIXES) or name in _FOREIGN or name.lower() in _PROXIES:
            del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ["HOME"] = str(_new_home())
    os.environ["LC_ALL"] = "C.UTF-8"
    # A script's shell has what it starts in the background ignore Ctrl-C, and so would all
    # programs that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):  # once: hundreds of programs, and guests, import it
        compileall.compile_dir(Path(__file__).parents[1] / "snapvault", quiet=2)
    sys.addaudithook(_stay_on_this_machine)
    sys.addaudithook(_count_processes)


def pytest_unconfigure() -> None:
    """Remove the session's folder."""
    shutil.rmtree(_session_folder, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run each test with a home of its own, and put the environment and folder back."""
    environment = dict(os.environ)
    folder = Path.cwd()
    home = _new_home()
    os.environ["HOME"] = str(home)
    try:
        return (yield)
    finally:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        shutil.rmtree(home, ignore_errors=True)


def _new_home() -> Path:
    home = _session_folder / str(next(_homes))
    home.mkdir(mode=0o700)
    return home


# --- chance ---------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have a module's `CHANCE` begin anew: no test's data depend on which tests ran before it."""
    chance = getattr(getattr(item, "module", None), "CHANCE", None)
    if isinstance(chance, random.Random):
        chance.seed(item.nodeid)


# --- the network ----------------------------------------------------------------------------


def _stay_on_this_machine(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, tuple) and not _is_local(str(address[0])):
            pytest.fail(f"a test tried to reach {address[0]}, which is not this machine")
    elif event == "socket.getaddrinfo":
        host = arguments[0]
        name = host.decode() if isinstance(host, bytes) else host
        if isinstance(name, str) and name.endswith(".invalid"):
            # What every resolver says of this domain (RFC 6761), without asking one.
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if isinstance(name, str) and not _is_local(name):
            pytest.fail(f"a test tried to look up {name}, which is not this machine")


def _is_local(host: str) -> bool:
    if host in ("", "localhost") or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


# --- processes ------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Remember which processes the test itself started; fixtures may keep theirs."""
    started_before = _started
    children_before = _children()
    try:
        return (yield)
    finally:
        if _started != started_before:
            item.stash[_started_by_call] = _children() - children_before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that leaves a process behind."""
    result = yield
    if orphans := item.stash.get(_started_by_call, set()):
        orphans &= _children() - LASTING
    if orphans:
        named = ", ".join(f"{pid} ({_command_line(pid)})" for pid in sorted(orphans))
        pytest.fail(f"the test left running: {named}")
    return result


def _count_processes(event: str, _arguments: tuple[object, ...]) -> None:
    global _started  # noqa: PLW0603 - an audit hook has nothing to hold on to
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
        _started += 1


def _children() -> set[int]:
    """Return the processes that this one started and that still run; none were unless counted."""
    if _started == 0:
        return set()
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold anything; after it come the state and the parent.
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:  # it has ended since
            continue
        if int(parent) == os.getpid() and state != "Z":
            found.add(int(stat.parent.name))
    return {pid for pid in found if not _is_pythons_own(pid)}


def _command_line(pid: int) -> str:
    """Return a process's command line; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def _is_pythons_own(pid: int) -> bool:
    line = _command_line(pid)
    return any(helper in line for helper in _PYTHONS_OWN)
