# SPDX-License-Identifier: Apache-2.0
"""Programs as sources: what only they can meet."""

import os
from pathlib import Path

import pytest

from snapvault.adapters.sources.command import CommandSource
from snapvault.errors import SourceError
from snapvault.ports.source import Consistency, View


def sh(script: str, *, allow_empty: bool = False, timeout: float | None = None) -> CommandSource:
    return CommandSource(
        "shop", "dump", ["sh", "-c", script], allow_empty=allow_empty, timeout=timeout
    )


def read(view: View) -> bytes:
    (stream,) = view.streams
    assert not hasattr(stream, "read_into")
    with stream.open() as readable:
        return b"".join(iter(lambda: readable.read(1000), b""))


def test_a_program_that_succeeds_vouches_for_its_output() -> None:
    view = sh("echo dump").open()

    content = read(view)
    consistency = view.finish().consistency
    view.close()

    assert (content, consistency) == (b"dump\n", Consistency.APPLICATION)


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("echo lost >&2; exit 2", '"sh" failed with exit status 2: lost$'),
        ("kill -9 $$", '"sh" was killed by SIGKILL$'),
    ],
)
def test_a_program_that_fails_after_its_output_makes_no_restore_point(
    ending: str, said: str
) -> None:
    view = sh(f"echo dump; {ending}").open()

    with pytest.raises(SourceError, match=said):
        read(view)
    with pytest.raises(SourceError, match="not read to its end"):
        view.finish()

    view.close()


def test_a_program_that_writes_nothing_is_refused() -> None:
    view = sh("true").open()

    with pytest.raises(SourceError, match="succeeded but wrote nothing") as caught:
        read(view)
    view.close()

    assert "allow_empty" in str(caught.value.hint)


def test_a_program_that_writes_nothing_is_taken_where_that_is_allowed() -> None:
    view = sh("true", allow_empty=True).open()

    content = read(view)
    consistency = view.finish().consistency
    view.close()

    assert (content, consistency) == (b"", Consistency.APPLICATION)


def test_a_program_that_fails_without_output_is_a_failure_first() -> None:
    view = sh("exit 4", allow_empty=True).open()

    with pytest.raises(SourceError, match="exit status 4"):
        read(view)

    view.close()


def test_a_stream_left_early_makes_no_restore_point() -> None:
    view = sh("echo dump; exec sleep 1000").open()

    with view.streams[0].open() as readable:
        readable.read(1)
    with pytest.raises(SourceError, match="not read to its end"):
        view.finish()

    view.close()


def test_closing_the_view_ends_a_program_that_still_runs() -> None:
    view = sh("echo $$; exec sleep 1000").open()
    context = view.streams[0].open()
    pid = int(context.__enter__().read(100))

    view.close()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    context.__exit__(None, None, None)


def test_a_program_that_hangs_is_ended_after_its_time() -> None:
    view = sh("echo dump; exec sleep 1000", timeout=0.1).open()

    with pytest.raises(SourceError, match="ran out of time"):
        read(view)

    view.close()


def test_a_missing_program_is_found_out_when_the_source_is_opened() -> None:
    with pytest.raises(SourceError, match='"no-such-dumper"'):
        CommandSource("shop", "dump", ["no-such-dumper"]).open()


def test_nothing_runs_before_the_stream_is_opened(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    CommandSource("shop", "dump", ["touch", str(mark)]).open().close()

    assert not mark.exists()


def test_environment_and_folder_are_the_programs() -> None:
    source = CommandSource(
        "shop",
        "dump",
        ["sh", "-c", 'printf "$SHOP "; pwd'],
        environment={"SHOP": "ö 1"},
        working_directory=Path("/"),
    )

    view = source.open()
    content = read(view)
    view.close()

    assert content.decode() == "ö 1 /\n"
