# SPDX-License-Identifier: Apache-2.0
"""Blocks under way to AWS: many at once, but not more than fit into memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore, Condition

from snapvault.errors import RestoreError


class Puts:
    """The calls of one target. After the first that failed, no other is begun.

    `slots` bounds what is under way or waits for a thread, over all targets.
    """

    def __init__(self, pool: ThreadPoolExecutor, slots: BoundedSemaphore) -> None:
        self._pool = pool
        self._slots = slots
        self._idle = Condition()
        self._under_way = 0
        self._error: BaseException | None = None
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether what is under way may be given up."""
        return self._stopped

    def submit(self, work: Callable[[], None]) -> None:
        """Have something done soon; waits while too much is under way.

        Raises:
            RestoreError: something before it failed.
        """
        self._slots.acquire()
        with self._idle:
            self._under_way += 1
        try:
            self.require_none_failed()
            self._pool.submit(self._run, work)
        except BaseException:
            self._done()
            raise

    def require_none_failed(self) -> None:
        """Raise what the first failure was, if there was one."""
        if isinstance(self._error, RestoreError):
            raise RestoreError(str(self._error), hint=self._error.hint) from self._error
        if self._error is not None:
            raise self._error

    def drain(self) -> None:
        """Wait until nothing is under way.

        Raises:
            RestoreError: something failed.
        """
        with self._idle:
            self._idle.wait_for(lambda: self._under_way == 0)
        self.require_none_failed()

    def stop(self) -> None:
        """Begin nothing more, and wait until nothing is under way."""
        self._stopped = True
        with self._idle:
            self._idle.wait_for(lambda: self._under_way == 0)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            if not self._stopped:
                work()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._error = self._error or error
            self._stopped = True
        finally:
            self._done()

    def _done(self) -> None:
        self._slots.release()
        with self._idle:
            self._under_way -= 1
            self._idle.notify_all()
