# SPDX-License-Identifier: Apache-2.0
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvault.adapters.systemd import Systemd


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(10)
        yield end


def test_the_manager_is_told_that_the_service_is_up(tmp_path: Path, manager: socket.socket) -> None:
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify")}).ready("3 sources")

    assert manager.recv(4096) == b"READY=1\nSTATUS=3 sources"


def test_a_reload_carries_the_moment_that_systemd_asks_for(
    tmp_path: Path, manager: socket.socket
) -> None:
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify")}).reloading()

    state, moment = manager.recv(4096).decode().splitlines()
    assert state == "RELOADING=1"
    assert moment.removeprefix("MONOTONIC_USEC=").isdigit()


def test_an_abstract_socket_is_known_by_its_at_sign() -> None:
    name = f"snapvault-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0" + name)
        end.settimeout(10)

        Systemd({"NOTIFY_SOCKET": "@" + name}).stopping("bye")

        assert end.recv(4096) == b"STOPPING=1\nSTATUS=bye"


def test_without_a_manager_nothing_happens() -> None:
    Systemd({}).alive("idle")


def test_a_manager_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("up")


def test_the_watchdog_is_in_seconds_and_for_this_process_alone() -> None:
    own = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}

    assert Systemd(own).watchdog == 30.0
    assert Systemd({"WATCHDOG_USEC": "30000000"}).watchdog == 30.0
    assert Systemd(own | {"WATCHDOG_PID": "1"}).watchdog is None
    assert Systemd({}).watchdog is None
    assert Systemd({"WATCHDOG_USEC": "soon"}).watchdog is None
