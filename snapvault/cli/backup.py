# SPDX-License-Identifier: Apache-2.0
"""`snapvault backup`: make restore points now."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault import clock
from snapvault.cli.copy import copy_after
from snapvault.cli.failures import Outcomes, show_problems, wrong_of
from snapvault.cli.session import Session, session
from snapvault.cli.words import CONSISTENCY, local, point_document
from snapvault.errors import ConfigError, SnapVaultError
from snapvault.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from snapvault.engine.vault import Held, Vault
    from snapvault.model.policy import Policy, SourceSpec

    Job = tuple[Policy, SourceSpec]


def command(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Sources of the policies; none named: all, except those of disabled policies.",
            show_default=False,
        ),
    ] = None,
    is_full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Store everything again, and use nothing that the vault holds: for a recovery key"
            " that came later, or when you no longer trust what is stored.",
        ),
    ] = False,
) -> int:
    """Back up sources now, and report the restore point made of each.

    The first run stores everything, each later one what changed since. A run that was
    killed is taken up by the next: what it had uploaded is not sent again. When one
    source fails the others go on, and the exit status is 3; it is the error's own when
    all failed. A policy that is wrong is a failure too: stderr says what is wrong with
    it, and the others are followed. Where a policy names copy_to, what the vault has of its
    sources is copied then; a copy that fails leaves the restore points as they are, and makes
    the exit status 3.

    With --json, the report is a list with an object for each source. Its keys are always
    the same: "error" is null for a restore point that was made; for a source that
    failed it says why, and "id" is null.

    Examples:
      snapvault backup
      snapvault backup web01 shop
      snapvault backup web01 --full
    """
    run = session(context)
    outcomes = Outcomes()
    documents: list[dict[str, Any]] = []
    jobs, wrong = _jobs(run, sources or ())
    for vault, group in groupby(jobs, key=lambda job: job[0].vault):
        _back_up_vault(run, vault, list(group), outcomes, documents, is_full=is_full)
    # After those of sources, whose status counts where nothing was backed up.
    outcomes.errors += wrong
    if run.json:
        run.report(documents, ())
    return outcomes.status


def _jobs(run: Session, names: Sequence[str]) -> "tuple[list[Job], list[SnapVaultError]]":
    """Return what to back up, and what is wrong with policies that should be backed up too."""
    from snapvault.config.policies import read_policies, select_sources

    policies, problems = read_policies(run.settings)
    wrong = show_problems(problems)
    if names:
        wrong = wrong_of(names, policies, problems)
    elif problems and not any(policy.enabled for policy in policies):
        return [], wrong
    if not policies:
        raise ConfigError(
            f'folder "{run.settings.policies_dir}" has no policy, so there is nothing to back up',
            hint="Write one that ends in .yaml; docs/policies.md shows how, with examples.",
        )
    wanted = policies if names else tuple(policy for policy in policies if policy.enabled)
    jobs = select_sources(wanted, names)
    if not jobs:
        raise ConfigError(
            "all policies are disabled, so there is nothing to back up",
            hint='Enable one, or name a source: "snapvault backup SOURCE".',
        )
    order = list(run.settings.vaults)
    return sorted(jobs, key=lambda job: order.index(job[0].vault)), wrong


def _back_up_vault(
    run: Session,
    name: str,
    jobs: "list[Job]",
    outcomes: Outcomes,
    documents: list[dict[str, Any]],
    *,
    is_full: bool,
) -> None:
    from snapvault.wiring import runs

    left = list(jobs)
    made: list[Job] = []
    try:
        with run.open(name) as vault:
            while left:
                policy, spec = left[0]
                try:
                    held, seconds = _back_up(run, vault, policy, spec, is_full=is_full)
                except SnapVaultError as error:
                    named = f'source "{spec.name}"'
                    about = "" if named in str(error) else f"could not back up {named}: "
                    outcomes.fail(error, about=about)
                    documents.append(_failure(name, spec.name, error))
                else:
                    outcomes.done += 1
                    made.append((policy, spec))
                    documents.append(_success(name, held, seconds))
                    _tell(run, held, seconds)
                left.pop(0)
            copy_after(run, vault, made, outcomes)
    except SnapVaultError as error:
        outcomes.fail(error, count=len(left))
        documents += [_failure(name, spec.name, error) for _, spec in left]
        for policy, spec in left:
            runs.record_failure(run.settings, runs.new_run(policy, spec), error, run.console)


def _back_up(
    run: Session, vault: "Vault", policy: "Policy", spec: "SourceSpec", *, is_full: bool
) -> "tuple[Held, float]":
    from snapvault.wiring import runs

    started = clock.monotonic()
    run.console.subject = spec.name
    run.console.note(f'backing up source "{spec.name}" to vault "{vault.name}"')
    with runs.recorded(run.settings, runs.new_run(policy, spec), run.console) as recording:
        held = runs.back_up_recorded(run.settings, recording, vault, policy, spec, is_full=is_full)
    return held, clock.monotonic() - started


def _tell(run: Session, held: "Held", seconds: float) -> None:
    point, counters = held.point, held.point.counters
    if not run.json:
        print(
            f'backed up source "{point.source}" as restore point {point.point}: '
            f"taken {local(point.taken_at)}, size {format_size(point.size)}, "
            f"read {format_size(counters.get('read_bytes', 0))}, "
            f"changed {format_size(counters.get('changed_bytes', 0))}, {_shared(counters)}"
            f"stored {format_size(held.stored_bytes)} "
            f"({format_count(counters.get('new_volumes', 0), 'new volume')}), "
            f"{_again(counters)}"
            f"{CONSISTENCY.get(point.consistency, point.consistency)}, "
            f"in {format_duration(seconds)}",
            flush=True,
        )
    if point.consistency == "none":
        run.console.warning(
            f'source "{point.source}" may have changed while it was read: what restore point '
            f"{point.point} brings back may not fit together; stop what writes to it, or "
            "back up a snapshot of it"
        )


def _shared(counters: "Mapping[str, int]") -> str:
    """Return what of it other disks had stored already, if anything."""
    shared = counters.get("deduplicated_bytes", 0)
    return f"of which {format_size(shared)} were there already, " if shared else ""


def _again(counters: Mapping[str, int]) -> str:
    """Return how much was stored again, if anything was."""
    rewritten = counters.get("rewritten_bytes", 0)
    return f"stored again {format_size(rewritten)}, " if rewritten else ""


def _success(vault: str, held: "Held", seconds: float) -> dict[str, Any]:
    counters = held.point.counters
    return {
        **point_document(vault, held),
        "read_bytes": counters.get("read_bytes", 0),
        "changed_bytes": counters.get("changed_bytes", 0),
        "deduplicated_bytes": counters.get("deduplicated_bytes", 0),
        "rewritten_bytes": counters.get("rewritten_bytes", 0),
        "new_volumes": counters.get("new_volumes", 0),
        "seconds": round(seconds, 3),
        "error": None,
    }


def _failure(vault: str, source: str, error: SnapVaultError) -> dict[str, Any]:
    return {
        "id": None,
        "source": source,
        "vault": vault,
        "taken_at": None,
        "size_bytes": None,
        "stored_bytes": None,
        "consistency": None,
        "streams": [],
        "held": [],
        "read_bytes": None,
        "changed_bytes": None,
        "deduplicated_bytes": None,
        "rewritten_bytes": None,
        "new_volumes": None,
        "seconds": None,
        "error": {
            "message": str(error),
            "hint": error.hint,
            "exit_status": error.exit_status,
            "retryable": error.retryable,
        },
    }
