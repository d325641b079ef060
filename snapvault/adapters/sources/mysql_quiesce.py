# SPDX-License-Identifier: Apache-2.0
"""A MariaDB or MySQL server held by FLUSH TABLES WITH READ LOCK while LVM takes a snapshot.

The lock belongs to a client's session. Whatever happens to us, the server gives it back: at
once when the client ends, and after `lock_timeout` when the client is silent.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import Final

from snapvault import clock
from snapvault.adapters.command import Program
from snapvault.adapters.sources import mysql_errors, mysql_grants
from snapvault.adapters.sources.mysql_client import MysqlClient, Server
from snapvault.errors import QuiesceError, SnapVaultError, SourceError
from snapvault.model.policy import MysqlSpec
from snapvault.ports.source import (
    NO_MARKS,
    ByteStream,
    Consistency,
    DiskStream,
    Finding,
    Outcome,
    Source,
    View,
)

_POLL = 0.1  # seconds
_GRACE = 15.0  # seconds that an answer may take beyond the server's own limit
_ANSWERED: Final = "snapvault was answered"
_END: Final = f"{_ANSWERED}\n".encode()

_LOG = """
SHOW GLOBAL VARIABLES LIKE 'innodb_flush_log_at_trx_commit';
SHOW GLOBAL STATUS LIKE 'innodb_lsn_%'
"""
_BUSY = """
SELECT id, HEX(user), HEX(SUBSTRING_INDEX(LTRIM(info), ' ', 1)), time
FROM information_schema.processlist
WHERE id <> CONNECTION_ID() AND command = 'Query' AND info IS NOT NULL
AND info NOT LIKE 'FLUSH TABLES WITH READ LOCK%' AND COALESCE(state, '') NOT LIKE 'Waiting for%'
ORDER BY time DESC LIMIT 1
"""


class MysqlQuiesce:
    """FLUSH TABLES WITH READ LOCK around the taking of a snapshot; a `Quiesce`.

    Both the wait for the lock and holding it are limited by `lock_timeout`. InnoDB's log is
    written under the lock, so that a snapshot has every committed row, however
    innodb_flush_log_at_trx_commit is set. The account needs RELOAD, and on MySQL REPLICATION
    CLIENT for the position; for MariaDB, PROCESS lets it name what stands in the way.
    """

    def __init__(self, spec: MysqlSpec) -> None:
        self._client = MysqlClient(spec.defaults_file, spec.lock_timeout.total_seconds())
        self._seconds = max(1, math.ceil(spec.lock_timeout.total_seconds()))
        self._facts: dict[str, str] = {}

    @property
    def facts(self) -> Mapping[str, str]:
        """`server`, `binlog_file`, `binlog_position` and `gtid` of the last lock, if known."""
        return dict(self._facts)

    @contextmanager
    def __call__(self) -> Iterator[Consistency]:
        """Hold the lock; raises if it was lost before the context was left.

        Raises:
            QuiesceError: the server cannot be reached, refuses, or did not lock in time.
        """
        self._facts = {}
        with ExitStack() as stack:
            try:
                server = self._client.server()
                statement = self._position_statement(server)
                talk = _Talk(stack.enter_context(self._client.session()), self._client)
                self._lock(talk, server, statement)
            except QuiesceError:
                raise
            except SourceError as error:
                raise QuiesceError(str(error), hint=error.hint) from error
            try:
                yield Consistency.APPLICATION
            except BaseException:
                # The session's end frees the lock too; this way it is free when we go on.
                with suppress(SourceError):
                    self._unlock(talk)
                raise
            try:
                self._unlock(talk)
            except SourceError as error:
                raise self._lost(error) from error

    def check(self) -> Iterator[Finding]:
        """Look at login, rights and binary log."""
        try:
            server = self._client.server()
            grants = mysql_grants.parse(self._client.grants())
        except SnapVaultError as error:
            yield Finding("server", str(error), error)
            return
        yield Finding("server", f'{server.label} answers as "{server.account}"')
        if grants.missing_everywhere(["RELOAD"]) and not grants.has_roles:
            told = f'account "{server.account}" lacks RELOAD on *.*, so it cannot lock the tables'
            yield Finding("lock", told, SourceError(told, hint="Grant RELOAD on *.*."))
        else:
            yield Finding("lock", "the account may lock all tables")
        if not server.binary_log:
            told = "it is off: a restore brings back the nightly state, and nothing after it"
            yield Finding("binary log", told, remedy="Set log_bin and server_id to roll forward.")
        elif self._position_statement(server) is None:
            told = "the account may not read its position"
            yield Finding("binary log", told, remedy="Grant REPLICATION CLIENT on *.*.")
        else:
            yield Finding("binary log", "it is on, and its position can be read")

    def _lock(self, talk: "_Talk", server: Server, statement: str | None) -> None:
        # QUIRK: wait_timeout ends an idle session. A short one of the server's would end ours
        # while the snapshot is made; ours is the limit for holding the lock.
        lock = f"SET SESSION wait_timeout = {self._seconds};\nFLUSH TABLES WITH READ LOCK"
        try:
            talk.ask(lock, "lock the tables", within=self._seconds + _GRACE)
        except QuiesceError as error:
            raise self._blocked(error) from error
        talk.ask("FLUSH LOCAL ENGINE LOGS", "write out the engines' logs")
        if server.is_mariadb:
            self._wait_for_log(talk)
        self._facts = {"server": server.label}
        if statement is not None:
            rows = talk.ask(statement, "read the position of the binary log")
            self._facts.update(_position(rows, mariadb=server.is_mariadb))

    def _wait_for_log(self, talk: "_Talk") -> None:
        """Wait until InnoDB's log has all that is committed, or the position would be ahead of it.

        QUIRK: with innodb_flush_log_at_trx_commit=0, MariaDB's FLUSH ENGINE LOGS leaves InnoDB's
        log to a thread that writes it every innodb_flush_log_at_timeout seconds (10.11).
        """
        deadline = clock.monotonic() + self._seconds
        wanted: int | None = None
        while True:
            rows = talk.ask(_LOG, "look at InnoDB's log")
            told = {row[0].lower(): int(row[1]) for row in rows}
            wanted = wanted or told.get("innodb_lsn_current", 0)
            lazy = told.get("innodb_flush_log_at_trx_commit") == 0
            if not lazy or told.get("innodb_lsn_flushed", wanted) >= wanted:
                return
            if clock.monotonic() > deadline:
                raise QuiesceError(
                    f"the server did not write InnoDB's log in {self._seconds} s",
                    hint="Set innodb_flush_log_at_trx_commit to 1 or 2.",
                )
            clock.sleep(_POLL)

    def _unlock(self, talk: "_Talk") -> None:
        """Give the lock back, which proves that it was there until now: the session lives."""
        talk.ask("UNLOCK TABLES", "unlock the tables")

    def _position_statement(self, server: Server) -> str | None:
        if not server.binary_log:
            return None
        if server.is_mariadb:  # needs no right of its own, unlike SHOW MASTER STATUS
            return "SHOW STATUS LIKE 'binlog_snapshot_%'; SELECT 'gtid', @@gtid_binlog_pos"
        if mysql_grants.parse(self._client.grants()).missing_everywhere(["REPLICATION CLIENT"]):
            return None
        return "SHOW BINARY LOG STATUS" if server.at_least(8, 2) else "SHOW MASTER STATUS"

    def _blocked(self, error: QuiesceError) -> QuiesceError:
        """Name what stands in the way of the lock, if the account may see it."""
        try:
            rows = self._client.rows(_BUSY)
        except SnapVaultError:
            rows = []
        for number, user, verb, seconds in rows:
            return QuiesceError(
                f'{error}; connection {number} of user "{_from_hex(user)}" has been running '
                f"{_from_hex(verb).upper()} for {seconds} s",
                hint="End that statement, choose a quieter hour, or raise lock_timeout.",
            )
        return QuiesceError(
            str(error),
            hint="A long statement or a session with LOCK TABLES stands in the way. "
            "Grant PROCESS to have it named.",
        )

    def _lost(self, error: SourceError) -> QuiesceError:
        return QuiesceError(
            f"the read lock was lost before the snapshot was there: {error}",
            hint=f"Raise lock_timeout if a snapshot can take longer than {self._seconds} s.",
        )


class _Talk:
    """Statements to a session, and their answers."""

    def __init__(self, session: Program, client: MysqlClient) -> None:
        self._session = session
        self._client = client
        self._unread = b""

    def ask(self, statement: str, doing: str, *, within: float = _GRACE) -> list[list[str]]:
        """Run statements and return their rows.

        Raises:
            QuiesceError: it waited for too long.
            SourceError: the server refused, or ended the session.
        """
        deadline = clock.monotonic() + within
        self._session.feed(f"{statement};\nSELECT '{_ANSWERED}';\n".encode())
        while not self._unread.endswith(_END):
            if not self._session.has_output(max(0.0, deadline - clock.monotonic())):
                raise QuiesceError(f"could not {doing}: no answer for {within:.0f} s")
            if not (piece := self._session.read_unchecked(1 << 16)):
                raise mysql_errors.explain(self._session, doing, self._client.settings)
            self._unread += piece
        text = self._unread.removesuffix(_END).decode(errors="replace")
        self._unread = b""
        return [line.split("\t") for line in text.splitlines()]


class MysqlLvmSource:
    """A source of snapshots that adds what a lock's holder learned to the facts of its streams.

    `inner` is made with this same `quiesce`.
    """

    def __init__(self, inner: Source, quiesce: MysqlQuiesce) -> None:
        self._inner = inner
        self._quiesce = quiesce

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self._inner.name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> View:
        """Open the inner source, whose snapshots are made under the lock.

        Raises:
            SourceError: as the inner source, and QuiesceError as the lock.
        """
        view = self._inner.open(marks)
        return _LockedView(view, self._quiesce.facts)

    def check(self) -> Iterator[Finding]:
        """Look at the server, then at the inner source."""
        yield from self._quiesce.check()
        yield from self._inner.check()


class _LockedView:
    """A view, and the facts of the moment that it shows."""

    def __init__(self, view: View, facts: Mapping[str, str]) -> None:
        self._view = view
        self._facts = facts

    @property
    def taken_at(self) -> datetime:
        return self._view.taken_at

    @property
    def streams(self) -> tuple[DiskStream | ByteStream, ...]:
        return self._view.streams

    def finish(self) -> Outcome:
        outcome = self._view.finish()
        names = [stream.name for stream in self._view.streams]
        facts = {name: {**outcome.facts.get(name, {}), **self._facts} for name in names}
        return replace(outcome, facts=facts)

    def committed(self, point: str) -> None:
        self._view.committed(point)

    def close(self) -> None:
        self._view.close()


def _position(rows: list[list[str]], *, mariadb: bool) -> dict[str, str]:
    """Read the position from the rows of the statement for it, without what is empty."""
    if mariadb:
        names = {
            "Binlog_snapshot_file": "binlog_file",
            "Binlog_snapshot_position": "binlog_position",
            "gtid": "gtid",
        }
        found = {names[row[0]]: row[1] for row in rows if row[0] in names and len(row) > 1}
    else:
        # LIMIT: MySQL's columns are file, position, two filters, executed GTIDs.
        row = [*rows[0], *[""] * 5] if rows else [""] * 5
        found = {"binlog_file": row[0], "binlog_position": row[1]}
        found["gtid"] = row[4].replace("\\n", "")
    return {name: text for name, text in found.items() if text}


def _from_hex(text: str) -> str:
    return bytes.fromhex(text).decode(errors="replace")
