# SPDX-License-Identifier: Apache-2.0
"""Keys change, and every point restores with the keys that it should restore with, and no others.

With real keys. Each machine has a home of its own, and a private key of its own alone.
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.sealers.addressees import GnupgAddressees
from snapvault.adapters.sealers.gnupg import open_sealer
from snapvault.adapters.sealers.reports import open_report_sealer
from snapvault.adapters.stores.memory import MemoryStore
from snapvault.engine import key_changes, notes, rekey
from snapvault.engine.contents import look_up
from snapvault.engine.readable import Share, shares
from snapvault.engine.restore import restore
from snapvault.engine.vault import Held, Vault, sync
from snapvault.engine.verify import Level
from snapvault.errors import ConfigError, IntegrityError, KeyMissingError
from snapvault.formats import names
from snapvault.model.notes import KeyChange
from snapvault.model.point import ObjectRecord, Point
from snapvault.ports.sealer import Readers, Sealer
from snapvault.ports.store import Store
from tests.support.catalogs import MemoryCatalog
from tests.support.keys import HOST, HOST2, RECOVERY, RECOVERY2, gnupg_home
from tests.support.stores import CrashingStore, PowerCut, RecordingStore
from tests.support.targets import MemoryTarget
from tests.support.vaults import MixedSource, VaultKit

pytestmark = pytest.mark.integration

ALL = ("recovery", "recovery2", "host", "host2")
CHANCE = random.Random(5)


class Machines:
    """Machines with a private key each; made when they are first asked for."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._homes: dict[str, Path] = {}

    def home(self, secret: str) -> Path:
        if secret not in self._homes:
            public = [name for name in ALL if name != secret]
            self._homes[secret] = self._stack.enter_context(gnupg_home([secret], public))
        return self._homes[secret]

    def sealer(
        self, secret: str, recipients: Sequence[str] = (RECOVERY,), signer: str = HOST
    ) -> Sealer:
        return open_sealer(
            self.home(secret), recipients=recipients, signer=signer, trusted_signers=[HOST, HOST2]
        )


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with ExitStack() as stack:
        yield Machines(stack)


@dataclass
class Story:
    """A vault with one source, a disk and a dump, that was backed up once."""

    kit: VaultKit
    machines: Machines
    source: MixedSource

    def settings(self, recipients: Sequence[str], signer: str = HOST) -> None:
        """Change the settings of the host that backs up."""
        secret = "host" if signer == HOST else "host2"
        self.kit.host_sealer = self.machines.sealer(secret, recipients, signer)

    def vault(self, sealer: Sealer, store: Store | None = None) -> Vault:
        """Return the vault as a fresh machine sees it."""
        folder = self.kit.folder / "machine"
        shutil.rmtree(folder, ignore_errors=True)
        return replace(self.kit.host(store), sealer=sealer, catalog=MemoryCatalog(), state=folder)

    def apply(self, secret: str = "host", store: Store | None = None) -> rekey.Plan:
        """Bring the vault in line on a machine, whose settings are as the host's."""
        wanted = self.kit.host_sealer
        sealer = self.machines.sealer(secret, wanted.recipients, wanted.signer)
        vault = self.vault(sealer, store)
        work = rekey.plan(vault, sync(vault))
        sign = open_report_sealer(self.machines.home(secret), sealer).sign
        rekey.apply(vault, work, sign, host="somewhere", tool="snapvault test")
        return work

    def change(self) -> None:
        disk = self.source.disks["root"]
        assert isinstance(disk, bytearray)
        disk[20_000:24_000] = CHANCE.randbytes(4000)
        self.source.streams["dump"] += CHANCE.randbytes(3000)

    def night(self, *, is_full: bool = False) -> Held:
        job = self.kit.job(self.source)
        home = self.machines.home("host")
        job = replace(job, vault=replace(job.vault, addressees=lambda: GnupgAddressees(home)))
        return replace(job, options=replace(job.options, is_full=is_full)).run()

    def shares(self, held: Held) -> Share:
        vault = self.vault(self.machines.sealer("recovery"))
        (found,) = shares(vault, [held], GnupgAddressees(self.machines.home("recovery")))
        return found

    def restores(self, point: Point, secret: str = "recovery") -> bool:
        """Tell whether a machine brings a point back exactly, or lacks the key for it."""
        vault = self.vault(self.machines.sealer(secret))
        try:
            contents = look_up(vault, point, point.streams)
            targets = [MemoryTarget(stream.size) for stream in point.streams]
            restore(vault, contents, targets)
        except KeyMissingError:
            return False
        assert [each.content for each in targets] == list(self.source.at(point).values())
        return True


@pytest.fixture
def story(tmp_path: Path, machines: Machines) -> Story:
    sealers = (machines.sealer("host"), machines.sealer("recovery"))
    kit = VaultKit(tmp_path, sealers=sealers, volume_size=32 << 10)
    source = MixedSource(
        disks={"root": bytearray(CHANCE.randbytes(90_000))},
        streams={"dump": CHANCE.randbytes(20_000)},
    )
    told = Story(kit, machines, source)
    told.night()
    return told


def test_a_new_recipient_restores_what_was_stored_since(story: Story) -> None:
    first = story.kit.inventory().held[-1]
    story.settings([RECOVERY, RECOVERY2])

    work = story.apply()
    story.change()
    second = story.night()
    share = story.shares(second)
    third = story.night(is_full=True)

    assert (work.added, work.removed, work.keys) == ((RECOVERY2,), (), (RECOVERY2,))
    assert second.point.counters["changed_bytes"] < 20_000  # the hashes went on being of use
    assert {each.partition("/")[2].partition("/")[2][:16] for each in _metadata(second.point)} == {
        second.point.point
    }
    assert RECOVERY2 in share.metadata
    assert 0 < share.opened_bytes[RECOVERY2] < share.data_bytes == share.opened_bytes[RECOVERY]
    assert not share.restores(RECOVERY2)
    assert story.shares(third).restores(RECOVERY2)
    points = [first.point, second.point, third.point]
    assert [story.restores(each) for each in points] == [True, True, True]
    assert [story.restores(each, "recovery2") for each in points] == [False, False, True]
    assert story.kit.verify(Level.FULL).findings == ()
    assert rekey.plan(story.kit.host(), sync(story.kit.host())).is_done


def test_a_lost_key_for_block_hashes_is_had_from_another_object(story: Story) -> None:
    first = story.kit.inventory().held[-1]
    story.settings([RECOVERY, RECOVERY2])
    story.apply()
    story.kit.store.delete([first.point.hash_key.name])

    assert story.restores(first.point)
    assert story.night().point.counters["changed_bytes"] == 0
    story.kit.store.delete([story.kit.inventory().held[-1].point.hash_key.name])
    with pytest.raises(IntegrityError, match=first.point.hash_key.name):
        story.restores(first.point)


def test_new_sources_share_the_volumes_that_are_sealed_to_the_recipients_of_now(
    story: Story,
) -> None:
    disk = story.source.disks["root"]
    nights = []
    for name, recipients in (
        ("web02", [RECOVERY]),
        ("web03", [RECOVERY, RECOVERY2]),
        ("web04", [RECOVERY, RECOVERY2]),
        ("web05", [RECOVERY]),
    ):
        if recipients != list(story.kit.host_sealer.recipients):
            story.settings(recipients)
            story.apply()
        story.source = MixedSource(name, disks={"root": disk})
        night = story.night()
        by_second = story.restores(night.point, "recovery2")
        nights.append((name, night.point.counters["deduplicated_bytes"] > 0, by_second))
        assert story.restores(night.point)

    assert nights == [
        ("web02", True, False),
        ("web03", False, True),
        ("web04", True, True),
        ("web05", False, False),
    ]


def test_a_recipient_that_nobody_sealed_for_yet_is_told_of(story: Story) -> None:
    story.settings([RECOVERY, RECOVERY2])
    story.night()
    story.settings([RECOVERY2])

    with pytest.raises(ConfigError, match=RECOVERY2) as refusal:
        story.night()

    assert refusal.value.hint == 'Run "snapvault keys apply offsite".'
    (warned,) = [each for each in story.kit.events.warnings if RECOVERY2 in each]
    assert "snapvault keys apply" in warned


def test_a_recipient_that_was_removed_opens_nothing_new(story: Story) -> None:
    story.settings([RECOVERY, RECOVERY2])
    story.apply()
    both = story.night(is_full=True)
    story.settings([RECOVERY])

    work = story.apply()
    story.change()
    later = story.night()
    share = story.shares(later)

    assert (work.added, work.removed) == ((), (RECOVERY2,))
    assert story.restores(both.point, "recovery2")
    assert not story.restores(later.point, "recovery2")
    assert RECOVERY2 not in share.metadata
    assert 0 < share.opened_bytes[RECOVERY2] < share.data_bytes  # what was stored before
    assert story.restores(later.point)


def test_a_new_host_goes_on_with_what_a_recovery_key_hands_over(story: Story) -> None:
    first = story.kit.inventory().held[-1]
    story.kit.lose_state()
    story.settings([RECOVERY], signer=HOST2)
    with pytest.raises(ConfigError, match="does not know this host"):
        story.night()

    work = story.apply("recovery")
    story.change()
    second = story.night()
    story.kit.lose_state()
    story.change()
    third = story.night()

    assert work.replaced == HOST
    assert [held.point for held in work.heads] == [first.point]
    for held in (second, third):
        assert held.signer == HOST2
        assert held.point.counters["changed_bytes"] < 20_000
    assert all(story.restores(each.point) for each in (first, second, third))
    assert story.kit.verify(Level.FULL).findings == ()


def test_a_host_with_a_second_key_needs_no_recovery_key(story: Story) -> None:
    story.settings([RECOVERY], signer=HOST2)

    story.apply("host")
    second = story.night()

    assert second.signer == HOST2
    assert second.point.counters["changed_bytes"] == 0
    assert second.point.counters["new_volumes"] == 0
    assert story.restores(second.point)


def test_a_source_that_is_damaged_keeps_no_other_from_being_handed_over(story: Story) -> None:
    other = MixedSource("other", disks={"root": bytearray(CHANCE.randbytes(5000))})
    story.kit.night(other)
    (damaged,) = (
        name for name in story.kit.objects(names.META) if "other" in name and "map" in name
    )
    story.kit.store.delete([damaged])
    story.settings([RECOVERY], signer=HOST2)

    story.apply("recovery")
    story.kit.lose_state()

    assert any('"other"' in each for each in story.kit.events.warnings)
    assert story.night().point.counters["changed_bytes"] == 0


def test_who_has_no_key_that_opens_it_hands_nothing_over(story: Story) -> None:
    story.settings([RECOVERY], signer=HOST2)
    before = story.kit.objects()

    with pytest.raises(KeyMissingError) as refusal:
        story.apply("host2")

    assert refusal.value.hint is not None
    assert "recovery key" in refusal.value.hint
    assert story.kit.objects() == before


def test_a_power_cut_while_keys_change_costs_nothing(story: Story) -> None:
    first = story.kit.inventory().held[-1]
    story.settings([RECOVERY, RECOVERY2], signer=HOST2)
    whole = story.kit.store
    recording = RecordingStore(_copy(whole))
    story.apply("recovery", recording)
    writes = recording.called("put")
    assert [_kind(name) for name in writes] == ["hash", "map", "sig", "change", "asc", "asc"]

    for number in range(len(writes)):
        story.kit.store = _copy(whole)
        cut = CrashingStore(story.kit.store, writes_before_crash=number)
        with pytest.raises(PowerCut):
            story.apply("recovery", cut)

        assert story.restores(first.point)
        story.apply("recovery")
        assert len(story.kit.objects(names.POINTS)) == 1
        story.kit.lose_state()
        held = story.night()
        assert held.point.counters["changed_bytes"] == 0
        assert story.restores(held.point)


def test_a_change_of_keys_that_a_stranger_signed_does_not_count(story: Story) -> None:
    stranger = open_sealer(
        story.machines.home("recovery2"), recipients=[RECOVERY], signer=RECOVERY2
    )
    vault = story.kit.host()
    before = key_changes.own_key(vault)
    forged = vault.sealer.seal(bytes(32), Readers.RECOVERY_AND_HOST)
    kit = story.kit
    name = names.later_hash_key(HOST, "ab" * 8)
    kit.store.put(name, forged)
    change = _change_to(name, forged)

    notes.put_key_change(vault, change, stranger.sign)

    assert key_changes.own_key(story.kit.host()).key == before.key
    assert story.night().point.counters["changed_bytes"] == 0


def test_a_key_that_was_put_in_the_place_of_ours_is_refused(story: Story) -> None:
    vault = story.kit.host()
    name = names.hash_key(HOST)
    story.kit.replace(name, vault.sealer.seal(bytes(32), Readers.RECOVERY_AND_HOST))
    story.settings([RECOVERY, RECOVERY2])

    with pytest.raises(IntegrityError, match="was replaced"):
        story.apply()


def _change_to(name: str, sealed: bytes) -> KeyChange:
    return KeyChange(
        id="ab" * 8,
        at=clock.now(),
        host="elsewhere",
        tool="forgery",
        signer=HOST,
        recipients=(RECOVERY,),
        hash_key=ObjectRecord(name, len(sealed), sha256(sealed).hexdigest()),
        same=(),
    )


def _copy(store: Store) -> MemoryStore:
    copied = MemoryStore()
    for found in store.names():
        copied.put(found.name, store.get(found.name))
    return copied


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _metadata(point: Point) -> list[str]:
    return [record.name for record in point.objects]
