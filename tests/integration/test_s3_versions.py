# SPDX-License-Identifier: Apache-2.0
"""Versions and locks, on servers that keep them, that keep half of them, and that keep none."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from moto.server import ThreadedMotoServer

from snapvault import clock
from snapvault.adapters.stores.opening import StoreOptions, open_store, open_versions
from snapvault.adapters.stores.s3 import S3Settings, connect
from snapvault.errors import ObjectMissingError, StoreError
from snapvault.model.locking import LockMode, ObjectLock
from snapvault.ports.store import Store
from snapvault.ports.versions import StoreVersions, Version
from tests.support import s3

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)
NAME = "volumes/ab/abcdef.vol"


@dataclass
class Place:
    """A prefix of a bucket: the store that locks what it puts, and what lies underneath."""

    store: Store
    versions: StoreVersions
    plain: Store

    def all(self, name: str = NAME) -> list[Version]:
        return list(self.versions.versions(name))


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Place]:
    for name, value in s3.locking_server().environment().items():
        monkeypatch.setenv(name, value)

    def place(
        endpoint: str = s3.locking_server().endpoint_url,
        *,
        bucket: str = s3.LOCKING_BUCKET,
        mode: LockMode = LockMode.GOVERNANCE,
    ) -> Place:
        options = StoreOptions(endpoint_url=endpoint, lock=ObjectLock(mode, DAY))
        url = f"s3://{bucket}/{s3.fresh_prefix()}"
        versions = open_versions(url, options)
        assert versions is not None
        plain = open_store(url, replace(options, lock=None, create_only=False))
        return Place(open_store(url, options), versions, plain)

    return place


@pytest.fixture(params=["seaweed", "moto"])
def locking(request: pytest.FixtureRequest, at: Callable[..., Place]) -> Place:
    if request.param == "seaweed":
        return at()
    endpoint = request.getfixturevalue("moto_url")
    client = connect(S3Settings("any", endpoint_url=endpoint))
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    client.close()
    return at(endpoint, bucket="locked")


def test_what_is_put_is_locked_for_two_periods(locking: Place) -> None:
    before = clock.now()

    locking.store.put(NAME, b"sealed")

    (version,) = locking.all()
    until = locking.versions.locked_until(version)
    assert until is not None
    assert before - timedelta(seconds=5) <= until - 2 * DAY <= clock.now() + timedelta(seconds=5)
    assert locking.versions.remove([version]) == (version,)
    assert locking.store.get(NAME) == b"sealed"


def test_a_lock_is_renewed_and_never_shortened(at: Callable[..., Place]) -> None:
    place = at()
    place.store.put(NAME, b"sealed")
    (version,) = place.all()
    until = clock.now() + 5 * DAY

    place.versions.lock(version, until)

    found = place.versions.locked_until(version)
    assert found is not None
    assert abs(found - until) < timedelta(seconds=2)
    with pytest.raises(StoreError):
        place.versions.lock(version, until - DAY)


def test_a_deletion_is_a_marker_and_removing_it_brings_the_object_back(locking: Place) -> None:
    locking.store.put(NAME, b"sealed")
    locking.plain.delete([NAME])
    with pytest.raises(ObjectMissingError):
        locking.store.get(NAME)

    marker, version = locking.all()
    refused = locking.versions.remove([marker])

    assert (marker.is_marker, marker.is_latest, version.is_latest) == (True, True, False)
    assert refused == ()
    assert locking.store.get(NAME) == b"sealed"


def test_a_version_is_read_and_brought_back_from_under_another(locking: Place) -> None:
    locking.store.put(NAME, b"sealed")
    locking.plain.delete([NAME])
    locking.store.put(NAME, b"foreign!")
    version = [each for each in locking.all() if not each.is_marker][-1]

    with locking.versions.open_version(version) as readable:
        content = readable.read(100)
    locking.versions.bring_back(version)

    assert content == b"sealed"
    assert locking.store.get(NAME) == b"sealed"
    top = next(each for each in locking.all() if each.is_latest)
    assert locking.versions.remove([top]) == (top,)  # what is brought back is locked again
    assert top.size == version.size


def test_versions_are_listed_over_several_pages_in_order(at: Callable[..., Place]) -> None:
    place = at()
    plain = place.plain
    for number in range(3):
        plain.put(f"lists/{number}", b"x")
        plain.delete([f"lists/{number}"])

    found = list(place.versions.versions())

    assert [(each.name, each.is_marker) for each in found] == [
        (f"lists/{number}", is_marker) for number in range(3) for is_marker in (True, False)
    ]


@pytest.mark.parametrize("mode", list(LockMode))
def test_a_store_that_locks_is_proven_to(at: Callable[..., Place], mode: LockMode) -> None:
    place = at(mode=mode)

    proof = place.versions.prove_lock()

    assert (proof.holds, proof.trouble) == (True, "")
    assert proof.may_delete
    assert proof.may_bypass is (mode is LockMode.GOVERNANCE)  # an administrator's credentials
    names = [name for name, _ in proof.left]
    assert [each.name for each in place.versions.versions("probe/")] == names
    assert len(names) == (mode is LockMode.COMPLIANCE)
    assert all(until < clock.now() + timedelta(seconds=70) for _, until in proof.left)


def test_a_store_that_lets_locks_be_shortened_is_found_out(
    at: Callable[..., Place], moto_url: str
) -> None:
    client = connect(S3Settings("any", endpoint_url=moto_url))
    client.create_bucket(Bucket="shortened", ObjectLockEnabledForBucket=True)
    client.close()

    proof = at(moto_url, bucket="shortened").versions.prove_lock()

    assert (proof.holds, proof.trouble) == (False, "it let a lock be shortened")


def test_a_bucket_without_object_lock_is_an_error_with_a_remedy(at: Callable[..., Place]) -> None:
    s3.server()
    place = at(bucket=s3.BUCKET)

    with pytest.raises(StoreError, match="the bucket has no Object Lock") as proven:
        place.versions.prove_lock()
    with pytest.raises(StoreError, match=f'could not store "{NAME}".*no Object Lock') as put:
        place.store.put(NAME, b"sealed")

    assert 'leave out "object_lock"' in str(proven.value.hint)
    assert put.value.hint == proven.value.hint
    assert list(place.plain.names()) == []


def test_a_probe_leaves_nothing_in_a_bucket_that_keeps_versions(at: Callable[..., Place]) -> None:
    place = at()

    traits = place.store.probe()

    assert traits.create_only
    assert list(place.versions.versions("probe/")) == []
