# SPDX-License-Identifier: Apache-2.0
"""GnuPG's agent of a home that is used for a while only: it goes, and what it remembers with it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from snapvault.adapters import command
from snapvault.errors import SourceError

_TIMEOUT: Final = 30.0  # seconds


@contextmanager
def agent_ends(home: Path) -> Iterator[None]:
    """End the agent that gpg starts for a home in this context; also when our process is killed.

    One that runs already is somebody else's, and stays.
    """
    kill = ["gpgconf", "--homedir", str(home.absolute()), "--kill", "gpg-agent"]
    if _runs(home):
        yield
        return
    with command.guard(kill):
        try:
            yield
        finally:
            with suppress(SourceError):
                command.run(kill, timeout=_TIMEOUT, check=False)


def _runs(home: Path) -> bool:
    """Tell whether an agent answers, without starting one."""
    ask = ["gpg-connect-agent", "--homedir", str(home.absolute()), "--no-autostart"]
    with suppress(SourceError):
        return (
            command.run([*ask, "GETINFO pid", "/bye"], timeout=_TIMEOUT, check=False).stdout != b""
        )
    return False
