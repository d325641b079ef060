# SPDX-License-Identifier: Apache-2.0
"""One run of gpg: bytes in, bytes out, and what its status lines say.

python-gnupg finds the program, composes the command line, starts the process and parses
key listings. Its streaming calls are not used. They read the input in a thread that swallows
exceptions, after which gpg takes what it got for a whole message. They keep what they
decrypt in memory. And they read status lines from the stream that also carries gpg's
messages, where a hostile message can pretend to be a status line (CVE-2018-12020).
"""

import contextlib
import fcntl
import logging
import os
import re
import shlex
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import gnupg

from snapvault.adapters.sealers.passphrase import Secret
from snapvault.errors import ConfigError, SealError

# A pipe's usual 64 KiB makes gpg and us take turns; a piece and a pipe of 1 MiB keep both busy.
PIECE = 1 << 20
# LIMIT: a healthy message has some twenty status lines; one that makes thousands is an attack.
_STATUS_LINES = 10_000
_LOG_BYTES = 16 << 10

# gpg starts each line of a log file with the time and its process id.
_PREFIX = re.compile(r"\S+ \S+ gpg\[\d+\] |gpg: ")

_OPTIONS = [
    "--no-options",  # nobody's gpg.conf adds a reader, a key server or a compression
    "--no-encrypt-to",
    "--no-groups",
    "--trust-model=always",  # the settings name full fingerprints: they are the trust
    "--no-auto-check-trustdb",
    "--no-auto-key-locate",
    "--no-auto-key-retrieve",
    "--disable-dirmngr",
    "--compress-algo=none",
    "--cipher-algo=AES256",
    "--no-armor",  # what is sealed is binary; looking for armor reads junk to its end
    "--with-secret",  # in listings: whether the secret key is here
]

# python-gnupg logs command lines and, with a traceback, failures that we raise anyway.
logging.getLogger("gnupg").propagate = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of gpg ended: its exit status, status lines, and the last of its messages."""

    returncode: int
    status: tuple[tuple[str, str], ...]
    log: str

    def has(self, *keywords: str) -> bool:
        """Say whether any of these status keywords came."""
        return any(keyword in keywords for keyword, _ in self.status)

    def values(self, keyword: str) -> list[list[str]]:
        """Return the words after each status line of this keyword, in order."""
        return [value.split() for found, value in self.status if found == keyword]

    @property
    def reason(self) -> str:
        """The last thing gpg said, for a message; never for a decision."""
        lines = [_PREFIX.sub("", line).strip() for line in self.log.splitlines()]
        return next((line for line in reversed(lines) if line), f"gpg exited {self.returncode}")


class Gpg:
    """The gpg program on one home. Safe from several threads."""

    def __init__(self, home: Path, passphrase: Secret | None) -> None:
        if not home.is_dir():
            raise ConfigError(f'gnupg_home "{home}" is not a folder', hint=_make_home(home))
        if not os.access(home, os.R_OK | os.X_OK):
            raise ConfigError(
                f'gnupg_home "{home}" cannot be read by this user',
                hint="Run as the user who owns it.",
            )
        self._passphrase = passphrase
        self._home = home.absolute()
        try:
            self._gnupg = gnupg.GPG(
                gnupghome=str(self._home),
                options=_OPTIONS,
                env=os.environ | {"LC_ALL": "C.UTF-8"},
            )
        except (OSError, ValueError) as error:
            raise SealError(
                "could not run gpg: it is not in PATH, or does not work",
                hint='Install it with "apt-get install gnupg".',
            ) from error
        self._gnupg.encoding = "utf-8"
        self._gnupg.decode_errors = "replace"
        self._gnupg.result_map = {**self._gnupg.result_map, "list": _Listing}

    @property
    def home(self) -> Path:
        """The folder that it keeps its keys in."""
        return self._home

    @property
    def version(self) -> str:
        """The version of the gpg program: `2.2.40`."""
        return ".".join(str(part) for part in self._gnupg.version or ())

    def list_keys(self) -> list[dict[str, object]]:
        """Return every public key as python-gnupg describes it, with the user ids in force."""
        return list(self._gnupg.list_keys())

    def run(
        self,
        arguments: list[str],
        feed: Iterable[bytes] = (),
        sink: Callable[[bytes], None] | None = None,
        *,
        unlock: bool = False,
    ) -> Outcome:
        """Run gpg over `feed`; `sink` gets what it prints, in pieces, from this thread.

        `unlock` gives gpg the passphrase, if there is one. Without a sink, `feed` is read by
        this thread, otherwise by another one. An exception of `feed` or `sink` ends gpg and is
        passed on; nothing of gpg is left on return.
        """
        passphrase = self._passphrase if unlock else None
        with _log_file() as log:
            logger = ["--logger-file", f"/proc/{os.getpid()}/fd/{log.fileno()}"]
            process = self._gnupg._open_subprocess(  # noqa: SLF001 -- see the module
                logger + arguments, passphrase is not None
            )
            status: list[tuple[str, str]] = []
            reader = threading.Thread(target=_read_status, args=(process, status), daemon=True)
            reader.start()
            try:
                _converse(process, _with_passphrase(passphrase, feed), sink)
            except BaseException:
                process.kill()
                raise
            finally:
                process.stdin.close()
                process.wait()
                reader.join()
                process.stdout.close()
                process.stderr.close()
            return Outcome(process.returncode, tuple(status), _tail(log))


def _make_home(home: Path) -> str:
    if home.exists():
        return 'Correct "gnupg_home" in the settings: it is the folder in which gpg keeps keys.'
    make = f"mkdir -m 700 {shlex.quote(str(home))}"
    return f'Make it with "{make}" and import the keys, or correct "gnupg_home" in the settings.'


class _Process(Protocol):
    """What python-gnupg starts: a `Popen` with three pipes."""

    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]
    returncode: int

    def kill(self) -> None: ...

    def wait(self) -> int: ...


class _Listing(gnupg.ListKeys):  # type: ignore[misc]  # python-gnupg has no types
    """python-gnupg's key listing without user ids that were revoked."""

    def uid(self, args: list[str]) -> None:
        if args[1] != "r":
            super().uid(args)


def _converse(
    process: _Process, feed: Iterable[bytes], sink: Callable[[bytes], None] | None
) -> None:
    stdin, stdout = process.stdin, process.stdout
    _widen(stdin)
    _widen(stdout)
    if sink is None:
        _pour(stdin, feed)
        stdin.close()
        return
    feeder = _Feeder(process, stdin, feed)
    try:
        while piece := stdout.read(PIECE):
            sink(piece)
    except BaseException:
        # ORDER: gpg ends before its feeder is waited for, so that a full pipe cannot hold it.
        process.kill()
        raise
    finally:
        feeder.join()
    if feeder.error is not None:
        raise feeder.error


class _Feeder:
    """A thread that writes to gpg. Once it was joined, `error` is what `feed` raised, if it did."""

    def __init__(self, process: _Process, stdin: IO[bytes], feed: Iterable[bytes]) -> None:
        self.error: BaseException | None = None
        self._process = process
        self._stdin = stdin
        self._feed = feed
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self.join = self._thread.join

    def _work(self) -> None:
        try:
            _pour(self._stdin, self._feed)
        except BaseException as error:  # noqa: BLE001 -- it is raised again in the caller's thread
            self.error = error
            # ORDER: gpg ends before its input does: it must not take a part for the whole.
            self._process.kill()
        finally:
            self._stdin.close()


def _pour(stdin: IO[bytes], feed: Iterable[bytes]) -> None:
    """Write everything; stop quietly when gpg stops reading, since its status says why."""
    descriptor = stdin.fileno()
    for chunk in feed:
        rest = memoryview(chunk)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BrokenPipeError:
                return


def _with_passphrase(passphrase: Secret | None, feed: Iterable[bytes]) -> Iterable[bytes]:
    # gpg reads the passphrase from its input up to the first newline, then the data.
    if passphrase is not None:
        yield passphrase.reveal().encode() + b"\n"
    yield from feed


def _read_status(process: _Process, status: list[tuple[str, str]]) -> None:
    for raw in process.stderr:
        line = raw.decode("utf-8", "replace").rstrip("\n")
        if line.startswith("[GNUPG:] "):
            keyword, _, value = line.removeprefix("[GNUPG:] ").partition(" ")
            status.append((keyword, value))
        if len(status) > _STATUS_LINES:
            status.append(("UNEXPECTED", "too many status lines"))
            process.kill()
            return


def _widen(pipe: IO[bytes]) -> None:
    # LIMIT: fs.pipe-max-size and pipe-user-pages-soft (Linux, bytes and pages) may refuse.
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIECE)


def _log_file() -> IO[bytes]:
    """Open a file in memory that gpg writes its messages to, apart from its status lines."""
    return os.fdopen(os.memfd_create("gpg-log"), "w+b", buffering=0)


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _LOG_BYTES))
    return log.read().decode("utf-8", "replace")
