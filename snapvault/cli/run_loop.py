# SPDX-License-Identifier: Apache-2.0
"""What `run` does while its machine runs: watch it, fetch, and be its console."""

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from snapvault import clock
from snapvault.cli.session import Session
from snapvault.errors import MachineError
from snapvault.units import format_size

if TYPE_CHECKING:
    from snapvault.adapters.machines.fetching import Fetched
    from snapvault.adapters.machines.kept import KeptMachine
    from snapvault.adapters.machines.running import QemuMachine
    from snapvault.ports.events import Progress

_STEP: Final = 0.5  # seconds between two looks
_AGAIN: Final = 5.0  # seconds until a fetch that failed is tried again


def follow(
    run: Session,
    machine: "QemuMachine",
    *,
    kept: "KeptMachine | None",
    fetches: bool,
    at_terminal: bool,
) -> None:
    """Return when the machine has powered off; say what happens to it until then.

    Raises:
        MachineError: it ended otherwise.
    """
    with ExitStack() as stack:
        fetch = _Fetch(run, machine, kept) if fetches and kept else None
        if fetch:
            stack.callback(fetch.close)
        if at_terminal:
            from snapvault.cli.terminal import attached

            left = "left the console; the machine runs on, and Ctrl-C ends it"
            stack.enter_context(attached(machine, lambda: run.console.note(left)))
        stood_still = False
        while not machine.wait(_STEP):
            if machine.stands_still != stood_still:
                stood_still = not stood_still
                _tell(run, stands_still=stood_still)
            if fetch:
                fetch.look()
        if fetch:
            fetch.look()
    if machine.end and machine.end.startswith("powered off"):
        run.console.note(f"the machine {machine.end}")
        return
    raise MachineError(f"the machine {machine.end or 'was ended'}")


def _tell(run: Session, *, stands_still: bool) -> None:
    if stands_still:
        run.console.warn(
            "machine.stopped",
            "the machine stands still: a disk cannot be read, or there is no room to write;"
            " it goes on when that is over",
        )
    else:
        run.console.emit("machine.resumed")
        run.console.note("the machine goes on")


class _Fetch:
    """Fetches what a kept machine's overlays do not have yet, disk by disk."""

    def __init__(self, run: Session, machine: "QemuMachine", kept: "KeptMachine") -> None:
        self._run = run
        self._machine = machine
        self._kept = kept
        self._progress: Progress | None = None
        self._shown = 0
        self._at: int | None = None
        self._begin_at = 0.0
        self._is_told = False
        self._is_over = kept.is_independent()
        self._missing = 0

    def look(self) -> None:
        """Begin, go on, or say that all is there."""
        if self._is_over:
            return
        # QEMU may be busy with what it cannot read for now, or be gone.
        with suppress(MachineError):
            states = self._machine.fetching.state()
            self._show(states)
            number = next((at for at, state in enumerate(states) if not state.is_whole), None)
            if number is None:
                self._finish()
            elif not states[number].is_at_work:
                self._begin(number)

    def close(self) -> None:
        """Show no progress any more, and say what is left to do."""
        if self._progress is not None:
            self._progress.close()
        if not self._is_over:
            self._run.console.note(
                f"fetched in part, about {format_size(self._missing)} to go; the same command"
                " goes on with it"
            )

    def _begin(self, number: int) -> None:
        now = clock.monotonic()
        if now < self._begin_at:
            return
        if number == self._at and not self._is_told:
            self._is_told = True
            self._run.console.warn(
                "machine.fetch_failed",
                f"fetching disk {number + 1} failed, and is tried again and again",
            )
        self._at, self._begin_at = number, now + _AGAIN
        self._machine.fetching.start(number)

    def _show(self, states: "list[Fetched]") -> None:
        total = sum(state.total for state in states)
        done = sum(state.done for state in states)
        self._missing = total - done
        if self._progress is None:
            self._progress = self._run.console.progress("fetching", total=total)
        if done > self._shown:
            self._progress.advance(done - self._shown)
            self._shown = done
            self._is_told = False

    def _finish(self) -> None:
        self._is_over = True
        self._run.console.emit("machine.independent", folder=str(self._kept.folder))
        self._run.console.note(
            f'all of it is fetched: the machine in folder "{self._kept.folder}" needs the vault'
            " no more"
        )
