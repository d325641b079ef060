# SPDX-License-Identifier: Apache-2.0
"""An HTTP server that keeps what it is sent, and answers as well or as badly as it is told."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from tests.support.loopback import Handler, LoopbackServer
from tests.support.tls_forwarder import Authority

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class HttpSink:
    """Requests in the order in which they came; answers are used up, the last one stays."""

    server: LoopbackServer
    scheme: str
    requests: list[Request]
    answers: list[Answer]

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server.port}"


def http_sink(*answers: Answer, authority: Authority | None = None) -> HttpSink:
    """Serve on a free port until `server.stop()`; without answers, everything is taken."""
    requests: list[Request] = []
    left = list(answers) or [status(200)]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        pairs = (line.partition(": ") for line in head[1:] if line)
        headers = {name.lower(): value for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        requests.append(Request(method, target, headers, body))
        answer = left.pop(0) if len(left) > 1 else left[0]
        await answer(writer)
        await writer.drain()

    context = None
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.certificate, authority.key)
    scheme = "http" if authority is None else "https"
    return HttpSink(tidy_server(handle, tls=context), scheme, requests, left)


def tidy_server(handler: Handler, *, tls: ssl.SSLContext | None = None) -> LoopbackServer:
    """Serve on a free port until `stop`, and see each connection to its end."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
            writer.close()
            await writer.wait_closed()
        finally:
            writer.transport.abort()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    return LoopbackServer(handle, tls=tls)


def status(code: int, *headers: str, body: bytes = b"ok") -> Answer:
    """Answer with a status, and headers as `Name: value`."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {code} Whatever", f"Content-Length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)

    return answer


def say(text: bytes) -> Answer:
    """Answer with these bytes, and hang up."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(text)

    return answer


async def hang(writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    del writer
    await asyncio.Event().wait()


async def drip(writer: asyncio.StreamWriter) -> None:
    """Answer a byte now and then, without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def flood(writer: asyncio.StreamWriter) -> None:
    """Answer that all is well, with a body that has no end."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while True:
        writer.write(b"x" * (1 << 16))
        await writer.drain()
