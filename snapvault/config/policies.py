# SPDX-License-Identifier: Apache-2.0
"""The folder of policy files, read into model values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from snapvault.config.document import Document, read_document
from snapvault.config.drills import drill_faults, drill_spec
from snapvault.config.limits import run_limits
from snapvault.config.problems import Problem, ProblemError, nearest_hint, quoted
from snapvault.config.shapes import (
    ObjectivesShape,
    PolicyShape,
    RetentionShape,
    RetryShape,
    SettingsShape,
)
from snapvault.config.sources import source_spec
from snapvault.config.validate import problem_at, validate
from snapvault.config.values import budget, least_size, percent
from snapvault.errors import ConfigError
from snapvault.model.policy import (
    Hints,
    Objectives,
    Policy,
    Retention,
    Retry,
    Rewriting,
    Schedule,
    SourceSpec,
)
from snapvault.model.settings import Settings

_ENDINGS: Final = (".yaml", ".yml")


def load_policies(settings: Settings) -> tuple[Policy, ...]:
    """Read every policy file of the settings' folder, sorted by file name; may be empty.

    Raises:
        ConfigError: the folder is not there, or a file is wrong; the first problem.
    """
    policies, problems = read_policies(settings)
    if problems:
        raise ProblemError(problems[0])
    return policies


def check_policies(settings: Settings) -> tuple[Problem, ...]:
    """Return everything that is wrong with the policies, file by file; empty: nothing."""
    return read_policies(settings)[1]


def read_policies(settings: Settings) -> tuple[tuple[Policy, ...], tuple[Problem, ...]]:
    """Read every policy file: the whole ones, and everything wrong with the others.

    `*.yaml` and `*.yml` count, unless they are hidden; other files and folders below do not.
    """
    try:
        paths = _policy_files(settings.policies_dir)
    except ProblemError as error:
        return (), (error.problem,)
    policies: list[Policy] = []
    problems: list[Problem] = []
    names: dict[str, Path] = {}
    opened = [_opened(path) for path in paths if names.setdefault(path.stem, path) is path]
    # The place of each source by vault and name, for the second that has the same.
    seen: dict[tuple[str, str], str] = {}
    # Of two policies with one source the enabled one has it, whatever the files are called.
    results = {
        path: _read_policy(document, settings, seen)
        for path, document in sorted(opened, key=lambda each: _is_disabled(each[1]))
    }
    for path in paths:
        if (other := names[path.stem]) is not path:
            message = f"policy {quoted(path.stem)} is already file {quoted(str(other))}"
            problems.append(Problem(path, message, "Rename one of the two files."))
            continue
        result = results[path]
        if isinstance(result, Policy):
            policies.append(result)
        else:
            problems.extend(result)
    return tuple(policies), tuple(problems)


def select_sources(
    policies: Sequence[Policy], names: Sequence[str]
) -> tuple[tuple[Policy, SourceSpec], ...]:
    """Pick sources by name, in the order asked for and each once; no names: every source.

    A name that several vaults have picks them all.

    Raises:
        ConfigError: no policy has a source of that name.
    """
    everything = [(policy, source) for policy in policies for source in policy.sources]
    if not names:
        return tuple(everything)
    picked: list[tuple[Policy, SourceSpec]] = []
    for name in dict.fromkeys(names):
        matches = [pair for pair in everything if pair[1].name == name]
        if not matches:
            known = dict.fromkeys(source.name for _, source in everything)
            raise ConfigError(
                f"no policy has a source {quoted(name)}",
                hint=nearest_hint(name, known, what="sources"),
            )
        picked.extend(matches)
    return tuple(picked)


def policy_schema() -> dict[str, Any]:
    """Return the JSON schema of a policy file, for editors."""
    from snapvault.config.described import schema_of  # noqa: PLC0415 - no other command needs it

    return schema_of(PolicyShape)


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema of the settings file, for editors."""
    from snapvault.config.described import schema_of  # noqa: PLC0415 - no other command needs it

    return schema_of(SettingsShape)


def _policy_files(folder: Path) -> list[Path]:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError as error:
        hint = 'Make it, or name another with "policies" in the settings.'
        problem = Problem(folder, "there is no such folder of policies", hint)
        raise ProblemError(problem) from error
    except NotADirectoryError as error:
        raise ProblemError(
            Problem(folder, "expected a folder of policies, found a file")
        ) from error
    except OSError as error:
        message = f"could not list it: {(error.strerror or 'unknown error').lower()}"
        raise ProblemError(Problem(folder, message)) from error
    return [folder / name for name in names if name.endswith(_ENDINGS) and not name.startswith(".")]


def _opened(path: Path) -> tuple[Path, Document | Problem]:
    try:
        return path, read_document(path)
    except ProblemError as error:
        return path, error.problem


def _is_disabled(document: Document | Problem) -> bool:
    value = document.value if isinstance(document, Document) else None
    return isinstance(value, dict) and value.get("enabled") is False


def _read_policy(
    document: Document | Problem, settings: Settings, seen: dict[tuple[str, str], str]
) -> Policy | Sequence[Problem]:
    if isinstance(document, Problem):
        return (document,)
    try:
        shape = validate(document, PolicyShape)
        if isinstance(shape, tuple):
            return shape
        faults = [
            *_vault_faults(document, shape, settings),
            *_copy_faults(document, shape, settings),
            *_twins(document, shape, seen),
            *_notify_faults(document, shape, settings),
            *drill_faults(document, shape.drill, shape.sources),
        ]
        return faults or _policy(document, shape)
    except ProblemError as error:
        return (error.problem,)


def _vault_faults(document: Document, shape: PolicyShape, settings: Settings) -> list[Problem]:
    if shape.vault in settings.vaults:
        return []
    hint = nearest_hint(shape.vault, settings.vaults, what="vaults")
    message = f"expected a vault of the settings, found {quoted(shape.vault)}"
    return [problem_at(document, ("vault",), message, hint)]


def _copy_faults(document: Document, shape: PolicyShape, settings: Settings) -> list[Problem]:
    problems = []
    for position, name in enumerate(shape.copy_to):
        message = hint = None
        if name not in settings.vaults:
            message = f"expected a vault of the settings, found {quoted(name)}"
            hint = nearest_hint(name, settings.vaults, what="vaults")
        elif name == shape.vault:
            message = f"expected another vault than the policy's own, found {quoted(name)}"
        if message is not None:
            problems.append(problem_at(document, ("copy_to", position), message, hint))
    if shape.copy_retention is not None and not shape.copy_to:
        message = 'expected "copy_to" beside it, found none'
        problems.append(problem_at(document, ("copy_retention",), message))
    return problems


def _notify_faults(document: Document, shape: PolicyShape, settings: Settings) -> list[Problem]:
    return [
        problem_at(
            document,
            ("notify", position),
            f"expected a notifier of the settings, found {quoted(name)}",
            nearest_hint(name, settings.notify, what="notifiers")
            or 'The settings have none: name them under "notify" there.',
        )
        for position, name in enumerate(shape.notify or ())
        if name not in settings.notify
    ]


def _twins(
    document: Document, shape: PolicyShape, seen: dict[tuple[str, str], str]
) -> list[Problem]:
    problems = []
    for name in shape.sources:
        location = ("sources", name)
        here = f"file {quoted(str(document.path))}, line {document.place(location).line}"
        first = seen.setdefault((shape.vault, name), here)
        if first is not here:
            message = f"source {quoted(name)} is already in vault {quoted(shape.vault)}: {first}"
            hint = "A source's name is unique in its vault: rename one of the two."
            problems.append(problem_at(document, location, message, hint))
    return problems


def _policy(document: Document, shape: PolicyShape) -> Policy:
    return Policy(
        name=document.path.stem,
        path=document.path,
        vault=shape.vault,
        sources=tuple(source_spec(document, name, each) for name, each in shape.sources.items()),
        schedule=Schedule(**dict(shape.schedule)) if shape.schedule else None,
        objectives=_objectives(shape.objectives),
        retention=_retention(shape.retention),
        copy_to=tuple(shape.copy_to),
        copy_retention=_retention(shape.copy_retention),
        volume_size=shape.volume_size,
        compression_level=shape.compression_level,
        fine_hashes=shape.fine_hashes,
        enabled=shape.enabled,
        hints=Hints(percent(shape.hints.sample), shape.hints.full_read_every),
        rewriting=Rewriting(budget(shape.rewriting.budget)),
        max_jobs=shape.max_jobs,
        retry=_retry(shape.retry),
        limits=run_limits(shape.limits),
        notify=None if shape.notify is None else tuple(shape.notify),
        drill=drill_spec(document, shape.drill),
    )


def _retention(shape: RetentionShape | None) -> Retention | None:
    return Retention(**dict(shape)) if shape else None


def _objectives(shape: ObjectivesShape) -> Objectives:
    size, part = (None, None) if shape.min_size is None else least_size(shape.min_size)
    return Objectives(shape.rpo, shape.rto, shape.drill, size, part)


def _retry(shape: RetryShape) -> Retry:
    return Retry(shape.attempts, shape.delay, max(shape.delay, shape.max_delay))
