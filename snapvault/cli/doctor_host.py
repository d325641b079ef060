# SPDX-License-Identifier: Apache-2.0
"""What `snapvault doctor` looks at on this host: policies, room, and what the daemon needs."""

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from snapvault.cli.findings import Finding, attempt, failed, ok, warn
from snapvault.errors import ConfigError, HostError, SnapVaultError, StateError
from snapvault.units import GIB, MIB, format_count, format_size

if TYPE_CHECKING:
    from snapvault.config.problems import Problem
    from snapvault.model.policy import Policy
    from snapvault.model.settings import DaemonSettings, Settings

_LITTLE_ROOM: Final = GIB
_LITTLE_TEMPORARY_ROOM: Final = 64 * MIB
_SHORTEST_TOKEN: Final = 20
_ONLY_RESTORES: Final = "A host that only restores needs none."
_CREDENTIALS: Final = Path("/run/credentials")
_CREDENTIAL_STORES: Final = (Path("/etc/credstore"), Path("/etc/credstore.encrypted"))


def look_at_policies(
    settings: "Settings", policies: "tuple[Policy, ...]", problems: "tuple[Problem, ...]"
) -> Iterator[Finding]:
    """Say what is wrong with each policy that is, and how many are right."""
    from snapvault.config.problems import ProblemError

    for problem in problems:
        finding = failed("policies", ProblemError(problem))
        if problem.path == settings.policies_dir:
            remedy = " ".join(filter(None, [problem.hint, _ONLY_RESTORES]))
            finding = Finding("policies", "fail", str(problem), remedy, ConfigError.exit_status)
        yield finding
    sources = sum(len(policy.sources) for policy in policies)
    if sources:
        yield Finding(
            "policies",
            "ok",
            f"{format_count(len(policies), 'policy', 'policies')}, "
            f"{format_count(sources, 'source')}",
        )
    elif not problems:
        yield Finding(
            "policies",
            "warn",
            f'folder "{settings.policies_dir}" has none, so nothing is backed up',
            "Write one that ends in .yaml; a host that only restores needs none.",
        )


def look_at_room(settings: "Settings") -> Iterator[Finding]:
    """Look for room in the folders that we write to."""
    yield attempt("state folder", lambda: _state(settings))
    yield attempt("temporary folder", _temporary)


def look_at_daemon(settings: "Settings") -> Iterator[Finding]:
    """Look at what `snapvault daemon` needs to come up."""
    daemon = settings.daemon
    if daemon.listen_host is None:
        return
    if daemon.token_file is not None:
        path = daemon.token_file
        yield attempt("status page: token", lambda: _token(path))
    yield attempt("status page: address", lambda: _address(settings, daemon))


def _state(settings: "Settings") -> Finding:
    from snapvault.wiring import state

    folder = settings.state_dir
    free = state.try_state(settings)
    if free < _LITTLE_ROOM:
        return warn(
            f'"{folder}" has only {format_size(free)} free',
            "Free room there: a run keeps the volumes in the making in it.",
        )
    return ok(f'"{folder}" can be written, {format_size(free)} free')


def _temporary() -> Finding:
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"probe")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        # Where Python tried all folders it says that none was found.
        is_none = isinstance(error, FileNotFoundError)
        reason = "no folder takes one" if is_none else (error.strerror or str(error)).lower()
        raise StateError(
            f"could not write a temporary file: {reason}",
            hint='Free room in "/tmp", or let TMPDIR name a folder that this user can write.',
        ) from error
    if free < _LITTLE_TEMPORARY_ROOM:
        return warn(
            f'"{folder}" has only {format_size(free)} free',
            "Free room there, or let TMPDIR name another folder.",
        )
    return ok(f'"{folder}" can be written, {format_size(free)} free')


def _token(path: Path) -> Finding:
    from snapvault.daemon.service import read_token

    is_credential = path.is_relative_to(_CREDENTIALS)
    if is_credential and not path.exists():
        return _token_to_come(path.name)
    token = read_token(path) or ""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077 and not is_credential:
        return warn(
            f'"{path}" can be read by others: mode {mode:04o}',
            f'Run "chmod 600 {shlex.quote(str(path))}".',
        )
    if len(token) < _SHORTEST_TOKEN:
        return warn(
            f'the token in "{path}" has only {format_count(len(token), "character")},'
            " so it may be guessed",
            "Write one line of random text into it: openssl rand -hex 32.",
        )
    return ok(f'"{path}" has one')


def _token_to_come(name: str) -> Finding:
    """Say whether systemd will find a credential: it gives them to a service that is up."""
    for folder in _CREDENTIAL_STORES:
        if os.path.lexists(folder / name):
            return ok(f'"{folder / name}" is given to the service when it comes up')
    raise ConfigError(
        f'the credential "{name}" with the token of the status page is not there',
        hint=f'Put it into "{_CREDENTIAL_STORES[0] / name}", and restart the service.',
    )


def _address(settings: "Settings", daemon: "DaemonSettings") -> Finding:
    from snapvault.adapters.locks import holder_of
    from snapvault.daemon.web.listening import address_text, listen
    from snapvault.wiring.status import DAEMON_LOCK

    where = address_text(daemon.listen_host or "", daemon.listen_port)
    holder = holder_of(settings.state_dir / DAEMON_LOCK)
    if holder is not None:
        return ok(f'"{where}" is for the daemon, process {holder.pid}, which is up')
    try:
        listen(
            daemon.listen_host or "",
            daemon.listen_port,
            with_token=daemon.token_file is not None,
        ).close()
    except HostError as error:
        raise _without_daemon(error) from error
    return ok(f'"{where}" is free')


def _without_daemon(error: SnapVaultError) -> SnapVaultError:
    error.hint = f'{error.hint} A host without the daemon needs none: "listen: false".'
    return error
