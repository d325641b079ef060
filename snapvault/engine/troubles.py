# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a vault as this host last saw it, kept for whoever alarms people.

Whoever looks at a vault writes it down, for his part of it: of its manifests, of one source's, of
its locks. What he finds no more is struck out.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from snapvault import clock
from snapvault.engine.files import write_durably

LOCKS: Final = "locks"
UNDERNEATH: Final = "underneath"
_MANIFESTS: Final = "manifests"
_FOLDER: Final = "troubles"
_MOST: Final = 20


@dataclass(frozen=True, slots=True)
class Troubles:
    """One line each, and since when there is any."""

    messages: tuple[str, ...] = ()
    since: datetime | None = None


def note_manifests(state: Path, source: str | None, messages: Iterable[str]) -> None:
    """Write down what is wrong with the manifests of a source, or of all of them."""
    if source is not None:
        note(state, f"{_MANIFESTS}-{source}", messages)
        return
    with suppress(OSError):
        for path in (state / _FOLDER).glob(f"{_MANIFESTS}-*"):
            path.unlink(missing_ok=True)
    note(state, _MANIFESTS, messages)


def note(state: Path, about: str, messages: Iterable[str]) -> None:
    """Write down what is wrong, instead of what was said about it before. It never fails."""
    path = state / _FOLDER / about
    told = [" ".join(each.split()) for each in dict.fromkeys(messages)][:_MOST]
    before = _read(path)
    if told == list(before.messages):
        return
    with suppress(OSError):
        if not told:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        since = clock.to_text(before.since or clock.now())
        write_durably(path, [json.dumps({"since": since, "messages": told}).encode()])


def read(state: Path) -> Troubles:
    """Return all that is wrong with a vault, from this host's state folder of it."""
    try:
        found = [_read(path) for path in sorted((state / _FOLDER).iterdir())]
    except OSError:
        return Troubles()
    messages = dict.fromkeys(message for each in found for message in each.messages)
    return Troubles(
        tuple(messages), min((each.since for each in found if each.since is not None), default=None)
    )


def _read(path: Path) -> Troubles:
    try:
        content = json.loads(path.read_bytes())
        return Troubles(
            tuple(str(each) for each in content["messages"]), clock.from_text(content["since"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Troubles()
