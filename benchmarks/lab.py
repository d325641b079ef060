# SPDX-License-Identifier: Apache-2.0
"""Where SnapVault is measured: the real program, real keys, a real S3 server on 127.0.0.1."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from benchmarks.measure import BenchmarkError, Runner, Usage
from tests.support import keys
from tests.support.seaweed import SeaweedError, SeaweedServer

ROOT = Path(__file__).parents[1]
BUCKET = "bench"
_REQUESTS = re.compile(
    r'SeaweedFS_s3_request_total\{bucket="'
    + BUCKET
    + r'",.*type="(?P<method>\w+)"\} (?P<count>\S+)'
)


@dataclass(frozen=True, slots=True)
class Stored:
    """Objects and bytes under a prefix of the bucket."""

    objects: int
    size: int


@dataclass(frozen=True, slots=True)
class Lab:
    """A backup host, which cannot read its backups, and a second one for restores."""

    folder: Path
    server: SeaweedServer
    s3: Any
    host_home: Path
    recovery_home: Path

    @property
    def environment(self) -> dict[str, str]:
        """What every measured program finds: nothing of this user's own settings."""
        return {**surroundings(self.folder), **self.server.environment()}

    def runner(self, *watch: Path, more: Mapping[str, str] | None = None) -> Runner:
        """Return what runs and measures programs here, with `more` in their environment."""
        environment = {**self.environment, **(more or {})}
        return Runner(environment, (*watch, self.folder / "tmp"), (self.server.pid,))

    def stored(self, prefix: str) -> Stored:
        """Return what the bucket holds under a prefix."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=prefix + "/"
        )
        sizes = [each["Size"] for page in pages for each in page.get("Contents", ())]
        return Stored(len(sizes), sum(sizes))

    def requests(self) -> Counter[str]:
        """Return how often the server was asked so far about the bucket, by HTTP method."""
        try:
            with urllib.request.urlopen(self.server.metrics_url, timeout=60) as answer:
                text = answer.read().decode()
        except OSError as error:
            raise BenchmarkError(f"the S3 server does not tell its counts: {error}") from error
        return requests_in(text)


@contextmanager
def open_lab(folder: Path) -> Iterator[Lab]:
    """Start the server and make the keys; everything is gone at the end.

    Raises:
        BenchmarkError: the server could not be started.
    """
    with ExitStack() as stack:
        make_surroundings(folder)
        try:
            server = stack.enter_context(SeaweedServer())
        except SeaweedError as error:
            raise BenchmarkError(str(error)) from error
        server.create_bucket(BUCKET)
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint_url,
            region_name=server.region,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
        )
        stack.callback(client.close)
        host = stack.enter_context(keys.host_home())
        recovery = stack.enter_context(keys.recovery_home())
        yield Lab(folder, server, client, host, recovery)


@dataclass(frozen=True, slots=True)
class Done:
    """A measured run: what it used, and what the program itself reported, if it does."""

    usage: Usage
    report: Any = None


def requests_in(metrics: str) -> Counter[str]:
    """Return the requests about the bucket, by HTTP method, that the server's metrics tell of.

    SeaweedFS names a listing LIST, and counts HEAD among GET.
    """
    found: Counter[str] = Counter()
    for line in metrics.splitlines():
        if told := _REQUESTS.fullmatch(line):
            found[told["method"]] += round(float(told["count"]))
    return found


def make_surroundings(folder: Path) -> None:
    """Make the folders that `surroundings` names."""
    for name in ("home", "tmp"):
        (folder / name).mkdir()


def surroundings(folder: Path) -> dict[str, str]:
    """Return an environment that has nothing of this user's own settings."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": path,
    }


def write_settings(folder: Path, store: Mapping[str, str], home: Path) -> None:
    """Write the settings of a machine with one vault; its keys are in `home`."""
    vault = {
        **store,
        "gnupg_home": str(home),
        "recipients": [keys.RECOVERY],
        "signer": keys.HOST,
    }
    document = {"state_dir": "state", "policies": "policies", "vaults": {"bench": vault}}
    # JSON is YAML.
    (folder / "snapvault.yaml").write_text(json.dumps(document))


def write_policy(folder: Path, name: str, source: Mapping[str, Any]) -> None:
    """Write the policy that protects one source."""
    write_policies(folder, {name: source})


def write_policies(folder: Path, sources: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the policy that protects these sources, in place of one that is there."""
    (folder / "policies").mkdir(exist_ok=True)
    policy = {"vault": "bench", "sources": dict(sources)}
    (folder / "policies" / "bench.yaml").write_text(json.dumps(policy))


def program(folder: Path, *words: str) -> list[str]:
    """Return the command line of SnapVault with the settings in a folder."""
    options = ["--config", str(folder / "snapvault.yaml"), "--json"]
    return [sys.executable, "-m", "snapvault", *options, *words]


def version_of(*command: str) -> str | None:
    """Return the first line a program prints; None if there is no such program."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    return (done.stdout or done.stderr).decode(errors="replace").partition("\n")[0].strip()
