# SPDX-License-Identifier: Apache-2.0
"""Throw-away GnuPG homes, with the test keys of `tests/support/keyring/` or freshly made ones.

Works without pytest. A home's agent ends, and its folder is removed, with its context.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("keyring")

FINGERPRINTS = dict(
    line.split() for line in (FOLDER / "fingerprints.txt").read_text("ascii").splitlines()
)
RECOVERY = FINGERPRINTS["recovery"]
RECOVERY2 = FINGERPRINTS["recovery2"]
HOST = FINGERPRINTS["host"]
HOST2 = FINGERPRINTS["host2"]
PROTECTED = FINGERPRINTS["protected"]
PASSPHRASE = "correct horse"


def gpg(home: Path, *arguments: str, data: bytes = b"") -> bytes:
    """Run gpg in a home and return its output; a failure shows what gpg said."""
    command = [_program("gpg"), "--homedir", str(home), "--batch", "--no-tty", "--no-options"]
    done = subprocess.run([*command, *arguments], input=data, capture_output=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"gpg {' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
    return done.stdout


@contextmanager
def empty_home() -> Iterator[Path]:
    """Make an empty GnuPG home; the path is short, since an agent's socket lies in it."""
    # LIMIT: a Unix socket's path has at most 107 bytes (Linux), which pytest's tmp_path can exceed.
    home = Path(tempfile.mkdtemp(prefix="svg", dir="/tmp"))
    # An agent times itself for a tenth of a second to make passphrases slow to guess.
    (home / "gpg-agent.conf").write_text("s2k-count 65536\n")
    try:
        yield home
    finally:
        end_agent(home)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def gnupg_home(secret: Sequence[str] = (), public: Sequence[str] = ()) -> Iterator[Path]:
    """Make a GnuPG home with test keys by name, whole or their public halves alone."""
    with empty_home() as home:
        names = [*(f"{name}.secret.asc" for name in secret)]
        names += [f"{name}.public.asc" for name in public]
        if names:
            gpg(home, "--quiet", "--import", *(str(FOLDER / name) for name in names))
        yield home


@contextmanager
def host_home() -> Iterator[Path]:
    """Make the home of a backup host: its own key whole, recovery keys and host2's in public."""
    with gnupg_home(secret=["host"], public=["recovery", "recovery2", "host2"]) as home:
        yield home


@contextmanager
def recovery_home() -> Iterator[Path]:
    """Make the home of the day of the disaster: the recovery key whole, hosts' keys in public."""
    with gnupg_home(secret=["recovery"], public=["recovery2", "host", "host2"]) as home:
        yield home


def generate_key(home: Path, name: str, passphrase: str | None = None) -> str:
    """Make a key that signs and encrypts (Ed25519, Curve25519); return its fingerprint.

    `name` is a whole user id: `Recovery <recovery@example.org>`, or an e-mail address.
    """
    secret = ["--pinentry-mode", "loopback", "--passphrase", passphrase or ""]
    status = ["--status-fd", "1", "--quiet"]
    made = gpg(home, *secret, *status, "--quick-gen-key", name, "ed25519", "sign,cert", "never")
    fingerprint = next(
        line.split()[3] for line in made.decode().splitlines() if " KEY_CREATED " in line
    )
    gpg(home, *secret, "--quiet", "--quick-add-key", fingerprint, "cv25519", "encr", "never")
    return fingerprint


def end_agent(home: Path) -> None:
    """End the agent of a home, if one runs."""
    command = [_program("gpgconf"), "--homedir", str(home), "--kill", "all"]
    subprocess.run(command, capture_output=True, check=False)


@cache
def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise AssertionError(f"{name} is not installed: apt-get install gnupg")
    return path
