# SPDX-License-Identifier: Apache-2.0
"""EBS volumes as a source, read from EBS snapshots through the EBS direct APIs.

The snapshot of a committed restore point stays, and is what the next run compares with.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime

from snapvault import clock
from snapvault.adapters import aws
from snapvault.adapters.sources.ebs_disk import Api, Difference, EbsDisk
from snapvault.adapters.sources.ebs_snapshots import POINT, STREAM, Snapshot, Snapshots
from snapvault.adapters.sources.ebs_volumes import Chosen, Volume, choose
from snapvault.errors import SnapVaultError, SourceError
from snapvault.model.policy import EbsSpec
from snapvault.ports.events import Events
from snapvault.ports.source import (
    NO_MARKS,
    ByteStream,
    Consistency,
    DiskStream,
    Finding,
    Outcome,
    Quiesce,
)
from snapvault.units import format_size

_STRENGTH = tuple(Consistency)  # weakest first
_NO_SNAPSHOT = "snap-00000000000000000"

_Attempt = Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Session:
    """What one run, or one check, works with."""

    clients: aws.Clients
    caller: aws.Caller
    snapshots: Snapshots
    pool: ThreadPoolExecutor

    @property
    def api(self) -> Api:
        return Api(self.clients.ebs, self.caller, self.pool)


class EbsSource:
    """The EBS volumes of an instance, snapshot at one moment, or a single volume.

    A volume gives one stream, which is called `stream`. An instance gives one for each chosen
    volume, called `prefix` and the device's name: `xvda`, or `machine.xvda` with the prefix
    `machine.`; `stream` then only tells the entries of one source apart.
    """

    def __init__(
        self,
        name: str,
        stream: str,
        spec: EbsSpec,
        *,
        owner: str,
        events: Events,
        prefix: str = "",
        quiesce: Sequence[Quiesce] = (),
    ) -> None:
        self._name = name
        self._stream = stream
        self._prefix = prefix
        self._spec = spec
        self._owner = owner
        self._events = events
        self._quiesce = tuple(quiesce)

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self._name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> "_View":
        """Snapshot the volumes, wait until the snapshots are complete, and compare with marks."""
        with ExitStack() as stack:
            session = stack.enter_context(self._session())
            chosen = choose(session.clients.ec2, session.caller, self._spec)
            named = {self._name_of(volume): volume for volume in chosen.volumes}
            ours = session.snapshots.ours()
            session.snapshots.delete(_leftovers(ours, marks))
            run = uuid.uuid4().hex
            try:
                taken_at, consistency, made = self._take(session, chosen, run)
                for name, volume in named.items():
                    session.snapshots.tag(made[volume.id], {STREAM: name})
                complete = session.snapshots.wait(list(made.values()), self._spec.timeout)
                parents = {one.id: one for one in ours}
                disks = []
                for name, volume in named.items():
                    new = complete[made[volume.id]]
                    difference = self._compare(session.api, name, new, marks.get(name), parents)
                    disks.append(EbsDisk(name, new.id, new.size, session.api, difference))
            except BaseException as error:
                _abandon(session.snapshots, run, error)
                raise
            taken = {disk.name: made[named[disk.name].id] for disk in disks}
            facts = {name: self._facts(session, volume) for name, volume in named.items()}
            return _View(
                session,
                tuple(disks),
                taken_at,
                Outcome(consistency, taken, facts),
                self._spec.keep_snapshots,
                self._events,
                stack.pop_all(),
            )

    def check(self) -> Iterator[Finding]:
        """Look at the credentials, the volumes, and what we are allowed to do."""
        try:
            with self._session() as session:
                chosen = choose(session.clients.ec2, session.caller, self._spec)
                total = sum(volume.size for volume in chosen.volumes)
                count = len(chosen.volumes)
                yield Finding(
                    "volumes", f"{count} EBS volumes, {format_size(total)}, can be snapshot"
                )
                for what, attempt in self._attempts(session, chosen):
                    with aws.told(SourceError, f"could not {what}"):
                        attempt()
                    yield Finding("permissions", f"allowed to {what}")
        except SnapVaultError as error:
            yield Finding("EBS", str(error), error)

    def _attempts(self, session: _Session, chosen: Chosen) -> Iterator[tuple[str, _Attempt]]:
        ebs = session.clients.ebs
        yield (
            "create snapshots",
            lambda: session.snapshots.try_create(self._spec.instance, chosen),
        )
        yield "list snapshots", lambda: _ignore(session.snapshots.ours())
        yield (
            "list the blocks of a snapshot",
            lambda: _allowed(
                session, lambda: _ignore(ebs.list_snapshot_blocks(SnapshotId=_NO_SNAPSHOT))
            ),
        )
        yield (
            "list what changed between snapshots",
            lambda: _allowed(
                session,
                lambda: _ignore(
                    ebs.list_changed_blocks(
                        FirstSnapshotId=_NO_SNAPSHOT, SecondSnapshotId=_NO_SNAPSHOT
                    )
                ),
            ),
        )
        yield (
            "read the blocks of a snapshot",
            lambda: _allowed(
                session,
                lambda: _ignore(
                    ebs.get_snapshot_block(
                        SnapshotId=_NO_SNAPSHOT, BlockIndex=0, BlockToken="bm9uZQ=="
                    )
                ),
            ),
        )

    @contextmanager
    def _session(self) -> Iterator[_Session]:
        spec = self._spec
        with ExitStack() as stack:
            with aws.told(SourceError, f'could not use AWS for source "{self._name}"'):
                clients = aws.open_clients(
                    spec.region, spec.profile, spec.role_arn, spec.endpoint_url
                )
            stack.callback(clients.close)
            caller = aws.Caller(aws.Pace(spec.requests_per_second))
            pool = ThreadPoolExecutor(aws.CONNECTIONS, thread_name_prefix="ebs")
            stack.callback(pool.shutdown, cancel_futures=True)
            snapshots = Snapshots(
                clients.ec2, aws.Caller(), self._owner, self._stream, self._events
            )
            yield _Session(clients, caller, snapshots, pool)

    def _name_of(self, volume: Volume) -> str:
        return self._stream if self._spec.instance is None else self._prefix + volume.own_name

    def _take(
        self, session: _Session, chosen: Chosen, run: str
    ) -> tuple[datetime, Consistency, dict[str, str]]:
        """Begin the snapshots while everything is at rest; return their ids by volume."""
        what = (
            f'instance "{self._spec.instance}"'
            if self._spec.instance is not None
            else f'volume "{self._spec.volume}"'
        )
        unsure: aws.AwsError | None = None
        made: dict[str, str] | None = None
        reached = Consistency.CRASH
        with aws.told(SourceError, f"could not snapshot {what}"):
            with ExitStack() as stack:
                for quiesce in self._quiesce:
                    level = stack.enter_context(quiesce())
                    reached = max(reached, level, key=_STRENGTH.index)
                taken_at = clock.now()
                try:
                    made = session.snapshots.create(self._spec.instance, chosen, run)
                except aws.AwsError as error:
                    if error.trouble is not aws.Trouble.UNSURE:
                        raise
                    unsure = error
            if unsure is not None:
                # ORDER: looked for by its tag before anything else, so that none is made twice.
                made = session.snapshots.find_run(chosen, run)
                if made is None:
                    raise unsure
        if made is None or made.keys() != {volume.id for volume in chosen.volumes}:
            raise SourceError(f"the volumes of {what} changed while their snapshots were made")
        for volume, snapshot in made.items():
            self._events.emit("ebs.snapshot.created", snapshot=snapshot, volume=volume)
        return taken_at, reached, made

    def _compare(
        self,
        api: Api,
        stream: str,
        new: Snapshot,
        mark: str | None,
        parents: Mapping[str, Snapshot],
    ) -> Difference | None:
        """List what changed since the mark's snapshot; None, with a warning: it cannot be told."""
        if mark is None:
            return None
        parent = parents.get(mark)
        if parent is None:
            self._lost(stream, f'snapshot "{mark}" is gone')
            return None
        if not parent.is_readable:
            state = "archived" if parent.tier != "standard" else f'in state "{parent.state}"'
            self._lost(stream, f'snapshot "{mark}" is {state}')
            return None
        if parent.size > new.size:
            self._lost(stream, f'snapshot "{mark}" is larger than the volume')
            return None
        try:
            return Difference(api.changes_between(mark, new.id, new.size), new.size, parent.size)
        except aws.AwsError as error:
            if error.why == "UNRELATED_SNAPSHOTS":
                self._lost(stream, f'snapshot "{mark}" is of another volume ({error.why})')
            elif error.trouble is aws.Trouble.MISSING or error.why == "INVALID_SNAPSHOT_ID":
                self._lost(stream, f'snapshot "{mark}" cannot be compared with ({error.text})')
            else:
                what = f'could not list what changed from snapshot "{mark}" to "{new.id}"'
                raise aws.translate(error, what, SourceError) from error
        return None

    def _lost(self, stream: str, why: str) -> None:
        self._events.warn(
            "hint.lost",
            f'stream "{stream}" of source "{self._name}" is read as a whole: {why}',
            source=self._name,
            stream=stream,
        )

    def _facts(self, session: _Session, volume: Volume) -> dict[str, str]:
        facts = {"volume": volume.id, "region": session.clients.region}
        if volume.device:
            facts["device"] = volume.device
        if volume.is_boot:
            facts["boot"] = "yes"
        return facts


class _View:
    """The snapshots of one run; they go with it unless its restore point comes to exist."""

    def __init__(
        self,
        session: _Session,
        disks: tuple[EbsDisk, ...],
        taken_at: datetime,
        outcome: Outcome,
        keep: int,
        events: Events,
        resources: ExitStack,
    ) -> None:
        self._session = session
        self._disks = disks
        self._taken_at = taken_at
        self._outcome = outcome
        self._keep = keep
        self._events = events
        self._resources = resources
        self._committed = False
        self._closed = False

    @property
    def taken_at(self) -> datetime:
        return self._taken_at

    @property
    def streams(self) -> tuple[DiskStream | ByteStream, ...]:
        return self._disks

    def finish(self) -> Outcome:
        return self._outcome

    def committed(self, point: str) -> None:
        """Keep the new snapshots, and of the older ones what the policy says."""
        # ORDER: first of all; whatever fails below, `close` must not delete the parent of the
        # next increment.
        self._committed = True
        snapshots = self._session.snapshots
        new = set(self._outcome.marks.values())
        for one in new:
            snapshots.tag(one, {POINT: point})
        older = [one for one in snapshots.ours() if one.id not in new]
        snapshots.delete(beyond(older, self._keep - 1))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with self._resources:
            self._events.emit(
                "ebs.read",
                blocks=sum(disk.fetched for disk in self._disks),
                retries=self._session.caller.retries,
            )
            if not self._committed:
                self._session.snapshots.delete(list(self._outcome.marks.values()))


def beyond(older: Sequence[Snapshot], keep: int) -> list[str]:
    """Return the ids of all but the newest `keep` snapshots of each stream."""
    kept: dict[str, int] = {}
    found = []
    for one in sorted(older, key=lambda one: one.started, reverse=True):
        stream = one.tags.get(STREAM, "")
        kept[stream] = kept.get(stream, 0) + 1
        if kept[stream] > keep:
            found.append(one.id)
    return found


def _leftovers(ours: Sequence[Snapshot], marks: Mapping[str, str]) -> list[str]:
    """Return what a dead run left: no restore point has it, and no mark names it."""
    named = set(marks.values())
    return [one.id for one in ours if POINT not in one.tags and one.id not in named]


def _abandon(snapshots: Snapshots, run: str, error: BaseException) -> None:
    """Delete what a run that failed has made."""
    try:
        snapshots.delete([one.id for one in snapshots.of_run(run)])
    except SnapVaultError as failure:
        error.add_note(f"deleting the new snapshots failed too: {failure}")


def _allowed(session: _Session, ask: _Attempt) -> None:
    """Ask for a snapshot that is not there: only who may not ask hears anything else."""
    try:
        session.caller.call(ask)
    except aws.AwsError as error:
        if error.trouble not in (aws.Trouble.MISSING, aws.Trouble.REFUSED):
            raise


def _ignore(_answer: object) -> None:
    """Let an answer go."""
