# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with logical volumes, done to real ones: clear words, and nothing left."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.sources import lvm_commands, lvm_mapper, lvm_thin
from snapvault.adapters.sources.lvm import LvmSource
from snapvault.adapters.sources.lvm_hold import held
from snapvault.adapters.sources.lvm_mapper import Device
from snapvault.adapters.sources.lvm_names import RESERVING
from snapvault.adapters.sources.lvm_thin import Pool
from snapvault.errors import QuiesceError, SnapshotOverflowError, SourceError
from snapvault.model.policy import LvmSpec
from snapvault.ports.source import Consistency, Quiesce
from tests.support import lvm
from tests.support.events import RecordedEvents
from tests.support.lvm import CHUNK, MIB

DEADLINE = 300.0  # seconds; LVM takes some for each command in here, also on an idle machine


@pytest.fixture(scope="module")
def group() -> Iterator[str]:
    with lvm.volume_group() as name:
        lvm.thin_pool(name)
        yield name


@pytest.fixture(autouse=True)
def no_volumes_are_left(group: str) -> Iterator[None]:
    yield
    lvm.remove_volumes(group, but=[lvm.POOL])


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def pool(group: str) -> Pool:
    lvm.thin(f"{group}/{lvm.POOL}", "in-it", "4M")  # a pool that nobody uses takes no messages
    volumes = {volume.name: volume for volume in lvm_commands.list_volumes()}
    found = volumes[lvm.POOL]
    major, minor = lvm.run(
        *("dmsetup", "info", "-c", "--noheadings", "--separator", ":", "-o", "major,minor"),
        lvm.pool_device(group),
    ).split(":")
    metadata = volumes[f"{lvm.POOL}_tmeta"]
    return Pool(found, (int(major), int(minor)), metadata.path)


def source_of(
    events: RecordedEvents,
    *volumes: str,
    space: int = 4 * MIB,
    quiesce: Sequence[Quiesce] = (),
) -> LvmSource:
    specs = {name.partition("/")[2]: LvmSpec(name, snapshot_size=space) for name in volumes}
    return LvmSource("web01", specs, owner="vault-1/web01", quiesce=quiesce, events=events)


def die_in(work: Callable[[], object]) -> None:
    """Do something in a process of its own, which is killed when it has done it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = clock.monotonic() + DEADLINE
    while not condition():
        assert clock.monotonic() < deadline
        clock.sleep(0.01)


def programs() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # it has ended since
            found.add(path.read_text().strip())
    return found


def is_suspended(volume: str) -> bool:
    name = volume.replace("-", "--").replace("/", "-")
    return "Suspended" in lvm.run("dmsetup", "info", "-c", "--noheadings", "-o", "suspended", name)


def refusal(events: RecordedEvents, *volumes: str, space: int = 4 * MIB) -> str:
    with pytest.raises(SourceError) as caught:
        source_of(events, *volumes, space=space).open()
    return f"{caught.value} | {caught.value.hint}"


@contextmanager
def missing(program: str) -> Iterator[None]:
    path = Path("/usr/sbin", program)
    path.rename(path.with_name("gone"))
    try:
        yield
    finally:
        path.with_name("gone").rename(path)


def test_what_cannot_be_snapshot_is_refused_and_says_why(
    group: str, events: RecordedEvents
) -> None:
    volume = lvm.thick(group, "web-root", "8M")
    other = lvm.thick(group, "other", "8M")
    lvm.run("lvcreate", "-q", "-q", "-y", "-s", "-L", "4M", "-n", "theirs", volume)
    lvm.run("lvchange", "-an", other)
    before = lvm.names_in(group)

    assert 'volume group "vg-gast" is not there | Did you mean' in refusal(events, "vg-gast/a")
    assert f'Did you mean "{volume}"?' in refusal(events, f"{group}/web-rot")
    assert f'"{other}" is not active on this host' in refusal(events, other)
    assert "is a snapshot itself" in refusal(events, f"{group}/theirs")
    assert "is a pool, and no disk" in refusal(events, f"{group}/{lvm.POOL}")
    assert "is hidden" in refusal(events, f"{group}/{lvm.POOL}_tdata")
    assert lvm.names_in(group) == before


def test_without_free_extents_a_snapshot_is_refused_and_says_how_many_lack(
    group: str, events: RecordedEvents
) -> None:
    volumes = [lvm.thick(group, "web-root", "500M"), lvm.thick(group, "rest", "1200M")]

    words = refusal(events, *volumes, space=600 * MIB)

    assert f'no free extents in volume group "{group}" for snapshots' in words
    assert "Free at least" in words
    assert lvm.snapshots_in(group) == []

    lvm.run("lvremove", "-q", "-q", "-y", volumes[1])
    source_of(events, volumes[0]).open().close()
    assert lvm.snapshots_in(group) == []


def test_a_full_pool_is_refused_before_anything_is_frozen(
    group: str, events: RecordedEvents
) -> None:
    full = lvm.thin_pool(group, "full", size="4M")
    volume = lvm.thin(full, "data", "8M")
    lvm.run("lvchange", "-q", "-q", "--errorwhenfull", "y", full)
    with pytest.raises(OSError, match=r"No space left|Input/output"):
        lvm.write(volume, 0, os.urandom(6 * MIB))

    words = refusal(events, volume)

    assert f'thin pool "{full}" is out of data space | Run "lvextend --size' in words
    assert lvm.snapshots_in(group) == []

    lvm.run("lvextend", "-q", "-q", "--size", "+8M", full)
    source_of(events, volume).open().close()
    assert lvm.snapshots_in(group) == []


def test_a_snapshot_that_overflows_gives_no_restore_point(
    group: str, events: RecordedEvents
) -> None:
    volume = lvm.thick(group, "web-root", "16M")
    view = source_of(events, volume).open()

    lvm.write(volume, 0, os.urandom(8 * MIB))

    with pytest.raises(SnapshotOverflowError, match=r"overflowed: all its 4\.0 MiB") as at:
        view.finish()
    assert at.value.hint is not None
    assert "snapshot_size" in at.value.hint
    with pytest.raises(SnapshotOverflowError):
        lvm.read(view.streams[0])
    view.close()
    assert lvm.names_in(group) == [lvm.POOL, "web-root"]


def test_what_a_killed_run_left_is_removed_and_nothing_of_others(
    group: str, events: RecordedEvents
) -> None:
    volume = lvm.thick(group, "a", "8M")
    theirs = ["lvcreate", "-q", "-q", "-y", "-s", "-L", "4M", "-n"]
    lvm.run(*theirs, "snapvault_a_20261120T013000Z_1f2e3d4c", volume)
    lvm.run(*theirs, "general", "--addtag", "snapvault", volume)
    before = lvm.names_in(group)
    source = source_of(events, volume)
    die_in(source.open)
    assert len(lvm.names_in(group)) == len(before) + 1

    source.open().close()

    assert lvm.names_in(group) == before
    assert events.names() == ["snapshot.left_over"]


def test_when_it_would_not_come_to_rest_nothing_is_left(group: str, events: RecordedEvents) -> None:
    volumes = [lvm.thin(f"{group}/{lvm.POOL}", name, "8M") for name in ("a", "b")]

    @contextmanager
    def restless() -> Iterator[Consistency]:
        if not events.warnings:
            raise QuiesceError("would not")
        yield Consistency.APPLICATION

    with pytest.raises(QuiesceError, match="would not"):
        source_of(events, *volumes, quiesce=[restless]).open()

    assert lvm.snapshots_in(group) == []


def test_volumes_are_resumed_when_the_run_is_killed_while_it_holds_them(group: str) -> None:
    volumes = [lvm.thick(group, "a", "8M"), lvm.thin(f"{group}/{lvm.POOL}", "b", "8M")]

    def hold_and_die() -> None:
        with held([lvm.field(volume, "lv_dm_path") for volume in volumes]):
            assert all(is_suspended(volume) for volume in volumes)
            os.kill(os.getpid(), signal.SIGKILL)

    die_in(hold_and_die)

    wait_until(lambda: not any(is_suspended(volume) for volume in volumes))
    for volume in volumes:
        lvm.write(volume, 0, b"goes on")


def test_nothing_stays_suspended_when_the_run_is_killed_while_lvm_takes_the_snapshot(
    group: str, events: RecordedEvents
) -> None:
    volume = lvm.thick(group, "a", "8M")
    source = source_of(events, volume)
    child = os.fork()
    if child == 0:
        try:
            source.open()
        finally:
            os._exit(1)

    wait_until(lambda: "lvcreate" in programs())
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    wait_until(lambda: "lvcreate" not in programs())

    assert os.WIFSIGNALED(status)
    assert not is_suspended(volume)
    assert len(lvm.snapshots_in(group)) == 1  # LVM has finished what it had begun
    source.open().close()
    assert lvm.snapshots_in(group) == []


def test_volumes_are_resumed_when_holding_them_takes_too_long(group: str) -> None:
    volume = lvm.thick(group, "a", "8M")

    with (
        pytest.raises(SourceError, match="it took longer than 1 s"),
        held([f"/dev/{volume}"], longest=1.0),
    ):
        wait_until(lambda: not is_suspended(volume))

    lvm.write(volume, 0, b"goes on")


def test_a_metadata_snapshot_of_somebody_else_stays_and_costs_a_full_read(
    group: str, events: RecordedEvents, pool: Pool
) -> None:
    volume = lvm.thin(f"{group}/{lvm.POOL}", "data", "8M")
    lvm.write(volume, CHUNK, b"x")
    source = source_of(events, volume)
    lvm_mapper.message(pool.device, "reserve_metadata_snap")

    view = source.open()
    ranges = list(view.streams[0].data_ranges())
    found = lvm.read(view.streams[0])
    marks = view.finish().marks
    view.close()

    assert ranges == [(0, 8 * MIB)]
    assert found == lvm.content(volume)
    assert list(marks) == ["data"]
    assert events.names() == ["hint.lost"]
    assert "somebody else holds the metadata snapshot" in events.warnings[0]
    assert lvm_mapper.metadata_snapshot_of(pool.device) is not None

    # As a power cut leaves it in the middle of a run of ours.
    lvm_commands.tag(pool.volume, RESERVING)
    view = source.open()
    ranges = list(view.streams[0].data_ranges())
    view.close()

    assert ranges == [(CHUNK, 2 * CHUNK)]
    assert len(events.warnings) == 1
    assert lvm_mapper.metadata_snapshot_of(pool.device) is None
    assert lvm.field(f"{group}/{lvm.POOL}", "lv_tags") == ""


def test_whoever_is_quicker_to_take_the_metadata_snapshot_keeps_it(
    group: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lvm_mapper.message(pool.device, "reserve_metadata_snap")  # after we have looked
    monkeypatch.setattr(lvm_thin, "_require_free", lambda _: None)

    with pytest.raises(SourceError, match="resource busy"), lvm_thin.reserved(pool):
        pass

    assert lvm_mapper.metadata_snapshot_of(pool.device) is not None
    assert lvm.field(f"{group}/{lvm.POOL}", "lv_tags") == ""
    lvm_mapper.message(pool.device, "release_metadata_snap")


def test_a_metadata_snapshot_is_given_back_when_a_signal_comes_as_it_is_taken(
    group: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = lvm_mapper.message

    def interrupted(device: Device, text: str) -> None:
        message(device, text)
        if text == "reserve_metadata_snap":
            raise KeyboardInterrupt

    monkeypatch.setattr(lvm_mapper, "message", interrupted)
    with pytest.raises(KeyboardInterrupt), lvm_thin.reserved(pool):
        pass

    assert lvm_mapper.metadata_snapshot_of(pool.device) is None
    assert lvm.field(f"{group}/{lvm.POOL}", "lv_tags") == ""


def test_a_metadata_snapshot_is_given_back_when_the_run_is_killed(pool: Pool) -> None:
    def reserve_and_die() -> None:
        with lvm_thin.reserved(pool):
            assert lvm_mapper.metadata_snapshot_of(pool.device) is not None
            os.kill(os.getpid(), signal.SIGKILL)

    die_in(reserve_and_die)

    wait_until(lambda: lvm_mapper.metadata_snapshot_of(pool.device) is None)
    wait_until(lambda: lvm.field(pool.volume.full_name, "lv_tags") == "")


def test_an_external_origin_is_read_through_loudly(group: str, events: RecordedEvents) -> None:
    base = lvm.thick(group, "base", "8M")
    lvm.write(base, 3 * MIB, b"from outside of the pool")
    lvm.run("lvchange", "-q", "-q", "-an", base)
    lvm.run("lvchange", "-q", "-q", "-pr", base)
    lvm.run("lvcreate", "-q", "-q", "-y", "-s", "--thinpool", lvm.POOL, "-n", "clone", base)

    view = source_of(events, f"{group}/clone").open()
    ranges = list(view.streams[0].data_ranges())
    found = lvm.read(view.streams[0])
    marks = view.finish().marks
    view.committed("p1")
    view.close()

    assert ranges == [(0, 8 * MIB)]
    assert b"from outside" in found
    assert marks == {}
    assert lvm.snapshots_in(group) == []
    assert events.names() == ["hint.lost"]
    assert "has an external origin" in events.warnings[0]


def test_the_check_names_missing_programs_and_missing_rights(
    group: str, events: RecordedEvents
) -> None:
    volume = lvm.thin(f"{group}/{lvm.POOL}", "data", "8M")
    source = source_of(events, volume)

    with missing("lvcreate"):
        [without_lvm] = source.check()
    with missing("thin_delta"):
        *_, without_delta = source.check()
    read_end, write_end = os.pipe()

    def check_as_nobody() -> None:
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
        [finding] = source.check()
        os.write(write_end, f"{finding.error} | {finding.error and finding.error.hint}".encode())

    die_in(check_as_nobody)
    os.close(write_end)
    with os.fdopen(read_end) as said:
        as_nobody = said.read()

    assert without_lvm.error is not None
    assert without_lvm.error.hint is not None
    assert 'Install package "lvm2"' in without_lvm.error.hint
    assert without_delta.error is None
    assert without_delta.remedy is not None
    assert "thin-provisioning-tools" in without_delta.remedy
    assert "could not look" in as_nobody
    assert "| Run as root" in as_nobody
