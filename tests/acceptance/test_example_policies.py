# SPDX-License-Identifier: Apache-2.0
"""Every source of the example policies is backed up as it stands there, and comes back.

Only what names somebody's machine is replaced: paths, volumes, addresses. `lvm.yaml`, and the
server on LVM of `mysql.yaml`, are backed up in the guest (tests/guest), which has LVM.
"""

import json
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from tests.acceptance.program import ROOT, Host
from tests.support import manual
from tests.support.ebs_fake import EbsFake
from tests.support.ebs_fake_world import BLOCK
from tests.support.mariadb import DUMP_GRANTS as MYSQL_GRANTS
from tests.support.mariadb import MariadbServer
from tests.support.postgresql import BASE_BACKUP_GRANTS, PASSWORD, PostgresqlServer, unpacked
from tests.support.postgresql import DUMP_GRANTS as POSTGRESQL_GRANTS
from tests.support.qemu import FakeAgent, Machine, make_image, qemu_img, qemu_io, raw_of

pytestmark = pytest.mark.integration

CHANCE = random.Random(29)
MIB = 1 << 20

# Sources that are backed up elsewhere.
IN_THE_GUEST = {"lvm": {"web02", "mail"}, "mysql": {"warehouse"}}


def follow(host: Host, name: str, replaced: Mapping[str, str]) -> None:
    """Give a host the example policy, with what names a machine replaced, and its vault."""
    text = (ROOT / "policies" / f"{name}.yaml").read_text(encoding="utf-8")
    for theirs, ours in replaced.items():
        assert theirs in text, theirs
        text = text.replace(theirs, ours)
    (host.folder / "policies" / f"{name}.yaml").write_text(text, encoding="utf-8")
    host.does("init")


def sources_of(name: str) -> set[str]:
    """Return the sources of an example policy that are backed up here."""
    text = (ROOT / "policies" / f"{name}.yaml").read_text(encoding="utf-8")
    return set(yaml.safe_load(text)["sources"]) - IN_THE_GUEST.get(name, set())


def back_up(host: Host, name: str) -> None:
    """Have doctor find nothing wrong, and make a point of each source."""
    wanted = sorted(sources_of(name))
    looked = host.run("doctor", "--json").json
    failures = [each for each in looked if each["state"] == "fail"]
    theirs = tuple(f"{source}: " for source in IN_THE_GUEST.get(name, ()))
    assert [each for each in failures if not each["check"].startswith(theirs or "-")] == []
    made = host.does("backup", "--json", *wanted).json
    assert [point["source"] for point in made] == wanted


def test_every_example_is_backed_up() -> None:
    tested = {"machine", "dumps", "directory", "mysql", "postgresql", "qemu", "ebs"}

    left = {path.stem for path in (ROOT / "policies").glob("*.yaml")} - tested

    assert {name for name in left if sources_of(name)} == set()


def test_the_machine_of_raw_images(host: Host, recovery: Host, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("root", "data"):
        with (images / f"web01-{name}.raw").open("wb") as file:
            file.truncate(8 * MIB)
            file.seek(2 * MIB)
            file.write(CHANCE.randbytes(100_000))
    follow(host, "machine", {"/var/lib/libvirt/images/": f"{images}/"})

    back_up(host, "machine")
    recovery.does("restore", "web01", "--to", str(tmp_path / "out"))

    for name in ("root", "data"):
        restored = (tmp_path / "out" / name).read_bytes()
        assert restored == (images / f"web01-{name}.raw").read_bytes()


def test_the_folders(host: Host, recovery: Host, tmp_path: Path) -> None:
    machine = tmp_path / "machine"
    here = {path: str(machine / path[1:]) for path in ("/etc", "/srv", "/etc/nginx", "/var/www")}
    for folder in here.values():
        Path(folder, "cache").mkdir(parents=True, exist_ok=True)
        for name in ("kept", "a.tmp", "cache/x"):
            Path(folder, name).write_text(name)
    ends = ("\n", "}")
    follow(
        host,
        "directory",
        {f"path: {path}{end}": f"path: {ours}{end}" for path, ours in here.items() for end in ends
         if f"path: {path}{end}" in (ROOT / "policies/directory.yaml").read_text()},
    )  # fmt: skip

    back_up(host, "directory")
    for source, stream in (
        ("configuration", ()),
        ("files", ()),
        ("site", ("--stream", "settings")),
        ("site", ("--stream", "sites")),
    ):
        target = tmp_path / "-".join((source, *stream[1:]))
        recovery.does("restore", source, *stream, "--path", ".", "--to", str(target))

    def names(restored: str) -> list[str]:
        folder = tmp_path / restored
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))

    everything = ["a.tmp", "cache", "cache/x", "kept"]
    assert names("files") == ["cache", "kept"]
    assert names("site-settings") == names("site-sites") == everything
    assert names("configuration") == sorted(
        [*everything, "nginx", *(f"nginx/{name}" for name in everything)]
    )


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgresqlServer]:
    with PostgresqlServer() as server:
        yield server


def test_the_programs(
    host: Host, recovery: Host, postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    # A machine of developers need not have SQLite's shell; Python has SQLite.
    (tmp_path / "bin").mkdir()
    shell = tmp_path / "bin" / "sqlite3"
    shell.write_text(
        f"#!{sys.executable}\nimport sqlite3, sys\nassert sys.argv[2] == '.dump'\n"
        "print(*sqlite3.connect(sys.argv[1]).iterdump(), sep='\\n')\n"
    )
    shell.chmod(0o755)
    host.environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    machine = tmp_path / "machine"
    (machine / "etc/ledger").mkdir(parents=True)
    (machine / "etc/ledger/ledger.conf").touch()
    database = tmp_path / "shop.db"
    with closing(sqlite3.connect(database)) as shop_database:
        shop_database.execute("CREATE TABLE t AS SELECT 7 AS seven")
        shop_database.commit()
    postgresql.run("DROP DATABASE IF EXISTS ledger; DROP ROLE IF EXISTS backup")
    postgresql.run(f"CREATE ROLE backup LOGIN PASSWORD '{PASSWORD.replace(chr(39), chr(39) * 2)}'")
    postgresql.run("CREATE DATABASE ledger OWNER backup")
    postgresql.run("SET ROLE backup; CREATE TABLE t AS SELECT 7 AS seven", database="ledger")
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"*:*:ledger:backup:{PASSWORD}\n")
    passwords.chmod(0o600)
    follow(
        host,
        "dumps",
        {
            "/srv/shop/shop.db": str(database),
            "-C, /, etc": f"-C, {machine}, etc",
            "/run/postgresql": str(postgresql.folder),
            "/etc/snapvault/pgpass": str(passwords),
            "/etc/ledger": str(machine / "etc/ledger"),
        },
    )

    back_up(host, "dumps")
    shop = recovery.does("restore", "shop", "--to", "-").stdout
    archive = recovery.does("restore", "etc", "--to", "-").raw
    recovery.does("restore", "ledger", "--to", str(tmp_path / "ledger"))

    assert "INSERT INTO" in shop
    listed = subprocess.run(["tar", "-t"], input=archive, capture_output=True, check=True)
    assert b"etc/ledger/ledger.conf\n" in listed.stdout
    assert b"COPY public.t (seven)" in (tmp_path / "ledger" / "database").read_bytes()
    assert (tmp_path / "ledger" / "settings").read_bytes() == b""


def test_the_mariadb_servers(host: Host, recovery: Host, tmp_path: Path) -> None:
    with MariadbServer() as server, MariadbServer(binary_log=False) as other:
        for database in ("orders", "shop"):
            server.run(
                f"CREATE DATABASE {database}; CREATE TABLE {database}.t AS SELECT 7 AS seven"
            )
        options = server.create_account(*MYSQL_GRANTS)
        follow(
            host,
            "mysql",
            {"/etc/snapvault/my.cnf": str(options), "/etc/snapvault/hosting.cnf": str(options)},
        )

        back_up(host, "mysql")
        other.run(recovery.does("restore", "orders", "--to", "-").raw)
        recovery.does("restore", "hosting", "--to", str(tmp_path / "hosting"))
        other.run((tmp_path / "hosting" / "shop").read_bytes())

        assert {path.name for path in (tmp_path / "hosting").iterdir()} == {
            "mysql",
            "orders",
            "shop",
        }
        for database in ("orders", "shop"):
            assert other.contents(database) == server.contents(database)


def test_the_postgresql_servers(
    host: Host, recovery: Host, postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    server = postgresql
    server.reset()
    for database in ("accounts", "reports"):
        server.run(f"CREATE DATABASE {database}")
        server.run("CREATE TABLE t AS SELECT 7 AS seven", database=database)
    server.create_role(*POSTGRESQL_GRANTS)
    server.run(f"CREATE ROLE whole LOGIN PASSWORD '{PASSWORD.replace(chr(39), chr(39) * 2)}'")
    server.run(";".join(each.format(role="whole") for each in BASE_BACKUP_GRANTS))
    home = Path(os.environ["HOME"])
    (home / ".pgpass").write_text(f"*:*:*:*:{PASSWORD}\n")
    (home / ".pgpass").chmod(0o600)
    (home / ".pg_service.conf").write_text(f"[analytics]\nhost={server.folder}\nuser=whole\n")
    follow(
        host,
        "postgresql",
        {
            "host: /run/postgresql": f"host: {server.folder}",
            "host: db.example.org": f"host: {server.folder}",
            "port: 5433": "port: 5432",
            "/etc/snapvault/pgpass": str(server.folder / "pgpass"),
        },
    )

    back_up(host, "postgresql")
    for source in ("accounts", "crm"):
        recovery.does("restore", source, "--to", str(tmp_path / source))
    archive = recovery.does("restore", "analytics", "--to", "-").raw

    with PostgresqlServer() as other:
        other.run((tmp_path / "accounts" / "globals").read_bytes(), strict=False)
        for name in ("accounts", "reports"):
            other.run((tmp_path / "accounts" / name).read_bytes())
            assert other.contents(name) == server.contents(name)
    assert {path.name for path in (tmp_path / "accounts").iterdir()} == {
        "accounts",
        "globals",
        "reports",
    }
    assert {path.name for path in (tmp_path / "crm").iterdir()} == {
        "accounts",
        "postgres",
        "reports",
        "template1",
    }
    with PostgresqlServer(data=unpacked(archive)) as whole:
        assert whole.contents("reports") == server.contents("reports")


def test_the_running_machines(host: Host, recovery: Host, tmp_path: Path) -> None:
    raw = tmp_path / "data.raw"
    qemu_img("create", "-q", "-f", "raw", str(raw), str(MIB))
    template = make_image(tmp_path / "template.qcow2", 4 * MIB)
    qemu_io(template, "write -P 7 1M 64k")
    domain = tmp_path / "libvirt.xml"
    domain.write_text(
        "<node><domain type='test'><name>db01</name><memory>65536</memory>"
        "<os><type>hvm</type></os></domain></node>"
    )
    (tmp_path / "scratch").mkdir()
    app01 = {"drive0": make_image(tmp_path / "app01.qcow2", 4 * MIB)}
    db01 = {
        "drive-root": make_image(tmp_path / "root.qcow2", 4 * MIB),
        "drive-data": raw,
        "drive-swap": make_image(tmp_path / "swap.qcow2", MIB),
    }
    with (
        Machine(app01) as first,
        Machine(db01) as second,
        FakeAgent(first.folder) as agent,
    ):
        first.write("drive0", MIB, 64 << 10, 1)
        second.write("drive-root", 0, MIB, 2)
        second.write("drive-data", 512, 512, 3)
        follow(
            host,
            "qemu",
            {
                "qmp: /run/qemu/app01.qmp": f"qmp: {first.qmp}",
                "agent: /run/qemu/app01.agent": f"agent: {agent.path}",
                "qmp: /run/qemu/db01.qmp": f"qmp: {second.qmp}",
                "qemu:///system": f"test://{domain}",
                "/var/tmp": str(tmp_path / "scratch"),
                "/var/lib/libvirt/images/template.qcow2": str(template),
            },
        )

        back_up(host, "qemu")
        points = {point["source"]: point for point in host.points()}

    for source in ("app01", "db01"):
        recovery.does("restore", source, "--to", str(tmp_path / source))
    recovery.does("restore", "template", "--to", str(tmp_path / "restored"))
    assert points["app01"]["consistency"] == "file-system"
    assert agent.heard.count("guest-fsfreeze-thaw") == agent.heard.count("guest-fsfreeze-freeze")
    restored = {path.name: path for path in (tmp_path / "db01").iterdir()}
    assert set(restored) == {"drive-root", "drive-data", "definition", "domain.xml"}
    assert restored["drive-root"].read_bytes() == raw_of(db01["drive-root"])
    assert restored["drive-data"].read_bytes() == raw.read_bytes()
    assert restored["definition"].read_bytes().startswith(b"<domain type='test'")
    assert (tmp_path / "app01" / "drive0").read_bytes() == raw_of(app01["drive0"])
    assert (tmp_path / "restored").read_bytes() == raw_of(template)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_instances_in_aws_with_the_rights_of_the_manual_alone(
    host: Host, recovery: Host, tmp_path: Path
) -> None:
    with EbsFake() as cloud:
        cloud.world.looks_until_completed = 0
        role = "arn:aws:iam::123456789012:role/snapvault"
        cloud.add_role(role)
        ours, theirs = cloud.add_volume(), cloud.add_volume()
        shop = cloud.add_instance({"/dev/xvda": ours, "/dev/xvdb": theirs})
        reports = cloud.add_volume(region="eu-central-1", account="123456789012")
        other = cloud.add_volume(region="eu-central-1", account="123456789012")
        branch = cloud.add_instance({"/dev/xvda": other, "/dev/sdf": reports})
        archive = cloud.add_volume()
        for volume in (ours, theirs, reports, archive):
            volume.write(3 * BLOCK, CHANCE.randbytes(BLOCK))
        host.environment = {**cloud.environment(), "AWS_ENDPOINT_URL": cloud.endpoint_url}
        follow(
            host,
            "ebs",
            {
                "i-0123456789abcdef0": shop.id,
                "i-0fedcba9876543210": branch.id,
                "vol-0123456789abcdef0": archive.id,
            },
        )

        back_up(host, "ebs")
        ours.write(5 * BLOCK, CHANCE.randbytes(BLOCK))
        back_up(host, "ebs")

        for source in ("storefront", "reports", "archive"):
            recovery.does("restore", source, "--to", str(tmp_path / source))
        for volume, path in (
            (ours, "storefront/xvda"),
            (theirs, "storefront/xvdb"),
            (reports, "reports"),
            (archive, "archive"),
        ):
            with (tmp_path / path).open("rb") as restored:
                assert restored.read(8 * BLOCK) == volume.read(0, 8 * BLOCK)
            assert (tmp_path / path).stat().st_size == volume.size
        assert len(cloud.own_snapshots("eu-west-1")) == 3  # the newest of each volume
        assert len(cloud.own_snapshots("eu-central-1")) == 2
        assert set(cloud.calls) == allowed() | {"AssumeRole"}


def allowed() -> set[str]:
    """Return the actions that the manual's IAM policy for EBS allows."""
    policy = json.loads(manual.blocks("ebs", "json")[0])
    actions = [statement["Action"] for statement in policy["Statement"]]
    lists = [each if isinstance(each, list) else [each] for each in actions]
    return {action.partition(":")[2] for each in lists for action in each}
