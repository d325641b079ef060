# SPDX-License-Identifier: Apache-2.0
"""QMP and the guest agent, against sockets that say anything."""

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from snapvault.adapters.qmp import Agent, Qmp, QmpError
from snapvault.adapters.sources import qemu_thaw
from snapvault.adapters.sources.qemu_disks import Mark
from snapvault.errors import QuiesceError, SourceError
from snapvault.ports.source import Consistency
from tests.support.qemu import FakeAgent, until

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
            thread.join(60)


def ask(*answers: bytes, timeout: float = 60) -> object:
    with answering(GREETING, READY, *answers) as path, Qmp(path, timeout=timeout) as qmp:
        return qmp.execute("query-status")


def test_events_before_an_answer_are_kept() -> None:
    event = b'{"event": "STOP", "timestamp": {}}\r\n{"event": "JOB", "data": {"id": "a"}}\r\n'

    with answering(GREETING, READY, event + b'{"return": [1]}\r\n') as path, Qmp(path) as qmp:
        answer = qmp.execute("query-status")

    assert answer == [1]
    assert qmp.events == [("STOP", {}), ("JOB", {"id": "a"})]
    assert qmp.version == "7.2.1"


def test_events_before_the_greeting_are_kept() -> None:
    early = b'{"event": "VSERPORT_CHANGE", "data": {"id": "agent"}}\r\n'

    with answering(early + GREETING, READY) as path, Qmp(path) as qmp:
        version = qmp.version

    assert version == "7.2.1"
    assert qmp.events == [("VSERPORT_CHANGE", {"id": "agent"})]


def test_a_refusal_is_one_line_with_its_class() -> None:
    with pytest.raises(QmpError, match='QEMU refused "query-status": no no') as caught:
        ask(b'{"error": {"class": "GenericError", "desc": "no\\nno"}}\r\n')

    assert caught.value.kind == "GenericError"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"nonsense\r\n", "no JSON"),
        (b"[" * 100_000 + b"\r\n", "no JSON"),
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


def test_an_answer_that_came_too_late_is_not_taken_for_that_to_the_next_question() -> None:
    late = b'{"return": "late", "id": 2}\r\n{"return": "right", "id": 3}\r\n'

    with answering(GREETING, READY, b"", late) as path, Qmp(path) as qmp:
        qmp._timeout = 0.2
        with pytest.raises(SourceError, match="does not answer"):
            qmp.execute("query-status")
        qmp._timeout = 60
        answer = qmp.execute("query-jobs")

    assert answer == "right"


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
        agent = Agent(fake.path, timeout=1)
        with pytest.raises(QuiesceError, match="does not answer"), agent.frozen():
            pass

        assert fake.state == "thawed"


@pytest.mark.parametrize("command", ["guest-fsfreeze-status", "guest-fsfreeze-thaw"])
def test_a_guest_is_thawed_when_its_agent_falls_silent_after_the_moment(
    folder: Path, command: str
) -> None:
    with FakeAgent(folder) as fake:
        with (
            pytest.raises(QuiesceError, match=f'does not answer "{command}"'),
            Agent(fake.path, timeout=1).frozen(),
        ):
            fake.silent_at = command

        assert fake.state == "thawed"


def test_a_guest_is_thawed_over_another_connection_when_the_first_one_breaks(folder: Path) -> None:
    with FakeAgent(folder) as fake:
        with pytest.raises(QuiesceError, match="does not answer"), Agent(fake.path).frozen():
            fake.hang_up()

        assert fake.state == "thawed"


def test_a_signal_while_the_guest_is_thawed_leaves_it_thawed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    call = Agent._call

    def interrupted(agent: Agent, line: object, name: str) -> object:
        calls.append(name)
        if calls.count("guest-fsfreeze-status") == 2:
            raise KeyboardInterrupt
        return call(agent, line, name)  # type: ignore[arg-type] # a private type

    monkeypatch.setattr(Agent, "_call", interrupted)
    with FakeAgent(folder) as fake:
        with pytest.raises(KeyboardInterrupt), Agent(fake.path).frozen():
            pass

        assert fake.state == "thawed"


def test_whoever_thaws_for_a_dead_run_asks_until_the_agent_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapvault.adapters.qmp.AGENT_TIMEOUT", 0.2)
    monkeypatch.setattr("snapvault.adapters.sources.qemu_thaw._PAUSE", 0.01)
    with FakeAgent(folder, silent_at="guest-sync-delimited") as fake:
        fake.state = "frozen"
        thawing = threading.Thread(target=qemu_thaw.main, args=([str(fake.path)],))
        thawing.start()
        for _ in until():
            if fake.heard.count("guest-sync-delimited") > 1:
                break
        fake.silent_at = None
        thawing.join()

        assert fake.state == "thawed"
    assert qemu_thaw.main([str(fake.path)]) == 1


def test_no_agent_at_all_is_a_quiesce_error(folder: Path) -> None:
    with pytest.raises(QuiesceError, match="could not connect to guest agent socket"):
        Agent(folder / "agent").ping()


def test_a_mark_is_read_back_and_nothing_else_is() -> None:
    mark = Mark("snapvault-1", 123, "0123456789ab")

    assert Mark.parse(str(mark)) == mark
    assert Mark.parse("snap-0123 456") is None
