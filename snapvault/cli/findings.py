# SPDX-License-Identifier: Apache-2.0
"""What `snapvault doctor` finds."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from snapvault.errors import EXIT_DONE, SnapVaultError

if TYPE_CHECKING:
    from snapvault.ports.source import Finding as SourceFinding


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: `ok`, `warn` or `fail`; a remedy unless it is ok."""

    check: str
    state: str
    message: str
    remedy: str | None = None
    exit_status: int = EXIT_DONE


def ok(message: str) -> Finding:
    """Return that all is well, of a check that `attempt` names."""
    return Finding("", "ok", message)


def warn(message: str, remedy: str) -> Finding:
    """Return what is not as it should be, of a check that `attempt` names."""
    return Finding("", "warn", message, remedy)


def failed(check: str, error: SnapVaultError) -> Finding:
    """Return an error as what a check found."""
    return Finding(check, "fail", str(error), error.hint, error.exit_status)


def attempt(check: str, look: Callable[[], Finding]) -> Finding:
    """Look, and return what was found, or what went wrong, under the check's name."""
    try:
        return replace(look(), check=check)
    except SnapVaultError as error:
        return failed(check, error)


def seen(check: str, found: "SourceFinding") -> Finding:
    """Return what a source or a notifier found about itself."""
    if found.error is not None:
        return failed(check, found.error)
    return Finding(check, "warn" if found.remedy else "ok", found.message, found.remedy)


def document(finding: Finding) -> dict[str, Any]:
    """Return a finding for JSON."""
    return {
        "check": finding.check,
        "state": finding.state,
        "message": finding.message,
        "remedy": finding.remedy,
    }
