# SPDX-License-Identifier: Apache-2.0
"""TLS in front of a plain server, with a certificate authority made for the occasion."""

import asyncio
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.loopback import LoopbackServer

_PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class Authority:
    """Files of a certificate authority and of a server certificate for 127.0.0.1 it signed."""

    ca_bundle: Path
    certificate: Path
    key: Path


def make_authority(folder: Path) -> Authority:
    """Make a certificate authority and a server certificate in a folder, valid for a day."""
    ca_key, ca = folder / "ca.key", folder / "ca.pem"
    key, certificate = folder / "server.key", folder / "server.pem"
    _make_certificate(ca_key, ca, "SnapVault test authority", "basicConstraints=critical,CA:TRUE")
    signed = ["-CA", str(ca), "-CAkey", str(ca_key)]
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    _make_certificate(key, certificate, "127.0.0.1", names, *signed)
    return Authority(ca_bundle=ca, certificate=certificate, key=key)


def tls_forwarder(port: int, authority: Authority) -> LoopbackServer:
    """Serve TLS on a free port and pass what comes on to a plain port of 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate, authority.key)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            pumps = [
                asyncio.ensure_future(_pump(reader, behind_writer)),
                asyncio.ensure_future(_pump(behind_reader, writer)),
            ]
            _, pending = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pending:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            behind_writer.close()

    return LoopbackServer(forward, tls=context)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()


def _make_certificate(key: Path, certificate: Path, name: str, extension: str, *more: str) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        raise RuntimeError('"openssl" is not installed; install it with: apt-get install openssl')
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "1", "-subj", f"/CN={name}", "-addext", extension]
    command += ["-keyout", str(key), "-out", str(certificate), *more]
    subprocess.run(command, check=True, capture_output=True)
