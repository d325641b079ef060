# SPDX-License-Identifier: Apache-2.0
"""A backup that is asked to end while the network takes its time, and one that has limits."""

import json
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from snapvault import clock
from tests.acceptance.program import Host, shell
from tests.support import s3
from tests.support.fault_proxy import Answer, Fault, FaultProxy, Hang, Stall

pytestmark = pytest.mark.integration

MIB = 1 << 20
VOLUME = "^PUT .*/volumes/"


def until(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = clock.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert clock.monotonic() < deadline, "it did not happen in time"
        clock.sleep(0.02)


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy(s3.server().port) as running:
        yield running


@pytest.fixture
def far(tmp_path: Path, host_home: Path, s3_store: dict[str, Any], proxy: FaultProxy) -> Host:
    """Return a host with its vault behind the proxy.

    Its source gives two volumes, and more once the file `go` is there; how it was released is in
    the file `released`.
    """
    store = {**s3_store, "endpoint_url": proxy.endpoint_url}
    found = Host(tmp_path / "host", host_home, store, environment=s3.server().environment())
    found.set_up()
    chance = random.Random(13)
    (tmp_path / "first").write_bytes(chance.randbytes(5 * MIB // 2))
    (tmp_path / "rest").write_bytes(chance.randbytes(4 * MIB))
    script = "cat first; while ! test -e go; do sleep 0.05; done; cat rest"
    note = f"echo $SNAPVAULT_RESULT >>'{tmp_path}/released'"
    found.protect(
        {
            "shop": {
                **shell(f"cd '{tmp_path}'; {script}"),
                "hooks": {"after": {"run": ["sh", "-c", note]}},
            }
        },
        volume_size="1 MiB",
    )
    found.does("init")
    return found


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (signal.SIGTERM, Hang()),
        (signal.SIGTERM, Stall(after=200_000)),
        (signal.SIGINT, Answer(503, "SlowDown")),
    ],
    ids=["no answer", "taken no further", "busy"],
)
def test_a_signal_ends_a_backup_whose_uploads_never_end_and_the_next_goes_on(
    far: Host, proxy: FaultProxy, fault: Fault, number: signal.Signals, tmp_path: Path
) -> None:
    with far.start("backup", "-v") as process:
        # What is still on its way is not found by the next run.
        until(lambda: proxy.count_answered(VOLUME) == 2, process)
        proxy.inject(VOLUME, fault, times=10**6)
        (tmp_path / "go").touch()
        until(lambda: len(proxy.fired) >= 3, process)

        process.send_signal(number)
        # A store that does not answer has a minute a try, and five minutes of tries.
        _, said = process.communicate(timeout=90)

    sent = proxy.count(VOLUME)
    proxy.heal()
    assert process.returncode == 128 + number
    assert b"Traceback" not in said
    assert (tmp_path / "released").read_text() == "failed\n"

    again = far.does("backup", "-v", "--json")

    assert "event=run.resumed source=shop volumes=2" in again.stderr
    assert (tmp_path / "released").read_text() == "failed\ncommitted\n"
    # Of its seven volumes two were there.
    assert again.json[0]["new_volumes"] == 7
    assert proxy.count(VOLUME) - sent == 5
    assert far.does("verify", "--json").json[0]["findings"] == []


LIMITS = [("policy", "upload"), ("host", "upload"), ("host", "read")]


@pytest.mark.parametrize(("whose", "what"), LIMITS)
def test_limits_of_policies_and_hosts_reach_stores_and_sources_and_no_signal_waits_for_them(
    host: Host, whose: str, what: str, tmp_path: Path
) -> None:
    limits = {what: "50 kB/s"}  # so that it takes minutes
    policy: dict[str, Any] = {"limits": limits} if whose == "policy" else {}
    dump, read, shared = tmp_path / "dump", tmp_path / "read", host.state / "limits"
    dump.write_bytes(random.Random(17).randbytes(6 * MIB))
    source = shell(f"cat '{dump}'; touch '{read}'; sleep 1000")
    host.protect({"shop": source}, volume_size="2 MiB", **policy)
    host.does("init")
    if whose == "host":
        document = json.loads(host.settings.read_text())
        host.settings.write_text(json.dumps({**document, "limits": limits}))

    def is_sending() -> bool:
        # A volume is under a hidden name while it is written; no other object is so large.
        for path in (tmp_path / "vault" / ".incoming").glob("*"):
            with suppress(FileNotFoundError):  # it has its name by now
                if path.stat().st_size > 100_000:
                    return True
        return False

    with host.start("backup") as process:
        if what == "upload":
            # What is read waits for no upload; one volume takes 40 seconds.
            until(lambda: is_sending() and read.exists(), process)
        else:
            until((shared / "read").exists, process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=300)

    assert process.returncode == 128 + signal.SIGTERM
    assert b"Traceback" not in said
    assert not list((tmp_path / "vault").glob("volumes/*/*.vol"))
    assert read.exists() == (what == "upload")
    assert (shared / what).exists() == (whose == "host")


def test_a_host_whose_limits_cannot_be_shared_backs_up_and_says_so(host: Host) -> None:
    host.protect({"shop": shell("echo rows")})
    host.does("init")
    document = json.loads(host.settings.read_text())
    limits = {"upload": "50 MB/s", "uploads": [{"window": "08:00-18:00", "upload": "unlimited"}]}
    host.settings.write_text(json.dumps({**document, "limits": {**limits, "read": "50 MB/s"}}))
    host.state.mkdir(exist_ok=True)
    (host.state / "limits").write_text("a file")

    ended = host.does("backup")

    assert ended.stderr.count("whatever others take") in (1, 2)  # none for uploads in the daytime
    assert "Traceback" not in ended.stderr
