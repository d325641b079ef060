# SPDX-License-Identifier: Apache-2.0
"""Telling: notices wait in queues of their own until each notifier has delivered them.

Nothing here ever holds up who has something to tell: a queue that is full loses its oldest.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from snapvault import clock
from snapvault.errors import NotifyError
from snapvault.model.notices import Notice, NoticeKind
from snapvault.ports.events import Events
from snapvault.ports.notifier import Notifier

# Seconds before each further attempt: ten minutes without a network lose nothing.
PAUSES: Final = (5.0, 30.0, 120.0, 600.0)
QUEUE_LENGTH: Final = 500


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a notifier fares. `at`, `kind` and `problem` are of the last notice that was done with.

    `problem` is one line, None: it was delivered. `waiting` counts the notices in the queue, the
    others all those since the daemon started.
    """

    at: datetime | None = None
    kind: NoticeKind | None = None
    problem: str | None = None
    delivered: int = 0
    failed: int = 0
    dropped: int = 0
    waiting: int = 0


class Telling:
    """Hands notices to notifiers, each with a thread of its own. Safe from several threads."""

    def __init__(
        self,
        notifiers: Mapping[str, Notifier],
        log: Events,
        *,
        pauses: Sequence[float] = PAUSES,
        queue_length: int = QUEUE_LENGTH,
    ) -> None:
        self._log = log
        self._pauses = tuple(pauses)
        self._queue_length = queue_length
        self._lock = threading.Lock()
        self._is_closed = False
        self._leaving: list[_Teller] = []
        self._tellers: dict[str, _Teller] = {}
        self.replace(notifiers)

    def tell(self, notice: Notice, names: Sequence[str] | None = None) -> None:
        """Have a notice delivered to those of these notifiers that want it; None: to all.

        Returns at once and never raises.
        """
        with self._lock:
            tellers = () if self._is_closed else tuple(self._tellers.items())
            wanted = [teller for name, teller in tellers if names is None or name in names]
        for teller in wanted:
            teller.add(notice)

    def replace(self, notifiers: Mapping[str, Notifier]) -> None:
        """Go on with other notifiers. What waits for one of the same name is delivered by it.

        What waits for one that is gone is tried once more by the old one.
        """
        with self._lock:
            before, self._tellers = self._tellers, {}
            for name, notifier in notifiers.items():
                teller = before.pop(name, None)
                if teller is None:
                    teller = _Teller(name, notifier, self._log, self._pauses, self._queue_length)
                else:
                    teller.notifier = notifier
                self._tellers[name] = teller
            self._leaving = [teller for teller in self._leaving if teller.is_busy]
            self._leaving += before.values()
        for teller in before.values():
            teller.leave()

    def outcomes(self) -> dict[str, Outcome]:
        """Return how each notifier fares, by name."""
        with self._lock:
            tellers = dict(self._tellers)
        return {name: teller.outcome() for name, teller in tellers.items()}

    def close(self, seconds: float) -> int:
        """Try each notice that still waits once, within this time; safe to repeat.

        Returns:
            How many were not delivered for lack of time; they are logged.
        """
        ends = clock.monotonic() + seconds
        with self._lock:
            self._is_closed = True
            tellers = [*self._leaving, *self._tellers.values()]
        for teller in tellers:
            teller.leave()
        return sum(teller.stop(max(0.0, ends - clock.monotonic())) for teller in tellers)


class _Teller:
    """One notifier, its queue and, from the first notice on, its thread."""

    def __init__(
        self, name: str, notifier: Notifier, log: Events, pauses: tuple[float, ...], length: int
    ) -> None:
        self.notifier = notifier
        self._name = name
        self._log = log
        self._pauses = pauses
        self._length = length
        self._changed = threading.Condition()
        self._waiting: deque[Notice] = deque()
        self._at_work: Notice | None = None
        self._thread: threading.Thread | None = None
        self._is_leaving = False
        self._is_given_up = False
        self._outcome = Outcome()
        self._dropped_unsaid = 0

    @property
    def is_busy(self) -> bool:
        """Whether its thread is still there."""
        return self._thread is not None and self._thread.is_alive()

    def add(self, notice: Notice) -> None:
        """Put a notice at the end of the queue, if the notifier wants it; never raises."""
        try:
            if not self.notifier.wants(notice):
                return
        except Exception as error:  # noqa: BLE001 - who tells must not fail because of who listens
            self._note_bug(notice, error)
            return
        with self._changed:
            if self._is_leaving:
                return
            is_first_drop = len(self._waiting) >= self._length and self._drop(notice.kind)
            self._waiting.append(notice)
            try:
                self._start()
            except RuntimeError:  # the system has no thread for us; the next notice tries again
                self._log.warn(
                    "notice.stuck",
                    f'could not start telling notifier "{self._name}": there are too many threads',
                    notifier=self._name,
                )
            self._changed.notify_all()
        if is_first_drop:
            self._say_dropped()

    def leave(self) -> None:
        """Try what waits once, without pauses, and end then."""
        with self._changed:
            self._is_leaving = True
            self._changed.notify_all()

    def stop(self, seconds: float) -> int:
        """Wait for the end, and drop what is left then; return how many notices that were."""
        if self._thread is not None:
            self._thread.join(seconds)
        with self._changed:
            lost = len(self._waiting) + (self._at_work is not None)
            self._waiting.clear()
            self._at_work = None
            self._is_given_up = True
            self._outcome = replace(self._outcome, dropped=self._outcome.dropped + lost)
            self._dropped_unsaid += lost
        self._say_dropped()
        return lost

    def outcome(self) -> Outcome:
        """Return how it fares."""
        with self._changed:
            waiting = len(self._waiting) + (self._at_work is not None)
            return replace(self._outcome, waiting=waiting)

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=f"tell {self._name}", daemon=True)
            thread.start()
            self._thread = thread

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_leaving:
                    self._changed.wait()
                if not self._waiting:
                    return
                notice = self._at_work = self._waiting.popleft()
            problem = self._deliver(notice)
            with self._changed:
                if self._is_given_up:
                    return  # what was at work is counted as dropped
                self._at_work = None
                self._note(notice, problem)
            self._say_dropped()

    def _deliver(self, notice: Notice) -> str | None:
        """Try until it is delivered or there is no use in it; return what was wrong at last."""
        attempt = 0
        while True:
            attempt += 1
            try:
                self.notifier.tell(notice)
            except NotifyError as error:
                problem = str(error)
                wait = self._pause(attempt, error)
                if attempt == 1 and wait is not None:
                    self._log.warn(
                        "notice.delayed",
                        f'could not tell notifier "{self._name}" yet: {problem}',
                        **self._fields(notice),
                        hint=error.hint,
                    )
                if wait is not None and self._rest(wait):
                    continue
                hint = error.hint
            except Exception as error:  # noqa: BLE001 - the next notice may fare better
                problem, hint = self._note_bug(notice, error), None
            else:
                self._log.emit("notice.delivered", **self._fields(notice), attempts=attempt)
                return None
            self._log.warn(
                "notice.failed",
                f'could not tell notifier "{self._name}": {problem}',
                **self._fields(notice),
                attempts=attempt,
                hint=hint,
            )
            return problem

    def _pause(self, attempt: int, error: NotifyError) -> float | None:
        """Return how long to wait before the next attempt; None: there is none."""
        if not error.retryable or attempt > len(self._pauses):
            return None
        asked = getattr(error, "retry_after", None)
        return max(self._pauses[attempt - 1], asked if isinstance(asked, float) else 0.0)

    def _rest(self, seconds: float) -> bool:
        """Wait; return whether there is a further attempt."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_leaving, timeout=seconds)
            return not self._is_leaving

    def _drop(self, kind: NoticeKind) -> bool:
        """Make room: the oldest of this kind goes, or else the oldest that can best be missed."""
        kinds = [waiting.kind for waiting in self._waiting]
        for least in (kind, NoticeKind.START, NoticeKind.SUCCESS, kinds[0]):
            if least in kinds:
                del self._waiting[kinds.index(least)]
                break
        self._outcome = replace(self._outcome, dropped=self._outcome.dropped + 1)
        self._dropped_unsaid += 1
        return self._outcome.dropped == 1

    def _note(self, notice: Notice, problem: str | None) -> None:
        self._outcome = replace(
            self._outcome,
            at=clock.now(),
            kind=notice.kind,
            problem=problem,
            delivered=self._outcome.delivered + (problem is None),
            failed=self._outcome.failed + (problem is not None),
        )

    def _say_dropped(self) -> None:
        with self._changed:
            count, self._dropped_unsaid = self._dropped_unsaid, 0
        if count:
            self._log.warn(
                "notice.dropped",
                f'dropped notices for notifier "{self._name}": {count} could not wait any longer',
                notifier=self._name,
                count=count,
            )

    def _note_bug(self, notice: Notice, error: Exception) -> str:
        # Only the type: what an unexpected error says may hold a URL or a password.
        problem = f"it failed unexpectedly ({type(error).__name__})"
        self._log.emit("notice.bug", **self._fields(notice), error=type(error).__name__)
        return problem

    def _fields(self, notice: Notice) -> dict[str, str | None]:
        return {
            "notifier": self._name,
            "kind": notice.kind.value,
            "vault": notice.vault,
            "source": notice.source,
            "policy": notice.policy,
            "run": notice.run.id if notice.run else None,
        }
