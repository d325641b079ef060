# SPDX-License-Identifier: Apache-2.0
"""`snapvault notify`: try whether people and programs outside can be told."""

import socket
from typing import Annotated

import typer

from snapvault import clock
from snapvault.cli.failures import Outcomes
from snapvault.cli.session import session
from snapvault.errors import ConfigError, NotifyError, SnapVaultError


def command(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Notifiers of the settings; none named: all.", show_default=False
        ),
    ] = None,
) -> int:
    """Send a test message to those whom the settings want to be told.

    It says that it is a test. A ping goes to URL/log, which changes no check's state.

    Examples:
      snapvault notify
      snapvault notify ops-mail
    """
    from snapvault.adapters.notifiers.opening import send_test
    from snapvault.config.problems import nearest_hint

    run = session(context)
    known = run.settings.notify
    if not known:
        raise ConfigError(
            f'file "{run.settings.path}" has no "notify", so nobody is told anything',
            hint="docs/notifications.md says how to have mails, webhooks and pings sent.",
        )
    for name in names or ():
        if name not in known:
            hint = nearest_hint(name, known, what="notifiers")
            raise ConfigError(f'the settings have no notifier "{name}"', hint=hint)
    outcomes = Outcomes()
    documents = []
    for name in dict.fromkeys(names or known):
        try:
            send_test(known[name], host=socket.gethostname(), at=clock.now())
        except NotifyError as error:
            error.hint = remedy(name, error)
            outcomes.fail(error, about=f'could not tell "{name}": ')
            documents.append({"name": name, "delivered": False, "error": str(error)})
        else:
            outcomes.done += 1
            documents.append({"name": name, "delivered": True, "error": None})
            if not run.json:
                print(f'told "{name}"', flush=True)
    if run.json:
        run.report(documents, ())
    return outcomes.status


def remedy(name: str, error: SnapVaultError) -> str:
    """Return what to do about a notifier that failed."""
    if error.hint is not None:
        return error.hint
    if error.retryable:
        return f'See whether it runs and this host can reach it, and what "notify.{name}" names.'
    return f'Correct "notify.{name}" in the settings; docs/notifications.md says how.'
