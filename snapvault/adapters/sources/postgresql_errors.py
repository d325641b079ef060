# SPDX-License-Identifier: Apache-2.0
"""What PostgreSQL's programs say on stderr, as our errors.

The programs speak English to us (LC_ALL=C). A server that is set to another language is quoted
as it is, and only the remedy may be missing.
"""

import re
from typing import Final

from snapvault.adapters.command import Program
from snapvault.errors import QuiesceError, SourceError

_MAIN = re.compile(r"(?:^|\n)[\w/.-]+:(?:<stdin>:\d+:)? ?(?:fatal|error|ERROR|FATAL): +([^\n]*)")
_SERVER = re.compile(r"Error message from server: (?:(?:ERROR|FATAL): +)?([^\n]*)")
_LOCKED = re.compile(r"was: LOCK TABLE ([^\n]*?) IN ACCESS SHARE MODE")
# pg_dump sets a limit for statements while it locks, pg_dumpall one for locks.
_WAITED = r"canceling statement due to (?:lock|statement) timeout"
# One database refuses us; another one may not.
_CLOSED = re.compile(
    r'database ".*" does not exist|permission denied for database|not currently accepting|'
    r"no pg_hba\.conf entry"
)
_PREFIX = re.compile(r"query failed: (?:ERROR|FATAL): +")

_REMEDIES: Final = (
    (
        r"password|authentication failed|no pg_hba\.conf entry|role .* does not exist",
        "Correct user and password_file here, or pg_hba.conf on the server.",
    ),
    (_WAITED, "End the session that holds the lock, or choose a quieter hour."),
    (
        r"terminating connection|closed the connection|connection has been closed|no connection",
        "See in the server's log why it ended the connection; the next run starts again.",
    ),
    (
        r"refused|No such file|translate host|timeout expired|starting up|shutting|of service",
        "Start the server, or correct host, port and service.",
    ),
    (
        r"permission denied for table pg_authid",
        'Run "GRANT pg_read_all_data TO …" (PostgreSQL 14), or set "globals: false".',
    ),
    (
        r"large object",
        "Let a superuser make the dump, or grant the account SELECT on the large objects.",
    ),
    (r"row-level security", 'Run "ALTER ROLE … BYPASSRLS" for the account.'),
    (
        r"replication role|start WAL sender|permission to .* replication",
        'Run "ALTER ROLE … REPLICATION", and allow it "replication" in pg_hba.conf.',
    ),
    (r"permission denied", 'Run "GRANT pg_read_all_data TO …" for the account (PostgreSQL 14).'),
    (
        r"conflict with recovery",
        "Raise max_standby_streaming_delay, or set hot_standby_feedback, on the standby.",
    ),
    (r"max_wal_senders|WAL level|standby connections", "Raise max_wal_senders and wal_level."),
    (r"has already been removed", "Raise wal_keep_size: the server lets go of WAL too early."),
)


def explain(program: Program, doing: str) -> SourceError:
    """Return the error for a program that failed while it was `doing` something."""
    text = find(program.stderr)
    if text is None or (program.status or 0) < 0:
        return program.failure()
    return error_for(text, doing)


def find(stderr: bytes) -> str | None:
    """Return what went wrong, in one line without a full stop; None: nothing was said."""
    said = stderr.decode(errors="replace")
    main = _MAIN.search(said)
    if main is None:
        return None
    parts = [_PREFIX.sub("", main[1])]
    if server := _SERVER.search(said):
        parts.append(server[1])
    if locked := _LOCKED.search(said):
        parts.append(f"lock of table {locked[1]}")
    text = ": ".join(part.strip().rstrip(".") for part in parts)
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def is_closed(text: str) -> bool:
    """Tell whether a message says that one database alone does not let us in."""
    return _CLOSED.search(text) is not None


def error_for(text: str, doing: str) -> SourceError:
    """Return the error for a message of the server's or the client library's."""
    kind = QuiesceError if re.search(_WAITED, text) else SourceError
    hint = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), None)
    return kind(f"could not {doing}: {text}", hint=hint)
