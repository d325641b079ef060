# SPDX-License-Identifier: Apache-2.0
"""What the demo shows, and the commands it runs: what is printed after a prompt is what runs."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from snapvault import clock

_WIDTH = 80
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 10.0  # seconds that a command gets to tidy up after itself


class DemoError(Exception):
    """A step did not do what it should; the message is for the person at the terminal."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Screen:
    """Text of at most 80 columns (or the terminal's width), colored on terminals that want it."""

    def __init__(self) -> None:
        terminal = sys.stdout.isatty()
        self._colors = terminal and "NO_COLOR" not in os.environ
        self._width = shutil.get_terminal_size((_WIDTH, 24)).columns if terminal else _WIDTH

    def title(self, text: str) -> None:
        """Begin a chapter."""
        print()
        self._print(f"== {text} ".ljust(min(self._width, _WIDTH) - 1, "="), "1;36")

    def say(self, text: str) -> None:
        """Tell the story."""
        print()
        for line in textwrap.wrap(text, min(self._width, _WIDTH) - 2):
            self._print(f"# {line}", "2")

    def prompt(self, machine: str, command: str) -> None:
        """Show what is typed, as it is run."""
        self._print(f"{machine}$ {command}", "1")

    def output(self, line: str) -> None:
        """Show a line of a program; one that is too long goes on in the next, indented."""
        if len(line) <= self._width:
            self._print(line)
            return
        for part in textwrap.wrap(
            line,
            self._width,
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        ):
            self._print(part)

    def good(self, text: str) -> None:
        """Say what was checked, and found as it should be."""
        for line in textwrap.wrap(text, min(self._width, _WIDTH), subsequent_indent="    "):
            self._print(line, "32")

    def line(self, text: str = "") -> None:
        """Print a line as it is."""
        self._print(text)

    def _print(self, text: str, color: str = "") -> None:
        if color and self._colors:
            text = f"\033[{color}m{text}\033[0m"
        print(text, flush=True)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command printed, and how long it took."""

    text: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Machine:
    """A folder that plays a machine: its commands run there, with its settings."""

    name: str
    folder: Path
    screen: Screen
    environment: Mapping[str, str]

    def run(self, command: str, *, expect: int = 0, show: bool = True) -> Ran:
        """Show a command, run it with bash, and show what it prints, as it comes.

        Raises:
            DemoError: its exit status is not the expected one.
        """
        self.screen.prompt(self.name, command)
        ran, status = self._run(command, show=show)
        if status != expect:
            if not show:
                for line in ran.text.splitlines():
                    self.screen.output(line)
            raise DemoError(
                f"this command ended with exit status {status} instead of {expect}: {command}"
            )
        return ran

    def ask(self, command: str) -> str:
        """Return what a command prints, for what the demo itself wants to know.

        Raises:
            DemoError: it failed.
        """
        ran, status = self._run(command, show=False)
        if status != 0:
            raise DemoError(f"this command ended with exit status {status}: {command}\n{ran.text}")
        return ran.text

    def _run(self, command: str, *, show: bool) -> tuple[Ran, int]:
        started = clock.monotonic()
        lines: list[str] = []
        # A signal between the start of a command and the try below would leave it running.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,  # so that a whole pipeline can be ended
            preexec_fn=lambda: signal.pthread_sigmask(  # noqa: PLW1509 - the demo has no threads
                signal.SIG_SETMASK, mask
            ),
        )
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    lines.append(line)
                    if show:
                        self.screen.output(line.rstrip("\n"))
            status = process.wait()
        except BaseException:
            _end(process)
            raise
        return Ran("".join(lines), clock.monotonic() - started), status


def _end(process: subprocess.Popen[str]) -> None:
    """End a command with all that it started, and wait until it has tidied up."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
            # The shell may be gone before what it started.
            _wait_for_group(process.pid)
            return


def _wait_for_group(group: int) -> None:
    deadline = clock.monotonic() + _PATIENCE
    with suppress(ProcessLookupError):
        while clock.monotonic() < deadline:
            os.killpg(group, 0)
            clock.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
