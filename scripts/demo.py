# SPDX-License-Identifier: Apache-2.0
"""The demo: three nights of a disk and a database, and the day after the disaster.

Run by `make demo`. Everything happens in one temporary folder and on 127.0.0.1.
"""

import argparse
import os
import signal
import sys
from contextlib import ExitStack
from types import FrameType

from scripts.demo_screen import DemoError, Screen
from scripts.demo_stage import Stage, open_stage
from scripts.demo_story import Story
from snapvault.units import MIB, parse_size
from tests.support.seaweed import SeaweedError

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BYTES_PER_ROW = 170


class _Ended(BaseException):
    """A signal asked the demo to end. No handler of errors takes it for one."""


class _Signals:
    """Turns the first signal into an exception, so that everything is cleaned up."""

    def __init__(self) -> None:
        self.received: int | None = None

    def install(self) -> None:
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._end)

    def ignore(self) -> None:
        """Let nothing cut the cleaning up short."""
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)

    def _end(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self.ignore()
        raise _Ended


def main() -> int:
    """Run the demo and return its exit status: 0, 1, or 128 and the number of a signal."""
    options = _options()
    signals = _Signals()
    try:
        _run(options, signals)
    except _Ended:
        number = signals.received or signal.SIGINT
        _tell(f"ended by {signal.Signals(number).name}")
        return 128 + number
    except BrokenPipeError:  # nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (DemoError, SeaweedError, OSError) as error:
        _tell(f"failed: {error}")
        if isinstance(error, DemoError) and error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace, signals: _Signals) -> None:
    screen = Screen()
    with ExitStack() as stack:
        signals.install()
        stage: Stage = stack.enter_context(
            open_stage(screen, room=4 * options.disk_size, keep=options.keep)
        )
        stack.callback(signals.ignore)
        Story(stage, options.disk_size, options.rows).tell()


def _tell(text: str) -> None:
    sys.stdout.flush()
    print(f"demo: {text}", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make demo",
        description="Back up a disk and a database on three nights, restore the second, verify.",
        epilog='With make, options go into ARGS: make demo ARGS="--keep".',
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave keys, settings and vault, to go on by hand"
    )
    parser.add_argument(
        "--disk-size",
        type=parse_size,
        default=512 * MIB,
        metavar="SIZE",
        help="size of the disk image, 32 MiB or more (default: 512 MiB)",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=350_000,
        metavar="COUNT",
        help=f"rows of the database, of some {_BYTES_PER_ROW} bytes (default: 350000)",
    )
    options = parser.parse_args()
    options.disk_size -= options.disk_size % MIB
    if options.disk_size < 32 * MIB:
        parser.error("--disk-size is 32 MiB or more")
    # The database is on the disk too, with room left for files of this machine.
    most = options.disk_size // (5 * _BYTES_PER_ROW // 2)
    if not 1000 <= options.rows <= most:
        parser.error(f"--rows is from 1000 to {most} on a disk of this size")
    return options


if __name__ == "__main__":
    sys.exit(main())
