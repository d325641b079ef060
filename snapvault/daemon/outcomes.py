# SPDX-License-Identifier: Apache-2.0
"""What follows from how a run ended, or from one that never began: told, and remembered."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from snapvault.daemon import words
from snapvault.daemon.alarms import Alarms
from snapvault.daemon.judging import Judging
from snapvault.daemon.ledger import Ledger
from snapvault.daemon.resuming import Past
from snapvault.daemon.roster import Followed
from snapvault.daemon.words import Words
from snapvault.model import agenda, objectives
from snapvault.model.agenda import Missed
from snapvault.model.notices import Notice
from snapvault.model.runs import Failure, Run, RunState, Trigger

_STOPPED: Final = 128 + 15  # as a process that SIGTERM ended


class Outcomes:
    """Records runs, has failed ones tried again, and tells. A source may be None: it has left."""

    def __init__(
        self,
        ledger: Ledger,
        alarms: Alarms,
        judging: Judging,
        tell: Callable[[Notice], None],
        words: Words,
    ) -> None:
        self._ledger = ledger
        self._alarms = alarms
        self._judging = judging
        self._tell = tell
        self._words = words

    def end(self, source: Followed | None, run: Run, now: datetime) -> None:
        """Take note of a run that is over."""
        self._ledger.put(run)
        if source is not None:
            source.judge_at = now
            source.wake = now if source.timing is not None else None
        if run.state is not RunState.SUCCEEDED:
            if run.due is not None:
                self._fail(source, run, now)
            return
        if run.due is not None:
            self._tell(self._words.succeeded(run, now))
        if source is not None:
            source.again = source.failed = None
            if source.following is None or source.following > now:
                source.held_up = None  # it was over before the next one should have started
            self._judging.recover(source, now)

    def stop(self, run: Run, now: datetime) -> None:
        """Take note of a run that was ended along with us: the next start goes on with it.

        Nobody is told: whoever stopped us knows.
        """
        failure = Failure(
            "it was stopped with the daemon",
            "Nothing is lost: the next start goes on with it.",
            _STOPPED,
            retryable=True,
        )
        self._ledger.put(
            replace(
                run,
                state=RunState.INTERRUPTED,
                ended=run.ended or now,
                failure=failure,
                stopped=True,
            )
        )

    def reconsider(self, source: Followed, now: datetime) -> None:
        """Decide again when a failed run is tried again: the source's policy is another one."""
        if (failed := source.failed) is not None:
            self._plan_again(source, failed, now)
            if source.again is None:
                self.give_up(source, failed, now)

    def give_up(self, source: Followed | None, run: Run, now: datetime) -> None:
        """Tell that a failed run is not tried again."""
        if source is not None:
            source.again = source.failed = None
            self._alarms.put_up(source.subject, words.failing(run), now)
        self._tell(self._words.failed(run, now, None))

    def report(
        self, source: Followed, missed: Missed, now: datetime, *, name: str, held_up: str | None
    ) -> None:
        """Remember, as run `name`, and tell that nothing ran when it should have.

        What its own runs, one after the other, have `held_up` is one, and told once.
        """
        known = source.held_up if held_up is not None else None
        run = known or Run(
            id=name,
            key=source.key,
            policy=source.policy.name,
            state=RunState.MISSED,
            trigger=Trigger.SCHEDULE,
            started=now,
            ended=now,
        )
        count = missed.count + run.missed
        run = replace(run, ended=now, due=missed.last, missed=count, reason=held_up)
        missed = replace(missed, count=count)
        # ORDER: the run before how far the schedule was followed. Whoever begins after a kill in
        # between finds the run, and does not report it again; the other way it were lost.
        self._ledger.put(run)
        self.follow(source, missed.last)
        source.ahead = None
        source.held_up = run if held_up is not None else None
        if known is None:
            self._tell_missed(source, run, missed, now)
        else:
            self._alarms.put_up(source.subject, words.missing(missed, held_up), now)

    def resume(self, source: Followed, past: Past, now: datetime) -> None:
        """Go on from what an earlier scheduler left behind."""
        if past.followed is not None and past.followed > source.handled:
            # Whoever was killed had put the run, but not yet how far the schedule was followed.
            self.follow(source, past.followed)
        if past.missed is not None and self._alarms.get(source.subject, objectives.MISSED) is None:
            missed = Missed(past.missed.missed, exact=True, last=past.missed.due or now)
            self._tell_missed(source, past.missed, missed, now)
        if past.failed is None:
            return
        self._plan_again(source, past.failed, now)
        if source.again is None and self._alarms.get(source.subject, objectives.FAILED) is None:
            self.give_up(source, past.failed, now)

    def follow(self, source: Followed, until: datetime) -> None:
        """Remember up to when the schedule of a source was followed."""
        source.handled = until
        self._ledger.set_handled(source.key, until)

    def _fail(self, source: Followed | None, run: Run, now: datetime) -> None:
        """Have a failed run tried again, or tell that it is not."""
        if source is None or source.timing is None:
            self.give_up(source, run, now)
            return
        self._plan_again(source, run, now)
        if source.again is None:
            self.give_up(source, run, now)
        elif not agenda.is_held(run):
            self._tell(self._words.failed(run, now, source.again.at))

    def _plan_again(self, source: Followed, failed: Run, now: datetime) -> None:
        if source.timing is None:
            source.again = None
        else:
            source.again = agenda.next_attempt(source.timing, source.policy.retry, failed, now)
        source.failed = None if source.again is None else failed

    def _tell_missed(self, source: Followed, run: Run, missed: Missed, now: datetime) -> None:
        self._alarms.put_up(source.subject, words.missing(missed, run.reason), now)
        self._tell(self._words.missed(run, missed, now))
