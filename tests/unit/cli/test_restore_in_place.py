# SPDX-License-Identifier: Apache-2.0
"""What `restore --in-place` refuses before anything is opened, and how it says what it did."""

import pytest
import typer

from snapvault.cli.restore_in_place import Done, require_possible
from snapvault.engine.comparing import StreamResult
from snapvault.model.point import StreamRecord

DISK = StreamRecord("root", "disk", "blocks", 4 << 20, 4096, "5a" * 32, (), ())


@pytest.mark.parametrize(
    ("to", "paths", "message"),
    [
        ("-", None, "stdout holds nothing yet"),
        ("ebs:eu-west-1", None, "cannot be overwritten"),
        ("/srv/disk.img", ["etc/hosts"], "leave out --path"),
    ],
)
def test_what_is_no_disk_that_is_there_is_refused(
    to: str, paths: list[str] | None, message: str
) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        require_possible(to, is_ebs=to.startswith("ebs:"), paths=paths)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, 'stream "root" was missing there, and was made'),
        (StreamResult(4 << 20, 4 << 20, 0, 0, False), "nothing differed, nothing was written"),
        (StreamResult(4 << 20, 4 << 20, 8192, 8192, False), "8.0 KiB differed, 8.0 KiB written"),
        (StreamResult(4 << 20, 0, 8192, 4096, True), "4.0 KiB made zeros, length corrected"),
    ],
)
def test_a_report_says_what_was_done_to_each_disk(result: StreamResult | None, said: str) -> None:
    done = Done((DISK,), ("/srv/root",), (result,), (1, 1 << 20), (16, 1 << 24))

    stream, fetched = done.lines()

    assert said in stream
    assert fetched == "fetched 1.0 MiB of 1 volume; a full restore fetches 16.0 MiB of 16"
