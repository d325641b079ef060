# SPDX-License-Identifier: Apache-2.0
"""What comes of one step of a drill, while it is at work; and the tools that it works with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from snapvault import clock
from snapvault.engine.drill_clock import Meters, PhaseClock
from snapvault.engine.vault import Vault
from snapvault.errors import (
    IntegrityError,
    NoRestorePointError,
    RestoreError,
    SealError,
    SnapVaultError,
    StoreError,
)
from snapvault.model.drills import CheckResult, Phase, Result, Verdict
from snapvault.model.policy import KindSpec, SourceSpec
from snapvault.ports.machine import Machines
from snapvault.ports.scratch_database import ScratchDatabases
from snapvault.ports.serving import ServedDisk
from snapvault.ports.target import Target
from snapvault.units import format_count

NOT_RESTORED = "nothing was restored"


class RequireRoom(Protocol):
    """Makes sure of room before anything is fetched."""

    def __call__(self, folder: Path, needed: int, *, what: str) -> None:
        """Raise a RestoreError if `folder` has less than `needed` bytes free for `what`."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What a drill works with beside a vault. All that it makes lies in folders that it is given.

    `databases` are by product, `mysql` or `postgresql`. `serve` shows disks over NBD as long as
    its context lasts, and gives their addresses. `sockets` gives a folder whose path is short
    enough for sockets: the one it is given, or another that is gone with its context.
    """

    machines: Machines
    databases: Mapping[str, ScratchDatabases]
    open_target: Callable[[Path, int, int], Target]
    serve: Callable[[Sequence[ServedDisk], Path], AbstractContextManager[Sequence[str]]]
    sockets: Callable[[Path], AbstractContextManager[Path]]
    require_room: RequireRoom


@dataclass(slots=True)
class Notes:
    """What one step found so far.

    `refusal` is what went wrong with the restore, `leftovers` are complaints of cleaning up.
    `ready` is when the last check had passed, in seconds since the step's start.
    """

    vault: Vault
    source: SourceSpec
    folder: Path
    phases: PhaseClock
    meters: Meters
    checks: list[CheckResult] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)
    restored: Result | None = None
    refusal: SnapVaultError | None = None
    console: str = ""
    screenshot: bytes | None = None
    ready: float | None = None

    def add(self, name: str, verdict: Verdict, reason: str, seconds: float = 0.0) -> None:
        """Note how a check ended, and tell it."""
        self.checks.append(CheckResult(name, verdict, " ".join(reason.split()), seconds))
        self.vault.events.emit(
            "drill.check", source=self.source.name, check=name, verdict=verdict.value, reason=reason
        )

    def skip(self, names: Sequence[str], reason: str) -> None:
        """Note checks that could not be made."""
        for name in names:
            self.add(name, Verdict.SKIPPED, reason)

    def not_made(self) -> Verdict:
        """Return how a check ended for which there was no time or no machine any more.

        Where nothing failed before it, that is what failed: it would have been made otherwise.
        """
        has_failed = any(check.verdict is Verdict.FAILED for check in self.checks)
        return Verdict.SKIPPED if has_failed else Verdict.FAILED

    def attempt(self, name: str, look: Callable[[], str]) -> bool:
        """Make a check: what it returns says why it passed, an error why it did not."""
        begun = clock.monotonic()
        try:
            reason = look()
        except SnapVaultError as error:
            self.add(name, Verdict.FAILED, str(error), clock.monotonic() - begun)
            return False
        self.add(name, Verdict.PASSED, reason, clock.monotonic() - begun)
        return True

    @contextmanager
    def cleaning_up(self, what: str) -> Iterator[None]:
        """Clean something up; what goes wrong with it is noted and goes no further."""
        with self.phases.at(Phase.CLEAN_UP):
            try:
                yield
            except (SnapVaultError, OSError) as error:
                self.leftovers.append(f"could not {what}: {error}")

    def validated(self) -> Result:
        """Return what the checks come to. Skipped ones do not count; none but skipped: skipped."""
        failed = [check for check in self.checks if check.verdict is Verdict.FAILED]
        if failed:
            return Result(Verdict.FAILED, f"{failed[0].name}: {failed[0].reason}")
        passed = sum(check.verdict is Verdict.PASSED for check in self.checks)
        skipped = len(self.checks) - passed
        if not passed:
            reason = self.checks[0].reason if self.checks else "there was nothing to check"
            return Result(Verdict.SKIPPED, reason)
        said = f"{format_count(passed, 'check')} passed"
        return Result(Verdict.PASSED, said + (f", {skipped} skipped" if skipped else ""))


def origin_of(source: SourceSpec, stream: str) -> KindSpec | None:
    """Return what the policy says a stream comes from; None if it says nothing of it any more."""
    if source.single:
        return source.streams[0].spec
    for each in source.streams:
        if stream == each.name or stream.startswith(f"{each.name}."):
            return each.spec
    return None


def failure_of(error: SnapVaultError | OSError) -> Result:
    """Return an error as the result of what it ended."""
    if isinstance(error, SnapVaultError):
        notes = "; ".join(getattr(error, "__notes__", ()))
        return Result(Verdict.FAILED, f"{error}" + (f" ({notes})" if notes else ""), error.hint)
    where = f' "{error.filename}"' if error.filename else ""
    return Result(Verdict.FAILED, f"could not use{where}: {(error.strerror or str(error)).lower()}")


def phase_of(error: BaseException, phase: Phase) -> Phase:
    """Return the phase that an error belongs to, which came up in another one perhaps.

    Stages of a restore work side by side; and what is damaged is found by verifying.
    """
    match error:
        case IntegrityError():
            return Phase.VERIFY
        case NoRestorePointError():
            return Phase.LOCATE
        case SealError():
            return Phase.DECRYPT
        case StoreError():
            return Phase.FETCH
        case RestoreError():
            return Phase.WRITE
        case _:
            return phase
