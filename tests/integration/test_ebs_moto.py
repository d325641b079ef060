# SPDX-License-Identifier: Apache-2.0
"""The shape of our EC2 calls, against somebody else's idea of EC2.

moto's EBS direct calls know nothing of snapshots that EC2 made, so blocks are not read here.
"""

import os
from collections.abc import Iterator
from datetime import timedelta

import boto3
import pytest
from moto.server import ThreadedMotoServer

from snapvault.adapters import aws
from snapvault.adapters.sources.ebs_snapshots import OWNER, POINT, RUN, STREAM, Snapshots
from snapvault.adapters.sources.ebs_volumes import Chosen, choose
from snapvault.errors import SourceError
from snapvault.model.policy import EbsSpec
from tests.support.events import RecordedEvents

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def clients(endpoint: str) -> Iterator[aws.Clients]:
    os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing")
    clients = aws.open_clients("eu-west-1", None, None, endpoint)
    yield clients
    clients.close()


@pytest.fixture
def instance(clients: aws.Clients) -> str:
    """A machine with a boot volume and two more."""
    image = clients.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    made = clients.ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]
    for device in ("/dev/sdf", "/dev/sdg"):
        volume = clients.ec2.create_volume(Size=3, AvailabilityZone="eu-west-1a")
        clients.ec2.attach_volume(
            Device=device, InstanceId=made["InstanceId"], VolumeId=volume["VolumeId"]
        )
    return made["InstanceId"]


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


def snapshots_of(clients: aws.Clients, events: RecordedEvents, owner: str) -> Snapshots:
    return Snapshots(clients.ec2, aws.Caller(attempts=2), owner, "ebs", events)


def chosen_of(clients: aws.Clients, instance: str, *devices: str) -> Chosen:
    return choose(clients.ec2, aws.Caller(), EbsSpec(instance=instance, devices=devices))


def test_the_volumes_of_an_instance_are_found(clients: aws.Clients, instance: str) -> None:
    chosen = chosen_of(clients, instance)

    assert [volume.own_name for volume in chosen.volumes][-2:] == ["sdf", "sdg"]
    assert [volume.is_boot for volume in chosen.volumes] == [True, False, False]
    assert chosen.volumes[-1].size == 3 << 30


def test_snapshots_of_an_instance_are_made_tagged_found_and_deleted(
    clients: aws.Clients, instance: str, events: RecordedEvents
) -> None:
    snapshots = snapshots_of(clients, events, "5a/machine")
    chosen = chosen_of(clients, instance, "sdf", "sdg")

    made = snapshots.create(instance, chosen, "run-1")
    complete = snapshots.wait(list(made.values()), timedelta(minutes=1))
    first, second = made.values()
    snapshots.tag(first, {STREAM: "sdf", POINT: "p1"})
    ours = {one.id: one for one in snapshots.ours()}
    snapshots.delete([second, second])

    assert made.keys() == {volume.id for volume in chosen.volumes}
    assert all(one.is_readable and one.size == 3 << 30 for one in complete.values())
    assert ours.keys() == set(made.values())
    assert ours[first].tags[OWNER] == "5a/machine"
    assert ours[first].tags[RUN] == "run-1"
    assert ours[first].tags[POINT] == "p1"
    assert [one.id for one in snapshots.ours()] == [first]
    assert events.warnings == []


def test_a_snapshot_of_one_volume_is_told_from_those_of_others(
    clients: aws.Clients, events: RecordedEvents
) -> None:
    volume = clients.ec2.create_volume(Size=2, AvailabilityZone="eu-west-1a")["VolumeId"]
    chosen = choose(clients.ec2, aws.Caller(), EbsSpec(volume=volume))
    other = snapshots_of(clients, events, "5a/other").create(None, chosen, "run-1")

    snapshots = snapshots_of(clients, events, "5a/one")
    made = snapshots.create(None, chosen, "run-1")

    assert [one.id for one in snapshots.of_run("run-1")] == list(made.values())
    assert other != made


def test_a_try_makes_nothing(clients: aws.Clients, instance: str, events: RecordedEvents) -> None:
    snapshots = snapshots_of(clients, events, "5a/dry")

    snapshots.try_create(instance, chosen_of(clients, instance))

    assert snapshots.ours() == []


def test_what_is_not_there_is_named(clients: aws.Clients) -> None:
    with pytest.raises(SourceError, match='look up instance "i-0123456789abcdef0": it is not'):
        chosen_of(clients, "i-0123456789abcdef0")


def test_our_client_is_signed_for_the_region(endpoint: str, clients: aws.Clients) -> None:
    stranger = boto3.session.Session("x", "y", region_name="us-east-1").client(
        "ec2", endpoint_url=endpoint
    )

    here = clients.ec2.describe_availability_zones()["AvailabilityZones"]
    there = stranger.describe_availability_zones()["AvailabilityZones"]

    assert {zone["RegionName"] for zone in here} == {"eu-west-1"}
    assert {zone["RegionName"] for zone in there} == {"us-east-1"}
