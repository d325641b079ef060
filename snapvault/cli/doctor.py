# SPDX-License-Identifier: Apache-2.0
"""`snapvault doctor`: look at everything that a night needs, and say how to mend it."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from snapvault import clock
from snapvault.cli.doctor_clock import look_at_clock
from snapvault.cli.doctor_host import look_at_daemon, look_at_policies, look_at_room
from snapvault.cli.doctor_locks import look_at_locks, look_underneath
from snapvault.cli.findings import Finding, attempt, document, failed, ok, seen
from snapvault.cli.notify import remedy
from snapvault.cli.session import Session, session
from snapvault.cli.words import local
from snapvault.errors import EXIT_DONE, ConfigError, SnapVaultError
from snapvault.units import format_count

if TYPE_CHECKING:
    from snapvault.adapters.sealers.facts import KeyFacts
    from snapvault.engine.vault import Inventory
    from snapvault.formats.vault import VaultRecord
    from snapvault.model.policy import Policy
    from snapvault.model.settings import VaultSettings
    from snapvault.ports.sealer import Sealer
    from snapvault.ports.store import Store

_SOON = timedelta(days=30)


def command(
    context: typer.Context,
    vault: Annotated[
        str | None,
        typer.Argument(
            metavar="VAULT", help="Look at this vault only; left out: all.", show_default=False
        ),
    ] = None,
) -> int:
    """Check settings, policies, keys, stores, vaults, sources, notifiers, and say how to mend them.

    Keys are tried with a test message, and the store with small objects under "probe/", which
    are removed again; of a vault with "object_lock" it is tried to break the lock of one, which
    may stay for a minute. Sources are looked at without backing them up: programs, logins, room
    for snapshots, guest agents. The port of the status page is tried, unless the daemon is up.
    Mail servers and web addresses are reached, and nobody is told anything. Nothing else is
    written. The exit status is that of the first check that failed; warnings do not count.

    Examples:
      snapvault doctor
      snapvault doctor offsite --json
    """
    run = session(context)
    findings: list[Finding] = []
    for finding in _look(run, vault):
        findings.append(finding)
        if not run.json:
            print(f"{finding.state:<4}  {finding.check}: {finding.message}", flush=True)
            if finding.remedy:
                print(f"      {finding.remedy}", flush=True)
    if run.json:
        run.report([document(finding) for finding in findings], ())
    return next((each.exit_status for each in findings if each.state == "fail"), EXIT_DONE)


def _look(run: Session, wanted: str | None) -> Iterator[Finding]:
    from snapvault.config.policies import read_policies

    try:
        names = run.vault_names(wanted)
    except SnapVaultError as error:
        yield failed("settings", error)
        return
    yield Finding("settings", "ok", f'"{run.settings.path}"')
    policies, problems = read_policies(run.settings)
    yield from look_at_policies(run.settings, policies, problems)
    yield attempt("librsync", _librsync)
    yield from look_at_room(run.settings)
    if policies or any(each.path != run.settings.policies_dir for each in problems):
        yield from look_at_daemon(run.settings)
    for name in names:
        yield from _vault(run, run.settings.vaults[name])
    yield from _sources(run, policies, names)
    yield from _notifiers(run)


def _vault(run: Session, settings: "VaultSettings") -> Iterator[Finding]:
    from snapvault.engine.vault import read_record
    from snapvault.wiring import vaults

    name = settings.name
    yield attempt(f"{name}: gpg", lambda: ok(f"version {vaults.gnupg_version(settings)}"))
    sealer: Sealer | None = None
    facts: dict[str, KeyFacts] = {}
    try:
        sealer = vaults.open_keys(settings)
        facts = vaults.key_facts(settings, sealer)
        sealer.check()
        yield Finding(f"{name}: keys", "ok", "a test message was signed and encrypted to all")
    except SnapVaultError as error:
        if sealer is not None and _only_restores(sealer, facts):
            message = f"this host can restore, but not back up: {error}"
            yield Finding(f"{name}: keys", "warn", message)
        else:
            yield failed(f"{name}: keys", error)
    if sealer is not None:
        yield from _keys(name, sealer, facts)
    try:
        store = vaults.open_objects(settings)
        record = read_record(store)
        yield Finding(f"{name}: store", "ok", f"{settings.store} answers")
        yield _probe(name, store, record)
        yield from look_at_locks(settings)
    except SnapVaultError as error:
        yield failed(f"{name}: store", error)
        return
    yield from _classes(settings)
    if record is None:
        none = ConfigError(
            f"there is no vault at {settings.store} yet", hint=f'Run "snapvault init {name}".'
        )
        yield failed(f"{name}: vault", none)
        return
    yield Finding(
        f"{name}: vault", "ok", f"{record.vault}, format 1, made {local(record.created_at)}"
    )
    if sealer is not None:
        yield from _catalog(run, name, record)


def _classes(settings: "VaultSettings") -> Iterator[Finding]:
    """Try storage classes; warn of those that the store ignores, or the prices do not know."""
    from snapvault.model.prices import ARCHIVES
    from snapvault.wiring import costs, vaults

    table = costs.table_of(settings)
    archive = vaults.open_frozen(settings)
    check = f"{settings.name}: storage class"
    for name in dict.fromkeys((settings.storage_class, settings.volumes_class)):
        if name is None or archive is None:
            continue
        try:
            traits = archive.probe(name)
        except SnapVaultError as error:
            yield failed(check, error)
            continue
        if not traits.keeps:
            message = f"the store takes no notice of {name}, and keeps objects in another class"
            yield Finding(check, "warn", message, "Remove it from the settings of the vault.")
        elif name in ARCHIVES and not traits.freezes:
            message = f"the store keeps {name} in name only: its objects can be read at once"
            remedy = "Nothing has to be thawed there; ask who runs the store what it costs."
            yield Finding(check, "warn", message, remedy)
        elif table is not None and name not in table.classes:
            yield Finding(
                check,
                "warn",
                f"{name} is none that prices are known of ({', '.join(table.classes)})",
                'Correct it, or write its prices into "prices" of the vault.',
            )
        else:
            yield Finding(check, "ok", f"the store keeps objects of {name}")


def _only_restores(sealer: "Sealer", facts: "dict[str, KeyFacts]") -> bool:
    """Tell a recovery host by its keys: a recovery key whole, the host's in public."""
    signer = facts.get(sealer.signer)
    return (
        signer is not None
        and not signer.opens_here
        and any(key in facts and facts[key].opens_here for key in sealer.recipients)
    )


def _keys(name: str, sealer: "Sealer", facts: "dict[str, KeyFacts]") -> Iterator[Finding]:
    for fingerprint in dict.fromkeys((*sealer.recipients, sealer.signer)):
        found = facts.get(fingerprint)
        if found is None:
            continue
        role = "recipient" if fingerprint in sealer.recipients else "signer"
        check = f"{name}: {role}"
        shown = f"{fingerprint} {found.user_id}"
        if role == "recipient" and found.opens_here:
            yield Finding(
                check,
                "warn",
                f"{shown}: its secret key is on this host, so whoever takes the host can read "
                "all its backups",
                "This host's own key must not be among the recipients: name a key there whose "
                "secret half is elsewhere."
                if fingerprint == sealer.signer
                else "On a backup host, move it away and remove it with "
                f'"gpg --delete-secret-keys {fingerprint}". On a recovery host all is well.',
            )
        elif found.expires is not None and found.expires - clock.now() < _SOON:
            yield Finding(
                check,
                "warn",
                f"{shown} expires {local(found.expires)}",
                f'Extend it with "gpg --quick-set-expire {fingerprint} 2y" where its secret half '
                "is, then import it here.",
            )
        else:
            end = f"expires {local(found.expires)}" if found.expires else "does not expire"
            yield Finding(check, "ok", f"{shown}, {end}")


def _probe(name: str, store: "Store", record: "VaultRecord | None") -> Finding:
    check = f"{name}: create-only"
    try:
        traits = store.probe()
    except SnapVaultError as error:
        return failed(check, error)
    if traits.create_only:
        return Finding(check, "ok", "the store refuses to replace objects")
    if record is not None and record.create_only:
        return Finding(
            check,
            "warn",
            "the store refused to replace objects when the vault was made, and does so no more",
            'Set "create_only: false" for this vault, or find out what changed at the store.',
        )
    return Finding(
        check,
        "warn",
        "the store lets objects be replaced; SnapVault looks before every put",
        "Do not let two hosts write the same source, or use a store that honors If-None-Match.",
    )


def _catalog(run: Session, name: str, record: "VaultRecord") -> Iterator[Finding]:
    from snapvault.engine.key_changes import own_key, told_late
    from snapvault.engine.vault import sync

    found: list[Inventory] = []
    late: list[str] = []
    hidden: list[Finding] = []

    def look() -> Finding:
        with run.open(name) as vault:
            found.append(sync(vault))
            hidden.extend(look_underneath(vault))
            late.extend(own_key(vault).late)
        return _held(name, found[0])

    def compare() -> Finding:
        points = [held.point for inventory in found for held in inventory.held]
        return look_at_clock(record.created_at, points, clock.now())

    yield attempt(f"{name}: catalog", look)
    yield from hidden
    for fingerprint in late:
        yield Finding(
            f"{name}: recipient",
            "warn",
            f"{told_late(fingerprint)} yet",
            f'Run "snapvault keys apply {name}".',
        )
    if found:
        yield attempt(f"{name}: clock", compare)


def _held(name: str, inventory: "Inventory") -> Finding:
    if inventory.problems:
        return Finding(
            f"{name}: catalog",
            "fail",
            f"{format_count(len(inventory.problems), 'problem')} with manifests, the first: "
            f"{inventory.problems[0]}",
            'Run "snapvault verify" to see all of them.',
            inventory.problems[0].exit_status,
        )
    points = sum(1 for held in inventory.held if not held.missing)
    return ok(
        f"{format_count(points, 'restore point')} of "
        f"{format_count(len(inventory.sources()), 'source')}"
    )


def _sources(
    run: Session, policies: "Sequence[Policy]", vaults: Sequence[str]
) -> Iterator[Finding]:
    """Look at each source of the policies that are right."""
    from snapvault.wiring import sources

    for policy in policies:
        if policy.vault not in vaults:
            continue
        for spec in policy.sources:
            try:
                for found in sources.check_source(run.settings, policy, spec, run.console):
                    yield seen(f"{spec.name}: {found.check}", found)
            except SnapVaultError as error:
                yield failed(spec.name, error)


def _notifiers(run: Session) -> Iterator[Finding]:
    """Look whether those who are to be told can be reached; nobody is told anything."""
    if not run.settings.notify:
        return
    from snapvault.adapters.notifiers.opening import check_notifier

    for settings in run.settings.notify.values():
        for found in check_notifier(settings):
            if found.error is not None:
                found.error.hint = remedy(settings.name, found.error)
            yield seen(found.check, found)


def _librsync() -> Finding:
    from snapvault.wiring import versions

    return ok(f"version {versions.librsync_version()}")
