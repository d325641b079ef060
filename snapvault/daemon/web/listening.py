# SPDX-License-Identifier: Apache-2.0
"""Taking a port, and saying who has it when somebody else does."""

import errno
import os
import socket
from pathlib import Path
from typing import Final

from snapvault.daemon.web.access import is_loopback
from snapvault.errors import ConfigError, HostError, SnapVaultError

_LISTENING: Final = "0A"  # TCP_LISTEN in proc(5), /proc/net/tcp
_BACKLOG: Final = 64
_CHANGE: Final = 'Set "listen" under "daemon" in the settings to another port'


def listen(host: str, port: int, *, with_token: bool) -> socket.socket:
    """Return a socket that listens there; port 0 is a free one.

    Raises:
        HostError: the port is taken.
        ConfigError: the address is not this machine's, or it can be reached from outside and
            there is no token.
    """
    where = address_text(host, port)
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (OSError, UnicodeError, OverflowError) as error:
        raise ConfigError(
            f'could not serve the status page at "{where}": no such address',
            hint='Set "listen" under "daemon" in the settings to an address of this machine.',
        ) from error
    # One that is found by both families is served where a person would look first.
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    for *_, address in found:
        if not with_token and not is_loopback(str(address[0]).partition("%")[0]):
            raise ConfigError(
                f'cannot serve the status page at "{where}" without a token:'
                " it can be reached from outside",
                hint='Name a file with a token as "token_file" under "daemon" in the settings,'
                " or listen on 127.0.0.1.",
            )
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _refusal(error, where, port) from error
    return listener


def address_text(host: str, port: int) -> str:
    """Write an address: `127.0.0.1:9797`, `[::1]:9797`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refusal(error: OSError, where: str, port: int) -> SnapVaultError:
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(port)
        return HostError(
            f'could not serve the status page at "{where}": the port is taken'
            + (f" by {holder}" if holder else ""),
            hint=f'{_CHANGE}, or find who listens with "ss -ltnp sport = :{port}".',
        )
    if error.errno == errno.EACCES:
        return ConfigError(
            f'could not serve the status page at "{where}": not allowed to',
            hint=f"{_CHANGE}; those below 1024 are for privileged programs.",
        )
    return ConfigError(
        f'could not serve the status page at "{where}": {error.strerror}',
        hint='Set "listen" under "daemon" in the settings to an address of this machine.',
    )


def holder_of(port: int) -> str | None:
    """Return which process listens on a port, `process 123 (nginx)`; None: not for us to see."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            held = any(str(link.readlink()) in inodes for link in (folder / "fd").iterdir())
            if held and int(folder.name) != os.getpid():
                return f"process {folder.name} ({(folder / 'comm').read_text().strip()})"
        except OSError:  # somebody else's, or it has ended since
            continue
    return None


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            # sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …
            words = line.split()
            if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                found.add(words[9])
    return found
