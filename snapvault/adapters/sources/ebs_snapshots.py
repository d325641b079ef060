# SPDX-License-Identifier: Apache-2.0
"""EBS snapshots of ours: made, awaited, found again by their tags, and deleted.

Every snapshot carries our tags from the call that makes it, so that none is ever lost sight of,
and nothing without them, or with another owner's, is ever touched.
"""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from snapvault import clock
from snapvault.adapters.aws import AwsError, Caller, Trouble, told
from snapvault.adapters.sources.ebs_volumes import Chosen
from snapvault.errors import SourceError
from snapvault.ports.events import Events

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import SnapshotTypeDef, TagSpecificationTypeDef, TagTypeDef

OWNER: Final = "snapvault:owner"
PART: Final = "snapvault:part"  # which of the source's entries
RUN: Final = "snapvault:run"
STREAM: Final = "snapvault:stream"
POINT: Final = "snapvault:point"  # set once the restore point exists

_ALLOWED = re.compile(r"[A-Za-z0-9 +=._:/@-]{1,255}")  # LIMIT: of the tags of EC2
_CREATE_ATTEMPTS = 4  # while the source is at rest: a few seconds, no more
_LOOKS = (1.0, 2.0, 4.0, 8.0)  # seconds before each look for what may have been made
_LONGEST_WAIT = 30.0  # seconds between two looks at pending snapshots
_UNSEEN = 120.0  # seconds in which a new snapshot may not show yet


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One EBS snapshot; `size` in bytes, `tier` "standard" or "archive"."""

    id: str
    volume: str
    size: int
    state: str
    message: str
    started: datetime
    tier: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_readable(self) -> bool:
        """Whether the EBS direct APIs read it."""
        return self.state == "completed" and self.tier == "standard"


def tag_value(text: str) -> str:
    """Return a text that tags can hold: itself, or its SHA-256."""
    return text if _ALLOWED.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()


class Snapshots:
    """The snapshots of one part of one source in one account and region."""

    def __init__(
        self, ec2: "EC2Client", caller: Caller, owner: str, part: str, events: Events
    ) -> None:
        self._ec2 = ec2
        self._caller = caller
        self._own = {OWNER: tag_value(owner), PART: tag_value(part)}
        self._events = events

    def ours(self) -> list[Snapshot]:
        """Return all of them, oldest first."""
        found = []
        token = ""
        while True:
            with told(SourceError, "could not list the EBS snapshots of this source"):
                answer = self._caller.call(
                    lambda token=token: self._ec2.describe_snapshots(  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
                        OwnerIds=["self"],
                        Filters=[
                            {"Name": f"tag:{key}", "Values": [value]}
                            for key, value in self._own.items()
                        ],
                        MaxResults=1000,
                        **({"NextToken": token} if token else {}),
                    )
                )
            found += [_snapshot(one) for one in answer["Snapshots"]]
            token = answer.get("NextToken") or ""
            if not token:
                break
        # SAFETY: a server that does not know the filters must not make us delete strangers.
        ours = [one for one in found if self._own.items() <= one.tags.items()]
        return sorted(ours, key=lambda one: one.started)

    def of_run(self, run: str) -> list[Snapshot]:
        """Return those that one run made."""
        return [one for one in self.ours() if one.tags.get(RUN) == run]

    def create(self, instance: str | None, chosen: Chosen, run: str) -> dict[str, str]:
        """Begin a snapshot of each volume, all at one moment; return their ids by volume.

        Raises:
            AwsError: it was refused, or nobody knows: then `find_run` may.
        """
        tags = self._specification(run)
        if instance is None:
            volume = chosen.volumes[0].id
            one = self._caller.call(
                lambda: self._ec2.create_snapshot(VolumeId=volume, TagSpecifications=tags),
                repeatable=False,
                attempts=_CREATE_ATTEMPTS,
            )
            return {volume: one["SnapshotId"]}
        out = chosen.left_out
        answer = self._caller.call(
            lambda: self._ec2.create_snapshots(
                InstanceSpecification={
                    "InstanceId": instance,
                    "ExcludeBootVolume": any(volume.is_boot for volume in out),
                    "ExcludeDataVolumeIds": [volume.id for volume in out if not volume.is_boot],
                },
                TagSpecifications=tags,
            ),
            repeatable=False,
            attempts=_CREATE_ATTEMPTS,
        )
        return {one["VolumeId"]: one["SnapshotId"] for one in answer["Snapshots"]}

    def find_run(self, chosen: Chosen, run: str) -> dict[str, str] | None:
        """Look for what a call without an answer may have made; None: not all, or nothing."""
        wanted = {volume.id for volume in chosen.volumes}
        for seconds in _LOOKS:
            clock.sleep(seconds)
            found = {one.volume: one.id for one in self.of_run(run)}
            if found.keys() == wanted:
                return found
        return None

    def try_create(self, instance: str | None, chosen: Chosen) -> None:
        """Ask whether snapshots could be made, without making any.

        Raises:
            AwsError: they could not.
        """
        tags = self._specification("check")
        try:
            if instance is None:
                self._caller.call(
                    lambda: self._ec2.create_snapshot(
                        VolumeId=chosen.volumes[0].id, TagSpecifications=tags, DryRun=True
                    )
                )
            else:
                self._caller.call(
                    lambda: self._ec2.create_snapshots(
                        InstanceSpecification={"InstanceId": instance},
                        TagSpecifications=tags,
                        DryRun=True,
                    )
                )
        except AwsError as error:
            if error.code != "DryRunOperation":
                raise

    def wait(self, ids: Sequence[str], timeout: timedelta) -> dict[str, Snapshot]:
        """Wait until all are completed, and return them by id.

        Raises:
            SourceError: one failed or vanished, or time is up.
        """
        started = clock.monotonic()
        pause = 1.0
        while True:
            found = self._look(ids)
            passed = clock.monotonic() - started
            for one in found.values():
                if one.state not in ("pending", "completed"):
                    raise SourceError(
                        f'snapshot "{one.id}" of volume "{one.volume}" is in state "{one.state}"'
                        + (f": {one.message}" if one.message else "")
                    )
            missing = [one for one in ids if one not in found]
            if missing and passed > _UNSEEN:
                raise SourceError(f'snapshot "{missing[0]}" is gone; somebody deleted it')
            pending = [one for one in found.values() if one.state != "completed"]
            if not pending and not missing:
                return found
            if passed >= timeout.total_seconds():
                name = pending[0].id if pending else missing[0]
                raise SourceError(
                    f'snapshot "{name}" was not completed in {timeout.total_seconds():.0f} s',
                    hint='Raise "timeout"; the first snapshot of a large volume takes hours.',
                )
            clock.sleep(min(pause, max(0.0, timeout.total_seconds() - passed)))
            pause = min(pause * 2, _LONGEST_WAIT)

    def tag(self, snapshot: str, tags: Mapping[str, str]) -> None:
        """Add tags to a snapshot."""
        with told(SourceError, f'could not tag snapshot "{snapshot}"'):
            self._caller.call(
                lambda: self._ec2.create_tags(Resources=[snapshot], Tags=_pairs(tags))
            )

    def delete(self, ids: Collection[str]) -> None:
        """Delete snapshots; one that cannot be is warned of, and the next run tries again."""
        for one in ids:
            try:
                with told(SourceError, f'could not delete snapshot "{one}"'):
                    self._delete(one)
            except SourceError as error:
                hint = f" ({error.hint})" if error.hint else ""
                self._events.warn("ebs.snapshot.kept", f"{error}{hint}", snapshot=one)
            else:
                self._events.emit("ebs.snapshot.deleted", snapshot=one)

    def _delete(self, snapshot: str) -> None:
        try:
            self._caller.call(lambda: self._ec2.delete_snapshot(SnapshotId=snapshot))
        except AwsError as error:
            if error.trouble is not Trouble.MISSING:
                raise

    def _look(self, ids: Sequence[str]) -> dict[str, Snapshot]:
        try:
            with told(SourceError, f'could not look up snapshot "{ids[0]}"'):
                answer = self._caller.call(
                    lambda: self._ec2.describe_snapshots(SnapshotIds=list(ids))
                )
        except SourceError as error:
            cause = error.__cause__
            if isinstance(cause, AwsError) and cause.trouble is Trouble.MISSING:
                return {}
            raise
        return {one["SnapshotId"]: _snapshot(one) for one in answer["Snapshots"]}

    def _specification(self, run: str) -> "list[TagSpecificationTypeDef]":
        tags = {**self._own, RUN: run, "Name": f"snapvault {self._own[OWNER]}"[:255]}
        return [{"ResourceType": "snapshot", "Tags": _pairs(tags)}]


def _pairs(tags: Mapping[str, str]) -> "list[TagTypeDef]":
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _snapshot(found: "SnapshotTypeDef") -> Snapshot:
    return Snapshot(
        found["SnapshotId"],
        found.get("VolumeId", ""),
        found["VolumeSize"] << 30,
        found["State"],
        " ".join(found.get("StateMessage", "").split()).rstrip("."),
        found["StartTime"],
        found.get("StorageTier", "standard"),
        {tag["Key"]: tag["Value"] for tag in found.get("Tags", [])},
    )
