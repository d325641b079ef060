# SPDX-License-Identifier: Apache-2.0
"""One notifier and what it has still to tell."""

import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from snapvault import clock
from snapvault.errors import NotifyError
from snapvault.model.notices import Notice, NoticeKind, NotifierStanding
from snapvault.ports.events import Events
from snapvault.ports.notifier import Notifier

ASIDE_LENGTH: Final = 20
"""How many notices that failed may wait for another attempt while newer ones go on."""

_LONGEST_REST: Final = 60.0  # seconds that a server may have all notices wait
_STATES: Final = frozenset((NoticeKind.START, NoticeKind.SUCCESS, NoticeKind.FAILURE))
_ENDS: Final = frozenset((NoticeKind.SUCCESS, NoticeKind.FAILURE))


@dataclass(slots=True)
class _Letter:
    """A notice on its way: the attempts so far, and when the next one may be."""

    notice: Notice
    attempts: int = 0
    due: float = 0.0


class Teller:
    """Delivers notices with a thread, from the first one on. Safe from several threads.

    A notice that fails is set aside and tried again after each of `pauses`, while newer ones go
    on: at most `ASIDE_LENGTH` of them, then the others wait. At most `length` wait for
    their first attempt.
    """

    def __init__(
        self,
        notifier: Notifier,
        log: Events,
        pauses: tuple[float, ...],
        length: int,
        standing: NotifierStanding,
    ) -> None:
        self.notifier = notifier
        self._name = standing.name
        self._log = log
        self._pauses = pauses
        self._length = length
        self._changed = threading.Condition()
        self._waiting: deque[_Letter] = deque()
        self._aside: list[_Letter] = []
        self._at_work: _Letter | None = None
        self._takes_aside = False  # which of the two has its turn
        self._rests_until = 0.0
        self._thread: threading.Thread | None = None
        self._is_leaving = False
        self._is_given_up = False
        self._standing = standing
        self._dropped_unsaid = 0

    @property
    def is_busy(self) -> bool:
        """Whether its thread is still there."""
        return self._thread is not None and self._thread.is_alive()

    def exchange(self, notifier: Notifier) -> None:
        """Go on with another notifier, and at once: it may be there because the old one failed."""
        with self._changed:
            self.notifier = notifier
            self._rests_until = 0.0
            for letter in self._aside:
                letter.due = 0.0
            self._changed.notify_all()

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
            self._waiting.append(_Letter(notice))
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
        """Try what waits once more, without pauses, and end then."""
        with self._changed:
            if not self._is_leaving:
                self._is_leaving = True
                for letter in self._aside:
                    letter.due = 0.0
            self._changed.notify_all()

    def stop(self, seconds: float) -> int:
        """Wait for the end, and drop what is left then; return how many notices that were."""
        if self._thread is not None:
            self._thread.join(seconds)
        with self._changed:
            lost = self._count()
            self._waiting.clear()
            self._aside.clear()
            self._at_work = None
            self._is_given_up = True
            self._standing = replace(self._standing, dropped=self._standing.dropped + lost)
            self._dropped_unsaid += lost
        self._say_dropped()
        return lost

    def standing(self) -> NotifierStanding:
        """Return how it fares."""
        with self._changed:
            return replace(self._standing, waiting=self._count())

    def _count(self) -> int:
        return len(self._waiting) + len(self._aside) + (self._at_work is not None)

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=f"tell {self._name}", daemon=True)
            thread.start()
            self._thread = thread

    # --- the thread -------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while (letter := self._take()) is None:
                    if self._is_leaving:
                        return
                    self._changed.wait(self._until_next())
                self._at_work = letter
                notifier = self.notifier
            error = self._attempt(letter, notifier)
            with self._changed:
                if self._is_given_up:
                    return  # what was at work is counted as dropped
                self._at_work = None
                if error is None:
                    self._note_delivered(letter)
                else:
                    self._note_failed(letter, error, by=notifier)
            self._say_dropped()

    def _take(self) -> _Letter | None:
        """Return what is tried next: new notices and those set aside take turns."""
        now = clock.monotonic()
        if now < self._rests_until and not self._is_leaving:
            return None
        due = min(self._aside, key=lambda letter: letter.due, default=None)
        if due is not None and due.due > now:
            due = None
        is_new = bool(self._waiting) and (len(self._aside) < ASIDE_LENGTH or self._is_leaving)
        if due is not None and (self._takes_aside or not is_new):
            self._takes_aside = False
            self._aside.remove(due)
            return due
        if is_new:
            self._takes_aside = True
            return self._waiting.popleft()
        return None

    def _until_next(self) -> float | None:
        """Return how long there is nothing to try; None: until there is something new."""
        moments = [letter.due for letter in self._aside]
        if self._waiting and len(self._aside) < ASIDE_LENGTH:
            moments.append(self._rests_until)
        if not moments:
            return None
        return max(0.0, max(min(moments), self._rests_until) - clock.monotonic())

    def _attempt(self, letter: _Letter, notifier: Notifier) -> NotifyError | None:
        letter.attempts += 1
        try:
            notifier.tell(letter.notice)
        except NotifyError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the next notice may fare better
            return NotifyError(self._note_bug(letter.notice, error))
        fields = self._fields(letter.notice)
        self._log.emit("notice.delivered", **fields, attempts=letter.attempts)
        return None

    def _note_delivered(self, letter: _Letter) -> None:
        was_up = self._standing.is_up
        self._standing = replace(
            self._standing,
            is_up=True,
            delivered_at=clock.now(),
            delivered=self._standing.delivered + 1,
        )
        for overtaken in [each for each in self._aside if self._is_overtaken(each, letter)]:
            self._aside.remove(overtaken)
            fields = self._fields(overtaken.notice)
            self._log.emit("notice.overtaken", **fields, attempts=overtaken.attempts)
        if not was_up and self._pauses:
            # It hears again: what waits for longer need not.
            soon = clock.monotonic() + self._pauses[0]
            for each in self._aside:
                each.due = min(each.due, soon)

    def _note_failed(self, letter: _Letter, error: NotifyError, *, by: Notifier) -> None:
        self._standing = replace(
            self._standing,
            is_up=False,
            failed_at=clock.now(),
            problem=str(error),
            failures=self._standing.failures + 1,
        )
        asked = getattr(error, "retry_after", None)
        asked = asked if isinstance(asked, float) else 0.0
        is_exchanged = by is not self.notifier  # while it tried: what it says counts no more
        if asked and not is_exchanged:
            self._rests_until = clock.monotonic() + min(asked, _LONGEST_REST)
        if error.retryable and letter.attempts <= len(self._pauses) and not self._is_leaving:
            pause = 0.0 if is_exchanged else max(self._pauses[letter.attempts - 1], asked)
            letter.due = clock.monotonic() + pause
            self._aside.append(letter)
            if letter.attempts == 1:
                self._log.warn(
                    "notice.delayed",
                    f'could not tell notifier "{self._name}" yet: {error}',
                    **self._fields(letter.notice),
                    hint=error.hint,
                )
            return
        self._standing = replace(self._standing, lost=self._standing.lost + 1)
        self._log.warn(
            "notice.failed",
            f'could not tell notifier "{self._name}": {error}',
            **self._fields(letter.notice),
            attempts=letter.attempts,
            hint=error.hint,
        )

    def _is_overtaken(self, old: _Letter, new: _Letter) -> bool:
        """Tell whether there is no use in a notice after a newer one about the same source.

        That a run has started is not told after its end. Who keeps but the last state of a source,
        as what pings tell, must not hear of an older one last.
        """
        before, after = old.notice, new.notice
        is_same = (before.vault, before.source) == (after.vault, after.source)
        if before.source is None or not is_same or before.at > after.at:
            return False
        if before.kind is NoticeKind.START:
            return after.run is not None
        keeps_state = getattr(self.notifier, "keeps_last_state", False)
        return keeps_state and before.kind in _STATES and after.kind in _ENDS

    def _drop(self, kind: NoticeKind) -> bool:
        """Make room: the oldest of this kind goes, or else the oldest that can best be missed."""
        kinds = [waiting.notice.kind for waiting in self._waiting]
        for least in (kind, NoticeKind.START, NoticeKind.SUCCESS, kinds[0]):
            if least in kinds:
                del self._waiting[kinds.index(least)]
                break
        self._standing = replace(self._standing, dropped=self._standing.dropped + 1)
        self._dropped_unsaid += 1
        return self._standing.dropped == 1

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
