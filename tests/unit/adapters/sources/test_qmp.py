# SPDX-License-Identifier: Apache-2.0
"""QMP and the guest agent, against sockets that say anything."""

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from snapvault.adapters.sources.qemu_disks import Mark
from snapvault.adapters.sources.qmp import Agent, Qmp, QmpError
from snapvault.errors import QuiesceError, SourceError
from snapvault.ports.source import Consistency
from tests.support.qemu import FakeAgent

GREETING = b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 1}}}}\r\n'
READY = b'{"return": {}}\r\n'


@contextmanager
def answering(*answers: bytes) -> Iterator[Path]:
    """Serve one client: the first answer at once, each other one for a line."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as one:
        path = Path(folder) / "qmp"
        one.bind(str(path))
        one.listen()

        def serve() -> None:
            peer, _ = one.accept()
            with peer, peer.makefile("rb") as lines, suppress(OSError):
                for answer in answers:
                    peer.sendall(answer)
                    lines.readline()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            thread.join(30)


def ask(*answers: bytes, timeout: float = 5) -> object:
    with answering(GREETING, READY, *answers) as path, Qmp(path, timeout=timeout) as qmp:
        return qmp.execute("query-status")


def test_events_before_an_answer_are_kept() -> None:
    event = b'{"event": "STOP", "timestamp": {}}\r\n{"event": "JOB", "data": {"id": "a"}}\r\n'

    with answering(GREETING, READY, event + b'{"return": [1]}\r\n') as path, Qmp(path) as qmp:
        answer = qmp.execute("query-status")

    assert answer == [1]
    assert qmp.events == [("STOP", {}), ("JOB", {"id": "a"})]
    assert qmp.version == "7.2.1"


def test_a_refusal_is_one_line_with_its_class() -> None:
    with pytest.raises(QmpError, match='QEMU refused "query-status": no no') as caught:
        ask(b'{"error": {"class": "GenericError", "desc": "no\\nno"}}\r\n')

    assert caught.value.kind == "GenericError"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"nonsense\r\n", "no JSON"),
        (b"[]\r\n", "no message"),
        (b"{}\r\n", "no answer"),
        (b'{"error": 1}\r\n', "did not say why"),
    ],
)
def test_an_answer_that_is_none_is_refused(answer: bytes, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        ask(answer)


def test_silence_has_an_end() -> None:
    with pytest.raises(SourceError, match=r'QMP socket ".*" does not answer'):
        ask(b"", timeout=0.2)


def test_another_kind_of_socket_is_told() -> None:
    with answering(b'{"hello": 1}\n') as path, pytest.raises(SourceError, match="no QMP socket"):
        Qmp(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


def test_a_guest_is_frozen_inside_and_thawed_outside(folder: Path) -> None:
    with FakeAgent(folder) as fake:
        with Agent(fake.path).frozen() as consistency:
            inside = fake.state

        assert (inside, fake.state) == ("frozen", "thawed")
        assert consistency is Consistency.FILE_SYSTEM


def test_a_guest_is_thawed_after_a_failure_inside(folder: Path) -> None:
    with FakeAgent(folder) as fake:
        with pytest.raises(KeyError), Agent(fake.path).frozen():
            raise KeyError

        assert fake.state == "thawed"


def test_a_guest_that_is_frozen_already_is_left_alone(folder: Path) -> None:
    with FakeAgent(folder) as fake:
        fake.state = "frozen"
        with pytest.raises(QuiesceError, match="frozen already"), Agent(fake.path).frozen():
            pass

        assert fake.state == "frozen"


@pytest.mark.parametrize("command", ["guest-sync-delimited", "guest-fsfreeze-freeze"])
def test_an_agent_that_falls_silent_leaves_nothing_frozen(folder: Path, command: str) -> None:
    with FakeAgent(folder, silent_at=command) as fake:
        agent = Agent(fake.path, timeout=0.3)
        with pytest.raises(QuiesceError, match="does not answer"), agent.frozen():
            pass

        assert fake.state == "thawed"


def test_no_agent_at_all_is_a_quiesce_error(folder: Path) -> None:
    with pytest.raises(QuiesceError, match="could not connect to guest agent socket"):
        Agent(folder / "agent").ping()


def test_a_mark_is_read_back_and_nothing_else_is() -> None:
    mark = Mark("snapvault-1", 123, "0123456789ab")

    assert Mark.parse(str(mark)) == mark
    assert Mark.parse("snap-0123 456") is None
