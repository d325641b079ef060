# SPDX-License-Identifier: Apache-2.0
"""Forgetting old history, but never much at once: the clock may be wrong by years."""

from datetime import datetime, timedelta
from typing import Final

from snapvault.ports.history import History

_PAUSE: Final = timedelta(hours=20)  # between two times; a daemon does it each day
_SHARE: Final = 0.25  # of all runs, the oldest
_FEW: Final = 10  # runs that are not worth being held back


def expire(history: History, keep: timedelta, now: datetime) -> int:
    """Forget what is older than `keep`, and return how many runs that were.

    Nothing says that a clock is right. So it happens once a day, however often somebody starts,
    and takes a quarter of the runs at most, or a few: a host that comes up in a wrong year has
    lost no more of its history when somebody notices. A history that is kept for less time than
    before gets shorter within some days.

    Raises:
        ConfigError: the history cannot be used.
    """
    last = history.expired()
    # A last time that lies in the future was by a clock that has been set back since.
    if last is not None and last <= now < last + _PAUSE:
        return 0
    bound = history.started_by(_SHARE, at_least=_FEW)
    before = now - keep
    return history.expire(before if bound is None else min(before, bound), now=now)
