# SPDX-License-Identifier: Apache-2.0
"""The EC2 and STS calls that go with EBS: query parameters in, XML out.

Source: botocore's models of `ec2`, version 2016-11-15, and `sts`, version 2011-06-15.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TypeVar
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from tests.support.ebs_fake_world import (
    REGIONS,
    Instance,
    RefusedError,
    Snapshot,
    Volume,
    World,
)

_T = TypeVar("_T")
_EC2_SPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
_STS_SPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
_KINDS = {"standard", "gp2", "gp3", "io1", "io2", "st1", "sc1"}
_MOST_TAGS = 50


@dataclass(frozen=True, slots=True)
class QueryCall:
    """A request of the query protocol. `denied` names the calls this account may not make."""

    name: str
    region: str
    account: str
    parameters: Mapping[str, str]
    denied: frozenset[str] = frozenset()
    user: str = ""

    def get(self, name: str) -> str | None:
        """Return a parameter."""
        return self.parameters.get(name)

    def required(self, name: str) -> str:
        """Return a parameter that must be there."""
        found = self.parameters.get(name)
        if not found:
            raise RefusedError(
                400, "MissingParameter", f"The request must contain the parameter {name}"
            )
        return found

    def listed(self, name: str) -> list[str]:
        """Return `name.1`, `name.2` and so on."""
        found: list[str] = []
        while (value := self.parameters.get(f"{name}.{len(found) + 1}")) is not None:
            found.append(value)
        return found

    def number(self, name: str) -> int | None:
        """Return a parameter that is a number."""
        text = self.parameters.get(name)
        if text is None:
            return None
        if not re.fullmatch(r"-?[0-9]+", text):
            raise bad(f"Value ({text}) for parameter {name} is not a number")
        return int(text)

    def flag(self, name: str) -> bool | None:
        """Return a parameter that is a truth value."""
        text = self.parameters.get(name)
        return None if text is None else text == "true"

    def filters(self) -> dict[str, list[str]]:
        """Return filters by name."""
        found = {}
        at = 1
        while name := self.parameters.get(f"Filter.{at}.Name"):
            found[name] = self.listed(f"Filter.{at}.Value")
            at += 1
        return found

    def tags(self, kind: str) -> dict[str, str]:
        """Return the tags for what is being made."""
        tags: dict[str, str] = {}
        at = 1
        while found := self.parameters.get(f"TagSpecification.{at}.ResourceType"):
            if found != kind:
                raise bad(f"'{found}' is not a valid taggable resource type for this operation.")
            tags |= self.pairs(f"TagSpecification.{at}.Tag")
            at += 1
        if tags and "CreateTags" in self.denied:
            raise unauthorized(self.user, "ec2:CreateTags")
        return tags

    def pairs(self, name: str) -> dict[str, str]:
        """Return tags listed below a name, refused where AWS refuses them."""
        tags: dict[str, str] = {}
        at = 1
        while (key := self.parameters.get(f"{name}.{at}.Key")) is not None:
            value = self.parameters.get(f"{name}.{at}.Value", "")
            if not 0 < len(key) <= 128 or len(value) > 256:
                raise bad(f"Tag key or value is too long: {key}")
            if key.lower().startswith("aws:"):
                raise bad("Tag keys starting with 'aws:' are reserved for internal use")
            if key in tags:
                raise bad(f"Duplicate tag key '{key}' specified.")
            tags[key] = value
            at += 1
        if len(tags) > _MOST_TAGS:
            raise RefusedError(400, "TagLimitExceeded", "More than 50 tags specified")
        return tags


def bad(message: str) -> RefusedError:
    """Make the answer to a wrong value."""
    return RefusedError(400, "InvalidParameterValue", message)


def unauthorized(user: str, action: str) -> RefusedError:
    """Make EC2's answer to who may not."""
    return RefusedError(
        403,
        "UnauthorizedOperation",
        "You are not authorized to perform this operation. "
        f"User: {user} is not authorized to perform: {action}",
    )


def read_query(body: bytes) -> dict[str, str]:
    """Read a form."""
    return dict(parse_qsl(body.decode(), keep_blank_values=True))


class Ec2Calls:
    """Answers EC2 calls over a world; the answer is a body of XML."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._pages: dict[str, int] = {}
        self._calls: dict[str, Callable[[QueryCall], Mapping[str, object]]] = {
            "CreateSnapshot": self._create_snapshot,
            "CreateSnapshots": self._create_snapshots,
            "DescribeSnapshots": self._describe_snapshots,
            "DeleteSnapshot": self._delete_snapshot,
            "CreateTags": self._create_tags,
            "DeleteTags": self._delete_tags,
            "DescribeVolumes": self._describe_volumes,
            "CreateVolume": self._create_volume,
            "DeleteVolume": self._delete_volume,
            "DescribeInstances": self._describe_instances,
            "DescribeAvailabilityZones": self._describe_zones,
        }

    def answer(self, call: QueryCall) -> bytes:
        """Do what the call asks for, or raise RefusedError."""
        with self.world.lock:
            if call.name not in self._calls:
                raise RefusedError(400, "InvalidAction", f"The action {call.name} is not valid")
            if call.get("DryRun") == "true":
                raise RefusedError(
                    412,
                    "DryRunOperation",
                    "Request would have succeeded, but DryRun flag is set.",
                )
            return _xml(f"{call.name}Response", _EC2_SPACE, self._calls[call.name](call))

    # --- snapshots --------------------------------------------------------------------------

    def _create_snapshot(self, call: QueryCall) -> Mapping[str, object]:
        volume = self._volume(call, call.required("VolumeId"))
        tags = call.tags("snapshot")
        self._require_room(call, 1)
        made = self.world.snapshot_of(volume, _description(call), tags)
        return _snapshot(made, state="status")

    def _create_snapshots(self, call: QueryCall) -> Mapping[str, object]:
        instance = self._instance(call, call.required("InstanceSpecification.InstanceId"))
        tags = call.tags("snapshot")
        excluded = set(call.listed("InstanceSpecification.ExcludeDataVolumeId"))
        volumes = list(instance.volumes.values())
        if unknown := excluded - {each.id for each in volumes[1:]}:
            raise bad(f"{sorted(unknown)} are no data volumes of {instance.id}")
        if call.flag("InstanceSpecification.ExcludeBootVolume"):
            excluded.add(volumes[0].id)
        volumes = [each for each in volumes if each.id not in excluded]
        if not volumes:
            raise bad("no volume is left to snapshot")
        self._require_room(call, len(volumes))
        made = []
        for volume in volumes:
            own = volume.tags if call.get("CopyTagsFromSource") == "volume" else {}
            made.append(self.world.snapshot_of(volume, _description(call), own | tags))
        return {"snapshotSet": [_snapshot(each, state="state") for each in made]}

    def _require_room(self, call: QueryCall, new: int) -> None:
        if not self.world.require_room_for_pending(call.account, new=new):
            raise RefusedError(
                400, "PendingSnapshotLimitExceeded", "You have too many pending snapshots."
            )

    def _describe_snapshots(self, call: QueryCall) -> Mapping[str, object]:
        wanted = call.listed("SnapshotId")
        owners = call.listed("Owner")
        found = []
        for name in wanted or list(self.world.snapshots):
            snapshot = self.world.find(name, call.region, call.account)
            if snapshot is None and wanted:
                _require_id("snap", name, "InvalidSnapshotID.Malformed")
                raise _no_snapshot(name)
            if snapshot is not None and _owned(snapshot, owners, call.account):
                found.append(snapshot)
        found = _filtered(found, call.filters(), _snapshot_fields)
        found, more = self._page(call, found, explicit=bool(wanted))
        for each in found:
            each.looks += 1
        answer = {"snapshotSet": [_snapshot(each, state="status") for each in found]}
        return answer | ({"nextToken": more} if more else {})

    def _delete_snapshot(self, call: QueryCall) -> Mapping[str, object]:
        name = call.required("SnapshotId")
        found = self.world.find(name, call.region, call.account)
        if found is None:
            _require_id("snap", name, "InvalidSnapshotID.Malformed")
            raise _no_snapshot(name)
        if found.owner != call.account:
            raise unauthorized(call.user, "ec2:DeleteSnapshot")
        if found.in_use:
            raise RefusedError(
                400, "InvalidSnapshot.InUse", f"The snapshot {name} is currently in use by ami-1"
            )
        del self.world.snapshots[name]
        return {"return": True}

    # --- tags -------------------------------------------------------------------------------

    def _create_tags(self, call: QueryCall) -> Mapping[str, object]:
        tags = call.pairs("Tag")
        targets = [self._tagged(call, name) for name in call.listed("ResourceId")]
        for target in targets:
            if len(target.tags | tags) > _MOST_TAGS:
                raise RefusedError(400, "TagLimitExceeded", "More than 50 tags")
            target.tags |= tags
        return {"return": True}

    def _delete_tags(self, call: QueryCall) -> Mapping[str, object]:
        tags = call.pairs("Tag")
        for name in call.listed("ResourceId"):
            target = self._tagged(call, name)
            for key in tags:
                target.tags.pop(key, None)
        return {"return": True}

    def _tagged(self, call: QueryCall, name: str) -> Snapshot | Volume | Instance:
        if name.startswith("vol-"):
            return self._volume(call, name)
        if name.startswith("i-"):
            return self._instance(call, name)
        found = self.world.find(name, call.region, call.account)
        if found is None or found.owner != call.account:
            raise _no_snapshot(name)
        return found

    # --- volumes ----------------------------------------------------------------------------

    def _volume(self, call: QueryCall, name: str) -> Volume:
        _require_id("vol", name, "InvalidParameterValue")
        found = self.world.volumes.get(name)
        if found is None or (found.region, found.owner) != (call.region, call.account):
            raise RefusedError(
                400, "InvalidVolume.NotFound", f"The volume '{name}' does not exist."
            )
        return found

    def _describe_volumes(self, call: QueryCall) -> Mapping[str, object]:
        wanted = call.listed("VolumeId")
        found = (
            [self._volume(call, name) for name in wanted]
            if wanted
            else [
                each
                for each in self.world.volumes.values()
                if (each.region, each.owner) == (call.region, call.account)
            ]
        )
        found = _filtered(found, call.filters(), _volume_fields)
        found, more = self._page(call, found, explicit=bool(wanted))
        for each in found:
            if each.state == "creating":
                each.looks_until_ready -= 1
                each.state = "available" if each.looks_until_ready < 0 else "creating"
        answer = {"volumeSet": [_volume(each) for each in found]}
        return answer | ({"nextToken": more} if more else {})

    def _create_volume(self, call: QueryCall) -> Mapping[str, object]:
        tags = call.tags("volume")
        token = call.get("ClientToken")
        key = sorted(call.parameters.items())
        for each in self.world.volumes.values():
            if token and each.token and each.token[0] == token and each.region == call.region:
                if each.token[1] != key:
                    raise RefusedError(
                        400, "IdempotentParameterMismatch", "The token was used before"
                    )
                return _volume(each)
        zone = call.required("AvailabilityZone")
        if zone not in zones_of(call.region):
            raise RefusedError(400, "InvalidZone.NotFound", f"The zone '{zone}' does not exist.")
        kind = call.get("VolumeType") or "gp2"
        if kind not in _KINDS:
            raise bad(f"Invalid volume type: {kind}")
        if kind in {"io1", "io2"} and call.number("Iops") is None:
            raise RefusedError(400, "MissingParameter", "The parameter iops must be specified")
        snapshot = self._origin(call)
        gib = call.number("Size") or (snapshot.gib if snapshot else 0)
        least = {"st1": 125, "sc1": 125}.get(kind, 1)
        most = {"gp3": 65_536, "io2": 65_536, "standard": 1024}.get(kind, 16_384)
        if not least <= gib <= most or (snapshot and gib < snapshot.gib):
            raise bad(f"The volume size is invalid for {kind} volumes: {gib} GiB")
        made = Volume(
            self.world.new_id("vol"), call.region, zone, gib, call.account, self.world.lock,
            kind=kind, tags=tags, created=self.world.now(), state="creating",
            looks_until_ready=self.world.looks_until_available,
        )  # fmt: skip
        made.token = (token, key) if token else None
        self._fill(call, made, snapshot)
        self.world.volumes[made.id] = made
        return _volume(made)

    def _origin(self, call: QueryCall) -> Snapshot | None:
        name = call.get("SnapshotId")
        if not name:
            return None
        found = self.world.find(name, call.region, call.account)
        if found is None:
            raise _no_snapshot(name)
        if found.state != "completed":
            raise RefusedError(
                400, "IncorrectState", f"Snapshot is in invalid state - {found.state}"
            )
        return found

    def _fill(self, call: QueryCall, volume: Volume, snapshot: Snapshot | None) -> None:
        asked = call.flag("Encrypted")
        key = call.get("KmsKeyId")
        if key and not self.world.knows_key(key, call.region):
            raise RefusedError(400, "InvalidParameterValue", "the KMS key does not exist")
        if key and not asked:
            raise RefusedError(400, "InvalidParameterDependency", "KmsKeyId needs Encrypted")
        from_encrypted = snapshot is not None and snapshot.encrypted
        if from_encrypted and asked is False:
            raise bad("a volume of an encrypted snapshot is encrypted")
        volume.encrypted = bool(from_encrypted or asked or self.world.encryption_by_default)
        if volume.encrypted:
            own = self.world.default_key(call.region, call.account)
            volume.kms_key = key or (snapshot.kms_key if snapshot else None) or own
        if snapshot is not None:
            volume.snapshot = snapshot.id
            volume.blocks = dict(snapshot.blocks)
            volume.random_where_absent = snapshot.encrypted

    def _delete_volume(self, call: QueryCall) -> Mapping[str, object]:
        found = self._volume(call, call.required("VolumeId"))
        if found.state == "in-use":
            raise RefusedError(400, "VolumeInUse", f"Volume {found.id} is currently attached")
        del self.world.volumes[found.id]
        return {"return": True}

    # --- instances and zones ----------------------------------------------------------------

    def _instance(self, call: QueryCall, name: str) -> Instance:
        _require_id("i", name, "InvalidInstanceID.Malformed")
        found = self.world.instances.get(name)
        if found is None or (found.region, found.owner) != (call.region, call.account):
            raise RefusedError(
                400, "InvalidInstanceID.NotFound", f"The instance ID '{name}' does not exist"
            )
        return found

    def _describe_instances(self, call: QueryCall) -> Mapping[str, object]:
        wanted = call.listed("InstanceId")
        found = (
            [self._instance(call, name) for name in wanted]
            if wanted
            else [
                each
                for each in self.world.instances.values()
                if (each.region, each.owner) == (call.region, call.account)
            ]
        )
        found = _filtered(found, call.filters(), _instance_fields)
        found, more = self._page(call, found, explicit=bool(wanted))
        answer = {"reservationSet": [_reservation(each) for each in found]}
        return answer | ({"nextToken": more} if more else {})

    def _describe_zones(self, call: QueryCall) -> Mapping[str, object]:
        wanted = call.listed("ZoneName")
        there = zones_of(call.region)
        if unknown := [zone for zone in wanted if zone not in there]:
            raise bad(f"Invalid availability zone: [{unknown[0]}]")
        return {
            "availabilityZoneInfo": [
                {
                    "zoneName": zone,
                    "zoneState": "available",
                    "regionName": call.region,
                    "zoneType": "availability-zone",
                    "optInStatus": "opt-in-not-required",
                }
                for zone in wanted or there
            ]
        }

    def _page(
        self, call: QueryCall, found: list[_T], *, explicit: bool
    ) -> tuple[list[_T], str | None]:
        most = call.number("MaxResults")
        if most is None and call.get("NextToken") is None:
            return found, None
        if explicit:
            raise RefusedError(
                400, "InvalidParameterCombination", "ids and MaxResults exclude each other"
            )
        most = 1000 if most is None else most
        if not 5 <= most <= 1000:
            raise bad(f"Value ({most}) for parameter maxResults is invalid. Expecting 5 to 1000")
        token = call.get("NextToken")
        if token and token not in self._pages:
            raise bad("Unable to parse pagination token")
        start = self._pages[token] if token else 0
        if start + most >= len(found):
            return found[start:], None
        more = f"page{len(self._pages)}"
        self._pages[more] = start + most
        return found[start : start + most], more


class StsCalls:
    """Who is calling, and roles. `assume` makes credentials, or None if nobody may."""

    def __init__(self, assume: Callable[[str, str], tuple[str, str, str] | None]) -> None:
        self._assume = assume

    def answer(self, call: QueryCall, now: datetime) -> bytes:
        """Do what the call asks for, or raise RefusedError."""
        if call.name == "GetCallerIdentity":
            result: Mapping[str, object] = {
                "Arn": call.user,
                "UserId": "AIDAFAKE",
                "Account": call.account,
            }
        elif call.name == "AssumeRole":
            role, session = call.required("RoleArn"), call.required("RoleSessionName")
            if not re.fullmatch(r"[\w+=,.@-]{2,64}", session):
                raise RefusedError(400, "ValidationError", "RoleSessionName is invalid")
            made = self._assume(role, call.account)
            if made is None:
                raise RefusedError(
                    403,
                    "AccessDenied",
                    f"User: {call.user} is not authorized to perform: sts:AssumeRole "
                    f"on resource: {role}",
                )
            key, secret, token = made
            result = {
                "Credentials": {
                    "AccessKeyId": key,
                    "SecretAccessKey": secret,
                    "SessionToken": token,
                    "Expiration": now.replace(year=now.year + 1),
                },
                "AssumedRoleUser": {"AssumedRoleId": f"AROAFAKE:{session}", "Arn": role},
            }
        else:
            raise RefusedError(400, "InvalidAction", f"Could not find operation {call.name}")
        return _xml(f"{call.name}Response", _STS_SPACE, {f"{call.name}Result": result})


def zones_of(region: str) -> list[str]:
    """Return the names of a region's availability zones."""
    return [f"{region}{letter}" for letter in "abc"] if region in REGIONS else []


def with_denied(call: QueryCall, denied: Iterable[str], user: str) -> QueryCall:
    """Return a call that knows what its account may not do."""
    return replace(call, denied=frozenset(denied), user=user)


# --- values to fields -----------------------------------------------------------------------


def _description(call: QueryCall) -> str:
    text = call.get("Description") or ""
    if len(text) > 255:
        raise bad("Character sets beyond 255 characters are not supported.")
    return text


def _no_snapshot(name: str) -> RefusedError:
    return RefusedError(400, "InvalidSnapshot.NotFound", f"The snapshot '{name}' does not exist.")


def _require_id(kind: str, name: str, code: str) -> None:
    if not re.fullmatch(rf"{kind}-[0-9a-f]{{8,17}}", name):
        raise RefusedError(400, code, f'Invalid id: "{name}"')


def _owned(snapshot: Snapshot, owners: list[str], account: str) -> bool:
    return not owners or snapshot.owner in {account if o == "self" else o for o in owners}


def _filtered(
    found: list[_T],
    filters: Mapping[str, list[str]],
    fields: Callable[[_T], tuple[dict[str, object], dict[str, str]]],
) -> list[_T]:
    for name in filters:
        _require_filter(name)
    kept = []
    for each in found:
        known, tags = fields(each)
        if all(_matches(name, values, known, tags) for name, values in filters.items()):
            kept.append(each)
    return kept


_FILTERS = {
    "attachment.device", "attachment.instance-id", "availability-zone", "description",
    "encrypted", "instance-id", "instance-state-name", "owner-id", "size", "snapshot-id",
    "status", "storage-tier", "volume-id", "volume-size", "volume-type",
}  # fmt: skip


def _require_filter(name: str) -> None:
    if name not in _FILTERS and name != "tag-key" and not name.startswith("tag:"):
        raise bad(f"The filter '{name}' is invalid")


def _matches(name: str, values: list[str], known: dict[str, object], tags: dict[str, str]) -> bool:
    if name.startswith("tag:"):
        key = name.removeprefix("tag:")
        return key in tags and any(_like(tags[key], value) for value in values)
    if name == "tag-key":
        return any(_like(key, value) for key in tags for value in values)
    if name not in known:
        raise bad(f"The filter '{name}' is invalid")
    return any(_like(_text(known[name]), value) for value in values)


def _like(text: str, pattern: str) -> bool:
    return fnmatchcase(text, pattern.replace("[", "[[]"))


def _snapshot_fields(each: Snapshot) -> tuple[dict[str, object], dict[str, str]]:
    return {
        "description": each.description,
        "encrypted": each.encrypted,
        "owner-id": each.owner,
        "snapshot-id": each.id,
        "status": each.state,
        "storage-tier": each.tier,
        "volume-id": each.volume,
        "volume-size": each.gib,
    }, each.tags


def _volume_fields(each: Volume) -> tuple[dict[str, object], dict[str, str]]:
    return {
        "attachment.device": each.device or "",
        "attachment.instance-id": each.instance or "",
        "availability-zone": each.zone,
        "encrypted": each.encrypted,
        "size": each.gib,
        "snapshot-id": each.snapshot,
        "status": each.state,
        "volume-id": each.id,
        "volume-type": each.kind,
    }, each.tags


def _instance_fields(each: Instance) -> tuple[dict[str, object], dict[str, str]]:
    return {"instance-id": each.id, "instance-state-name": each.state}, each.tags


def _snapshot(each: Snapshot, *, state: str) -> dict[str, object]:
    return {
        "snapshotId": each.id,
        "volumeId": each.volume,
        state: each.state,
        "statusMessage": each.status_message or None,
        "startTime": each.started,
        "progress": "100%" if each.state == "completed" else "0%",
        "ownerId": each.owner,
        "volumeSize": each.gib,
        "description": each.description,
        "encrypted": each.encrypted,
        "kmsKeyId": each.kms_key,
        "storageTier": each.tier,
        "tagSet": _tag_set(each.tags),
    }


def _volume(each: Volume) -> dict[str, object]:
    attachment = {
        "volumeId": each.id,
        "instanceId": each.instance,
        "device": each.device,
        "status": "attached",
        "attachTime": each.created,
        "deleteOnTermination": False,
    }
    return {
        "volumeId": each.id,
        "size": each.gib,
        "snapshotId": each.snapshot,
        "availabilityZone": each.zone,
        "status": each.state,
        "createTime": each.created,
        "attachmentSet": [attachment] if each.instance else [],
        "tagSet": _tag_set(each.tags),
        "volumeType": each.kind,
        "encrypted": each.encrypted,
        "kmsKeyId": each.kms_key,
    }


def _reservation(each: Instance) -> dict[str, object]:
    mapping = [
        {
            "deviceName": device,
            "ebs": {
                "volumeId": volume.id,
                "status": "attached",
                "attachTime": volume.created,
                "deleteOnTermination": False,
            },
        }
        for device, volume in each.volumes.items()
    ]
    instance = {
        "instanceId": each.id,
        "instanceState": {"code": 16, "name": each.state},
        "placement": {"availabilityZone": next(iter(each.volumes.values())).zone},
        "rootDeviceType": "ebs",
        "rootDeviceName": next(iter(each.volumes)),
        "blockDeviceMapping": mapping,
        "tagSet": _tag_set(each.tags),
    }
    return {"reservationId": "r-0fake", "ownerId": each.owner, "instancesSet": [instance]}


def _tag_set(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


# --- XML ------------------------------------------------------------------------------------


def _xml(name: str, space: str, content: Mapping[str, object]) -> bytes:
    inside = _elements({"requestId": "fake", **content})
    return f'<?xml version="1.0"?>\n<{name} xmlns="{space}">{inside}</{name}>'.encode()


def _elements(content: Mapping[str, object]) -> str:
    return "".join(
        f"<{key}>{_content(value)}</{key}>" for key, value in content.items() if value is not None
    )


def _content(value: object) -> str:
    if isinstance(value, Mapping):
        return _elements(value)
    if isinstance(value, list):
        return "".join(f"<item>{_content(each)}</item>" for each in value)
    return escape(_text(value))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return str(value)
