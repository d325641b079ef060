# SPDX-License-Identifier: Apache-2.0
"""Reaching who is to be told, within a time that nobody on the other side can stretch.

A socket's own timeout starts anew with each byte, and looking a name up has none at all. So a
delivery works in a thread of its own, over connections that are cut when its time is up:
whatever it waits for then ends, and the thread with it.
"""

import errno
import os
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar

from snapvault import clock
from snapvault.errors import NotifyError, NotifyUnavailableError

T = TypeVar("T")

# A socket that is not cut in time gives up by itself a little later.
_GRACE: Final = 5.0


class Line:
    """The connections of one delivery. Used by its thread, cut by another."""

    def __init__(self, seconds: float) -> None:
        self._ends = clock.monotonic() + seconds
        self._lock = threading.Lock()
        self._held: list[socket.socket] = []
        self._is_cut = False

    @property
    def left(self) -> float:
        """Seconds until the time is up; never negative."""
        return max(0.0, self._ends - clock.monotonic())

    def connect(self, host: str, port: int) -> socket.socket:
        """Connect to the first address of a host that answers; the caller closes the socket.

        Raises:
            OSError: no address of it answers, it has none, or the time is up.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        problem: OSError = TimeoutError()
        for rank, (family, kind, protocol, _, address) in enumerate(found):
            if self.left == 0:
                raise TimeoutError
            connection = socket.socket(family, kind, protocol)
            try:
                # One address that swallows everything must not use up the time of the others.
                connection.settimeout(self.left / (len(found) - rank) + 0.001)
                connection.connect(address)
                self._hold(connection)
                connection.settimeout(self.left + _GRACE)
            except OSError as error:
                connection.close()
                problem = error
            else:
                return connection
        raise problem

    def cut(self) -> None:
        """End every connection, and let no other begin; safe to repeat."""
        with self._lock:
            self._is_cut = True
            held, self._held = self._held, []
        for connection in held:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended by itself
            finally:
                connection.close()

    def _hold(self, connection: socket.socket) -> None:
        # TLS takes the descriptor away from its socket; a copy still reaches the connection.
        copy = connection.dup()
        with self._lock:
            if not self._is_cut:
                self._held.append(copy)
                return
        copy.close()
        raise TimeoutError


def within(seconds: float, work: Callable[[Line], T]) -> T:
    """Do the work and return its result, or raise what it raised, within this time.

    Raises:
        TimeoutError: the time is up. The work's connections are cut, so that it ends soon.
    """
    line = Line(seconds)
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(work(line))
        except BaseException as error:  # noqa: BLE001 - it is raised again by who waits
            answer.set_exception(error)
        finally:
            line.cut()

    threading.Thread(target=run, name="delivery", daemon=True).start()
    try:
        return answer.result(timeout=line.left)
    finally:
        line.cut()


def tls_context(ca_bundle: Path | None) -> ssl.SSLContext:
    """Return what a client needs to check certificates and names.

    Raises:
        NotifyError: the bundle cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ValueError) as error:  # what ssl raises is an OSError
        reason = _strerror(error) or "there is no certificate in it"
        raise NotifyError(f'cannot use CA bundle "{ca_bundle}": {reason}') from error


def first_line(path: Path, what: str) -> str:
    """Read the secret that is a file's first line. Nothing of it is in any message.

    Raises:
        NotifyError: the file cannot be read, or its first line is empty or no text.
    """
    problem = "its first line is empty"
    try:
        with path.open("rb") as file:
            # LIMIT: 64 KiB, ours; longer lines are no secrets but mistakes.
            line = file.readline(1 << 16).decode().strip()
        if line:
            return line
    except UnicodeDecodeError:
        problem = "it is not UTF-8 text"
    except OSError as error:
        problem = _strerror(error) or "it cannot be read"
    raise NotifyError(f'cannot read {what} from "{path}": {problem}')


def explain(error: OSError, whom: str, seconds: float) -> NotifyError:
    """Return what a broken connection means for whom it was to; for `raise ... from None`.

    What the error itself says is left out unless it is known to hold no secret.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return NotifyError(
            f"cannot trust {whom}: {error.verify_message}",
            hint="Set ca_bundle if its certificate is from an authority of your own.",
        )
    if isinstance(error, TimeoutError):
        return NotifyUnavailableError(f"{whom} did not finish within {seconds:g}s")
    if isinstance(error, socket.gaierror):
        return NotifyUnavailableError(f"could not look up {whom}: no address was found")
    if isinstance(error, ssl.SSLError):
        return NotifyUnavailableError(f"could not agree on TLS with {whom}")
    if error.errno == errno.ECONNREFUSED:
        return NotifyUnavailableError(f"{whom} refused the connection")
    reason = _strerror(error) or "it broke off"
    return NotifyUnavailableError(f"lost the connection to {whom}: {reason}")


def _strerror(error: OSError | ValueError) -> str | None:
    """Return the system's own words for an error, which hold nothing of ours; None: none."""
    if isinstance(error, ssl.SSLError) or not isinstance(error, OSError) or not error.errno:
        return None
    return os.strerror(error.errno).lower()
