# SPDX-License-Identifier: Apache-2.0
"""What this host remembers of its runs, and their logs."""

from typing import TYPE_CHECKING, Final

from snapvault.model.runs import Run
from snapvault.model.settings import Settings
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
        ConfigError: the state folder cannot be used, and the history `must_open` now.
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


def run_logs(settings: Settings) -> "FolderRunLogs":
    """Return the logs of this host's runs."""
    from snapvault.adapters.run_logs import FolderRunLogs

    return FolderRunLogs(settings.state_dir / "runs")


def run_of(settings: Settings, point: str) -> Run | None:
    """Return the run that made a restore point; None if this host does not remember it.

    Raises:
        ConfigError: the history cannot be used.
    """
    if not (settings.state_dir / _HISTORY).exists():
        return None  # looking makes none
    with open_history(settings) as history:
        return history.of_point(point)
