# SPDX-License-Identifier: Apache-2.0
"""The account and region that EBS snapshots are restored to, and what is asked of them.

One for each restore: its targets share the connections, the pace and the threads that put blocks.
"""

import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any, Final, Self

from snapvault import clock
from snapvault.adapters.aws import (
    CONNECTIONS,
    AwsError,
    Caller,
    Pace,
    Trouble,
    open_clients,
    told,
)
from snapvault.errors import RestoreError
from snapvault.units import format_duration, format_size

if TYPE_CHECKING:
    from mypy_boto3_ec2.literals import VolumeTypeType
    from mypy_boto3_ec2.type_defs import CreateVolumeRequestTypeDef

# LIMIT: the smallest and largest volume of each type, in GiB (EBS user guide, "volume types").
# io1 and io2 are not here: they need a choice of operations a second that a restore cannot make.
VOLUME_TYPES: Final[dict[str, tuple[int, int]]] = {
    "gp2": (1, 16_384),
    "gp3": (1, 65_536),
    "sc1": (125, 16_384),
    "st1": (125, 16_384),
    "standard": (1, 1024),
}

# LIMIT: an account may put 1000 blocks a second by default; half of it leaves room for others.
_PUTS_PER_SECOND: Final = 500.0
_BLOCKS_WAITING: Final = 2 * CONNECTIONS  # 512 KiB of memory each

_UNKNOWN_FOR: Final = 120.0  # seconds until EC2 must know of a snapshot that EBS has made
_LONGEST_PAUSE: Final = 15.0  # seconds between two looks at what is pending


@dataclass(frozen=True, slots=True)
class EbsPlace:
    """Where new snapshots go, and how they are made.

    `profile`, `role_arn` and `endpoint_url` are None where boto3's own default counts. With `zone`
    a volume of `volume_type` is made there of each snapshot. `kms_key` is the ARN of a key, and
    needs `encrypted`; without one the account's own key is used. `timeout` bounds each wait
    for something pending.
    """

    region: str
    profile: str | None = None
    role_arn: str | None = None
    endpoint_url: str | None = None
    zone: str | None = None
    volume_type: str = "gp3"
    encrypted: bool = False
    kms_key: str | None = None
    timeout: timedelta = timedelta(hours=6)


class EbsService:
    """Connections to one region for one restore. `open` is the way in."""

    def __init__(self, place: EbsPlace) -> None:
        self.place = place
        with told(RestoreError, f'cannot restore to EBS in region "{place.region}"'):
            self.clients = open_clients(
                place.region, place.profile, place.role_arn, place.endpoint_url
            )
        self.control = Caller()
        self.puts = Caller(Pace(_PUTS_PER_SECOND))
        self.pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="ebs put")
        self.slots = BoundedSemaphore(_BLOCKS_WAITING)

    @classmethod
    def open(cls, place: EbsPlace) -> Self:
        """Connect, and make sure that a volume can be made, if one is wanted, before any work.

        Raises:
            RestoreError: there are no credentials, the zone is not there, or volumes are not
                allowed in it.
        """
        service = cls(place)
        try:
            if place.zone is not None:
                service._require_zone(place.zone)
                service._try_volume(place.zone)
        except BaseException:
            service.close()
            raise
        return service

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for calls under way, and let go of all connections; safe to repeat."""
        self.pool.shutdown(cancel_futures=True)
        self.clients.close()

    def require_volume_of(self, size_gib: int) -> None:
        """Make sure that a volume, if one is wanted, can be as large as a snapshot.

        Raises:
            RestoreError: volumes of its type are smaller.
        """
        kind = self.place.volume_type
        if self.place.zone is not None and size_gib > VOLUME_TYPES[kind][1]:
            raise RestoreError(
                f"cannot make a {kind} volume of {format_size(size_gib << 30)}: the largest has"
                f" {format_size(VOLUME_TYPES[kind][1] << 30)}",
                hint="Choose volume_type=gp3, or leave out the zone.",
            )

    def delete(self, snapshot: str) -> None:
        """Delete a snapshot; that it is not there is fine.

        Raises:
            AwsError: it is there still.
        """
        try:
            self.control.call(lambda: self.clients.ec2.delete_snapshot(SnapshotId=snapshot))
        except AwsError as failure:
            if failure.trouble is not Trouble.MISSING:
                raise

    def completes(self, snapshot: str) -> bool:
        """Wait until a snapshot is completed; return False if it is pending after the timeout.

        Raises:
            RestoreError: it failed.
        """
        began = clock.monotonic()
        with told(RestoreError, f'could not look at EBS snapshot "{snapshot}"'):
            for waited in _looks(began, self.place.timeout):
                try:
                    found = self.control.call(
                        lambda: self.clients.ec2.describe_snapshots(SnapshotIds=[snapshot])
                    )["Snapshots"][0]
                except AwsError as failure:
                    if failure.trouble is not Trouble.MISSING or waited > _UNKNOWN_FOR:
                        raise
                    continue
                if found["State"] == "completed":
                    return True
                if found["State"] == "error":
                    why = found.get("StateMessage") or "AWS does not say why"
                    raise RestoreError(
                        f'EBS snapshot "{snapshot}" failed: {why[:1].lower()}{why[1:].rstrip(".")}',
                        hint="Restore once more; if a KMS key is used, check that it is enabled.",
                    )
        return False

    def make_volume(self, snapshot: str, size_gib: int, tags: dict[str, str]) -> str:
        """Make a volume of a completed snapshot, wait until it is available, return its id.

        Raises:
            RestoreError: that failed; the message says that the snapshot is complete.
        """
        zone = self.place.zone
        what = f'EBS snapshot "{snapshot}" is complete, but could not make a volume of it'
        asked = self._volume(size_gib)
        asked["SnapshotId"] = snapshot
        asked["ClientToken"] = str(uuid.uuid4())
        asked["TagSpecifications"] = [
            {
                "ResourceType": "volume",
                "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            }
        ]
        ec2 = self.clients.ec2
        with told(RestoreError, f'{what} in zone "{zone}"'):
            volume = self.control.call(lambda: ec2.create_volume(**asked))["VolumeId"]
            for waited in _looks(clock.monotonic(), self.place.timeout):
                try:
                    found = self.control.call(lambda: ec2.describe_volumes(VolumeIds=[volume]))
                except AwsError as failure:
                    if failure.trouble is not Trouble.MISSING or waited > _UNKNOWN_FOR:
                        raise
                    continue
                state: str = found["Volumes"][0]["State"]
                if state == "available":
                    return volume
                if state != "creating":
                    break
            else:
                state = f"creating after {format_duration(self.place.timeout)}"
        raise RestoreError(f'{what}: volume "{volume}" is {state}')

    def _volume(self, size_gib: int) -> "CreateVolumeRequestTypeDef":
        kind: VolumeTypeType = self.place.volume_type  # type: ignore[assignment]  # checked by AWS
        return {
            "AvailabilityZone": self.place.zone or "",
            "VolumeType": kind,
            "Size": max(size_gib, VOLUME_TYPES[self.place.volume_type][0]),
        }

    def _require_zone(self, zone: str) -> None:
        what = f'could not list the availability zones of region "{self.place.region}"'
        with told(RestoreError, what):
            found = self.control.call(self.clients.ec2.describe_availability_zones)
        zones: Iterable[Any] = found["AvailabilityZones"]
        names = sorted(each["ZoneName"] for each in zones)
        if zone not in names:
            raise RestoreError(
                f'cannot make a volume in zone "{zone}": region "{self.place.region}" has no such'
                " availability zone",
                hint=f"The zones there are {', '.join(names)}.",
            )

    def _try_volume(self, zone: str) -> None:
        """Ask whether a volume may be made, without making one: a restore may take hours."""
        asked = self._volume(1)
        asked["DryRun"] = True
        with told(RestoreError, f'cannot make a volume in zone "{zone}"'):
            try:
                self.control.call(lambda: self.clients.ec2.create_volume(**asked))
            except AwsError as failure:
                if failure.code != "DryRunOperation":
                    raise


def _looks(began: float, timeout: timedelta) -> Iterable[float]:
    """Yield the seconds waited so far, each time to look again; in longer and longer steps."""
    pause = 0.25
    limit = timeout.total_seconds()
    while True:
        waited = clock.monotonic() - began
        yield waited
        if waited + pause > limit:
            return
        clock.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
