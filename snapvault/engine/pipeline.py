# SPDX-License-Identifier: Apache-2.0
"""All the concurrency there is: bounded hand-offs and ordered work on a few threads.

The heavy steps (reading, hashing, compressing, GnuPG, the network) let go of the
interpreter lock or run in another process, so threads keep every core busy.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from threading import Condition, Thread
from typing import Generic, TypeVar

from snapvault import clock

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = max(2, min(4, os.cpu_count() or 2))
"""Threads for work that is bound by the processor."""


def threads(count: int, name: str) -> ThreadPoolExecutor:
    """Return a pool of threads; leaving its context waits for them."""
    return ThreadPoolExecutor(count, thread_name_prefix=name)


def ordered(
    function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int, pool: Executor
) -> Iterator[Result]:
    """Apply a function to items on a pool and yield the results in the items' order.

    At most `ahead` items are in work or waiting; the next starts once the
    consumer comes back for more. The first failure is raised in its place. Leaving early waits for
    what is running.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            while len(waiting) >= ahead:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for future in waiting:
            if not future.cancelled():
                future.exception()


class Broken(Exception):  # noqa: N818 - a signal between two ends, not an error of its own
    """The other end of a hand-off has given up."""


class Handoff(Generic[Item]):
    """A bounded queue between one producer and one consumer, either of which may give up."""

    def __init__(self, *, room: int) -> None:
        self._items: deque[Item] = deque()
        self._room = room
        self._closed = False
        self._broken = False
        self._changed = Condition()

    def put(self, item: Item) -> None:
        """Add an item; waits for room.

        Raises:
            Broken: the consumer gave up.
        """
        with self._changed:
            while len(self._items) >= self._room and not self._broken:
                self._changed.wait()
            if self._broken:
                raise Broken
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """No more items will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def give_up(self) -> None:
        """Wake the other end and let it fail; safe to repeat, from either end."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Yield the items until the producer closes.

        Raises:
            Broken: the producer gave up.
        """
        while True:
            with self._changed:
                while not self._items and not self._closed and not self._broken:
                    self._changed.wait()
                if self._broken:
                    raise Broken
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


class Crew(Generic[Result]):
    """A few threads for long tasks; starting one more than there are threads waits for room.

    The first failure of any task is raised by the next `start` or by `finish`; `close` comes after
    it. A thread that `close` does not wait for goes on, and ends with the process.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._tasks: list[Future[Result]] = []
        self._running: deque[tuple[Future[Result], Thread]] = deque()

    def start(self, task: Callable[[], Result]) -> None:
        """Run a task on a thread of its own, once one is free."""
        while len(self._running) >= self._size:
            self._running[0][0].result()
            self._running.popleft()
        self.check()
        future: Future[Result] = Future()
        # Not a pool's: the interpreter would wait for that, however long a network takes.
        thread = Thread(target=_settle, args=(future, task), name=self._name, daemon=True)
        thread.start()
        self._tasks.append(future)
        self._running.append((future, thread))

    def check(self) -> None:
        """Raise the first failure there is so far; waits for nothing."""
        for future, _ in self._running:
            if future.done() and (error := future.exception()):
                raise error

    def finish(self) -> list[Result]:
        """Wait for all tasks and return their results in the order they were started."""
        results = [task.result() for task in self._tasks]
        self.close()
        return results

    def close(self, patience: float | None = None) -> None:
        """Wait for what runs, for so many seconds if told; failures stay with their tasks."""
        deadline = None if patience is None else clock.monotonic() + patience
        for _, thread in self._running:
            thread.join(None if deadline is None else max(0.0, deadline - clock.monotonic()))


def _settle(future: "Future[Result]", task: Callable[[], Result]) -> None:
    """Do a task, and let its future know how it went."""
    try:
        future.set_result(task())
    except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
        future.set_exception(error)
