# SPDX-License-Identifier: Apache-2.0
"""Reports of drills: into the vault, and out of it into what this host remembers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final

from snapvault import clock
from snapvault.engine import drill_reports
from snapvault.engine.drill_reports import HeldReport, Reports
from snapvault.engine.vault import Vault
from snapvault.errors import SnapVaultError
from snapvault.formats import names
from snapvault.model.drill_audit import Audit, Promise, summaries
from snapvault.model.drills import DrillReport
from snapvault.model.runs import SourceKey
from snapvault.model.settings import Settings
from snapvault.ports.events import Events
from snapvault.ports.history import History
from snapvault.wiring import history, runs, vaults

# A night of the largest host has fewer; more are fetched the next time.
_AT_ONCE: Final = 200
_ALL: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Learned:
    """What a look at a vault's reports brought: how many were new to this host, and problems."""

    fresh: int
    problems: tuple[SnapVaultError, ...]
    left_out: int


@contextmanager
def _opened(settings: Settings, vault_name: str, events: Events) -> Iterator[Vault]:
    """Open a vault, and count what is asked of its store."""
    with (
        vaults.open_vault(settings, vault_name, events) as vault,
        runs.counting_requests(settings, vault, events, verb="drill"),
    ):
        yield vault


def store_report(settings: Settings, report: DrillReport, events: Events) -> str | None:
    """Put a report into its vault and into this host's history; each that fails is a warning.

    Returns its object's name; None: the vault does not have it.
    """
    name: str | None = None
    try:
        with _opened(settings, report.vault, events) as vault:
            name = put_report(settings, vault, report)
    except SnapVaultError as error:
        message = f"the report of drill {report.id} is not in the vault: {error}"
        events.warn("drill.unstored", message, drill=report.id)
    try:
        with history.open_history(settings, events) as known:
            for summary in summaries(report):
                known.add_drill(summary)
    except SnapVaultError as error:
        message = f"this host does not remember drill {report.id}: {error}"
        events.warn("drill.unremembered", message, drill=report.id)
    return name


def put_report(settings: Settings, vault: Vault, report: DrillReport) -> str:
    """Put a report into a vault that is open, signed with a key of this host; as the engine.

    Raises:
        SealError, StoreError, DrillError: as `engine.drill_reports.put`.
    """
    keys = vaults.open_report_keys(settings.vaults[vault.name], vault.sealer)
    return drill_reports.put(vault, keys, report)


def sync_reports(settings: Settings, vault_name: str, events: Events) -> Learned:
    """Give this host's history the drills of a vault that it does not know, the newest first.

    Costs one listing when there is nothing new, and fetches so many reports at the most. Drills
    that are older than what the history keeps are left alone.

    Raises:
        ConfigError, SealError, StoreError: the vault or the history cannot be used.
    """
    with (
        _opened(settings, vault_name, events) as vault,
        history.open_history(settings, events) as known,
    ):
        remembered = _remembered(known)
        oldest = names.drill_report(clock.now() - settings.daemon.keep_history, "")

        def is_new(name: str) -> bool:
            return name >= oldest and names.parse_drill_report(name) not in remembered

        found = drill_reports.collect(vault, wanted=is_new, most=_AT_ONCE)
        return Learned(_teach(known, found.held), found.problems, found.left_out)


def _teach(known: History, held: Sequence[HeldReport]) -> int:
    """Give a history the drills that it does not know; return how many these were."""
    remembered = _remembered(known)
    fresh = 0
    for each in held:
        learned = () if each.report.id in remembered else summaries(each.report)
        fresh += bool(learned)
        for summary in learned:
            known.add_drill(summary)
    return fresh


def _remembered(known: History) -> set[str]:
    return {summary.id for summary in known.drills(limit=_ALL)}


def all_reports(settings: Settings, vault_name: str, events: Events) -> Reports:
    """Return all reports of a vault, without pictures and consoles; as the engine.

    This host's history learns of them, for where no daemon does that.
    """
    with _opened(settings, vault_name, events) as vault:
        found = drill_reports.collect(vault)
    oldest = clock.now() - settings.daemon.keep_history
    try:
        with history.open_history(settings, events) as known:
            _teach(known, [each for each in found.held if each.report.started >= oldest])
    except SnapVaultError as error:
        events.warn("drill.unremembered", f"this host does not remember its drills: {error}")
    return found


def whole_report(settings: Settings, vault_name: str, name: str, events: Events) -> HeldReport:
    """Return one report with everything in it; as the engine."""
    with _opened(settings, vault_name, events) as vault:
        return drill_reports.read(vault, name)


def promises(
    settings: Settings, vault_names: Sequence[str]
) -> tuple[tuple[Promise, ...], tuple[str, ...]]:
    """Return what the policies of this host promise of the sources of these vaults.

    Policies that are not enabled promise nothing. Beside it, in a line each, is why more may be
    promised than is known: policies that are wrong, and a history that cannot be read.
    """
    from snapvault.config.policies import read_policies

    policies, wrong = read_policies(settings)
    problems = [str(problem) for problem in wrong]
    seen: Mapping[SourceKey, datetime] = {}
    try:
        with history.open_history(settings) as known:
            seen = known.seen()
    except SnapVaultError as error:
        problems.append(str(error))
    promised = tuple(
        Promise(
            SourceKey(policy.vault, source.name),
            policy.name,
            policy.objectives.rto,
            policy.objectives.rpo,
            policy.objectives.drill,
            seen.get(SourceKey(policy.vault, source.name)),
        )
        for policy in policies
        if policy.enabled and policy.vault in vault_names
        for source in policy.sources
    )
    return promised, tuple(problems)


def page_of(held: HeldReport, zone: tzinfo) -> str:
    """Write a report as a page; times are shown in a zone."""
    from snapvault.adapters.reports.pages import Origin, ReportPages

    return ReportPages(zone).report(held.report, Origin(held.name, held.signer))


def page_of_period(audit: Audit, period: str, zone: tzinfo, problems: Sequence[str]) -> str:
    """Write the page of a period; `problems` are why it may be incomplete."""
    import socket

    from snapvault.adapters.reports.pages import ReportPages
    from snapvault.wiring import versions

    host, version = socket.gethostname(), versions.tool()
    return ReportPages(zone).audit(
        audit, period=period, host=host, version=version, problems=problems
    )
