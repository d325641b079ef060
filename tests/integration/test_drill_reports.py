# SPDX-License-Identifier: Apache-2.0
"""Reports of drills in a vault, with real GnuPG: who can write them, read them, and is believed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.sealers.gnupg import open_sealer
from snapvault.adapters.sealers.reports import open_report_sealer
from snapvault.adapters.stores.memory import MemoryStore
from snapvault.engine import drill_reports
from snapvault.engine.drill_reports import HeldReport
from snapvault.engine.vault import Vault
from snapvault.engine.verify import Level
from snapvault.errors import IntegrityError, KeyMissingError
from snapvault.formats import drill_report, names
from snapvault.model.drills import DrillReport
from snapvault.ports.sealer import Readers, Sealer
from snapvault.ports.store import Store
from tests.support import keys
from tests.support import reports as drills
from tests.support.vaults import VaultKit

pytestmark = pytest.mark.integration


@dataclass
class Site:
    """A vault with its backup host, a second host, and a machine with the recovery key."""

    kit: VaultKit
    homes: dict[str, Path]

    def vault(self, who: str, store: Store | None = None) -> Vault:
        """Return the vault as one of them sees it; the second host is trusted by all."""
        signer = keys.HOST2 if who == "host2" else keys.HOST
        sealer = open_sealer(
            self.homes[who],
            recipients=[keys.RECOVERY],
            signer=signer,
            trusted_signers=[keys.HOST, keys.HOST2],
        )
        state = self.kit.folder / who
        state.mkdir(exist_ok=True)
        return replace(self.kit.host(store), sealer=sealer, state=state)

    def report_keys(self, who: str) -> Sealer:
        return open_report_sealer(self.homes[who], self.vault(who).sealer)

    def put(self, who: str, report: DrillReport) -> str:
        return drill_reports.put(self.vault(who), self.report_keys(who), report)

    def problem(self, who: str = "host") -> str:
        """Return what is said of the only report, which is not believed."""
        found = drill_reports.collect(self.vault(who))
        assert found.held == ()
        (problem,) = found.problems
        return str(problem)


@pytest.fixture(scope="module")
def homes() -> Iterator[dict[str, Path]]:
    everybody = ["recovery", "host", "host2"]
    with (
        keys.gnupg_home(secret=["host"], public=[*everybody, "revoked"]) as host,
        keys.gnupg_home(secret=["host2"], public=everybody) as host2,
        keys.gnupg_home(secret=["recovery"], public=[*everybody, "expired"]) as recovery,
        keys.gnupg_home(secret=["recovery2"], public=everybody) as stranger,
    ):
        yield {"host": host, "host2": host2, "recovery": recovery, "stranger": stranger}


@pytest.fixture
def site(tmp_path: Path, homes: dict[str, Path]) -> Site:
    sealers = tuple(
        open_sealer(homes[who], recipients=[keys.RECOVERY], signer=keys.HOST)
        for who in ("host", "recovery")
    )
    return Site(VaultKit(tmp_path, store=MemoryStore(), sealers=(sealers[0], sealers[1])), homes)


REPORT = drills.report(
    drills.step(console="web01 login: ", screenshot=drills.png(), commands=("true",)),
    drills.failed("db01"),
)


@pytest.mark.parametrize("writer", ["host", "recovery"])
@pytest.mark.parametrize("reader", ["host", "host2", "recovery"])
def test_a_report_is_read_as_it_was_written_by_every_trusted_host(
    site: Site, writer: str, reader: str
) -> None:
    name = site.put(writer, REPORT)

    found = drill_reports.read(site.vault(reader), name)

    signer = {"host": keys.HOST, "recovery": keys.RECOVERY}[writer]
    assert found == HeldReport(REPORT, name, signer, site.kit.record.vault)


def test_nobody_else_reads_a_report(site: Site) -> None:
    name = site.put("recovery", REPORT)
    sealed = keys.gpg(
        site.homes["stranger"], "--trust-model", "always", "-d", data=site.kit.store.get(name)
    )

    assert b"web01" not in sealed
    with pytest.raises(KeyMissingError, match=f'drill report "{name}" is sealed to other keys'):
        drill_reports.read(site.vault("stranger"), name)


def test_a_report_is_known_by_the_readers_own_name_of_the_vault(site: Site) -> None:
    name = site.put("recovery", REPORT)

    found = drill_reports.read(replace(site.vault("host"), name="acme"), name)

    assert found.report.vault == "acme"
    assert [str(step.key) for step in found.report.steps] == ["acme/web01", "acme/db01"]


def test_a_retired_host_whose_key_has_expired_does_not_keep_reports_from_being_made(
    site: Site,
) -> None:
    vault = site.vault("recovery")
    old = [keys.HOST2, keys.FINGERPRINTS["expired"]]
    sealer = open_sealer(
        site.homes["recovery"], recipients=[keys.RECOVERY], signer=keys.HOST, trusted_signers=old
    )
    report_keys = open_report_sealer(site.homes["recovery"], sealer)

    name = drill_reports.put(vault, report_keys, REPORT)

    assert drill_reports.read(site.vault("host2"), name).report == REPORT


def test_without_a_key_that_may_sign_it_is_said_which_ones_may(site: Site) -> None:
    with pytest.raises(KeyMissingError, match="no key that may sign drill reports") as caught:
        site.report_keys("stranger")

    assert "recovery key" in str(caught.value.hint)


def test_a_report_signed_by_a_stranger_is_told_and_not_believed(site: Site) -> None:
    readers = site.report_keys("recovery")
    sealed = readers.seal(drill_report.encode(REPORT, site.kit.record.vault), Readers.RECOVERY)
    signed = keys.gpg(
        site.homes["stranger"],
        "--compress-algo=none",
        "--local-user",
        keys.RECOVERY2,
        "--sign",
        data=sealed,
    )
    name = names.drill_report(REPORT.started, REPORT.id)
    site.kit.store.put(name, signed)
    with keys.gnupg_home(secret=["host"], public=["recovery", "recovery2"]) as home:
        sealer = open_sealer(home, recipients=[keys.RECOVERY], signer=keys.HOST)

        found = drill_reports.collect(replace(site.vault("host"), sealer=sealer))

    assert found.held == ()
    assert [str(problem) for problem in found.problems] == [
        f'drill report "{name}" is signed by {keys.RECOVERY2}, which the settings do not trust'
    ]


def test_a_flipped_bit_is_told_wherever_it_is(site: Site) -> None:
    name = site.put("recovery", REPORT)
    good = site.kit.store.get(name)

    for place in range(0, len(good), len(good) // 12):
        bad = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
        store = MemoryStore()
        store.put(name, bad)
        found = drill_reports.collect(site.vault("host", store))

        assert found.held == (), place
        assert f'"{name}"' in str(found.problems[0])


def test_a_report_that_was_cut_short_is_told(site: Site) -> None:
    name = site.put("recovery", REPORT)
    whole = site.kit.store.get(name)
    site.kit.store.delete([name])
    site.kit.store.put(name, whole[: len(whole) * 2 // 3])

    assert f'drill report "{name}" is not to be trusted' in site.problem()


def test_a_report_that_was_renamed_is_told(site: Site) -> None:
    name = site.put("recovery", REPORT)
    later = name.replace("20261121", "20270101")
    site.kit.store.put(later, site.kit.store.get(name))
    site.kit.store.delete([name])

    assert site.problem() == f'drill report "{later}" is out of place: it says that it is "{name}"'


def test_reports_that_were_swapped_are_told(site: Site) -> None:
    one, two = site.put("recovery", drills.at(0, 1)), site.put("recovery", drills.at(1, 2))
    bytes_of_one, bytes_of_two = site.kit.store.get(one), site.kit.store.get(two)
    site.kit.store.delete([one, two])
    site.kit.store.put(one, bytes_of_two)
    site.kit.store.put(two, bytes_of_one)

    found = drill_reports.collect(site.vault("host"))

    assert found.held == ()
    assert all("out of place" in str(problem) for problem in found.problems)
    assert len(found.problems) == 2


def test_a_report_of_another_vault_is_told(site: Site) -> None:
    elsewhere = replace(site.vault("recovery"), record=replace(site.kit.record, vault="ab" * 16))
    name = drill_reports.put(elsewhere, site.report_keys("recovery"), REPORT)

    assert site.problem() == f'drill report "{name}" belongs to another vault, "{"ab" * 16}"'


def test_something_else_that_a_trusted_host_signed_is_no_report(site: Site) -> None:
    name = names.drill_report(REPORT.started, REPORT.id)
    site.kit.store.put(name, site.vault("host").sealer.sign(b'{"format": 1}'))

    assert f'drill report "{name}" is damaged' in site.problem()


def test_two_drills_of_the_same_second_are_both_there(site: Site) -> None:
    for number in (2, 1):
        site.put("recovery", drills.at(0, number))

    found = drill_reports.collect(site.vault("host"))

    assert [held.report.id for held in found.held] == [f"{n:016x}" for n in (1, 2)]
    assert found.problems == ()


def test_a_report_is_fetched_once(site: Site) -> None:
    for number in range(3):
        site.put("recovery", drills.at(number, number, drills.step(console="x" * 50_000)))
    first = drill_reports.collect(site.vault("host"))
    store = _Counting(site.kit.store)

    second = drill_reports.collect(site.vault("host", store))

    assert second == first
    assert store.fetched == []
    assert [step.console for held in second.held for step in held.report.steps] == ["", "", ""]
    kept = list((site.kit.folder / "host" / "drills").iterdir())
    assert sum(path.stat().st_size for path in kept) < 20_000


def test_what_was_kept_and_is_damaged_is_fetched_again(site: Site) -> None:
    site.put("recovery", REPORT)
    first = drill_reports.collect(site.vault("host"))
    (kept,) = (site.kit.folder / "host" / "drills").iterdir()
    kept.write_bytes(kept.read_bytes().replace(b"no login", b"a  login"))

    assert drill_reports.collect(site.vault("host")) == first


def test_no_more_than_so_many_are_fetched_and_the_newest_come_first(site: Site) -> None:
    for number in range(4):
        site.put("recovery", drills.at(number, number))

    found = drill_reports.collect(site.vault("host"), most=2)

    assert [held.report.id for held in found.held] == [f"{n:016x}" for n in (2, 3)]
    assert found.left_out == 2


def test_what_could_not_be_believed_is_left_alone_for_a_day_by_who_looks_all_the_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = site.put("host2", REPORT)
    alone = open_sealer(site.homes["host"], recipients=[keys.RECOVERY], signer=keys.HOST)
    store = _Counting(site.kit.store)
    vault = replace(site.vault("host", store), sealer=alone)
    first, second = (drill_reports.collect(vault, most=9) for _ in range(2))
    by_hand = drill_reports.collect(vault)
    trusting = drill_reports.collect(site.vault("host", store), most=9)
    (site.kit.folder / "host" / "drills" / f"{name.removeprefix('drills/')}.json").unlink()
    drill_reports.collect(vault)
    day_later = clock.now() + timedelta(days=1)
    monkeypatch.setattr(clock, "now", lambda: day_later)
    tomorrow = drill_reports.collect(vault, most=9)

    told = [bool(each.problems) for each in (first, second, by_hand, trusting, tomorrow)]
    assert told == [True, False, True, False, True]
    assert len(trusting.held) == 1
    assert store.fetched == [name] * 5


def test_who_is_not_trusted_any_more_is_not_believed_any_more(site: Site) -> None:
    site.put("host2", REPORT)
    assert drill_reports.collect(site.vault("host")).held != ()
    alone = open_sealer(site.homes["host"], recipients=[keys.RECOVERY], signer=keys.HOST)

    found = drill_reports.collect(replace(site.vault("host"), sealer=alone))

    assert found.held == ()
    assert "which the settings do not trust" in str(found.problems[0])


def test_a_report_that_vanished_is_told(site: Site) -> None:
    gone, stays = site.put("recovery", drills.at(0, 1)), site.put("recovery", drills.at(1, 2))
    drill_reports.collect(site.vault("host"))
    site.kit.store.delete([gone])

    found = drill_reports.collect(site.vault("host"))

    assert [held.name for held in found.held] == [stays]
    assert [str(p) for p in found.problems] == [
        f'drill report "{gone}" was in the vault and is gone'
    ]


def test_other_objects_beside_reports_are_nobodys_business(site: Site) -> None:
    site.kit.store.put("drills/README", b"?")
    site.kit.store.put("drills/20261121T023000Z-.report", b"?")

    found = drill_reports.collect(site.vault("host"))

    assert (found.held, found.problems) == ((), ())


@pytest.mark.parametrize("level", [Level.DATA, Level.OBJECTS])
def test_verify_looks_at_the_signatures_without_a_private_key(site: Site, level: Level) -> None:
    good, bad = site.put("recovery", drills.at(0, 1)), site.put("recovery", drills.at(1, 2))
    stored = site.kit.store.get(bad)
    site.kit.store.delete([bad])
    site.kit.store.put(bad, stored[:-1] + bytes([stored[-1] ^ 1]))
    with keys.gnupg_home(public=["host", "recovery", "host2"]) as home:
        sealer = open_sealer(home, recipients=[keys.RECOVERY], signer=keys.HOST)
        vault = replace(site.vault("host"), sealer=sealer)

        report = site.kit.verify(level, vault)

    told = [finding.message for finding in report.findings]
    assert not any(good in message for message in told)
    assert any(bad in message for message in told) is (level is Level.DATA)


class _Counting(MemoryStore):
    """A store that remembers what was fetched."""

    def __init__(self, inner: Store) -> None:
        super().__init__()
        for found in inner.names():
            super().put(found.name, inner.get(found.name))
        self.fetched: list[str] = []

    def get(self, name: str) -> bytes:
        self.fetched.append(name)
        return super().get(name)


def test_a_report_too_large_to_be_one_is_not_fetched(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = site.put("recovery", REPORT)
    monkeypatch.setattr(drill_reports, "MOST_BYTES", 100)
    store = _Counting(site.kit.store)

    found = drill_reports.collect(site.vault("host", store))

    assert "bytes, which no report has" in str(found.problems[0])
    assert store.fetched == []
    with pytest.raises(IntegrityError):
        drill_reports.read(site.vault("host"), name)
