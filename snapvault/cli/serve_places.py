# SPDX-License-Identifier: Apache-2.0
"""Where a restore point is served, and what to type to use it."""

import ipaddress
import shlex
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import typer

from snapvault.cli.short_folder import short_folder

if TYPE_CHECKING:
    import socket

_LONGEST_SOCKET = 107  # LIMIT: bytes of a unix socket's path (Linux)


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen: a socket's path, or a loopback address and a port; neither: our choice."""

    path: Path | None = None
    host: str | None = None
    port: int = 0

    @property
    def address(self) -> str:
        """The address and the port, as one writes them: `127.0.0.1:10809`."""
        host = f"[{self.host}]" if ":" in (self.host or "") else self.host
        return f"{host}:{self.port}"

    def uri(self, export: str) -> str:
        """Return what names an export to QEMU, libnbd and others."""
        # A comma, unquoted, would end an option of QEMU's.
        name = quote(export, safe="")
        if self.path is None:
            return f"nbd://{self.address}/{name}"
        return f"nbd+unix:///{name}?socket={quote(str(self.path), safe='/')}"

    def commands(self, export: str) -> dict[str, str]:
        """Return command lines that use an export, by program."""
        uri = self.uri(export)
        server = (
            [str(self.host), str(self.port)] if self.path is None else ["-unix", str(self.path)]
        )
        drive = f"file={uri},format=raw,if=virtio,snapshot=on"
        lines = {
            "qemu-system-x86_64": ["-m", "2048", "-drive", drive],
            "nbdcopy": [uri, f"{export}.raw"],
            "nbd-client": [*server, "/dev/nbd0", "-N", export, "-readonly"],
        }
        return {program: shlex.join([program, *words]) for program, words in lines.items()}


def parse(text: str | None) -> Place:
    """Read what --listen says; nothing is our choice."""
    if text is None:
        return Place()
    kind, _, path = text.partition(":")
    if kind == "unix":
        if not path or len(str(Path(path).absolute()).encode()) > _LONGEST_SOCKET:
            raise typer.BadParameter(
                f"expected a path of at most {_LONGEST_SOCKET} bytes after unix:",
                param_hint="--listen",
            )
        return Place(path=Path(path).absolute())
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        number = int(port)
    except ValueError as error:
        raise typer.BadParameter(
            f'expected unix:PATH or 127.0.0.1:PORT, found "{text}"', param_hint="--listen"
        ) from error
    if not 0 <= number < 1 << 16:
        raise typer.BadParameter(
            f"expected a port from 0 to 65535, found {number}", param_hint="--listen"
        )
    if not address.is_loopback:
        raise typer.BadParameter(
            f'cannot serve at "{text}": NBD has no password, so only this machine may connect;'
            " listen on 127.0.0.1 and use ssh from elsewhere",
            param_hint="--listen",
        )
    return Place(host=str(address), port=number)


def listen(stack: ExitStack, place: Place, folder: Path) -> "tuple[socket.socket, Place]":
    """Listen there, or in `folder`; return the socket, closed by the stack, and where it is."""
    from snapvault.adapters import nbd_server

    if place.host is not None:
        listener = nbd_server.listen_tcp(place.host, place.port)
        stack.callback(listener.close)
        return listener, Place(host=place.host, port=int(listener.getsockname()[1]))
    path = place.path or folder / "nbd"
    if len(str(path).encode()) > _LONGEST_SOCKET:
        path = short_folder(stack) / "nbd"
    listener = nbd_server.listen_unix(path)
    stack.callback(listener.close)
    stack.callback(path.unlink, missing_ok=True)
    return listener, Place(path=path)
