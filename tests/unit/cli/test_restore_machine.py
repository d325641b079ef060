# SPDX-License-Identifier: Apache-2.0
"""Which disk a machine from EBS starts from, and which streams are definitions."""

from pathlib import Path

import pytest

from snapvault.cli.restore_machine import _boot_of, definition_files
from snapvault.model.point import StreamRecord


def stream(name: str, kind: str = "disk", **facts: str) -> StreamRecord:
    return StreamRecord(name, kind, "blocks", 512, 512, "", (), (), facts=facts)


@pytest.mark.parametrize(
    ("disks", "boot"),
    [
        ([{"device": "/dev/sdf"}, {"device": "/dev/xvda", "boot": "yes"}], "/dev/xvda"),
        ([{"device": "/dev/xvda"}, {"device": "/dev/sdb", "boot": "yes"}], "/dev/sdb"),
        # Points made before the boot volume was noted.
        ([{"device": "/dev/sdf"}, {"device": "/dev/sda1"}], "/dev/sda1"),
        ([{"device": "/dev/sdf"}, {"device": "/dev/sdg"}], None),
    ],
)
def test_the_boot_disk_is_the_one_noted_or_else_that_of_the_usual_name(
    disks: list[dict[str, str]], boot: str | None
) -> None:
    found = _boot_of([stream(facts["device"], **facts) for facts in disks])

    assert (found.facts["device"] if found else None) == boot


def test_each_machine_of_a_source_gets_a_definition_of_its_own() -> None:
    streams = [
        stream("app.root"),
        stream("app.definition", "bytes"),
        stream("definition", "bytes"),
        stream("root.definition"),  # a disk of that name
        stream("notes", "bytes"),
    ]

    found = definition_files(Path("/srv"), streams)

    assert found == {
        "app.definition": Path("/srv/app.domain.xml"),
        "definition": Path("/srv/domain.xml"),
    }


def test_a_stream_with_the_name_of_the_new_definition_keeps_it() -> None:
    streams = [stream("definition", "bytes"), stream("domain.xml", "bytes")]

    assert definition_files(Path("/srv"), streams) == {}
