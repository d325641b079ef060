# SPDX-License-Identifier: Apache-2.0
"""What MariaDB and MySQL programs say on stderr, as our errors.

Source: "MariaDB Error Codes" and "MySQL Server Error Message Reference"; the clients' own errors
start at 2000.
"""

import re
from typing import Final

from snapvault.adapters.command import Program
from snapvault.errors import QuiesceError, SourceError

_LOCK_TIMEOUT: Final = 1205

# ERROR 1045 (28000): Access denied ...      the client, with "at line 1" in a script
# mariadb-dump: Got error: 1049: "Unknown database" when selecting the database
# mariadb-dump: Error 2013: Lost connection ... when dumping table `t` at row: 7
# mariadb-dump: Couldn't execute 'show create table `t`': Table doesn't exist (1146)
_FORMS: Final = (
    re.compile(r"ERROR (?P<code>\d+) \(\w+\)(?: at line \d+)?: (?P<text>[^\n]*)"),
    re.compile(r"[Gg]ot error: (?P<code>\d+): \"?(?P<text>[^\n]*)"),
    re.compile(r"Error:? (?P<code>\d+): (?P<text>[^\n]*)"),
    re.compile(r"(?P<text>Couldn't execute [^\n]*) \((?P<code>\d+)\)"),
)

# Error numbers, and what to do about them; {settings} is where server and account are written.
_REMEDIES: Final = (
    ({1045, 1698}, "Correct user and password in {settings}."),
    (
        {1044, 1142, 1143, 1345, 1370},
        "Grant the account SELECT, SHOW VIEW, TRIGGER, EVENT on *.*; docs/sources.md has the rest.",
    ),
    ({1227}, "Grant the account the right that is named, on *.*."),
    ({2002, 2003, 2005}, "Start the server, or correct socket, host and port in {settings}."),
    (
        {1053, 1317, 1927, 2006, 2013, 2055},
        "See in the server's log why it ended the connection; the next run starts again.",
    ),
    (
        {1051, 1054, 1146, 1412},
        "A table was altered or dropped meanwhile. Run it when nobody changes the schema.",
    ),
    ({1040, 1203, 1226}, "Raise max_connections, or run it when fewer clients are connected."),
    ({_LOCK_TIMEOUT}, "End the session that holds the lock, or raise lock_timeout."),
    ({1356}, "Drop or repair this view: it could not be restored either."),
)


def find(stderr: bytes) -> tuple[int, str] | None:
    """Return the last error in a program's stderr, as number and text; None: there is none."""
    said = stderr.decode(errors="replace")
    found = [match for form in _FORMS for match in form.finditer(said)]
    if not found:
        return None
    last = max(found, key=lambda match: match.start())
    text = "".join(letter if letter.isprintable() else "?" for letter in last["text"])
    return int(last["code"]), text.replace('"', "'").rstrip(". ")


def explain(program: Program, doing: str, settings: str) -> SourceError:
    """Return the error for a program that failed while it was `doing` something.

    `settings` is what the remedy for wrong settings is to change: `option file "/etc/my.cnf"`.
    """
    found = find(program.stderr)
    if found is None or (program.status or 0) < 0:
        return program.failure()
    return error_for(*found, doing, settings)


def error_for(code: int, text: str, doing: str, settings: str) -> SourceError:
    """Return the error for a number and a text of the server's or the client library's."""
    kind = QuiesceError if code == _LOCK_TIMEOUT else SourceError
    return kind(f"could not {doing}: {text} (error {code})", hint=_hint(code, settings))


def _hint(code: int, settings: str) -> str | None:
    remedies = (remedy for codes, remedy in _REMEDIES if code in codes)
    return next((remedy.format(settings=settings) for remedy in remedies), None)
