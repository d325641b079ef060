# SPDX-License-Identifier: Apache-2.0
"""Holding several volumes still at once, and never for long."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Self

from snapvault.adapters import command
from snapvault.adapters.sources import lvm_mapper
from snapvault.adapters.sources.lvm_commands import environment
from snapvault.errors import SourceError

_LONGEST: Final = 60.0  # seconds; what uses a volume gives up on it after more


class _Alarm:
    """Resumes everything when its time is up, from a thread of its own.

    Suspending waits for what is under way, inside the kernel where no signal helps. Should that
    wait for something which is suspended already, resuming that ends it.
    """

    def __init__(self, paths: Sequence[str], seconds: float) -> None:
        self._paths = paths
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True
        self.has_rung = False

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()

    def _ring(self) -> None:
        self.has_rung = True
        with suppress(SourceError):  # whoever holds them tries again, and tells
            lvm_mapper.resume(self._paths)


@contextmanager
def held(paths: Sequence[str], *, longest: float = _LONGEST) -> Iterator[None]:
    """Suspend devices in order; inside, nothing is written to any; leaving resumes them all.

    A snapshot that is taken inside resumes its own origin and no other, so all snapshots
    show the moment at which the last device was suspended. Should this process be killed, a
    watcher that was started before resumes them.

    Raises:
        SourceError: one could not be suspended or resumed, or it took longer than `longest`
            seconds, and then the snapshots do not show one moment.
    """
    # ORDER: the watcher is up before the first device is suspended, and dismissed after the last
    # was resumed: at no moment can our death leave a machine without its disks.
    with (
        command.guard(lvm_mapper.resume_argv(paths), environment=environment()),
        _Alarm(paths, longest) as alarm,
    ):
        try:
            lvm_mapper.suspend(paths)
            yield
            lvm_mapper.resume(paths)
        except BaseException as error:
            # Also if it came while they were resumed: those that are going on do not mind.
            if alarm.has_rung:
                error.add_note(f"the volumes were resumed after {longest:g} s")
            try:
                lvm_mapper.resume(paths)
            except SourceError as failure:
                error.add_note(f"{failure}; {failure.hint}")
            raise
        if alarm.has_rung:
            raise SourceError(
                f"could not snapshot {len(paths)} volumes at one moment: it took longer than"
                f" {longest:g} s",
                hint="Run the backup again when the host is less busy.",
            )
