# SPDX-License-Identifier: Apache-2.0
"""`snapvault doctor`: look at everything that a night needs, and say how to mend it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault import clock
from snapvault.cli.session import Session, session
from snapvault.cli.words import local
from snapvault.errors import EXIT_DONE, ConfigError, SnapVaultError
from snapvault.units import GIB, format_count, format_size

if TYPE_CHECKING:
    from snapvault.adapters.sealers.facts import KeyFacts
    from snapvault.formats.vault import VaultRecord
    from snapvault.model.settings import VaultSettings
    from snapvault.ports.sealer import Sealer
    from snapvault.ports.source import Finding as SourceFinding
    from snapvault.ports.store import Store

_SOON = timedelta(days=30)
_LITTLE_ROOM = GIB


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: `ok`, `warn` or `fail`; a remedy unless it is ok."""

    check: str
    state: str
    message: str
    remedy: str | None = None
    exit_status: int = EXIT_DONE


def command(
    context: typer.Context,
    vault: Annotated[
        str | None,
        typer.Argument(
            metavar="VAULT", help="Look at this vault only; left out: all.", show_default=False
        ),
    ] = None,
) -> int:
    """Check settings, keys, stores, vaults, sources and notifiers, and say how to mend them.

    Keys are tried with a test message, and the store with small objects under "probe/", which
    are removed again. Sources are looked at without backing them up: programs, logins,
    room for snapshots, guest agents. Mail servers and web addresses are reached, and
    nobody is told anything. Nothing else is written. The exit status is that of
    the first check that failed; warnings do not count.

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
        run.report([_document(finding) for finding in findings], ())
    return next((each.exit_status for each in findings if each.state == "fail"), EXIT_DONE)


def _look(run: Session, wanted: str | None) -> Iterator[Finding]:
    try:
        names = run.vault_names(wanted)
    except SnapVaultError as error:
        yield _failed("settings", error)
        return
    yield Finding("settings", "ok", f'"{run.settings.path}"')
    yield _try("policies", lambda: _policies(run))
    yield _try("librsync", _librsync)
    yield _try("state folder", lambda: _state(run))
    for name in names:
        yield from _vault(run, run.settings.vaults[name])
    yield from _sources(run, names)
    yield from _notifiers(run)


def _vault(run: Session, settings: "VaultSettings") -> Iterator[Finding]:
    from snapvault.engine.vault import read_record
    from snapvault.wiring import vaults

    name = settings.name
    yield _try(f"{name}: gpg", lambda: _ok(f"version {vaults.gnupg_version(settings)}"))
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
            yield _failed(f"{name}: keys", error)
    if sealer is not None:
        yield from _keys(name, sealer, facts)
    try:
        store = vaults.open_objects(settings)
        record = read_record(store)
        yield Finding(f"{name}: store", "ok", f"{settings.store} answers")
        yield _probe(name, store, record)
    except SnapVaultError as error:
        yield _failed(f"{name}: store", error)
        return
    if record is None:
        none = ConfigError(
            f"there is no vault at {settings.store} yet", hint=f'Run "snapvault init {name}".'
        )
        yield _failed(f"{name}: vault", none)
        return
    yield Finding(
        f"{name}: vault", "ok", f"{record.vault}, format 1, made {local(record.created_at)}"
    )
    if sealer is not None:
        yield _try(f"{name}: catalog", lambda: _catalog(run, name))


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
        return _failed(check, error)
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


def _catalog(run: Session, name: str) -> Finding:
    from snapvault.engine.vault import host_key, sync

    with run.open(name) as vault:
        inventory = sync(vault)
        host_key(vault)
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
    return _ok(
        f"{format_count(points, 'restore point')} of "
        f"{format_count(len(inventory.sources()), 'source')}"
    )


def _policies(run: Session) -> Finding:
    from snapvault.config.policies import read_policies

    policies, problems = read_policies(run.settings)
    if problems:
        return Finding(
            "",
            "fail",
            f"{format_count(len(problems), 'problem')}, the first: {problems[0]}",
            'Run "snapvault policy check" to see all. A host that only restores needs none.',
            ConfigError.exit_status,
        )
    sources = sum(len(policy.sources) for policy in policies)
    if not sources:
        return Finding(
            "",
            "warn",
            f'folder "{run.settings.policies_dir}" has none, so nothing is backed up',
            "Write one that ends in .yaml; a host that only restores needs none.",
        )
    return _ok(
        f"{format_count(len(policies), 'policy', 'policies')}, {format_count(sources, 'source')}"
    )


def _sources(run: Session, vaults: Sequence[str]) -> Iterator[Finding]:
    """Look at each source of the policies that can be read."""
    from snapvault.config.policies import read_policies
    from snapvault.wiring import sources

    policies, _ = read_policies(run.settings)
    for policy in policies:
        if policy.vault not in vaults:
            continue
        for spec in policy.sources:
            try:
                for found in sources.check_source(run.settings, policy, spec, run.console):
                    yield _seen(f"{spec.name}: {found.check}", found)
            except SnapVaultError as error:
                yield _failed(spec.name, error)


def _notifiers(run: Session) -> Iterator[Finding]:
    """Look whether those who are to be told can be reached; nobody is told anything."""
    if not run.settings.notify:
        return
    from snapvault.adapters.notifiers.opening import check_notifier

    for settings in run.settings.notify.values():
        for found in check_notifier(settings):
            yield _seen(found.check, found)


def _seen(check: str, found: "SourceFinding") -> Finding:
    if found.error is not None:
        return _failed(check, found.error)
    return Finding(check, "warn" if found.remedy else "ok", found.message, found.remedy)


def _librsync() -> Finding:
    from snapvault.wiring import versions

    return _ok(f"version {versions.librsync_version()}")


def _state(run: Session) -> Finding:
    from snapvault.wiring import state

    folder = run.settings.state_dir
    free = state.try_state(run.settings)
    if free < _LITTLE_ROOM:
        return Finding(
            "",
            "warn",
            f'"{folder}" has only {format_size(free)} free',
            "Free room there: a run keeps the volumes in the making in it.",
        )
    return _ok(f'"{folder}" can be written, {format_size(free)} free')


def _ok(message: str) -> Finding:
    return Finding("", "ok", message)


def _try(check: str, look: Callable[[], Finding]) -> Finding:
    try:
        found = look()
    except SnapVaultError as error:
        return _failed(check, error)
    return Finding(check, found.state, found.message, found.remedy, found.exit_status)


def _failed(check: str, error: SnapVaultError) -> Finding:
    return Finding(check, "fail", str(error), error.hint, error.exit_status)


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "state": finding.state,
        "message": finding.message,
        "remedy": finding.remedy,
    }
