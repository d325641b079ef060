# SPDX-License-Identifier: Apache-2.0
"""The program that thaws a guest when the backup that froze it died: given the agent's socket."""

import os
import sys
from pathlib import Path

from snapvault.adapters.sources.qmp import Agent
from snapvault.errors import SourceError


def command_line(agent: Path) -> list[str]:
    """Return the command that thaws the guest behind this socket."""
    return [sys.executable, "-m", "snapvault.adapters.sources.qemu_thaw", str(agent)]


def environment() -> dict[str, str]:
    """Return what that command needs to find us, installed or not."""
    here = str(Path(__file__).resolve().parents[3])
    return {"PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


def main(arguments: list[str]) -> int:
    """Thaw; an agent that cannot is of no use to a process that nobody watches."""
    try:
        Agent(Path(arguments[0])).thaw()
    except (SourceError, IndexError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
