# SPDX-License-Identifier: Apache-2.0
"""Restoring to what takes bytes in order only: stdout, pipes, character devices."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from snapvault.cli.session import Session
from snapvault.cli.words import size_in_full
from snapvault.errors import RestoreError

if TYPE_CHECKING:
    from snapvault.engine.contents import Contents
    from snapvault.engine.sequence import Order
    from snapvault.engine.vault import Held, Vault
    from snapvault.model.point import StreamRecord

STDOUT = "-"


def restore(
    run: Session, vault: "Vault", held: "Held", streams: "tuple[StreamRecord, ...]", to: str
) -> None:
    """Restore the one stream to stdout or to the pipe or device that `to` names."""
    from snapvault.engine import sequence

    contents, order, spool = arrange(run, vault, held, streams)
    if to == STDOUT:
        # Whatever prints to stdout by mistake must not end up in the data.
        descriptor = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    else:
        descriptor = _open_stream(to)
    out = _Out(descriptor, to)
    try:
        sequence.stream_out(vault, contents, order, spool, out.write)
    finally:
        os.close(descriptor)


def arrange(
    run: Session, vault: "Vault", held: "Held", streams: "tuple[StreamRecord, ...]"
) -> "tuple[Contents, Order, Path]":
    """Return the one stream's contents, their order and the folder to spool in; tell its room."""
    from snapvault.engine import sequence
    from snapvault.engine.contents import look_up

    contents = look_up(vault, held.point, streams)
    order = sequence.arrange(contents)
    spool = vault.state / "spool"
    if order.spool_bytes:
        run.console.note(
            f"bringing the stream back in order takes {size_in_full(order.spool_bytes)} of room"
            f' in "{spool}" until it is done'
        )
    return contents, order, spool


def _open_stream(to: str) -> int:
    try:
        return os.open(to, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RestoreError(f'could not open "{to}": {(error.strerror or "").lower()}') from error


class _Out:
    """Writes to a descriptor that takes bytes in order."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = "stdout" if name == STDOUT else f'"{name}"'

    def write(self, data: memoryview) -> None:
        """Write all of it.

        Raises:
            RestoreError: the disk behind it is full, or failed.
            BrokenPipeError: nobody reads it any more.
        """
        rest = data
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise RestoreError(
                f"could not write to {self._name}: {(error.strerror or str(error)).lower()}",
                hint="What was written so far is not the whole stream; do not use it.",
            ) from error
