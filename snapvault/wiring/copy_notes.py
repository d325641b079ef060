# SPDX-License-Identifier: Apache-2.0
"""What the last copy to each vault came to, in a small file of the state folder."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from snapvault import clock
from snapvault.engine.files import write_durably
from snapvault.errors import SnapVaultError
from snapvault.model.copies import CopyNote
from snapvault.model.settings import Settings
from snapvault.wiring.state import make_private


def read(settings: Settings, to: str) -> CopyNote | None:
    """Return what is noted of copies to a vault; None: nothing, or nothing that can be read."""
    try:
        found: dict[str, Any] = json.loads(_path(settings, to).read_bytes())
        copied = found["copied_at"]
        return CopyNote(
            at=clock.from_text(found["at"]),
            failures=int(found["failures"]),
            message=found["message"],
            hint=found["hint"],
            retryable=bool(found["retryable"]),
            copied_at=None if copied is None else clock.from_text(copied),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def succeeded(settings: Settings, to: str) -> None:
    """Note that a copy has brought all there was."""
    now = clock.now()
    _write(settings, to, CopyNote(now, copied_at=now))


def failed(
    settings: Settings, to: str, message: str, hint: str | None, *, retryable: bool
) -> CopyNote:
    """Note that a copy has not, and why."""
    before = read(settings, to) or CopyNote(clock.now())
    note = replace(
        before,
        at=clock.now(),
        failures=before.failures + 1,
        message=message,
        hint=hint,
        retryable=retryable,
    )
    _write(settings, to, note)
    return note


def _write(settings: Settings, to: str, note: CopyNote) -> None:
    document = {
        "at": clock.to_text(note.at),
        "failures": note.failures,
        "message": note.message,
        "hint": note.hint,
        "retryable": note.retryable,
        "copied_at": None if note.copied_at is None else clock.to_text(note.copied_at),
    }
    path = _path(settings, to)
    # A full disk has its own alarms; a copy that was made is made.
    with suppress(OSError, SnapVaultError):
        make_private(path.parent)
        write_durably(path, [json.dumps(document).encode()])


def _path(settings: Settings, to: str) -> Path:
    return settings.state_dir / "copies" / f"{to}.json"
