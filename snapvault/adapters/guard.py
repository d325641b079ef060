# SPDX-License-Identifier: Apache-2.0
"""Having a program run when our own process dies, by SIGKILL too."""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from snapvault.adapters.spawning import Process, cannot_start, require, spawn_watcher

# A line on stdin is our leave-taking. The end without one is our death: signals stay ignored
# then, because a service manager ends the rest of a service whose main process has died.
_GUARD = """
trap "" HUP INT QUIT TERM
echo ready
if read -r line; then exit 0; fi
exec "$@" </dev/null >/dev/null 2>&1
"""


def guard(
    argv: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> AbstractContextManager[None]:
    """Have a program run if our process dies in this context, by SIGKILL too.

    A watcher is up and ready before the context is entered. Leaving the context, with an
    exception or without, ends it and runs nothing: the caller undoes things itself. The program
    runs once, in our working directory, ignores SIGTERM and SIGINT, and what it says is lost.
    It runs too when the context is dropped without being left. `environment` is added to ours.

    Raises:
        SourceError: on entering: the program is not there, or the watcher cannot be started.
    """
    return _Guard(argv, {**os.environ, **(environment or {})})


class _Guard:
    """A shell that waits for our death, while the context lasts.

    Not a generator: Python leaves the context of one that is dropped, as if all were well.
    """

    def __init__(self, argv: Sequence[str], variables: Mapping[str, str]) -> None:
        self._argv = argv
        self._variables = variables
        self._process: Process | None = None

    def __enter__(self) -> None:
        require(self._argv, environment=self._variables)
        program = shutil.which(self._argv[0], path=self._variables.get("PATH")) or self._argv[0]
        resolved = str(Path(program).absolute())
        argv = ["/bin/sh", "-c", _GUARD, "guard", resolved, *self._argv[1:]]
        self._process = process = spawn_watcher(argv, self._variables)
        if process.stdout is None:
            raise ValueError("a watcher has a pipe as its stdout")
        with process.stdout as stdout:
            is_ready = stdout.readline() == b"ready\n"
        if not is_ready:
            self.__exit__()
            raise cannot_start(self._argv[0], "its guard did not come up")

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        with suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(b"leave\n")
        process.wait()
