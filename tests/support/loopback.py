# SPDX-License-Identifier: Apache-2.0
"""An asyncio server on the loopback interface, run by a thread of its own; and a closed port."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

STREAM_LIMIT = 1 << 20
_TURNS = 5
_PATIENCE = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Connection:
    """A transport and the socket below it, which one of TLS does not tell after its end."""

    transport: Any
    socket: Any

    @classmethod
    def of(cls, transport: asyncio.BaseTransport) -> Self:
        return cls(transport, transport.get_extra_info("socket"))


async def end_server(server: asyncio.Server, connections: Sequence[Connection]) -> None:
    """End a server, all else that its loop does, and its connections for certain."""
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    # What was accepted a moment ago gets its transport first, which needs a server that is open.
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for connection in connections:
        # One with TLS would else wait for the other side's leave-taking.
        if connection.socket.fileno() != -1:
            with suppress(AttributeError):  # QUIRK: of Python 3.11.2, where TLS has ended
                connection.transport.abort()
    for _ in range(_TURNS):  # what a transport does at its end, it does a few turns later
        await asyncio.sleep(0)
    deadline = loop.time() + _PATIENCE
    while any(connection.socket.fileno() != -1 for connection in connections):
        if loop.time() > deadline:
            raise RuntimeError("a connection to a server of the tests did not end")
        await asyncio.sleep(0.001)


@contextmanager
def closed_port() -> Iterator[int]:
    """Yield a port that refuses connections, and that nobody else can get meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port


class LoopbackServer:
    """Accepts connections on a free port of 127.0.0.1 from construction until `stop`."""

    def __init__(self, handler: Handler, *, tls: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: list[Connection] = []
        self._thread = threading.Thread(target=self._run, name="loopback server", daemon=True)
        self._ready = threading.Event()
        self.port = 0
        self._thread.start()
        if not self._ready.wait(_PATIENCE) or not self.port:
            raise RuntimeError("could not listen on the loopback interface")

    def stop(self) -> None:
        """Stop listening and cut every connection; safe to repeat."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            server = self._loop.run_until_complete(
                asyncio.start_server(
                    self._accept, "127.0.0.1", 0, limit=STREAM_LIMIT, ssl=self._tls
                )
            )
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            self._loop.run_forever()
            self._loop.run_until_complete(end_server(server, self._connections))
        finally:
            self._ready.set()
            self._loop.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.append(Connection.of(writer.transport))
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side hung up, which is what such servers are for
        finally:
            writer.close()
