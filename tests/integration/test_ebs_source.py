# SPDX-License-Identifier: Apache-2.0
"""EBS volumes as a source, against a cloud as strict as Amazon's."""

import os
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from snapvault import clock
from snapvault.adapters.sources.ebs import EbsSource
from snapvault.adapters.targets.file import FileTarget
from snapvault.engine.restore import restore
from snapvault.errors import QuiesceError, SourceError
from snapvault.model.point import Point
from snapvault.model.policy import EbsSpec
from snapvault.ports.source import ByteStream, Consistency, DiskStream, Quiesce
from tests.support.ebs_fake import (
    BROKEN,
    EC2_THROTTLED,
    THROTTLED,
    Cut,
    EbsFake,
    LostAnswer,
)
from tests.support.ebs_fake_world import BLOCK, GIB, Instance, Volume
from tests.support.events import RecordedEvents
from tests.support.vaults import VaultKit

pytestmark = pytest.mark.integration

OWNER = "5a5a/web01"


class Time:
    """Time that passes at once when somebody sleeps, and by itself unless it `stands_still`."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.stands_still = False
        self._lock = threading.Lock()
        self._monotonic = clock.monotonic
        self._begun = clock.monotonic()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)

    def monotonic(self) -> float:
        return (self._begun if self.stands_still else self._monotonic()) + sum(self.slept)


@pytest.fixture
def fake() -> Iterator[EbsFake]:
    with EbsFake() as fake:
        os.environ.update(fake.environment())
        yield fake


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Time:
    passing = Time()
    monkeypatch.setattr(clock, "sleep", passing.sleep)
    monkeypatch.setattr(clock, "monotonic", passing.monotonic)
    return passing


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


def block_of(seed: int) -> bytes:
    return random.Random(seed).randbytes(BLOCK)


def filled(fake: EbsFake, numbers: Sequence[int], *, gib: int = 1) -> Volume:
    """Make a volume with data in these blocks."""
    volume = fake.add_volume(gib)
    for number in numbers:
        volume.write(number * BLOCK, block_of(number))
    return volume


def source_of(
    fake: EbsFake,
    events: RecordedEvents,
    *,
    quiesce: Sequence[Quiesce] = (),
    owner: str = OWNER,
    prefix: str = "",
    **settings: Any,
) -> EbsSource:
    spec = EbsSpec(
        **{
            "region": "eu-west-1",
            "endpoint_url": fake.endpoint_url,
            "requests_per_second": 100_000,
            **settings,
        }
    )
    return EbsSource(
        "web01", "ebs", spec, owner=owner, events=events, prefix=prefix, quiesce=quiesce
    )


def only_disk(streams: tuple[DiskStream | ByteStream, ...]) -> DiskStream:
    (stream,) = streams
    assert isinstance(stream, DiskStream)
    return stream


def read(disk: DiskStream, start: int, end: int) -> bytes:
    buffer = memoryview(bytearray(end - start))
    disk.read_into(start, buffer)
    return bytes(buffer)


def data_of(disk: DiskStream) -> dict[int, bytes]:
    """Return the blocks in the data ranges."""
    found = {}
    for start, end in disk.data_ranges():
        for offset in range(start, end, BLOCK):
            found[offset // BLOCK] = read(disk, offset, offset + BLOCK)
    return found


def snapshots(fake: EbsFake) -> list[str]:
    return [one.id for one in fake.own_snapshots()]


def commit(source: EbsSource, marks: dict[str, str] | None = None) -> dict[str, str]:
    """Make a night that reads nothing; return its marks."""
    view = source.open(marks or {})
    outcome = view.finish()
    view.committed("point")
    view.close()
    return dict(outcome.marks)


# --- the first night ------------------------------------------------------------------------


def test_the_first_night_reads_the_blocks_that_hold_data(
    fake: EbsFake, events: RecordedEvents
) -> None:
    volume = filled(fake, [0, 1, 2, 700, 2047])
    view = source_of(fake, events, volume=volume.id).open()
    disk = only_disk(view.streams)

    ranges = list(disk.data_ranges())
    found = data_of(disk)
    outcome = view.finish()
    view.committed("p1")
    view.close()

    assert (disk.name, disk.size, disk.changes()) == ("ebs", GIB, None)
    assert ranges == [(0, 3 * BLOCK), (700 * BLOCK, 701 * BLOCK), (2047 * BLOCK, GIB)]
    assert found == {number: block_of(number) for number in (0, 1, 2, 700, 2047)}
    assert outcome.consistency is Consistency.CRASH
    assert list(outcome.marks) == ["ebs"]
    assert outcome.facts == {"ebs": {"volume": volume.id, "region": "eu-west-1"}}
    assert view.taken_at.utcoffset() == timedelta(0)
    assert snapshots(fake) == [outcome.marks["ebs"]]


def test_pages_that_are_short_or_empty_lose_nothing(fake: EbsFake, events: RecordedEvents) -> None:
    numbers = [*range(0, 60, 2), 1999, 2000]
    volume = filled(fake, numbers)
    fake.direct.page_cap = 3
    fake.direct.empty_every = 2
    view = source_of(fake, events, volume=volume.id).open()

    found = data_of(only_disk(view.streams))
    view.close()

    assert found == {number: block_of(number) for number in numbers}


def test_any_range_is_read_and_what_has_no_block_is_zeros(
    fake: EbsFake, events: RecordedEvents
) -> None:
    volume = filled(fake, [0, 1, 3, 2047])
    view = source_of(fake, events, volume=volume.id).open()
    disk = only_disk(view.streams)

    for start, end in [
        (0, 0),
        (1, 2),
        (BLOCK - 1, BLOCK + 1),
        (4096, 5 * BLOCK - 7),
        (2 * BLOCK, 3 * BLOCK),
        (GIB - BLOCK - 5, GIB),
    ]:
        assert read(disk, start, end) == volume.read(start, end - start)
    with pytest.raises(SourceError, match=f"ends at {GIB} bytes"):
        read(disk, GIB - 1, GIB + 1)
    view.close()


def test_reads_in_small_pieces_fetch_a_block_once(fake: EbsFake, events: RecordedEvents) -> None:
    volume = filled(fake, [5])
    view = source_of(fake, events, volume=volume.id).open()
    disk = only_disk(view.streams)

    pieces = [read(disk, at, at + 16384) for at in range(5 * BLOCK, 6 * BLOCK, 16384)]
    view.close()

    assert b"".join(pieces) == block_of(5)
    assert fake.calls["GetSnapshotBlock"] == 1


def test_many_blocks_are_in_flight_at_once_from_several_threads(
    fake: EbsFake, events: RecordedEvents
) -> None:
    volume = filled(fake, range(32))
    fake.together["GetSnapshotBlock"] = 9
    view = source_of(fake, events, volume=volume.id).open()
    disk = only_disk(view.streams)
    found: dict[int, bytes] = {}

    def work(start: int) -> None:
        found[start] = read(disk, start, start + 16 * BLOCK)

    threads = [threading.Thread(target=work, args=(at * BLOCK,)) for at in (0, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    view.close()

    assert found[0] + found[16 * BLOCK] == volume.read(0, 32 * BLOCK)
    assert 8 < fake.most_in_flight["GetSnapshotBlock"] <= 32


# --- later nights ---------------------------------------------------------------------------


def test_the_next_night_tells_and_reads_only_what_changed(
    fake: EbsFake, events: RecordedEvents
) -> None:
    volume = filled(fake, [0, 1, 2, 3, 100])
    source = source_of(fake, events, volume=volume.id)
    marks = commit(source)
    volume.write(1 * BLOCK + 9, b"new")
    volume.write(500 * BLOCK, b"new")
    volume.discard(3 * BLOCK, BLOCK)

    view = source.open(marks)
    disk = only_disk(view.streams)
    changes = disk.changes()
    found = [read(disk, start, end) for start, end in changes.ranges] if changes else []
    holes = list(disk.data_ranges())
    fetched = fake.calls["GetSnapshotBlock"]
    unchanged = read(disk, 100 * BLOCK, 101 * BLOCK)
    view.close()

    assert changes is not None
    assert changes.grain == BLOCK
    assert list(changes.ranges) == [
        (1 * BLOCK, 2 * BLOCK),
        (3 * BLOCK, 4 * BLOCK),
        (500 * BLOCK, 501 * BLOCK),
    ]
    assert found == [
        volume.read(BLOCK, BLOCK),
        bytes(BLOCK),
        volume.read(500 * BLOCK, BLOCK),
    ]
    assert holes == [(0, 3 * BLOCK), (4 * BLOCK, GIB)]
    assert fetched == 2
    assert unchanged == block_of(100)
    assert events.warnings == []


def test_a_night_without_changes_tells_so(fake: EbsFake, events: RecordedEvents) -> None:
    volume = filled(fake, [7])
    source = source_of(fake, events, volume=volume.id)
    marks = commit(source)

    view = source.open(marks)
    changes = only_disk(view.streams).changes()
    view.close()

    assert changes is not None
    assert list(changes.ranges) == []


def test_changes_come_over_pages_that_are_short_or_empty(
    fake: EbsFake, events: RecordedEvents
) -> None:
    volume = filled(fake, range(40))
    source = source_of(fake, events, volume=volume.id)
    marks = commit(source)
    numbers = [0, 1, *range(3, 40, 3), 41]
    for number in numbers:
        volume.write(number * BLOCK, block_of(1000 + number))
    fake.direct.page_cap = 2
    fake.direct.empty_every = 3

    view = source.open(marks)
    disk = only_disk(view.streams)
    changes = disk.changes()
    assert changes is not None
    listed = [at // BLOCK for start, end in changes.ranges for at in range(start, end, BLOCK)]
    found = [read(disk, number * BLOCK, (number + 1) * BLOCK) for number in numbers]
    view.close()

    assert listed == numbers
    assert found == [block_of(1000 + number) for number in numbers]


def test_a_volume_that_grew_says_so_of_its_new_end(fake: EbsFake, events: RecordedEvents) -> None:
    volume = filled(fake, [7])
    source = source_of(fake, events, volume=volume.id)
    marks = commit(source)
    volume.gib = 2
    volume.write(GIB + BLOCK, b"new")

    view = source.open(marks)
    disk = only_disk(view.streams)
    changes = disk.changes()
    end = read(disk, GIB, GIB + 3 * BLOCK)
    view.close()

    assert changes is not None
    assert list(changes.ranges) == [(GIB, 2 * GIB)]
    assert end == volume.read(GIB, 3 * BLOCK)


@pytest.mark.parametrize("how", ["deleted", "archived", "unrelated", "larger"])
def test_a_mark_that_is_lost_costs_a_full_read_and_a_warning(
    how: str, fake: EbsFake, events: RecordedEvents
) -> None:
    volume = filled(fake, [7])
    source = source_of(fake, events, volume=volume.id)
    marks = commit(source)
    parent = fake.world.snapshots[marks["ebs"]]
    if how == "deleted":
        del fake.world.snapshots[parent.id]
    elif how == "archived":
        parent.tier = "archive"
    elif how == "unrelated":
        parent.lineage = "vol-0other"
    else:
        parent.gib = 2

    view = source.open(marks)
    disk = only_disk(view.streams)
    found = data_of(disk)
    view.close()

    assert disk.changes() is None
    assert found == {7: block_of(7)}
    assert "hint.lost" in events.names()
    assert (
        f'stream "ebs" of source "web01" is read as a whole: snapshot "{parent.id}"'
        in (events.warnings[0])
    )


# --- instances ------------------------------------------------------------------------------


def machine(fake: EbsFake) -> Instance:
    return fake.add_instance(
        {
            "/dev/xvda": filled(fake, [0]),
            "/dev/sdb1": filled(fake, [1], gib=2),
            "/dev/sdc": filled(fake, [2]),
        }
    )


def test_the_volumes_of_an_instance_are_streams_by_device(
    fake: EbsFake, events: RecordedEvents
) -> None:
    instance = machine(fake)
    view = source_of(fake, events, instance=instance.id, prefix="disks.").open()

    disks = [stream for stream in view.streams if isinstance(stream, DiskStream)]
    found = {disk.name: data_of(disk) for disk in disks}
    outcome = view.finish()
    view.close()

    assert found == {
        "disks.xvda": {0: block_of(0)},
        "disks.sdb1": {1: block_of(1)},
        "disks.sdc": {2: block_of(2)},
    }
    assert [disk.size for disk in disks] == [GIB, 2 * GIB, GIB]
    assert outcome.facts["disks.sdb1"]["device"] == "/dev/sdb1"
    assert fake.calls["CreateSnapshots"] == 1
    assert fake.calls["CreateSnapshot"] == 0


@pytest.mark.parametrize("boot", [True, False])
def test_only_chosen_volumes_are_snapshot(
    *, boot: bool, fake: EbsFake, events: RecordedEvents
) -> None:
    instance = machine(fake)
    devices = ("xvda",) if boot else (instance.volumes["/dev/sdc"].id, "/dev/sdb1")

    view = source_of(fake, events, instance=instance.id, devices=devices).open()
    names = [stream.name for stream in view.streams]
    made = len(snapshots(fake))
    view.close()

    assert names == (["xvda"] if boot else ["sdb1", "sdc"])
    assert made == len(names)


def test_increments_of_an_instance_go_on_volume_by_volume(
    fake: EbsFake, events: RecordedEvents
) -> None:
    instance = machine(fake)
    source = source_of(fake, events, instance=instance.id)
    marks = commit(source)
    instance.volumes["/dev/sdc"].write(0, b"new")

    view = source.open({name: mark for name, mark in marks.items() if name != "sdb1"})
    changes = {
        stream.name: stream.changes() for stream in view.streams if isinstance(stream, DiskStream)
    }
    view.close()

    told = {name: list(found.ranges) if found else None for name, found in changes.items()}
    assert told == {"xvda": [], "sdb1": None, "sdc": [(0, BLOCK)]}


def test_a_device_that_is_not_there_is_named_with_its_nearest(
    fake: EbsFake, events: RecordedEvents
) -> None:
    source = source_of(fake, events, instance=machine(fake).id, devices=("/dev/xvdb",))

    with pytest.raises(SourceError, match='has no device "/dev/xvdb"') as caught:
        source.open()

    assert caught.value.hint is not None
    assert 'Did you mean "/dev/xvda"?' in caught.value.hint
    assert snapshots(fake) == []


# --- rest -----------------------------------------------------------------------------------


def test_quiesces_are_held_around_the_snapshot_alone_and_raise_the_consistency(
    fake: EbsFake, events: RecordedEvents
) -> None:
    volume = filled(fake, [0])
    told: list[str] = []

    def quiesce(name: str, level: Consistency) -> Quiesce:
        def enter() -> AbstractContextManager[Consistency]:
            @contextmanager
            def held() -> Iterator[Consistency]:
                told.append(f"{name} rests")
                yield level
                told.append(f"{name} goes on")

            return held()

        return enter

    fake.before["CreateSnapshot"] = lambda: told.append("snapshot")
    fake.before["DescribeVolumes"] = lambda: told.append("lookup")
    both = [
        quiesce("database", Consistency.APPLICATION),
        quiesce("files", Consistency.FILE_SYSTEM),
    ]
    view = source_of(fake, events, volume=volume.id, quiesce=both).open()

    consistency = view.finish().consistency
    view.close()

    assert consistency is Consistency.APPLICATION
    assert told == [
        "lookup",
        "database rests",
        "files rests",
        "snapshot",
        "files goes on",
        "database goes on",
    ]


@pytest.mark.parametrize("late", [False, True])
def test_a_quiesce_that_fails_leaves_no_snapshot(
    *, late: bool, fake: EbsFake, events: RecordedEvents
) -> None:
    @contextmanager
    def held() -> Iterator[Consistency]:
        if not late:
            raise QuiesceError("it will not rest")
        yield Consistency.APPLICATION
        raise QuiesceError("it will not go on")

    source = source_of(fake, events, volume=filled(fake, [0]).id, quiesce=[held])

    with pytest.raises(QuiesceError, match="it will not"):
        source.open()

    assert snapshots(fake) == []


# --- waiting --------------------------------------------------------------------------------


def test_snapshots_are_awaited_with_longer_and_longer_pauses(
    fake: EbsFake, events: RecordedEvents, quick: Time
) -> None:
    fake.world.looks_until_completed = 8
    view = source_of(fake, events, volume=filled(fake, [0]).id).open()

    found = data_of(only_disk(view.streams))
    view.close()

    assert found == {0: block_of(0)}
    pauses = [pause for pause in quick.slept if pause >= 1]
    assert pauses[:6] == [1, 2, 4, 8, 16, 30]


def test_a_snapshot_in_error_is_named_and_all_of_the_run_go(
    fake: EbsFake, events: RecordedEvents
) -> None:
    fake.world.snapshots_to_fail = 1
    source = source_of(fake, events, instance=machine(fake).id)

    with pytest.raises(
        SourceError, match=r'snapshot "snap-\w+" of volume "vol-\w+" is in state "error"'
    ):
        source.open()

    assert snapshots(fake) == []
    commit(source)


def test_a_signal_while_snapshots_are_awaited_leaves_none(
    fake: EbsFake, events: RecordedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.world.looks_until_completed = 8
    source = source_of(fake, events, instance=machine(fake).id)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(clock, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            source.open()

    assert snapshots(fake) == []
    commit(source)


def test_waiting_ends_with_the_timeout(fake: EbsFake, events: RecordedEvents) -> None:
    fake.world.looks_until_completed = 1 << 30
    source = source_of(fake, events, volume=filled(fake, [0]).id, timeout=timedelta(minutes=10))

    with pytest.raises(SourceError, match="was not completed in 600 s") as caught:
        source.open()

    assert "timeout" in (caught.value.hint or "")
    assert snapshots(fake) == []


# --- faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [THROTTLED, BROKEN, Cut()])
def test_calls_that_fail_for_a_while_are_repeated(
    fault: Any, fake: EbsFake, events: RecordedEvents, quick: Time
) -> None:
    volume = filled(fake, range(20))
    for name in ("ListSnapshotBlocks", "GetSnapshotBlock", "DescribeSnapshots"):
        fake.inject(name, fault, times=4)
    view = source_of(fake, events, volume=volume.id).open()

    found = data_of(only_disk(view.streams))
    view.close()

    assert found == {number: block_of(number) for number in range(20)}
    assert [fields["retries"] for name, fields in events.events if name == "ebs.read"] == [8]
    assert all(pause <= 20 for pause in quick.slept)


def test_throttling_for_ever_ends_in_one_line(fake: EbsFake, events: RecordedEvents) -> None:
    volume = filled(fake, [3])
    fake.throttle("GetSnapshotBlock", every=1)
    view = source_of(fake, events, volume=volume.id).open()

    with pytest.raises(SourceError, match=r"could not read block 3 of .* asked us to slow down"):
        read(only_disk(view.streams), 3 * BLOCK, 4 * BLOCK)
    view.close()

    assert fake.calls["GetSnapshotBlock"] == 10
    assert snapshots(fake) == []


def test_calls_keep_to_the_pace(fake: EbsFake, events: RecordedEvents, quick: Time) -> None:
    volume = filled(fake, range(40))
    view = source_of(fake, events, volume=volume.id, requests_per_second=2).open()
    quick.stands_still = True  # or what the calls take on a busy machine is not slept
    before = sum(quick.slept)

    read(only_disk(view.streams), 0, 40 * BLOCK)
    view.close()

    assert sum(quick.slept) - before >= 18


def test_a_block_that_arrives_damaged_is_fetched_again(
    fake: EbsFake, events: RecordedEvents
) -> None:
    volume = filled(fake, [3])
    view = source_of(fake, events, volume=volume.id).open()
    fake.own_snapshots()[0].corrupt[3] = 3

    found = read(only_disk(view.streams), 3 * BLOCK, 4 * BLOCK)
    view.close()

    assert found == block_of(3)
    assert fake.calls["GetSnapshotBlock"] == 4


def test_a_block_that_always_arrives_damaged_fails(fake: EbsFake, events: RecordedEvents) -> None:
    volume = filled(fake, [3])
    view = source_of(fake, events, volume=volume.id).open()
    fake.own_snapshots()[0].corrupt[3] = 1 << 30

    with pytest.raises(SourceError, match=r"block 3 of snapshot .* arrived damaged 4 times"):
        read(only_disk(view.streams), 3 * BLOCK, 4 * BLOCK)
    view.close()


def test_a_page_token_that_expired_is_replaced(fake: EbsFake, events: RecordedEvents) -> None:
    volume = filled(fake, range(0, 40, 2))
    fake.direct.page_cap = 4
    view = source_of(fake, events, volume=volume.id).open()
    fake.before["ListSnapshotBlocks"] = fake.direct.expire_next_tokens

    found = data_of(only_disk(view.streams))
    view.close()

    assert found == {number: block_of(number) for number in range(0, 40, 2)}
    assert fake.refused["ListSnapshotBlocks", "ValidationException"] > 2


@pytest.mark.parametrize("increment", [False, True])
def test_block_tokens_that_expired_are_listed_again(
    *, increment: bool, fake: EbsFake, events: RecordedEvents
) -> None:
    volume = filled(fake, range(10))
    source = source_of(fake, events, volume=volume.id)
    marks = commit(source) if increment else {}
    for number in range(10):
        volume.write(number * BLOCK, block_of(50 + number))
    view = source.open(marks)
    disk = only_disk(view.streams)
    list(disk.data_ranges())

    first = read(disk, 0, 5 * BLOCK)
    fake.advance(8 * 24 * 3600)
    rest = read(disk, 5 * BLOCK, 10 * BLOCK)
    view.close()

    assert first + rest == b"".join(block_of(50 + number) for number in range(10))


def test_credentials_that_expire_in_the_middle_end_in_one_line(
    fake: EbsFake, events: RecordedEvents
) -> None:
    source = source_of(fake, events, volume=filled(fake, [3]).id)
    view = source.open()
    disk = only_disk(view.streams)
    fake.expire_credentials()

    with pytest.raises(SourceError, match="the credentials have expired") as caught:
        read(disk, 3 * BLOCK, 4 * BLOCK)
    view.close()

    assert "role_arn" in (caught.value.hint or "")
    assert any("could not delete snapshot" in line for line in events.warnings)
    left = snapshots(fake)
    fake.renew_credentials()
    marks = commit(source)
    assert snapshots(fake) == [*marks.values()]
    assert left != snapshots(fake)


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("DescribeInstances", "ec2:DescribeInstances"),
        ("DescribeSnapshots", "ec2:DescribeSnapshots"),
        ("CreateSnapshots", "ec2:CreateSnapshots"),
        ("ListSnapshotBlocks", "ebs:ListSnapshotBlocks"),
        ("GetSnapshotBlock", "ebs:GetSnapshotBlock"),
    ],
)
def test_a_missing_permission_is_named(
    name: str, action: str, fake: EbsFake, events: RecordedEvents
) -> None:
    source = source_of(fake, events, instance=machine(fake).id, devices=("xvda",))
    fake.deny(name)

    def night() -> None:
        view = source.open()
        try:
            data_of(only_disk(view.streams))
        finally:
            view.close()

    with pytest.raises(SourceError, match=f"not allowed to use {action}") as caught:
        night()
    findings = [one for one in source.check() if one.error]

    assert caught.value.hint == f"Allow {action} to these credentials in IAM."
    assert [str(one.error).rpartition("use ")[2].split()[0] for one in findings] == [action]


def test_an_answer_that_was_lost_makes_no_second_set(fake: EbsFake, events: RecordedEvents) -> None:
    instance = machine(fake)
    fake.inject("CreateSnapshots", LostAnswer())

    view = source_of(fake, events, instance=instance.id).open()
    made = snapshots(fake)
    view.close()

    assert len(made) == 3
    assert fake.calls["CreateSnapshots"] == 1


def test_a_create_call_that_never_arrived_fails(fake: EbsFake, events: RecordedEvents) -> None:
    source = source_of(fake, events, instance=machine(fake).id)
    fake.inject("CreateSnapshots", Cut())

    with pytest.raises(SourceError, match=r'could not snapshot instance "i-\w+": AWS does not'):
        source.open()

    assert snapshots(fake) == []
    commit(source)


def test_a_throttled_create_call_is_repeated(fake: EbsFake, events: RecordedEvents) -> None:
    source = source_of(fake, events, instance=machine(fake).id)
    fake.inject("CreateSnapshots", EC2_THROTTLED, times=2)

    commit(source)

    assert fake.calls["CreateSnapshots"] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"instance": "i-0123456789abcdef0"}, 'look up instance "i-0123456789abcdef0": it is not'),
        ({"volume": "vol-0123456789abcdef0"}, 'look up volume "vol-0123456789abcdef0": it is not'),
        ({"volume": "orders"}, 'look up volume "orders"'),
        ({"volume": "vol-1", "region": None}, "no region is set"),
        ({"volume": "vol-1", "profile": "nobody"}, "profile"),
        ({"volume": "vol-1", "endpoint_url": "nonsense"}, "is not a URL"),
        ({"volume": "vol-1", "endpoint_url": "http://127.0.0.1:9"}, "AWS does not answer"),
        (
            {"volume": "vol-1", "role_arn": "arn:aws:iam::444455556666:role/backup"},
            "not allowed to use sts:AssumeRole",
        ),
    ],
)
def test_what_is_not_there_is_named_also_by_the_check(
    settings: dict[str, Any], message: str, fake: EbsFake, events: RecordedEvents
) -> None:
    source = source_of(fake, events, **settings)

    with pytest.raises(SourceError, match=message) as caught:
        source.open()
    (finding,) = source.check()

    assert "\n" not in str(caught.value)
    assert finding.error is not None
    assert finding.message == str(caught.value)


def test_a_role_in_another_account_is_taken_on(fake: EbsFake, events: RecordedEvents) -> None:
    role = "arn:aws:iam::444455556666:role/backup"
    fake.add_role(role)
    volume = fake.add_volume(1, account="444455556666")
    volume.write(0, b"theirs")

    marks = commit(source_of(fake, events, volume=volume.id, role_arn=role))

    assert fake.world.snapshots[marks["ebs"]].owner == "444455556666"


# --- what stays -----------------------------------------------------------------------------


def test_a_view_that_was_not_committed_leaves_the_parent_alone(
    fake: EbsFake, events: RecordedEvents
) -> None:
    source = source_of(fake, events, volume=filled(fake, [0]).id)
    marks = commit(source)

    view = source.open(marks)
    view.finish()
    view.close()
    view.close()

    assert snapshots(fake) == [marks["ebs"]]


@pytest.mark.parametrize("keep", [1, 3])
def test_a_commit_keeps_as_many_snapshots_as_the_policy_says(
    keep: int, fake: EbsFake, events: RecordedEvents
) -> None:
    source = source_of(fake, events, instance=machine(fake).id, keep_snapshots=keep)
    nights: list[dict[str, str]] = []

    for _ in range(5):
        fake.advance(86_400)
        nights.append(commit(source, nights[-1] if nights else None))

    kept = {mark for marks in nights[-keep:] for mark in marks.values()}
    assert set(snapshots(fake)) == kept
    assert events.warnings == []


def test_leftovers_of_a_dead_run_go_and_nothing_else_does(
    fake: EbsFake, events: RecordedEvents
) -> None:
    volume = filled(fake, [0])
    source = source_of(fake, events, volume=volume.id)
    stranger = commit(source_of(fake, events, volume=volume.id, owner="5a5a/other"))
    plain = fake.world.snapshot_of(volume, "by hand", {"snapvault:owner": "somebody"})
    marks = commit(source)
    source.open(marks)  # and then the process is killed

    dead = snapshots(fake)[-1]
    view = source.open(marks)
    view.close()

    assert dead not in snapshots(fake)
    assert snapshots(fake) == [stranger["ebs"], plain.id, marks["ebs"]]


def test_a_mark_whose_commit_was_not_told_is_no_leftover(
    fake: EbsFake, events: RecordedEvents
) -> None:
    source = source_of(fake, events, volume=filled(fake, [0]).id)
    view = source.open()  # the manifest is stored, and then the process is killed
    marks = view.finish().marks

    again = source.open(marks)
    changes = only_disk(again.streams).changes()
    again.committed("p2")
    again.close()

    assert changes is not None
    assert list(changes.ranges) == []
    assert snapshots(fake) == [again.finish().marks["ebs"]]


def test_a_snapshot_that_cannot_be_deleted_is_warned_of(
    fake: EbsFake, events: RecordedEvents
) -> None:
    source = source_of(fake, events, volume=filled(fake, [0]).id)
    marks = commit(source)
    fake.world.snapshots[marks["ebs"]].in_use = True

    later = commit(source, marks)

    assert set(snapshots(fake)) == {marks["ebs"], later["ebs"]}
    assert f'could not delete snapshot "{marks["ebs"]}"' in events.warnings[0]


def test_a_snapshot_that_could_not_be_tagged_after_the_commit_stays(
    fake: EbsFake, events: RecordedEvents
) -> None:
    source = source_of(fake, events, volume=filled(fake, [0]).id)
    view = source.open()
    fake.deny("CreateTags")

    with pytest.raises(SourceError, match="could not tag snapshot"):
        view.committed("p1")
    view.close()

    assert snapshots(fake) == [view.finish().marks["ebs"]]


def test_a_closed_view_leaves_no_connection(fake: EbsFake, events: RecordedEvents) -> None:
    source = source_of(fake, events, volume=filled(fake, range(10)).id)
    before = open_files()

    view = source.open()
    data_of(only_disk(view.streams))
    view.close()

    gone = threading.Event()
    for _ in range(3000):  # the fake's own ends are closed a moment later
        if open_files() <= before or gone.wait(0.01):
            break
    assert open_files() <= before


def test_the_check_finds_all_well_and_changes_nothing(
    fake: EbsFake, events: RecordedEvents
) -> None:
    source = source_of(fake, events, instance=machine(fake).id)

    findings = list(source.check())

    assert [one.error for one in findings] == [None] * 6
    assert findings[0].message.startswith("3 EBS volumes, 4.0 GiB")
    assert snapshots(fake) == []


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- through the engine ---------------------------------------------------------------------


def restored(kit: VaultKit, point: Point, path: Path) -> None:
    """Restore a point of one stream to a sparse file."""
    target = FileTarget.create(path, point.streams[0].size, force=False)
    restore(kit.recovery(), kit.contents(point), [target])


def test_nights_of_an_instance_come_back_as_they_were(
    fake: EbsFake, events: RecordedEvents, tmp_path: Path
) -> None:
    volume = filled(fake, [0, 1, 2, 9, 2047])
    source = source_of(fake, events, instance=fake.add_instance({"/dev/xvda": volume}).id)
    kit = VaultKit(tmp_path, block_size=16384, volume_size=8 << 20)

    first = kit.night(source)
    before = volume.read(0, 16 * BLOCK)
    volume.write(BLOCK + 5, b"new")
    volume.write(12 * BLOCK, b"new too")
    volume.discard(2 * BLOCK, BLOCK)
    fetched = fake.calls["GetSnapshotBlock"]
    second = kit.night(source)
    fetched = fake.calls["GetSnapshotBlock"] - fetched
    old, new = tmp_path / "old", tmp_path / "new"
    restored(kit, first.point, old)
    restored(kit, second.point, new)

    with old.open("rb") as file:
        assert file.read(16 * BLOCK) == before
    with new.open("rb") as file:
        for number in range(GIB // BLOCK):
            assert file.read(BLOCK) == volume.read(number * BLOCK, BLOCK)
    assert fetched <= 2 + 10
    assert kit.events.warnings == []
    assert events.warnings == []


def test_one_percent_changed_reads_at_most_three(
    fake: EbsFake, events: RecordedEvents, tmp_path: Path
) -> None:
    blocks = 2 * GIB // BLOCK
    rng = random.Random(5)
    volume = filled(fake, sorted(rng.sample(range(blocks), 400)), gib=2)
    source = source_of(fake, events, volume=volume.id)
    kit = VaultKit(tmp_path, block_size=16384, volume_size=64 << 20)
    kit.night(source)
    before = fake.calls["GetSnapshotBlock"]
    for number in rng.sample(range(blocks), blocks // 100):
        volume.write(number * BLOCK + 4096 * rng.randrange(128), rng.randbytes(4096))

    held = kit.night(source)

    fetched = fake.calls["GetSnapshotBlock"] - before
    assert blocks // 100 <= fetched <= 0.03 * blocks
    assert held.point.streams[0].mark == snapshots(fake)[-1]
    assert events.warnings == []
