# SPDX-License-Identifier: Apache-2.0
"""The service: what keeps the scheduler going, from its start to its stop, or for a round."""

import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Final

from snapvault import clock
from snapvault.adapters.event_log import EventLog
from snapvault.adapters.jobs import ChildJobs
from snapvault.adapters.locks import SourceLock
from snapvault.adapters.notifiers.opening import open_notifier
from snapvault.adapters.order_child import COPY_CHILD, DRILL_CHILD, PRUNE_CHILD, OrderChild
from snapvault.adapters.recording import is_at_work, new_run_id
from snapvault.adapters.systemd import Systemd
from snapvault.config.zones import zone_named
from snapvault.daemon import rules
from snapvault.daemon.copying import Copies
from snapvault.daemon.expiry import expire
from snapvault.daemon.handover import Handover
from snapvault.daemon.learning import LookNote
from snapvault.daemon.pruning import Prunes
from snapvault.daemon.rehearsing import Rehearsals
from snapvault.daemon.scheduler import Scheduler
from snapvault.daemon.telling import Telling
from snapvault.daemon.web.server import StatusServer
from snapvault.errors import (
    EXIT_DONE,
    EXIT_PARTIAL,
    ConfigError,
    LockHeldError,
    SnapVaultError,
)
from snapvault.model.agenda import GRACE
from snapvault.model.notices import Notice, NoticeKind, NotifierStanding
from snapvault.model.runs import PointSummary
from snapvault.model.settings import DaemonSettings, Settings
from snapvault.model.status import Status
from snapvault.ports.notifier import Notifier
from snapvault.units import format_count
from snapvault.wiring import catalogs, copy_notes, history, status

_LONGEST_WAIT: Final = 5.0  # seconds; a clock that is set is noticed after so many
_TELLING_SECONDS: Final = 10.0  # that a stop leaves for what is still to be told
_WATCHDOG_SHARE: Final = 3  # times within the watchdog's limit that it is fed
_GRACE_OF_ROUNDS: Final = timedelta(hours=1)  # between two rounds, before one is late
_WORD_EVERY: Final = 5.0  # seconds between two looks for what other processes should know
_EXPIRE_EVERY: Final = 24 * 3600.0  # seconds between two looks for history that is too old


class Service:
    """One daemon. The scheduler runs in the main thread; pages and notices have their own."""

    def __init__(self, config: Path, events: EventLog) -> None:
        self._events = events
        self._systemd = Systemd()
        self._rules = rules.read(config)
        self._jobs = ChildJobs(events, variables=dict(os.environ))
        self._server: StatusServer | None = None
        self._is_stopping = False
        self._is_reloading = False
        self._is_replaced = False
        self._is_alone = True
        self._token: str | None = None
        self._failed = 0  # runs that are not tried again

    def run(self) -> int:
        """Work until a signal asks to stop, and return the exit status.

        Raises:
            ConfigError: settings, state folder or port cannot be used.
            LockHeldError: another daemon works on the same state folder.
        """
        signal.signal(signal.SIGHUP, self._ask_to_reload)
        # Where the state folder is full, backups are tried, and people told, all the same.
        with self._at_work(GRACE, must_remember=False), ExitStack() as stack:
            self._token = read_token(self._rules.settings.daemon.token_file)
            self._server = self._serve(self._rules.settings.daemon, self._token)
            stack.callback(self._stop_serving)
            self._say_up()
            self._work()
            self._stop()
        return LockHeldError.exit_status if self._is_replaced else EXIT_DONE

    def run_round(self) -> int:
        """Run what is due, with what is due again after a failure, and return the exit status.

        What is to be tried again later is left to the next round.

        Raises:
            ConfigError, LockHeldError: as `run`.
        """
        with self._at_work(_GRACE_OF_ROUNDS, is_round=True):
            self._complain()
            wanted = self._tick()
            while not self._is_stopping and not self._is_round_over():
                self._jobs.wait(max(0.0, min(wanted, _LONGEST_WAIT)))
                wanted = self._tick()
            self._expire()
            self._stop()
        if self._failed or self._prunes.failed or self._copies.failed or self._rules.problems:
            return EXIT_PARTIAL
        return EXIT_DONE

    @contextmanager
    def _at_work(
        self, grace: timedelta, *, must_remember: bool = True, is_round: bool = False
    ) -> Iterator[None]:
        """Have everything that a scheduler needs, and be the only one."""
        settings = self._rules.settings
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        with ExitStack() as stack:
            self._lock = stack.enter_context(alone(settings.state_dir))
            self._history = history.open_history(settings, self._events, must_open=must_remember)
            stack.callback(self._history.close)
            made, unusable = notifiers(settings, self._events)
            self._telling = Telling(
                made, self._events, unusable=unusable, known=self._known_standings()
            )
            stack.callback(self._telling.close, _TELLING_SECONDS)
            self._copies = Copies(
                OrderChild(COPY_CHILD, self._jobs.wake, variables=dict(os.environ)),
                self._events,
                points=self._points,
                note=lambda to: copy_notes.read(self._rules.settings, to),
                note_failure=lambda to, reason: copy_notes.failed(
                    self._rules.settings, to, reason, None, retryable=True
                ),
            )
            self._copies.follow(settings, self._rules.policies)
            self._scheduler = self._new_scheduler(grace)
            self._rehearsals = Rehearsals(
                self._history,
                OrderChild(DRILL_CHILD, self._jobs.wake, variables=dict(os.environ)),
                self._events,
                zone_of=zone_named,
                looked=LookNote(settings.state_dir),
                is_round=is_round,
            )
            self._rehearsals.follow(settings, self._rules.policies, clock.now())
            self._prunes = Prunes(
                self._history,
                OrderChild(PRUNE_CHILD, self._jobs.wake, variables=dict(os.environ)),
                self._events,
                zone_of=zone_named,
                host=socket.gethostname(),
                new_id=lambda: new_run_id(clock.now()),
                is_known=lambda name: bool(self._points(name)),
            )
            self._prunes.follow(settings, self._rules.policies, clock.now())
            self._resets = self._history.resets
            self._handover = Handover(self._history, self._scheduler, self._telling)
            yield
            self._telling.close(_TELLING_SECONDS)
            self._handover.close(self._rules.policies, is_round=is_round)

    def _new_scheduler(self, grace: timedelta) -> Scheduler:
        current = self._rules
        return Scheduler(
            settings=current.settings,
            policies=current.policies,
            problems=current.problems,
            history=self._history,
            jobs=self._jobs,
            points=self._points,
            tell=self._tell,
            zone_of=zone_named,
            new_id=lambda: new_run_id(clock.now()),
            host=socket.gethostname(),
            log=self._events,
            alive=is_at_work,
            grace=grace,
            troubles=self._troubles,
            copies=self._copies.findings,
        )

    def _tick(self) -> float:
        """Do what is to be done now, and return for how many seconds to wait at most."""
        now = clock.now()
        if any([self._rehearsals.tick(now), self._prunes.tick(now), self._copies.tick(now)]):
            self._scheduler.look_at_results()
        wanted = self._scheduler.tick(now)
        # Again: what has just been backed up is copied at once, and in a round before it ends.
        self._copies.tick(now)
        return wanted

    def _is_round_over(self) -> bool:
        is_idle = self._rehearsals.is_idle and self._prunes.is_idle and self._copies.is_idle
        return self._scheduler.round_over() and is_idle

    def _known_standings(self) -> Sequence[NotifierStanding]:
        try:
            return self._history.notifiers()
        except SnapVaultError:
            return ()

    def _points(self, vault: str) -> Sequence[PointSummary]:
        return catalogs.point_summaries(self._rules.settings, vault)

    def _troubles(self) -> Mapping[str, Sequence[str]]:
        found = catalogs.known_troubles(self._rules.settings)
        return {name: each.messages for name, each in found.items()}

    def _tell(self, notice: Notice) -> None:
        self._record(notice)
        policies = {policy.name: policy for policy in self._rules.policies}
        policy = policies.get(notice.policy) if notice.policy else None
        self._telling.tell(notice, policy.notify if policy else None)

    def _record(self, notice: Notice) -> None:
        """Put what is told into the log as well: that is there when nobody can be told."""
        about: dict[str, str | None] = {
            "source": notice.source,
            "vault": notice.vault,
            "policy": notice.policy,
            "run": notice.run.id if notice.run else None,
            "alarm": notice.alarm,
            "retry_at": clock.to_text(notice.retry_at) if notice.retry_at else None,
            "hint": notice.hint,
        }
        known = {name: value for name, value in about.items() if value is not None}
        event = f"notice.{notice.kind}"
        match notice.kind:
            case NoticeKind.FAILURE:
                self._failed += notice.retry_at is None
                self._events.error(event, f"{notice.title}: {notice.message}", **known)
            case NoticeKind.BREACH | NoticeKind.MISSED:
                self._events.warn(event, f"{notice.title}: {notice.message}", **known)
            case _:
                self._events.emit(event, title=notice.title, **known)

    def _work(self) -> None:
        """Let the scheduler look at the clock again and again, until a signal asks to stop."""
        longest = _LONGEST_WAIT
        if self._systemd.watchdog is not None:
            longest = min(longest, self._systemd.watchdog / _WATCHDOG_SHARE)
        next_expiry = next_word = clock.monotonic()
        while not self._is_stopping:
            if self._is_reloading:
                self._is_reloading = False
                self._read_again()
            wanted = self._tick()
            # ORDER: fed after a tick alone: a scheduler that hangs feeds nobody.
            self._systemd.alive(self._summary())
            self._mind_state()
            if clock.monotonic() >= next_expiry:
                next_expiry = clock.monotonic() + _EXPIRE_EVERY
                self._expire()
            if clock.monotonic() >= next_word:
                next_word = clock.monotonic() + _WORD_EVERY
                self._handover.leave(self._rules.policies)
            self._jobs.wait(max(0.0, min(wanted, longest)))

    def _mind_state(self) -> None:
        """Notice that files of ours were removed, and make them again."""
        if (resets := self._history.resets) != self._resets:
            self._resets = resets
            reason = self._history.reset_reason
            self._events.warn("history.reset", f"history was lost and begins anew: {reason}")
            self._scheduler.remember_all()
            self._handover.forget()
        if not self._lock.is_in_place:
            try:
                self._lock.__exit__(None, None, None)
                self._lock.__enter__()
                self._events.warn("lock.replaced", "the daemon's lock was removed, and made again")
                self._is_alone = True
            except LockHeldError as error:
                self._events.error("lock.lost", f"{error}: this one ends", hint=error.hint)
                self._is_replaced = self._is_stopping = True
            except SnapVaultError as error:
                if self._is_alone:  # else it was said
                    self._events.warn("lock.lost", str(error), hint=error.hint)
                self._is_alone = False

    def _stop(self) -> None:
        """End what runs, within the limit of the settings, and remember how it ended."""
        patience = self._rules.settings.daemon.stop_timeout.total_seconds()
        running = len(self._jobs.running())
        self._systemd.stopping(f"stopping {format_count(running, 'backup')}")
        self._events.emit("daemon.stopping", running=running)
        deadline = clock.monotonic() + patience
        self._rehearsals.ask_to_end()
        self._prunes.ask_to_end()
        self._copies.ask_to_end()
        self._scheduler.stop(clock.now(), patience)
        self._rehearsals.stop(clock.now(), max(0.0, deadline - clock.monotonic()))
        self._prunes.stop(max(0.0, deadline - clock.monotonic()))
        self._copies.stop(max(0.0, deadline - clock.monotonic()))
        self._events.emit("daemon.stopped")

    def _read_again(self) -> None:
        self._systemd.reloading()
        before = self._rules
        self._rules = rules.read_again(before)
        self._telling.replace(*notifiers(self._rules.settings, self._events))
        self._scheduler.reload(
            self._rules.settings, self._rules.policies, self._rules.problems, now=clock.now()
        )
        self._rehearsals.follow(self._rules.settings, self._rules.policies, clock.now())
        self._prunes.follow(self._rules.settings, self._rules.policies, clock.now())
        self._copies.follow(self._rules.settings, self._rules.policies)
        self._serve_again(before.settings.daemon)
        self._say_up()

    def _serve_again(self, before: DaemonSettings) -> None:
        """Serve as the settings say now; where that fails, go on without: backups matter more."""
        settings = self._rules.settings.daemon
        try:
            token = read_token(settings.token_file)
        except SnapVaultError as error:
            self._events.warn("status.unchanged", str(error), hint=error.hint)
            return
        if self._server is not None and (settings, token) == (before, self._token):
            return
        self._stop_serving()
        try:
            self._server = self._serve(settings, token)
            self._token = token
        except SnapVaultError as error:
            self._events.warn("status.unserved", str(error), hint=error.hint)
            with suppress(SnapVaultError):
                self._server = self._serve(before, self._token)

    def _serve(self, settings: DaemonSettings, token: str | None) -> StatusServer | None:
        if settings.listen_host is None:
            return None
        server = StatusServer(
            settings.listen_host,
            settings.listen_port,
            token=token,
            status=self._status,
            run_log=history.run_logs(self._rules.settings).read,
            log=self._events,
            run=self._history.get,
        )
        server.start()
        self._events.emit("status.served", address=server.address)
        return server

    def _stop_serving(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _status(self) -> Status:
        current = self._rules  # read once: the main thread may exchange them
        return status.of_host(
            current.settings,
            current.policies,
            current.texts,
            history=self._history,
            watched=self._handover.watched(current.policies),
            notifiers=self._telling.standings(),
        )

    def _expire(self) -> None:
        try:
            expire(self._history, self._rules.settings.daemon.keep_history, clock.now())
        except SnapVaultError as error:
            self._events.warn("history.failed", str(error), hint=error.hint)

    def _ask_to_stop(self, number: int, _: FrameType | None) -> None:
        # A second one does not wait for anything: the lock ends with us, and jobs are asked to end.
        signal.signal(number, signal.SIG_DFL)
        self._is_stopping = True
        self._jobs.wake()

    def _ask_to_reload(self, _number: int, _: FrameType | None) -> None:
        self._is_reloading = True
        self._jobs.wake()

    def _say_up(self) -> None:
        self._complain()
        self._events.emit(
            "daemon.ready",
            policies=len(self._rules.policies),
            sources=sum(len(policy.sources) for policy in self._rules.policies),
            problems=len(self._rules.problems),
        )
        self._systemd.ready(self._summary())

    def _complain(self) -> None:
        for problem in self._rules.problems:
            self._events.warn("policy.broken", str(problem), hint=problem.hint)

    def _summary(self) -> str:
        sources = sum(len(policy.sources) for policy in self._rules.policies if policy.enabled)
        running = len(self._jobs.running())
        return f"{format_count(sources, 'source')}, {format_count(running, 'backup')} running"


def notifiers(
    settings: Settings, events: EventLog
) -> tuple[Mapping[str, Notifier], Mapping[str, str]]:
    """Return who is to be told, and who cannot be: why, in a line, by name."""
    made: dict[str, Notifier] = {}
    unusable: dict[str, str] = {}
    for name, each in settings.notify.items():
        try:
            made[name] = open_notifier(each)
        except SnapVaultError as error:
            events.warn("notifier.unusable", str(error), hint=error.hint, notifier=name)
            unusable[name] = str(error)
    return made, unusable


def read_token(path: Path | None) -> str | None:
    """Return the first line of the file that holds the status page's token.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    if path is None:
        return None
    try:
        token = path.read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, UnicodeError, IndexError) as error:
        reason = (getattr(error, "strerror", None) or "it is empty, or no text").lower()
        raise ConfigError(
            f'could not read the status page\'s token from "{path}": {reason}',
            hint="Write one line of random text into it: openssl rand -hex 32.",
        ) from error
    if not token:
        raise ConfigError(f'the first line of token file "{path}" is empty')
    return token


@contextmanager
def alone(state_dir: Path) -> Iterator[SourceLock]:
    """Be the only daemon on a state folder.

    Raises:
        LockHeldError: there is another one; the message says which.
        ConfigError: the folder cannot be used.
    """
    lock = SourceLock(state_dir / status.DAEMON_LOCK, source="daemon")
    try:
        lock.__enter__()
    except LockHeldError as error:
        raise LockHeldError(
            f'another daemon works on state folder "{state_dir}"',
            hint="Stop that one, or give this one a state_dir of its own.",
        ) from error
    try:
        yield lock
    finally:
        lock.__exit__(None, None, None)
