# SPDX-License-Identifier: Apache-2.0
"""What the doctor finds on a host that is not as it must be for the night."""

import json
import os
import socket
from typing import Any

from snapvault.adapters.locks import SourceLock
from tests.acceptance.program import Ended, Host, shell


def serving(host: Host, **daemon: Any) -> Host:
    document = json.loads(host.settings.read_text())
    host.settings.write_text(json.dumps(document | {"daemon": daemon}))
    return host


def about(ended: Ended, check: str) -> list[dict[str, Any]]:
    return [each for each in ended.json if each["check"] == check]


def test_broken_policies_are_all_named_and_the_others_looked_at(used: Host) -> None:
    policies = used.folder / "policies"
    (policies / "a.yaml").write_text("vault: offsite\nsources: {db: 5}\n")
    (policies / "z.yaml").write_text("vault: offsite\nsources:\n  files: [\n")
    used.protect({"mail": shell("echo mails")}, name="mail")

    ended = used.run("doctor", "--json")

    states = [(each["state"], each["message"]) for each in about(ended, "policies")]
    assert ended.status == 10
    assert [state for state, _ in states] == ["fail", "fail", "ok"]
    assert f'file "{policies}/a.yaml", line 2, field "sources.db"' in states[0][1]
    assert f'file "{policies}/z.yaml", line 4' in states[1][1]
    assert states[2][1] == "2 policies, 3 sources"
    assert [each["state"] for each in about(ended, "mail: command")] == ["ok"]


def test_a_port_is_somebody_elses_until_the_daemon_itself_is_up(used: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        serving(used, listen=f"127.0.0.1:{port}")

        taken = used.run("doctor", "--json")
        with SourceLock(used.state / "daemon.lock", source="daemon"):
            ours = used.does("doctor", "--json")

    (finding,) = about(taken, "status page: address")
    assert taken.status == 20
    assert f"the port is taken by process {os.getpid()} (" in finding["message"]
    assert '"listen: false"' in finding["remedy"]
    (finding,) = about(ours, "status page: address")
    assert finding["state"] == "ok"
    assert f"the daemon, process {os.getpid()}, which is up" in finding["message"]
