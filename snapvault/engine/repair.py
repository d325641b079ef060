# SPDX-License-Identifier: Apache-2.0
"""Repair: one step after the other, each of which mends what it knows how to mend."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from snapvault.engine.vault import Vault


@dataclass(frozen=True, slots=True)
class Mended:
    """An object that is right again, or would be: what was done, and the points that it helps."""

    name: str
    how: str
    points: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Left:
    """What a step found and could not mend, and the restore points that it hurts."""

    message: str
    points: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step did; of a rehearsal, what it would do."""

    mended: tuple[Mended, ...] = ()
    left: tuple[Left, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of damage. `run` is given the vault, and whether it is only to say what it would do.

    It may be killed anywhere and run again. It removes nothing that a trusted host stored.
    """

    name: str
    run: Callable[[Vault, bool], Outcome]


def repair(
    vault: Vault, steps: Iterable[Step], *, is_rehearsal: bool
) -> tuple[tuple[Step, Outcome], ...]:
    """Take the steps in their order: what the first mend, the later ones can build upon."""
    return tuple((step, step.run(vault, is_rehearsal)) for step in steps)
