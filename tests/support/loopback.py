# SPDX-License-Identifier: Apache-2.0
"""An asyncio server on the loopback interface, run by a thread of its own."""

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

STREAM_LIMIT = 1 << 20
_TURNS = 5
_PATIENCE = 10.0  # seconds


class LoopbackServer:
    """Accepts connections on a free port of 127.0.0.1 from construction until `stop`."""

    def __init__(self, handler: Handler, *, tls: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._sockets: list[Any] = []
        self._thread = threading.Thread(target=self._run, name="loopback server", daemon=True)
        self._ready = threading.Event()
        self.port = 0
        self._thread.start()
        if not self._ready.wait(10) or not self.port:
            raise RuntimeError("could not listen on the loopback interface")

    def stop(self) -> None:
        """Stop listening and cut every connection; safe to repeat."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

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
            server.close()
            self._loop.run_until_complete(self._cut_connections())
        finally:
            self._ready.set()
            self._loop.close()

    async def _cut_connections(self) -> None:
        for _ in range(_TURNS):  # what was accepted a moment ago gets its task
            await asyncio.sleep(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A connection with TLS would else wait for the other side's leave-taking.
        for writer in self._writers:
            with suppress(AttributeError):  # QUIRK: of Python 3.11.2, where it has ended
                writer.transport.abort()
        deadline = self._loop.time() + _PATIENCE
        while any(each.fileno() != -1 for each in self._sockets):
            if self._loop.time() > deadline:
                raise RuntimeError("a connection to the loopback server did not end")
            await asyncio.sleep(0.001)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._sockets.append(writer.get_extra_info("socket"))
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
