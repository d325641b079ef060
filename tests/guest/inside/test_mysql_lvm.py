# SPDX-License-Identifier: Apache-2.0
"""A MariaDB server on a logical volume: locked, snapshot and read while it goes on writing."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault.adapters.sources.lvm import LvmSource
from snapvault.adapters.sources.mysql_quiesce import MysqlLvmSource, MysqlQuiesce
from snapvault.adapters.stores.directory import DirectoryStore
from snapvault.config.policies import load_policies
from snapvault.config.settings import load_settings
from snapvault.errors import QuiesceError
from snapvault.model.policy import LvmSpec, MysqlSpec
from snapvault.ports.source import Consistency, Quiesce
from snapvault.wiring.sources import source_of as source_by_policy
from tests.support import lvm
from tests.support.events import RecordedEvents
from tests.support.guest import REPOSITORY
from tests.support.lvm import MIB
from tests.support.mariadb import LOCK_GRANTS, LedgerWriter, MariadbServer, table_lock, template
from tests.support.vaults import VaultKit

SIZE = "96M"
# Committed rows are in the server's memory alone, for up to three seconds.
CARELESS = ("--innodb-flush-log-at-trx-commit=0", "--innodb-flush-log-at-timeout=3")


@pytest.fixture(scope="module")
def group() -> Iterator[str]:
    with lvm.volume_group() as name:
        yield name
        lvm.remove_volumes(name)


@pytest.fixture(scope="module")
def server(group: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariadbServer]:
    """A server whose data directory is on a logical volume."""
    mount = tmp_path_factory.mktemp("mysql")
    volume = lvm.thick(group, "db-data", SIZE)
    lvm.run("mkfs.ext4", "-q", f"/dev/{volume}")
    lvm.run("mount", f"/dev/{volume}", str(mount))
    try:
        lvm.run("cp", "-a", str(template()), str(mount / "data"))
        with MariadbServer(data=mount / "data", options=CARELESS) as running:
            running.run(LedgerWriter.SCHEMA)
            yield running
    finally:
        lvm.run("umount", str(mount))


@pytest.fixture
def kit(share: Path, tmp_path: Path) -> VaultKit:
    store = DirectoryStore(share / "vault")
    return VaultKit(tmp_path, store=store, block_size=16 << 10, volume_size=8 * MIB)


class Counter:
    """Another quiesce, within the lock: what the server holds when its snapshot is taken."""

    def __init__(self, server: MariadbServer) -> None:
        self._server = server
        self.rows = 0
        self.gtid = ""

    @contextmanager
    def __call__(self) -> Iterator[Consistency]:
        self.rows = int(self._server.value("SELECT COUNT(*) FROM bank.ledger"))
        self.gtid = self._server.value("SELECT @@gtid_binlog_pos")
        yield Consistency.CRASH


def source_of(
    server: MariadbServer,
    group: str,
    events: RecordedEvents,
    *inner: Quiesce,
    lock_timeout: int = 60,
) -> MysqlLvmSource:
    spec = MysqlSpec(
        server.create_account(*LOCK_GRANTS), lock_timeout=timedelta(seconds=lock_timeout)
    )
    lock = MysqlQuiesce(spec)
    volumes = {"mysql": LvmSpec(f"{group}/db-data", snapshot_size=64 * MIB)}
    disks = LvmSource("db01", volumes, owner="vault-1/db01", quiesce=(lock, *inner), events=events)
    return MysqlLvmSource(disks, lock)


def test_a_server_that_goes_on_writing_comes_back_as_it_was_under_the_lock(
    server: MariadbServer, group: str, kit: VaultKit, tmp_path: Path
) -> None:
    counter = Counter(server)
    source = source_of(server, group, kit.events, counter)
    with LedgerWriter(server) as writer:
        writer.wait_for(20)
        held = kit.night(source)
        writer.wait_for(20)
        written = writer.done
    restored = lvm.thick(group, "db-restored", SIZE)
    (tmp_path / "restored").mkdir()
    lvm.write(restored, 0, kit.restored(held.point)["mysql"])

    lvm.run("mount", f"/dev/{restored}", str(tmp_path / "restored"))
    try:
        with MariadbServer(data=tmp_path / "restored" / "data") as second:
            rows = int(second.value("SELECT COUNT(*) FROM bank.ledger"))
            last = int(second.value("SELECT MAX(id) FROM bank.ledger"))
            total = second.value("SELECT SUM(amount) FROM bank.accounts")
            gtid = second.value("SELECT @@gtid_binlog_pos")
    finally:
        lvm.run("umount", str(tmp_path / "restored"))

    assert counter.rows >= 20
    assert rows == last == counter.rows < written
    assert total == "5000"
    assert held.point.consistency == Consistency.APPLICATION.value
    assert held.point.streams[0].facts["gtid"] == counter.gtid == gtid
    assert lvm.snapshots_in(group) == []


def test_the_server_on_lvm_of_the_example_policy_is_backed_up(
    server: MariadbServer, group: str, kit: VaultKit, tmp_path: Path
) -> None:
    text = (REPOSITORY / "policies" / "mysql.yaml").read_text(encoding="utf-8")
    for theirs, ours in {
        "/etc/snapvault/warehouse.cnf": str(server.create_account(*LOCK_GRANTS)),
        "vg0/mysql": f"{group}/db-data",
    }.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "mysql.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "snapvault.yaml").write_text(
        "vaults: {offsite: {store: 'file:///nowhere', recipients: [r], signer: s}}"
    )
    (policy,) = load_policies(load_settings(tmp_path / "snapvault.yaml"))
    (spec,) = [each for each in policy.sources if each.name == "warehouse"]
    source = source_by_policy(
        spec,
        policy=policy.name,
        vault="offsite",
        vault_id="vault-1",
        folder=tmp_path / "state",
        events=kit.events,
    )

    findings = [*source.check()]
    held = kit.night(source)

    assert [finding for finding in findings if finding.error] == []
    assert held.point.consistency == Consistency.APPLICATION.value
    assert held.point.streams[0].size == 96 * MIB
    assert held.point.streams[0].facts["binlog_position"].isdigit()
    assert lvm.snapshots_in(group) == []


def test_a_lock_that_is_not_to_be_had_leaves_no_snapshot_and_the_next_run_works(
    server: MariadbServer, group: str
) -> None:
    events = RecordedEvents()

    with (
        table_lock(server, "bank.ledger"),
        pytest.raises(QuiesceError, match="could not lock the tables"),
    ):
        source_of(server, group, events, lock_timeout=1).open()
    left = lvm.snapshots_in(group)
    source_of(server, group, events).open().close()

    assert left == lvm.snapshots_in(group) == []
    server.run("INSERT INTO bank.ledger VALUES (-1, 'x'); DELETE FROM bank.ledger WHERE id = -1")


def test_a_snapshot_that_fails_gives_the_lock_back(server: MariadbServer, group: str) -> None:
    def failing() -> AbstractContextManager[Consistency]:
        raise QuiesceError("not now")

    with pytest.raises(QuiesceError, match="not now"):
        source_of(server, group, RecordedEvents(), failing).open()

    assert lvm.snapshots_in(group) == []
    server.run("INSERT INTO bank.ledger VALUES (-1, 'x'); DELETE FROM bank.ledger WHERE id = -1")
