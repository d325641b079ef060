# SPDX-License-Identifier: Apache-2.0
"""A proxy in front of an S3 server that passes bytes on unchanged, until a fault is due.

Nothing is rewritten, so signatures stay valid and the server under the proxy is the real one.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Self

from tests.support.loopback import LoopbackServer

_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """The request never reaches the server; the client gets this status and S3 error code."""

    status: int
    code: str


@dataclass(frozen=True, slots=True)
class CutUpload:
    """The connection breaks once the server got this many bytes of the body."""

    after: int


@dataclass(frozen=True, slots=True)
class CorruptUpload:
    """One bit of this byte of the request's body flips."""

    at: int


@dataclass(frozen=True, slots=True)
class LoseResponse:
    """The server does what was asked; its answer is lost."""


@dataclass(frozen=True, slots=True)
class Truncate:
    """The answer's body ends after this many bytes: by a reset, or politely."""

    after: int
    reset: bool = True


@dataclass(frozen=True, slots=True)
class Corrupt:
    """One bit of this byte of the answer's body flips."""

    at: int


@dataclass(frozen=True, slots=True)
class Hang:
    """Nothing happens until the client gives up."""


@dataclass(frozen=True, slots=True)
class Stall:
    """So many bytes of the request's body are taken, and none after them."""

    after: int


@dataclass(frozen=True, slots=True)
class Delay:
    """The request is passed on after so many seconds."""

    seconds: float


Fault = (
    Answer | CutUpload | CorruptUpload | LoseResponse | Truncate | Corrupt | Hang | Stall | Delay
)


@dataclass(slots=True)
class _Rule:
    pattern: re.Pattern[str]
    fault: Fault
    times_left: int


@dataclass(slots=True)
class _Head:
    """A request's or a response's first line and headers, as they came."""

    raw: bytes
    line: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def asks_first(self) -> bool:
        return self.headers.get("expect", "").lower() == "100-continue"

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])


class FaultProxy:
    """Forwards to a port of 127.0.0.1; every request is in `requests` as "METHOD /path?query"."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self._rules: list[_Rule] = []
        self.requests: list[str] = []
        self._answered: list[str] = []
        self.fired: list[Fault] = []
        self._server = LoopbackServer(self._serve)

    @property
    def endpoint_url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._server.port}"

    def inject(self, pattern: str, fault: Fault, *, times: int = 1) -> None:
        """Let the next `times` requests that match the regular expression meet a fault."""
        self._rules.append(_Rule(re.compile(pattern), fault, times))

    def heal(self) -> None:
        """Let no more faults happen; those that go on do."""
        self._rules.clear()

    def count(self, pattern: str) -> int:
        """Return how many requests so far match the regular expression."""
        return sum(1 for line in self.requests if re.search(pattern, line))

    def count_answered(self, pattern: str) -> int:
        """Return to how many of them the server's answer was passed on."""
        return sum(1 for line in self._answered if re.search(pattern, line))

    def stop(self) -> None:
        """Stop; safe to repeat."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _fault_for(self, line: str) -> Fault | None:
        for rule in self._rules:
            if rule.times_left > 0 and rule.pattern.search(line):
                rule.times_left -= 1
                self.fired.append(rule.fault)
                return rule.fault
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        exchange = _Exchange(reader, writer, behind_reader, behind_writer)
        try:
            carry_on = True
            while carry_on:
                head = await _read_head(reader)
                line = head.line.rsplit(" ", 1)[0]
                self.requests.append(line)
                carry_on = await exchange.run(head, self._fault_for(line))
                if carry_on:
                    self._answered.append(line)
        finally:
            behind_writer.transport.abort()


@dataclass(slots=True)
class _Exchange:
    """The two connections of one client: its own, and the one to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    behind_reader: asyncio.StreamReader
    behind_writer: asyncio.StreamWriter

    async def run(self, head: _Head, fault: Fault | None) -> bool:
        """Carry one request and its answer; return whether the connection can go on."""
        match fault:
            case Answer():
                return await self._answer(head, fault)
            case Hang():
                await self.reader.read()
                return False
            case Delay():
                await asyncio.sleep(fault.seconds)
        self.behind_writer.write(head.raw)
        if head.asks_first:
            interim = await _read_head(self.behind_reader)
            self.writer.write(interim.raw)
            if interim.status != 100:
                async for piece in _body(self.behind_reader, interim):
                    self.writer.write(piece)
                await self.writer.drain()
                return False
        if not await self._pass_request_body(head, fault):
            return False
        answer = await _read_head(self.behind_reader)
        if isinstance(fault, LoseResponse):
            self.writer.transport.abort()
            return False
        return await self._pass_answer(head, answer, fault)

    async def _answer(self, head: _Head, fault: Answer) -> bool:
        if not head.asks_first:
            async for _ in _body(self.reader, head):
                pass
        text = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>"
        body = b"" if head.line.startswith("HEAD ") else text.encode()
        self.writer.write(
            f"HTTP/1.1 {fault.status} Injected\r\nContent-Type: application/xml\r\n"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await self.writer.drain()
        return False

    async def _pass_request_body(self, head: _Head, fault: Fault | None) -> bool:
        sent = 0
        async for piece in _body(self.reader, head):
            if isinstance(fault, CorruptUpload):
                piece = _flipped(piece, fault.at - sent)  # noqa: PLW2901
            self.behind_writer.write(piece)
            await self.behind_writer.drain()
            sent += len(piece)
            if isinstance(fault, Stall) and sent >= fault.after:
                await asyncio.Event().wait()  # until the proxy is stopped
            if isinstance(fault, CutUpload) and sent >= fault.after:
                self.behind_writer.transport.abort()
                self.writer.transport.abort()
                return False
        return True

    async def _pass_answer(self, head: _Head, answer: _Head, fault: Fault | None) -> bool:
        self.writer.write(answer.raw)
        if head.line.startswith("HEAD ") or answer.status in (204, 304):
            await self.writer.drain()
            return True
        passed = 0
        async for piece in _body(self.behind_reader, answer):
            if isinstance(fault, Truncate) and passed + len(piece) >= fault.after:
                self.writer.write(piece[: fault.after - passed])
                await self.writer.drain()
                if fault.reset:
                    await asyncio.sleep(0.05)  # or the reset overtakes the bytes
                    self.writer.transport.abort()
                return False
            if isinstance(fault, Corrupt):
                piece = _flipped(piece, fault.at - passed)  # noqa: PLW2901
            passed += len(piece)
            self.writer.write(piece)
            await self.writer.drain()
        return True


def _flipped(piece: bytes, spot: int) -> bytes:
    """Flip a bit of a byte, if the piece has it."""
    if not 0 <= spot < len(piece):
        return piece
    return piece[:spot] + bytes([piece[spot] ^ 1]) + piece[spot + 1 :]


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    raw = await reader.readuntil(b"\r\n\r\n")
    line, *rest = raw.decode("latin-1").split("\r\n")
    fields = (part.partition(":") for part in rest if part)
    return _Head(raw, line, {key.strip().lower(): value.strip() for key, _, value in fields})


async def _body(reader: asyncio.StreamReader, head: _Head) -> AsyncIterator[bytes]:
    """Yield a message's body as it is on the wire."""
    if head.headers.get("transfer-encoding", "").lower() == "chunked":
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line + await reader.readexactly(size + 2)
            if size == 0:
                return
    left = int(head.headers.get("content-length", 0))
    while left > 0:
        piece = await reader.read(min(left, _PIECE))
        if not piece:
            raise ConnectionResetError
        left -= len(piece)
        yield piece
