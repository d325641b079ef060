# SPDX-License-Identifier: Apache-2.0
"""The boundary: the only place where an error becomes text and a number."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from snapvault.adapters.hearing import hear_signals
from snapvault.cli.console import json_log
from snapvault.errors import EXIT_BUG, SnapVaultError, refusal_of_state

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STATUS_OF_SIGNAL = 128
_FORESEEABLE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EMFILE,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
}


class Ended(BaseException):
    """A signal asked the program to end. No handler of errors takes it for one."""


class _Signals:
    """Turns the first signal into an exception in the main thread: everything is tidied up."""

    def __init__(self) -> None:
        self.received: int | None = None

    def install(self) -> None:
        hear_signals()
        for number in _ENDING:
            # What the caller ignores (nohup) stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._end)

    def _end(self, number: int, _: FrameType | None) -> None:
        first = self.received is None
        self.received = number
        # A second signal finds nothing in its way.
        signal.signal(number, signal.SIG_DFL)
        if first:
            raise Ended


def _fill_closed_places() -> None:
    """Open /dev/null where the caller closed stdin, stdout or stderr.

    Otherwise the next file that is opened takes the place, and what is printed goes into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.set_inheritable(number, True)
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, errors="replace", closefd=False))


def run(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; docs/errors.md lists them."""
    _fill_closed_places()
    signals = _Signals()
    signals.install()
    try:
        status = command()
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - it ends here, whatever it is
        status = _status_of(error, signals)
    return status


def _status_of(error: BaseException, signals: _Signals) -> int:
    # What a signal broke on its way through is no failure of its own.
    if signals.received is not None:
        print(f"snapvault: ended by {signal.Signals(signals.received).name}", file=sys.stderr)
        return _STATUS_OF_SIGNAL + signals.received
    # QUIRK: Typer 0.29 turns a broken pipe into SystemExit(1) before it gets here.
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        return _reader_is_gone()
    if isinstance(error, OSError) and error.errno in _FORESEEABLE:
        error = _named(error)
        _forget_output()
    if isinstance(error, SnapVaultError):
        show(error)
        return error.exit_status
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else EXIT_BUG
    traceback.print_exception(error)
    print("snapvault: this is a bug; please report it with the lines above", file=sys.stderr)
    return EXIT_BUG


def show(error: SnapVaultError, *, about: str = "") -> None:
    """Print an error in one line on stderr, and its hint in a second; `about` goes before it."""
    text = " ".join(str(error).split("\n"))
    if (printer := json_log()) is not None:
        notes = "; ".join(getattr(error, "__notes__", ())) or None
        status = error.exit_status
        printer.error("failed", f"{about}{text}", hint=error.hint, notes=notes, exit_status=status)
        return
    print(f"snapvault: {about}{text}", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(f"note: {note}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def _named(error: OSError) -> SnapVaultError:
    """Return what the operating system refused as an error with a remedy."""
    reason = (error.strerror or str(error)).lower()
    where = f'"{error.filename}"' if error.filename else "stdout or a temporary file"
    return refusal_of_state(error)(
        f"could not use {where}: {reason}",
        hint="Make room there, or see to it that this user may read and write it.",
    )


def _reader_is_gone() -> int:
    """End as quietly as any program whose output nobody reads any more."""
    _forget_output()
    return _STATUS_OF_SIGNAL + signal.SIGPIPE


def _forget_output() -> None:
    with suppress(OSError, ValueError):
        # What is left in the buffer has nowhere to go, and must not be complained about at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
