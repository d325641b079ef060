# SPDX-License-Identifier: Apache-2.0
"""The program that thaws a guest when the backup that froze it died: given the agent's socket."""

import os
import sys
from pathlib import Path

from snapvault import clock
from snapvault.adapters.qmp import Agent
from snapvault.errors import SourceError

_PATIENCE = 600.0  # seconds that the agent may be too busy to answer: freezing, perhaps
_PAUSE = 1.0  # seconds between two attempts


def command_line(agent: Path) -> list[str]:
    """Return the command that thaws the guest behind this socket."""
    return [sys.executable, "-m", "snapvault.adapters.sources.qemu_thaw", str(agent)]


def environment() -> dict[str, str]:
    """Return what that command needs to find us, installed or not."""
    here = str(Path(__file__).resolve().parents[3])
    return {"PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


def main(arguments: list[str]) -> int:
    """Thaw; again and again while somebody is there, because nobody else will."""
    deadline = clock.monotonic() + _PATIENCE
    while True:
        try:
            Agent(Path(arguments[0])).thaw()
        except SourceError as error:
            if _is_gone(error) or clock.monotonic() > deadline:
                return 1
            clock.sleep(_PAUSE)
        else:
            return 0


def _is_gone(error: BaseException | None) -> bool:
    """Tell whether nobody listens: the machine has ended, and its guest with it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return isinstance(error, (ConnectionRefusedError, FileNotFoundError))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
