# SPDX-License-Identifier: Apache-2.0
"""Signals that are heard at once, whatever the main thread waits for."""

import os
import signal
import threading
from typing import Final

from snapvault import clock

_POKE: Final = signal.SIGURG  # ignored by every program that does not ask for it
_PAUSES: Final = (0.05, 0.5, 5.0)  # seconds


def hear_signals() -> None:
    """See to it that no blocking call of the main thread sleeps through a signal.

    Python notes a signal down, and runs its handler when the main thread takes its next step. A
    call that is just about to block, or a signal that the kernel gave to another thread, would
    keep the handler waiting for as long as the call blocks: for ever, perhaps. A thread that
    Python tells of every signal interrupts the main thread a moment later. Safe to repeat.
    """
    if signal.getsignal(_POKE) is _nothing or not _is_main():
        return
    signal.signal(_POKE, _nothing)
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    main = threading.get_ident()
    threading.Thread(target=_poke, args=(heard, main), name="hearing", daemon=True).start()


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _nothing(*_: object) -> None:
    """Do nothing: that it is called is all that is wanted."""


def _poke(heard: int, main: int) -> None:
    while numbers := os.read(heard, 64):
        if set(numbers) == {_POKE}:
            continue
        for pause in _PAUSES:
            clock.sleep(pause)
            signal.pthread_kill(main, _POKE)
