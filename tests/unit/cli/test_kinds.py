# SPDX-License-Identifier: Apache-2.0
"""The sources of a policy in plain words, and as JSON."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault.cli.kinds import source_document, source_lines
from snapvault.model.policy import (
    CommandSpec,
    DirectorySpec,
    EbsSpec,
    HookSpec,
    HooksSpec,
    ImageSpec,
    KindSpec,
    LvmSpec,
    MysqlSpec,
    PostgresqlSpec,
    QemuSpec,
    SourceSpec,
    StreamSpec,
)

HOUR = timedelta(hours=1)
EVERY_KIND: list[tuple[KindSpec, str]] = [
    (ImageSpec(Path("/a"), "qcow2"), 'disk "/a"; in format qcow2'),
    (
        CommandSpec(("dump", "a b"), True, {"PASSWORD": "hunter2"}, Path("/srv"), HOUR),
        (
            "output of: dump 'a b'; in folder \"/srv\"; with PASSWORD in its environment;"
            " killed after 1h; may be empty"
        ),
    ),
    (
        LvmSpec("vg0/root", snapshot_size=10 << 30),
        'snapshot of logical volume "vg0/root"; which takes up to 10.0 GiB unless it is thin',
    ),
    (
        EbsSpec(instance="i-1", devices=("/dev/sdf",), region="eu-west-1", role_arn="arn:x"),
        (
            'volumes /dev/sdf of EC2 instance "i-1", taken at one moment; in region "eu-west-1"; in'
            ' role "arn:x"; keeps 1 EBS snapshot of each volume; makes up to 500 requests a second;'
            " waits up to 6h for a snapshot"
        ),
    ),
    (
        EbsSpec(volume="vol-1", profile="p", endpoint_url="http://e"),
        (
            'EBS volume "vol-1"; with profile "p"; at http://e; keeps 1 EBS snapshot of each'
            " volume; makes up to 500 requests a second; waits up to 6h for a snapshot"
        ),
    ),
    (
        QemuSpec(Path("/q"), Path("/g"), "web01", "qemu:///system", ("a", "b"), Path("/s")),
        (
            'disks a, b of the running machine behind QMP socket "/q"; frozen through guest agent'
            ' "/g"; with the definition of libvirt domain "web01" at qemu:///system; room for'
            ' overwritten data in folder "/s"'
        ),
    ),
    (
        QemuSpec(Path("/q")),
        'all disks of the running machine behind QMP socket "/q"; without a guest agent',
    ),
    (
        MysqlSpec(Path("/my.cnf"), ("shop", "blog"), per_database=True, timeout=HOUR),
        (
            "dump of databases shop, blog of a MariaDB or MySQL server; one stream for each"
            ' database; reached as option file "/my.cnf" says; killed after 1h'
        ),
    ),
    (
        MysqlSpec(lvm=LvmSpec("vg0/mysql")),
        (
            'snapshot of logical volume "vg0/mysql"; which takes up to 20% of the volume unless it'
            " is thin; with the MariaDB or MySQL server locked for up to 1m"
        ),
    ),
    (
        PostgresqlSpec(("shop",), host="db", port=5433, user="u", password_file=Path("/p")),
        (
            "dump of database shop of a PostgreSQL server; with roles and tablespaces; host"
            ' "db"; port "5433"; user "u"; with the password in file "/p"'
        ),
    ),
    (
        PostgresqlSpec(base_backup=True, service="s"),
        'base backup of a PostgreSQL server; service "s"',
    ),
    (
        DirectorySpec(Path("/etc"), ("*.tmp", "cache"), one_file_system=True),
        'folder "/etc"; without *.tmp, cache; without what is mounted below',
    ),
]


@pytest.mark.parametrize(("spec", "words"), EVERY_KIND)
def test_every_kind_is_said_in_plain_words(spec: KindSpec, words: str) -> None:
    source = SourceSpec("web01", (StreamSpec("a", spec),), single=True)

    assert source_lines(source) == [f"  source web01: {words}"]


@pytest.mark.parametrize("spec", [spec for spec, _ in EVERY_KIND])
def test_every_kind_is_json_with_its_kind_and_without_secrets(spec: KindSpec) -> None:
    source = SourceSpec("web01", (StreamSpec("a", spec),))

    text = json.dumps(source_document(source))

    (stream,) = json.loads(text)["streams"]
    assert (stream["name"], stream["kind"]) == ("a", source.streams[0].kind)
    assert len(stream) > 3
    assert "hunter2" not in text


def test_json_names_its_units() -> None:
    spec = MysqlSpec(lvm=LvmSpec("vg0/a", snapshot_size=5), timeout=HOUR)
    source = SourceSpec("web01", (StreamSpec("a", spec),))

    document = source_document(source)

    assert document["streams"] == [
        {
            "name": "a",
            "kind": "mysql",
            "defaults_file": None,
            "databases": [],
            "per_database": False,
            "lvm": {"volume": "vg0/a", "snapshot_size_bytes": 5, "snapshot_percent": 20},
            "lock_timeout_seconds": 60.0,
            "timeout_seconds": 3600.0,
        }
    ]


def test_streams_and_hooks_have_a_line_each() -> None:
    source = SourceSpec(
        "web01",
        (StreamSpec("root", ImageSpec(Path("/r"))), StreamSpec("data", ImageSpec(Path("/d")))),
        hooks=HooksSpec(
            before=HookSpec(("stop", "it now"), environment={"TOKEN": "hunter2"}),
            after=HookSpec(("start",), on_failure="warn"),
        ),
    )

    assert source_lines(source) == [
        "  source web01: 2 streams",
        '    root: disk "/r"',
        '    data: disk "/d"',
        (
            "    before it is opened: stop 'it now'; with TOKEN in its environment;"
            " killed after 5m; its failure ends the run"
        ),
        "    after it was closed: start; killed after 5m; its failure is a warning",
    ]
    assert source_document(source)["hooks"] == {
        "before": {
            "run": ["stop", "it now"],
            "timeout_seconds": 300.0,
            "on_failure": "abort",
            "environment": ["TOKEN"],
        },
        "freeze": None,
        "thaw": None,
        "after": {
            "run": ["start"],
            "timeout_seconds": 300.0,
            "on_failure": "warn",
            "environment": [],
        },
    }
