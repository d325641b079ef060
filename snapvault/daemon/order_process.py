# SPDX-License-Identifier: Apache-2.0
"""What the processes of all scheduled orders begin with; `adapters.order_child` starts them."""

import os
import pickle
import signal
import sys
from types import FrameType
from typing import Final, TypeVar

from snapvault.adapters.event_log import EventLog, Field
from snapvault.adapters.hearing import hear_signals
from snapvault.wiring import start

_ASKED: Final = 128 + signal.SIGTERM

_Order = TypeVar("_Order")


def take_order(kind: type[_Order]) -> _Order:
    """Be ready to be asked to end, and take an order from stdin."""
    start.lightly()
    hear_signals()
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the daemon, which asks us in turn
    order = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent, over a pipe of its own
    if not isinstance(order, kind):
        raise TypeError(f"not an order: {type(order)}")
    return order


def open_log(bound: dict[str, Field]) -> EventLog:
    """Return the log of the process: the daemon's own, with these fields in every line."""
    return EventLog(sys.stderr, as_json=os.environ.get("SNAPVAULT_LOG") == "json", bound=bound)


def _end(_number: int, _: FrameType | None) -> None:
    # A second one finds nothing in its way: tidying up goes on, and SIGKILL is for the patient.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(_ASKED)
