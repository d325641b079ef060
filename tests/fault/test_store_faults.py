# SPDX-License-Identifier: Apache-2.0
"""A real S3 server behind a network that breaks at the worst moment."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.adapters.stores.opening import StoreOptions, open_store
from snapvault.adapters.stores.retrying import Patience
from snapvault.adapters.stores.s3 import ChecksumUse, S3Settings
from snapvault.adapters.stores.s3_store import S3Store
from snapvault.errors import (
    IntegrityError,
    ObjectMissingError,
    SnapVaultError,
    StoreDeniedError,
    StoreError,
    StoreMissingError,
    StoreUnavailableError,
)
from snapvault.ports.store import Readable, Store
from snapvault.ports.throttle import GivenUp
from tests.support import s3
from tests.support.fault_proxy import (
    Answer,
    Corrupt,
    CorruptUpload,
    CutUpload,
    Delay,
    FaultProxy,
    Hang,
    LoseResponse,
    Truncate,
)
from tests.support.throttles import RecordedThrottle

pytestmark = pytest.mark.integration

VOLUME = "volumes/ab/abcdef.vol"
SEALED = random.Random(1).randbytes(1_000_000)

# Fast, and as many tries as the default has before it gives up.
PATIENCE = Patience(first_wait=0.001, longest_wait=0.005, total=60.0, first_contact=60.0)


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy(s3.server().port) as running:
        yield running


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.server().environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def prefix() -> str:
    return s3.fresh_prefix()


@pytest.fixture
def store(proxy: FaultProxy, prefix: str) -> Store:
    """The store as it is used: trying again, behind the proxy."""
    options = StoreOptions(endpoint_url=proxy.endpoint_url)
    return open_store(f"s3://{s3.BUCKET}/{prefix}", options, patience=PATIENCE)


@pytest.fixture
def bare(proxy: FaultProxy, prefix: str) -> S3Store:
    """The same store, without a second try."""
    return S3Store(S3Settings(s3.BUCKET, prefix, endpoint_url=proxy.endpoint_url))


@pytest.fixture
def honest(prefix: str) -> S3Store:
    """What is really in the server, seen past the proxy."""
    return S3Store(S3Settings(s3.BUCKET, prefix, endpoint_url=s3.server().endpoint_url))


def spooled(folder: Path, data: bytes = SEALED) -> tuple[Path, int, str]:
    path = folder / "spooled"
    path.write_bytes(data)
    return path, len(data), hashlib.sha256(data).hexdigest()


def pieces(readable: Readable) -> Iterator[bytes]:
    return iter(lambda: readable.read(70_000), b"")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(503, "SlowDown"),
        Answer(503, "ServiceUnavailable"),
        Answer(500, "InternalError"),
        Answer(502, "BadGateway"),
        Answer(400, "RequestTimeout"),
        Answer(409, "ConditionalRequestConflict"),
    ],
    ids=lambda answer: answer.code,
)
def test_a_store_that_asks_to_come_back_later_is_asked_again(
    store: Store, honest: S3Store, proxy: FaultProxy, answer: Answer
) -> None:
    proxy.inject("^PUT", answer, times=2)

    store.put(VOLUME, SEALED)

    assert honest.get(VOLUME) == SEALED
    assert proxy.count("^PUT") == 3


def test_botocore_itself_never_tries_again(bare: S3Store, proxy: FaultProxy) -> None:
    proxy.inject("^PUT", Answer(503, "SlowDown"), times=9)

    with pytest.raises(StoreUnavailableError, match="SlowDown"):
        bare.put(VOLUME, SEALED)

    assert proxy.count("") == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(403, "AccessDenied"), StoreDeniedError),
        (Answer(403, "SignatureDoesNotMatch"), StoreDeniedError),
        (Answer(400, "ExpiredToken"), StoreDeniedError),
        (Answer(404, "NoSuchBucket"), StoreMissingError),
        (Answer(400, "EntityTooLarge"), StoreError),
        (Answer(400, "BadDigest"), IntegrityError),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
def test_a_refusal_is_final(
    store: Store, proxy: FaultProxy, answer: Answer, kind: type[SnapVaultError]
) -> None:
    proxy.inject("^PUT", answer, times=9)

    with pytest.raises(SnapVaultError) as caught:
        store.put(VOLUME, SEALED)

    assert type(caught.value) is kind
    assert proxy.count("") == 1


def test_a_put_whose_answer_is_lost_is_recognized_as_our_own(
    store: Store, honest: S3Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    path, size, sha256 = spooled(tmp_path)
    proxy.inject("^PUT", LoseResponse())

    store.put_file(VOLUME, path, size=size, sha256=sha256)

    assert honest.get(VOLUME) == SEALED
    assert (proxy.count("^PUT"), proxy.count("^HEAD"), proxy.count("^GET")) == (2, 1, 0)


def test_somebody_elses_object_under_our_name_is_no_lost_answer(
    store: Store, honest: S3Store, proxy: FaultProxy
) -> None:
    honest.put(VOLUME, SEALED[::-1])
    proxy.inject("^PUT", Answer(503, "SlowDown"))

    with pytest.raises(IntegrityError, match=VOLUME):
        store.put(VOLUME, SEALED)

    assert honest.get(VOLUME) == SEALED[::-1]


def test_without_its_metadata_our_own_object_is_recognized_by_its_bytes(
    store: Store, honest: S3Store
) -> None:
    honest._client.put_object(Bucket=s3.BUCKET, Key=honest._key(VOLUME), Body=SEALED)

    store.put(VOLUME, SEALED)

    with pytest.raises(IntegrityError):
        store.put(VOLUME, SEALED[::-1])


def test_a_cut_upload_is_sent_again_whole(
    store: Store, honest: S3Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    path, size, sha256 = spooled(tmp_path)
    proxy.inject("^PUT", CutUpload(300_000), times=2)

    store.put_file(VOLUME, path, size=size, sha256=sha256)

    assert honest.get(VOLUME) == SEALED
    assert proxy.count("^PUT") == 3


def test_a_cut_upload_leaves_nothing_to_see(
    bare: S3Store, honest: S3Store, proxy: FaultProxy
) -> None:
    proxy.inject("^PUT", CutUpload(300_000))

    with pytest.raises(StoreUnavailableError):
        bare.put(VOLUME, SEALED)

    assert list(honest.names()) == []


@pytest.mark.parametrize("request_checksum", ["when_supported", "when_required"])
def test_an_upload_damaged_on_its_way_is_refused_by_the_store(
    honest: S3Store, proxy: FaultProxy, prefix: str, request_checksum: ChecksumUse
) -> None:
    settings = S3Settings(
        s3.BUCKET, prefix, endpoint_url=proxy.endpoint_url, request_checksum=request_checksum
    )
    proxy.inject("^PUT", CorruptUpload(500_000))

    with pytest.raises(IntegrityError, match="the bytes that arrived"):
        S3Store(settings).put(VOLUME, SEALED)

    assert list(honest.names()) == []


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "politely"])
def test_a_body_cut_in_the_middle_is_resumed_where_it_stopped(
    store: Store, honest: S3Store, proxy: FaultProxy, *, reset: bool
) -> None:
    honest.put(VOLUME, SEALED)
    proxy.inject("^GET", Truncate(400_000, reset=reset), times=2)

    with store.open(VOLUME) as readable:
        got = b"".join(pieces(readable))

    assert got == SEALED
    assert proxy.count("^GET") == 3


def test_a_body_that_never_comes_whole_is_never_passed_off_as_whole(
    honest: S3Store, proxy: FaultProxy, prefix: str
) -> None:
    options = StoreOptions(endpoint_url=proxy.endpoint_url)
    store = open_store(f"s3://{s3.BUCKET}/{prefix}", options, patience=replace(PATIENCE, total=1.5))
    honest.put(VOLUME, SEALED)
    proxy.inject("^GET", Truncate(400_000, reset=False), times=1)
    proxy.inject("^GET", Truncate(0, reset=False), times=10_000)

    got: list[bytes] = []
    with store.open(VOLUME) as readable, pytest.raises(StoreUnavailableError):
        got.extend(pieces(readable))

    assert SEALED.startswith(b"".join(got))
    assert 0 < len(b"".join(got)) <= 400_000


def test_get_of_a_body_that_is_cut_tries_again(
    store: Store, honest: S3Store, proxy: FaultProxy
) -> None:
    honest.put(VOLUME, SEALED)
    proxy.inject("^GET", Truncate(400_000))

    assert store.get(VOLUME) == SEALED


def test_an_object_that_changes_between_two_parts_of_a_read_is_found(
    store: Store, honest: S3Store, proxy: FaultProxy
) -> None:
    honest.put(VOLUME, SEALED)
    proxy.inject("^GET", Truncate(400_000))

    with store.open(VOLUME) as readable:
        readable.read(1)
        honest.delete([VOLUME])
        honest.put(VOLUME, SEALED[::-1])

        with pytest.raises(IntegrityError, match="changed while it was read"):
            list(pieces(readable))


def test_an_object_that_vanishes_between_two_parts_of_a_read_is_missing(
    store: Store, honest: S3Store, proxy: FaultProxy
) -> None:
    honest.put(VOLUME, SEALED)
    proxy.inject("^GET", Truncate(400_000))

    with store.open(VOLUME) as readable:
        readable.read(1)
        honest.delete([VOLUME])

        with pytest.raises(ObjectMissingError, match=VOLUME):
            list(pieces(readable))


def test_the_response_checksum_finds_a_bit_flipped_on_the_way(
    honest: S3Store, proxy: FaultProxy, prefix: str
) -> None:
    honest.put(VOLUME, SEALED)
    settings = S3Settings(
        s3.BUCKET, prefix, endpoint_url=proxy.endpoint_url, response_checksum="when_supported"
    )
    proxy.inject("^GET", Corrupt(500_000))

    with pytest.raises(IntegrityError, match="checksum"):
        S3Store(settings).get(VOLUME)


def test_a_silent_store_is_unavailable_and_asked_again(
    bare: S3Store, honest: S3Store, proxy: FaultProxy, prefix: str
) -> None:
    hasty = S3Store(
        S3Settings(s3.BUCKET, prefix, endpoint_url=proxy.endpoint_url, read_timeout=0.3)
    )
    honest.put(VOLUME, SEALED)
    proxy.inject("^GET", Hang())

    with pytest.raises(StoreUnavailableError, match="does not answer"):
        hasty.get(VOLUME)

    assert bare.get(VOLUME) == SEALED


def test_a_slow_store_is_waited_for(bare: S3Store, proxy: FaultProxy) -> None:
    proxy.inject("^PUT", Delay(0.05))

    bare.put(VOLUME, SEALED)

    assert bare.get(VOLUME) == SEALED


def test_a_listing_that_fails_on_its_way_is_no_shorter_listing(
    store: Store, honest: S3Store, proxy: FaultProxy
) -> None:
    names = [f"points/web/{number}.point" for number in range(5)]
    for name in names:
        honest.put(name, b"sealed")
    proxy.inject("list-type=2", Truncate(700))
    proxy.inject("list-type=2", Truncate(700, reset=False))
    proxy.inject("list-type=2", Answer(503, "SlowDown"))

    assert [item.name for item in store.names()] == names
    assert len(proxy.fired) == 3


def test_a_store_without_batch_deletion_deletes_one_by_one(
    store: Store, honest: S3Store, proxy: FaultProxy
) -> None:
    honest.put("a", b"1")
    honest.put("b", b"2")
    proxy.inject("^POST .*delete", Answer(501, "NotImplemented"))

    store.delete(["a", "b", "c"])

    assert list(honest.names()) == []
    assert proxy.count("^DELETE") == 3


def test_probe_sees_through_a_store_that_refuses_the_header(
    store: Store, honest: S3Store, proxy: FaultProxy
) -> None:
    proxy.inject("^GET", Delay(0))
    proxy.inject("^PUT", Delay(0))
    proxy.inject("^PUT", Answer(501, "NotImplemented"))

    traits = store.probe()

    assert not traits.create_only
    assert list(honest.names()) == []


def test_probe_survives_a_busy_store(store: Store, proxy: FaultProxy) -> None:
    proxy.inject("^PUT", Answer(503, "SlowDown"))
    proxy.inject("^POST", Answer(503, "SlowDown"))

    assert store.probe().create_only


def test_a_writer_that_must_look_first_looks_first(
    honest: S3Store, proxy: FaultProxy, prefix: str
) -> None:
    settings = S3Settings(s3.BUCKET, prefix, endpoint_url=proxy.endpoint_url, create_only=False)
    store = S3Store(settings)
    store.put(VOLUME, SEALED)

    store.put(VOLUME, SEALED)
    with pytest.raises(IntegrityError, match=VOLUME):
        store.put(VOLUME, SEALED[::-1])

    assert honest.get(VOLUME) == SEALED
    assert proxy.count("^PUT") == 1


# --- limits ---------------------------------------------------------------------------------


def test_every_byte_of_every_try_passes_the_throttle_as_it_is_sent(
    proxy: FaultProxy, prefix: str, tmp_path: Path
) -> None:
    throttle = RecordedThrottle(piece=50_000)
    options = StoreOptions(endpoint_url=proxy.endpoint_url)
    store = open_store(f"s3://{s3.BUCKET}/{prefix}", options, patience=PATIENCE, throttle=throttle)
    path, size, sha256 = spooled(tmp_path)
    proxy.inject("^PUT", CutUpload(400_000))

    store.put_file(VOLUME, path, size=size, sha256=sha256)
    sent = throttle.total
    store.put("points/small", b"signed")
    store.put("points/large", SEALED)

    assert store.get(VOLUME) == store.get("points/large") == SEALED
    assert size + 400_000 <= sent <= 2 * size
    # Once each where nothing was cut: no byte is read ahead for a checksum.
    assert throttle.total == sent + 6 + size


def test_an_upload_that_is_given_up_ends_in_the_middle_and_stores_nothing(
    proxy: FaultProxy, prefix: str, honest: S3Store, tmp_path: Path
) -> None:
    throttle = RecordedThrottle(limit=300_000)
    options = StoreOptions(endpoint_url=proxy.endpoint_url)
    store = open_store(f"s3://{s3.BUCKET}/{prefix}", options, throttle=throttle)
    path, size, sha256 = spooled(tmp_path)

    with pytest.raises(GivenUp):
        store.put_file(VOLUME, path, size=size, sha256=sha256)

    assert proxy.count("^PUT") == 1
    assert list(honest.names()) == []
