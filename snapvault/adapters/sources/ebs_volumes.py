# SPDX-License-Identifier: Apache-2.0
"""Which EBS volumes a policy means: those of an instance, by device, or a single one."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapvault.adapters.aws import Caller, told
from snapvault.errors import SourceError
from snapvault.model.policy import EbsSpec, is_name

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

_USABLE = ("in-use", "available")


@dataclass(frozen=True, slots=True)
class Volume:
    """An EBS volume; `device` is empty for one that is named by itself. Size in bytes."""

    id: str
    device: str
    size: int
    is_boot: bool = False

    @property
    def own_name(self) -> str:
        """The device's name as a stream's: `/dev/xvda` is `xvda`."""
        return self.device.removeprefix("/dev/").lower().replace("/", "-")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The volumes to snapshot, boot volume first and then by device, and those to leave out."""

    volumes: tuple[Volume, ...]
    left_out: tuple[Volume, ...] = ()


def choose(ec2: "EC2Client", caller: Caller, spec: EbsSpec) -> Chosen:
    """Look the volumes of a policy up.

    Raises:
        SourceError: the instance, the volume or a device is not there, or cannot be read.
    """
    if spec.volume is not None:
        return Chosen(_sized(ec2, caller, [Volume(spec.volume, "", 0)]))
    instance = spec.instance or ""
    with told(SourceError, f'could not look up instance "{instance}"'):
        answer = caller.call(lambda: ec2.describe_instances(InstanceIds=[instance]))
    found = [one for group in answer["Reservations"] for one in group["Instances"]]
    if not found or found[0]["State"]["Name"] == "terminated":
        raise SourceError(
            f'instance "{instance}" is not there any more',
            hint="Name another instance, or take this one out of the policy.",
        )
    root = found[0].get("RootDeviceName")
    volumes = [
        Volume(mapping["Ebs"]["VolumeId"], mapping["DeviceName"], 0, mapping["DeviceName"] == root)
        for mapping in found[0].get("BlockDeviceMappings", [])
        if "Ebs" in mapping
    ]
    volumes.sort(key=lambda volume: (not volume.is_boot, volume.device))
    chosen = pick(volumes, spec.devices, instance)
    left_out = tuple(volume for volume in volumes if volume not in chosen)
    return Chosen(_sized(ec2, caller, chosen), left_out)


def pick(volumes: Sequence[Volume], wanted: Sequence[str], instance: str) -> list[Volume]:
    """Pick volumes by device name, with or without `/dev/`, or volume id; nothing wanted: all.

    Raises:
        SourceError: one is not there, there are none, or a name cannot name a stream.
    """
    if not volumes:
        raise SourceError(f'instance "{instance}" has no EBS volumes')
    known = {key: volume for volume in volumes for key in (volume.id, volume.device)}
    known |= {volume.own_name: volume for volume in volumes}
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            has = ", ".join(f"{volume.device} ({volume.id})" for volume in volumes)
            raise SourceError(
                f'instance "{instance}" has no device "{name}"',
                hint=(f'Did you mean "{near[0]}"? ' if near else "") + f"It has {has}.",
            )
    names = {known[name].id for name in wanted}
    chosen = [volume for volume in volumes if not wanted or volume.id in names]
    for volume in chosen:
        if not is_name(volume.own_name):
            raise SourceError(
                f'device "{volume.device}" of instance "{instance}" cannot name a stream',
                hint=f"Back volume {volume.id} up by its id, as a stream of its own.",
            )
    return chosen


def _sized(ec2: "EC2Client", caller: Caller, volumes: Sequence[Volume]) -> tuple[Volume, ...]:
    """Add the sizes, and refuse what cannot be snapshot."""
    ids = [volume.id for volume in volumes]
    named = ", ".join(f'"{one}"' for one in ids)
    with told(SourceError, f"could not look up volume {named}"):
        answer = caller.call(lambda: ec2.describe_volumes(VolumeIds=ids))
    found = {volume["VolumeId"]: volume for volume in answer["Volumes"]}
    sized = []
    for volume in volumes:
        facts = found.get(volume.id)
        if facts is None:
            raise SourceError(f'volume "{volume.id}" is not there any more')
        if facts.get("OutpostArn"):
            raise SourceError(
                f'volume "{volume.id}" lies on an Outpost, whose snapshots cannot be read'
            )
        if facts["State"] not in _USABLE:
            raise SourceError(f'volume "{volume.id}" is in state "{facts["State"]}"')
        sized.append(Volume(volume.id, volume.device, facts["Size"] << 30, volume.is_boot))
    return tuple(sized)
