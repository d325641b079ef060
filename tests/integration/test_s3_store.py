# SPDX-License-Identifier: Apache-2.0
"""The S3 store and a real server: credentials, buckets, TLS, and no network at all."""

import hashlib
import os
import random
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.stores.opening import StoreOptions, open_store
from snapvault.adapters.stores.s3 import S3Settings
from snapvault.adapters.stores.s3_store import PUT_LIMIT, S3Store
from snapvault.errors import (
    SnapVaultError,
    StoreDeniedError,
    StoreError,
    StoreMissingError,
    StoreUnavailableError,
)
from snapvault.ports.store import Store
from tests.support import s3, seaweed
from tests.support.loopback import closed_port
from tests.support.seaweed import SeaweedServer
from tests.support.tls_forwarder import make_authority

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in s3.server().environment().items():
        monkeypatch.setenv(name, value)


def at(url: str, *, bucket: str = s3.BUCKET, ca_bundle: Path | None = None) -> Store:
    options = StoreOptions(endpoint_url=url, ca_bundle=ca_bundle)
    return open_store(f"s3://{bucket}/{s3.fresh_prefix()}", options)


def every_failure_of(store: Store) -> list[SnapVaultError]:
    """Return what each kind of call raises."""
    failures = []
    for call in (
        lambda: store.get("x"),
        lambda: store.stat("x"),
        lambda: store.put("x", b""),
        lambda: list(store.names()),
        lambda: store.delete(["x"]),
        store.probe,
    ):
        with pytest.raises(SnapVaultError) as caught:
            call()
        failures.append(caught.value)
    return failures


def test_a_wrong_secret_is_denied_by_name_and_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    started = clock.monotonic()

    failures = every_failure_of(at(s3.server().endpoint_url))

    assert {type(failure) for failure in failures} == {StoreDeniedError}
    assert "the secret key is wrong" in str(failures[0])
    assert all(failure.hint for failure in failures)
    assert clock.monotonic() - started < 60


def test_an_unknown_access_key_is_denied_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKNOBODY")

    failures = every_failure_of(at(s3.server().endpoint_url))

    assert {type(failure) for failure in failures} == {StoreDeniedError}
    assert "the access key is unknown" in str(failures[0])


def test_without_credentials_the_hint_says_where_they_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    failures = every_failure_of(at(s3.server().endpoint_url))

    assert {type(failure) for failure in failures} == {StoreDeniedError}
    assert all("AWS_ACCESS_KEY_ID" in (failure.hint or "") for failure in failures)


def test_half_of_the_credentials_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(StoreDeniedError) as caught:
        at(s3.server().endpoint_url).get("x")

    assert "AWS_SECRET_ACCESS_KEY" in (caught.value.hint or "")


def test_a_profile_that_does_not_exist_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")

    with pytest.raises(StoreDeniedError, match="nobody"):
        at(s3.server().endpoint_url)


def test_a_missing_bucket_is_said_to_be_missing_whatever_was_asked() -> None:
    failures = every_failure_of(at(s3.server().endpoint_url, bucket="not-there"))

    assert {str(failure) for failure in failures} == {'bucket "not-there" does not exist'}
    assert {type(failure) for failure in failures} == {StoreMissingError}
    assert all(failure.hint for failure in failures)


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "no-such-host.invalid:{port}"])
def test_a_network_that_is_not_there_is_unavailable_within_seconds(host: str) -> None:
    started = clock.monotonic()

    with closed_port() as port, pytest.raises(StoreUnavailableError) as caught:
        at("http://" + host.format(port=port)).get("x")

    assert caught.value.hint is not None
    assert clock.monotonic() - started < 60


def test_a_certificate_that_nobody_vouches_for_is_denied() -> None:
    with pytest.raises(StoreDeniedError, match="certificate cannot be verified") as caught:
        at(s3.https_endpoint()).get("x")

    assert "ca_bundle" in (caught.value.hint or "")


def test_a_certificate_of_another_authority_is_denied(tmp_path: Path) -> None:
    other = make_authority(tmp_path).ca_bundle

    with pytest.raises(StoreDeniedError, match="certificate cannot be verified"):
        at(s3.https_endpoint(), ca_bundle=other).get("x")


def test_https_to_a_plain_server_is_explained() -> None:
    with pytest.raises(StoreDeniedError, match="does not speak TLS") as caught:
        at(s3.server().endpoint_url.replace("http:", "https:")).get("x")

    assert "http://" in (caught.value.hint or "")


def test_a_server_that_is_no_store_is_explained() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener, ThreadPoolExecutor(1) as pool:
        port = listener.getsockname()[1]

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                page = b"<html>It works!</html>"
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(page) + page
                )

        pool.submit(greet)

        with pytest.raises(StoreError, match="does not speak S3"):
            list(at(f"http://127.0.0.1:{port}").names())


def test_a_listing_of_many_pages_is_whole_and_so_is_their_deletion() -> None:
    store = at(s3.server().endpoint_url)
    names = [f"volumes/{number:04}.vol" for number in range(1010)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b"x"), names))

    listed = [item.name for item in store.names()]
    store.delete(names)

    assert listed == names
    assert list(store.names()) == []


def test_two_vaults_in_one_bucket_do_not_see_each_other() -> None:
    prefix = s3.fresh_prefix()
    url = s3.server().endpoint_url
    one = S3Store(S3Settings(s3.BUCKET, prefix, endpoint_url=url))
    other = S3Store(S3Settings(s3.BUCKET, prefix + "2", endpoint_url=url))

    one.put("vault.json", b"one")
    other.put("vault.json", b"other")

    assert [item.name for item in one.names()] == ["vault.json"]
    assert (one.get("vault.json"), other.get("vault.json")) == (b"one", b"other")


def test_objects_carry_their_digest_type_and_storage_class(tmp_path: Path) -> None:
    settings = S3Settings(
        s3.BUCKET,
        s3.fresh_prefix(),
        endpoint_url=s3.server().endpoint_url,
        storage_class="STANDARD_IA",
    )
    store = S3Store(settings)
    path = tmp_path / "spooled"
    path.write_bytes(b"sealed")
    digest = hashlib.sha256(b"sealed").hexdigest()

    store.put_file("x", path, size=6, sha256=digest)

    head = store._client.head_object(Bucket=s3.BUCKET, Key=store._key("x"))
    assert head["Metadata"] == {"sha256": digest}
    assert head["StorageClass"] == "STANDARD_IA"
    assert head["ContentType"] == "application/octet-stream"


def test_more_than_one_put_can_have_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.touch()
    os.truncate(path, PUT_LIMIT + 1)

    with pytest.raises(StoreError, match="more than one put can have") as caught:
        at(s3.server().endpoint_url).put_file("x", path, size=PUT_LIMIT + 1, sha256="0" * 64)

    assert "volume_size" in (caught.value.hint or "")


def test_a_vault_in_a_folder_never_loads_boto3(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from snapvault.adapters.stores.opening import open_store\n"
        f"open_store({tmp_path.as_uri()!r}).put('x', b'sealed')\n"
        "print([name for name in sys.modules if name.startswith(('boto', 'urllib3'))])\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "[]"


def test_the_server_ends_with_the_process_that_started_it_however_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    program = (
        "import os, signal\n"
        "from tests.support.seaweed import SeaweedServer\n"
        "print(SeaweedServer().pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    deadline = clock.monotonic() + 60
    while _runs(int(result.stdout)) and clock.monotonic() < deadline:
        clock.sleep(0.02)
    assert not _runs(int(result.stdout))
    assert len(list(tmp_path.iterdir())) == 1
    with SeaweedServer():
        assert len(list(tmp_path.iterdir())) == 1  # the next one sweeps up what was left
    assert list(tmp_path.iterdir()) == []


def test_servers_that_start_together_do_not_take_each_others_ports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = iter([5, 5, 10])  # which no server has
    monkeypatch.setattr(random, "randrange", lambda *_: next(draws))
    monkeypatch.setattr(seaweed, "_is_free", lambda _: True)
    monkeypatch.setattr(seaweed, "_PREFIX", f"snapvault-test-{os.getpid()}-")

    first, one = seaweed.claim_ports()
    second, other = seaweed.claim_ports()

    one.close()
    other.close()
    assert (first, second) == (5, 10)


def test_a_stopped_server_leaves_nothing_behind() -> None:
    with SeaweedServer() as server:
        folder, pid = server._folder, server.pid

    assert not folder.exists()
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the latter while it is being read
        return False
    return state != "Z"
