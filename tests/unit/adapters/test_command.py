# SPDX-License-Identifier: Apache-2.0
"""Running programs: small ones, that every system has."""

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.command import Program, run, run_whole, stream
from snapvault.errors import SourceError
from tests.support.qemu import until


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def read_all(program: Program) -> bytes:
    return b"".join(iter(lambda: program.read(1 << 16), b""))


def wait_for_end(pid: int) -> bool:
    """Wait until a process that is not our child is gone, for a minute at the most."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        return bool(poll.poll(60_000))
    finally:
        os.close(descriptor)


def test_run_returns_what_the_program_said() -> None:
    finished = run(sh("echo out; echo err >&2"))

    assert (finished.status, finished.stdout, finished.stderr) == (0, b"out\n", b"err\n")


def test_run_feeds_input_larger_than_any_pipe() -> None:
    data = bytes(range(256)) * 16384

    assert run(["cat"], stdin=data).stdout == data


def test_a_program_that_reads_none_of_its_input_is_no_failure() -> None:
    assert run(["true"], stdin=bytes(4 << 20)).stdout == b""


def test_without_input_a_program_reads_nothing() -> None:
    assert run(["cat"]).stdout == b""


def test_a_failure_names_the_program_its_status_and_its_last_words_in_one_line() -> None:
    with pytest.raises(SourceError) as caught:
        run(sh("echo first >&2; echo; printf '\\033[31m second\\n\\n' >&2; exit 3"))

    assert str(caught.value) == 'program "sh" failed with exit status 3: first; ?[31m second'


def test_a_long_complaint_is_cut_at_its_beginning() -> None:
    with pytest.raises(SourceError, match=r"the end$") as caught:
        run(sh("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1"))

    assert len(str(caught.value)) < 500


def test_a_killed_program_is_a_failure_that_names_the_signal() -> None:
    with pytest.raises(SourceError, match=r'program "sh" was killed by SIGKILL$'):
        run(sh("kill -9 $$"))


def test_an_unchecked_failure_is_returned() -> None:
    assert run(sh("exit 7"), check=False).status == 7


@pytest.mark.parametrize("name", ["no-such-program-here", "/no/such/program", "/etc/passwd", "/"])
def test_what_cannot_be_started_is_named_with_a_hint(name: str) -> None:
    with pytest.raises(SourceError, match=f'could not start program "{name}"') as caught:
        run([name])

    assert caught.value.hint is not None


def test_a_file_that_the_kernel_cannot_run_is_named(tmp_path: Path) -> None:
    program = tmp_path / "binary"
    program.write_bytes(b"\x7fELF of no machine")
    program.chmod(0o700)

    with pytest.raises(SourceError, match="exec format error"):
        run([str(program)])


def test_a_missing_working_directory_is_not_blamed_on_the_program(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r'working directory ".*/gone" is not a folder'):
        run(["true"], working_directory=tmp_path / "gone")


def test_a_program_is_found_from_its_working_directory(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\npwd\n")
    (tmp_path / "tool").chmod(0o700)

    finished = run(["./tool"], working_directory=tmp_path)

    assert finished.stdout.decode().strip() == str(tmp_path.resolve())


def test_a_program_is_looked_up_in_the_path_that_it_gets(tmp_path: Path) -> None:
    (tmp_path / "only-here").write_text("#!/bin/sh\necho found\n")
    (tmp_path / "only-here").chmod(0o700)

    finished = run(["only-here"], environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"})

    assert finished.stdout == b"found\n"


def test_output_is_parsed_in_the_c_locale_and_streamed_in_the_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LC_ALL", "xx_YY")
    script = sh('printf "$LC_ALL $EXTRA"')

    parsed = run(script, environment={"EXTRA": "1"}).stdout
    with stream(script, environment={"EXTRA": "2"}) as program:
        streamed = read_all(program)

    assert (parsed, streamed) == (b"C 1", b"xx_YY 2")


def test_output_without_end_is_refused() -> None:
    with pytest.raises(SourceError, match=r'program "yes" wrote more than 16 MiB'):
        run(["yes"])


def test_a_program_gets_a_session_of_its_own_and_none_of_our_files(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        script = sh(f"ls -l /proc/self/fd; test -e /proc/self/fd/{file.fileno()} && echo leaked")

        output = run(script, check=False).stdout
        session = run(sh("ps -o sid= -p $$ 2>/dev/null || cut -d' ' -f6 /proc/$$/stat")).stdout

    assert b"secret" not in output
    assert b"leaked" not in output
    assert int(session) != os.getsid(0)


def test_a_program_that_takes_too_long_is_killed() -> None:
    with pytest.raises(SourceError, match=r'"sleep" ran out of time') as caught:
        run(["sleep", "1000"], timeout=0.05)

    assert caught.value.hint is not None


def test_time_runs_out_for_a_program_that_never_stops_writing() -> None:
    def read_for_long(program: Program) -> None:
        patience = clock.monotonic() + 60
        while clock.monotonic() < patience:
            program.read(1)  # it writes faster than that

    with (
        pytest.raises(SourceError, match=r'"yes" ran out of time'),
        stream(["yes"], timeout=0.2) as program,
    ):
        read_for_long(program)


def test_time_runs_out_too_when_only_the_end_is_missing() -> None:
    # Long enough to say so, on a busy machine too.
    with pytest.raises(SourceError, match=r"ran out of time.*: waiting"):
        run(sh("echo waiting >&2; exec >&-; exec sleep 1000"), timeout=5)


def test_leaving_early_ends_the_whole_group() -> None:
    with stream(sh("sleep 1000 & echo $!; wait")) as program:
        grandchild = int(program.read(100))

    assert wait_for_end(grandchild)


def test_an_error_in_the_middle_ends_the_program_and_is_passed_on() -> None:
    pids: list[int] = []

    def fail_midway() -> None:
        with stream(sh("echo $$; exec sleep 1000")) as program:
            pids.append(int(program.read(100)))
            raise KeyError

    with pytest.raises(KeyError):
        fail_midway()

    assert wait_for_end(pids[0])


def test_a_program_that_will_not_end_is_made_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapvault.adapters.program._GRACE", 0.05)

    with stream(sh("trap '' TERM; echo ready; while :; do sleep 1000; done")) as program:
        program.read(100)

    assert program.status == -signal.SIGKILL


def test_a_killed_program_never_looks_whole() -> None:
    with stream(sh("trap 'exit 0' TERM; echo $$; sleep 1000 & wait")) as program:
        program.read(100)
        program.kill()

        with pytest.raises(SourceError, match="stopped before its end"):
            program.read(100)


def test_what_a_program_leaves_behind_is_ended_with_it() -> None:
    finished = run(sh("sleep 1000 >/dev/null & echo $!"))

    assert wait_for_end(int(finished.stdout))


def test_a_program_outlives_the_thread_that_started_it() -> None:
    started = []
    context = stream(sh("sleep 0.2; echo alive"))
    thread = threading.Thread(target=lambda: started.append(context.__enter__()))
    thread.start()
    thread.join()

    output = read_all(started[0])
    context.__exit__(None, None, None)

    assert output == b"alive\n"


def test_a_program_does_not_outlive_our_process() -> None:
    script = (
        "import os, signal\n"
        "from snapvault.adapters.command import stream\n"
        "with stream(['sh', '-c', 'echo $$; exec sleep 1000 >/dev/null']) as program:\n"
        "    print(program.read(100).decode(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert wait_for_end(int(killed.stdout))


# --- what must not stop half-way --------------------------------------------------------------


TAKES_A_WHILE = """
import sys
from snapvault.adapters import command
wait = 'until [ -e "$0.go" ]; do sleep 0.05; done'
script = f'touch "$0.begun"; {wait}; echo; touch "$0"'
command.run_whole(["sh", "-c", script, sys.argv[1]], timeout=60)
"""


def disturbed(mark: Path, number: signal.Signals) -> tuple[int, bytes]:
    """Send a signal to a process that has a program make a mark, before it is made."""
    begun, go = (mark.with_name(f"{mark.name}.{end}") for end in ("begun", "go"))
    with subprocess.Popen(
        [sys.executable, "-c", TAKES_A_WHILE, str(mark)], stderr=subprocess.PIPE
    ) as process:
        for _ in until():
            if begun.exists():
                break
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait()
        go.touch()
        _, said = process.communicate()
        return process.returncode, said


def test_a_program_that_is_run_whole_is_left_to_itself_when_our_process_dies(
    tmp_path: Path,
) -> None:
    mark = tmp_path / "mark"

    status, _ = disturbed(mark, signal.SIGKILL)

    assert status == -signal.SIGKILL
    for _ in until():
        if mark.exists():
            break


def test_a_program_that_is_run_whole_is_awaited_when_we_are_interrupted(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    _, said = disturbed(mark, signal.SIGINT)

    assert b"KeyboardInterrupt" in said
    assert mark.exists()


def test_a_program_that_is_run_whole_is_killed_when_its_time_is_up() -> None:
    with pytest.raises(SourceError, match=r'"sleep" ran out of time'):
        run_whole(["sleep", "1000"], timeout=0.05)


def test_a_program_whose_start_is_interrupted_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = (
        "import os, signal, sys, threading\n"
        "from snapvault.adapters import command, spawning\n"
        "busy = threading.Event()\n"
        "spawning._spawner(os.getpid()).submit(busy.wait)\n"
        "try:\n"
        "    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        f"    command.run(['touch', {str(mark)!r}])\n"
        "except KeyboardInterrupt:\n"
        "    busy.set()\n"
        "    command.run(['true'])\n"
        "    sys.exit(7)\n"
    )

    interrupted = subprocess.run([sys.executable, "-c", script], check=False)

    assert interrupted.returncode == 7
    assert not mark.exists()


def test_a_program_that_is_run_whole_is_awaited_when_we_are_interrupted_before_we_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"

    def interrupted(_: int) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pidfd_open", interrupted)
    script = 'sleep 0.2; head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; touch "$0"'

    with pytest.raises(KeyboardInterrupt):
        run_whole(["sh", "-c", script, str(mark)], timeout=60)

    assert mark.exists()
