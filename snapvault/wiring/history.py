# SPDX-License-Identifier: Apache-2.0
"""What this host remembers of its runs, and their logs."""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from snapvault import clock
from snapvault.errors import SnapVaultError
from snapvault.model.prunes import PruneState, PruneSummary, newest
from snapvault.model.runs import Run
from snapvault.model.settings import Settings
from snapvault.model.verifies import VerifySummary
from snapvault.ports.events import Events

if TYPE_CHECKING:
    from snapvault.adapters.histories.sqlite import SqliteHistory
    from snapvault.adapters.run_logs import FolderRunLogs

_HISTORY: Final = "history.sqlite"


def open_history(
    settings: Settings, events: Events | None = None, *, must_open: bool = True
) -> "SqliteHistory":
    """Open what this host remembers of its runs; closed by the caller, or as a context manager.

    Raises:
        StateError, ConfigError: the state folder cannot be used, and the history `must_open` now.
    """
    from snapvault.adapters.histories.sqlite import SqliteHistory

    history = SqliteHistory(
        settings.state_dir / _HISTORY,
        expire_logs=run_logs(settings).expire,
        must_open=must_open,
    )
    if history.was_reset and events is not None:
        events.warn("history.reset", f"history was damaged and begins anew: {history.reset_reason}")
    return history


def new_verify(vault: str, source: str | None, level: str, share: float) -> VerifySummary:
    """Return a verify that has just ended, and of which no more is known."""
    from snapvault.adapters.recording import new_run_id

    now = clock.now()
    return VerifySummary(new_run_id(now), vault, source, level, share, now, 0.0, 0, 0)


def record_verify(settings: Settings, summary: VerifySummary, events: Events) -> None:
    """Remember a verify; a history that cannot be written is told of, and fails nothing."""
    try:
        with open_history(settings, events) as history:
            history.add_verify(summary)
    except SnapVaultError as error:
        message = f"{error}; status and alarms do not know of this verify"
        events.warn("history.failed", message, hint=error.hint)


def record_prune(settings: Settings, summary: PruneSummary, events: Events) -> None:
    """Remember a prune, as the next failure in a row if it is one, as `record_verify` does."""
    try:
        with open_history(settings, events) as history:
            if summary.state is PruneState.FAILED:
                last = newest(history.prunes(), summary.vault)
                summary = replace(summary, failures=last.failures + 1 if last else 1)
            history.add_prune(summary)
    except SnapVaultError as error:
        message = f"{error}; status and alarms do not know of this prune"
        events.warn("history.failed", message, hint=error.hint)


def run_logs(settings: Settings) -> "FolderRunLogs":
    """Return the logs of this host's runs."""
    from snapvault.adapters.run_logs import FolderRunLogs

    return FolderRunLogs(settings.state_dir / "runs")


def run_of(settings: Settings, point: str) -> Run | None:
    """Return the run that made a restore point; None if this host does not remember it.

    Raises:
        StateError, ConfigError: the history cannot be used.
    """
    if not (settings.state_dir / _HISTORY).exists():
        return None  # looking makes none
    with open_history(settings) as history:
        return history.of_point(point)
