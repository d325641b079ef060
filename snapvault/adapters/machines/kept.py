# SPDX-License-Identifier: Apache-2.0
"""Folders with a machine that is started again: its overlays, and what they lie over."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from snapvault import clock
from snapvault.adapters.machines.disks import backing_of
from snapvault.errors import LockHeldError, RestoreError, TargetNotEmptyError

_RECORD: Final = "machine.json"
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """The restore point that a machine was started from, and its disks in order."""

    vault: str
    source: str
    point: str
    taken_at: datetime
    disks: tuple[str, ...]


class KeptMachine:
    """A folder that is ours alone as long as it is open; made by `open_folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.origin = self._read()
        """None: nothing was started from here yet."""

    @property
    def variables(self) -> Path:
        """The file for the settings of a UEFI firmware."""
        return self.folder / "uefi-variables"

    def overlay(self, disk: str) -> Path:
        """Return the file for what is written to a disk."""
        return self.folder / f"{disk}.qcow2"

    def begin(self, origin: Origin) -> None:
        """Remember what overlays lie over; durable on return. They are made after that."""
        # ORDER: an overlay whose origin nobody knows could be laid over another disk.
        document = {
            "format": _FORMAT,
            "vault": origin.vault,
            "source": origin.source,
            "point": origin.point,
            "taken_at": clock.to_text(origin.taken_at),
            "disks": list(origin.disks),
        }
        new = self.folder / f"{_RECORD}.new"
        with new.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.folder / _RECORD)
        self.origin = origin

    def is_independent(self) -> bool:
        """Tell whether its overlays have everything, so that the vault is not needed any more."""
        if self.origin is None:
            return False
        overlays = [self.overlay(disk) for disk in self.origin.disks]
        return all(overlay.exists() and backing_of(overlay) is None for overlay in overlays)

    def _read(self) -> Origin | None:
        record = self.folder / _RECORD
        try:
            text = record.read_text(encoding="utf-8")
        except FileNotFoundError:
            if any(path.name != f"{_RECORD}.new" for path in self.folder.iterdir()):
                raise TargetNotEmptyError(
                    f'folder "{self.folder}" holds something else than a machine that was kept',
                    hint="Name a folder that is empty or does not exist.",
                ) from None
            return None
        try:
            document: dict[str, Any] = json.loads(text)
            if document["format"] != _FORMAT:
                raise ValueError("another format")
            return Origin(
                document["vault"],
                document["source"],
                document["point"],
                clock.from_text(document["taken_at"]),
                tuple(document["disks"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise RestoreError(
                f'file "{record}" does not say what the machine in its folder was started from',
                hint="Remove that folder, or name another one.",
            ) from error


@contextmanager
def open_folder(folder: Path) -> Iterator[KeptMachine]:
    """Open the folder of a kept machine, made if it is missing, for us alone.

    Raises:
        LockHeldError: its machine runs.
        TargetNotEmptyError: it holds something else.
        RestoreError: it cannot be used.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RestoreError(
            f'could not use folder "{folder}": {reason}',
            hint="Name a folder that is empty or does not exist, on a disk with room.",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockHeldError(
                f'the machine in folder "{folder}" runs already',
                hint="End it first, or name another folder.",
            ) from error
        machine = KeptMachine(folder)
        yield machine
        is_new = is_new and machine.origin is None
    except BaseException:
        is_new = is_new and not (folder / _RECORD).exists()
        raise
    finally:
        if is_new:
            _remove_if_empty(folder)
        os.close(descriptor)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
