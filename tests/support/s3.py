# SPDX-License-Identifier: Apache-2.0
"""Stores on the shared S3 server, each with a prefix that nobody used before."""

import atexit
import functools
import secrets
import shutil
import tempfile
from pathlib import Path

from tests.support.loopback import LoopbackServer
from tests.support.seaweed import SeaweedServer, shared_server
from tests.support.tls_forwarder import Authority, make_authority, tls_forwarder

BUCKET = "snapvault-tests"
LOCKING_BUCKET = "snapvault-locks"


@functools.cache
def server() -> SeaweedServer:
    """Return the shared server, with the bucket `BUCKET`."""
    running = shared_server()
    running.create_bucket(BUCKET)
    return running


@functools.cache
def locking_server() -> SeaweedServer:
    """Return the shared server, with the bucket `LOCKING_BUCKET`, which has Object Lock."""
    running = shared_server()
    running.create_bucket(LOCKING_BUCKET, locks=True)
    return running


@functools.cache
def authority() -> Authority:
    """Return the certificate authority behind `https_endpoint`."""
    folder = Path(tempfile.mkdtemp(prefix="snapvault-ca-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_authority(folder)


@functools.cache
def _forwarder() -> LoopbackServer:
    return tls_forwarder(server().port, authority())


def https_endpoint() -> str:
    """Return the URL under which the shared server speaks TLS."""
    return f"https://127.0.0.1:{_forwarder().port}"


def fresh_prefix() -> str:
    """Return a prefix that nobody used before."""
    return secrets.token_hex(6)
