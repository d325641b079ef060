# SPDX-License-Identifier: Apache-2.0
"""Whether this process is asked to end: what all its threads look at before they wait."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from snapvault import clock
from snapvault.ports.throttle import GivenUp

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LONGEST_SLEEP: Final = 0.1  # seconds until a thread that waits sees that it need not

_Handler = Callable[[int, FrameType | None], object]


class Ending:
    """Notices the signals that ask the process to end, and leaves their handling to others.

    Only the main thread hears of a signal; this is how the others do. There is no lock in it,
    because a handler of signals could come upon one that is held.
    """

    def __init__(self) -> None:
        self._is_asked = False

    def check(self) -> None:
        """Go no further if the process is asked to end.

        Raises:
            GivenUp: it is.
        """
        if self._is_asked:
            raise GivenUp

    def sleep(self, seconds: float) -> None:
        """Wait, as long as the process is not asked to end.

        Raises:
            GivenUp: it is, before or meanwhile.
        """
        until = clock.monotonic() + seconds
        self.check()
        while (left := until - clock.monotonic()) > 0:
            clock.sleep(min(left, _LONGEST_SLEEP))
            self.check()

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """Notice signals that have a handler, in this context; signals are for the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[signal.Signals, _Handler] = {}

        def notice(number: int, frame: FrameType | None) -> None:
            self._is_asked = True
            before[signal.Signals(number)](number, frame)

        for number in _ENDING:
            handler = signal.getsignal(number)
            if callable(handler):  # neither ignored, nor the end of the process anyway
                before[number] = handler
                signal.signal(number, notice)
        try:
            yield
        finally:
            for number, handler in before.items():
                if signal.getsignal(number) is notice:
                    signal.signal(number, handler)
