# SPDX-License-Identifier: Apache-2.0
"""Prunes of this host: what each came to, and which of them somebody must look at."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

_PATIENCE: Final = 3
"""Failures in a row that trying again may have mended, until somebody hears of them."""


class PruneState(StrEnum):
    """How a prune ended. `REFUSED`: it does not trust what it found, and left something there."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PruneSummary:
    """One prune of a vault that came to its end.

    `removed` restore points expired; `deleted`, `waiting` and `orphans` count objects, each with
    its bytes. `reasons` are why it refused or failed, one line each. `failures` counts those in a
    row, up to this one; `retryable`: trying again may help.
    """

    id: str
    vault: str
    ended: datetime
    seconds: float
    state: PruneState
    removed: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    reasons: tuple[str, ...] = ()
    hint: str | None = None
    retryable: bool = False
    failures: int = 0


def newest(prunes: Iterable[PruneSummary], vault: str) -> PruneSummary | None:
    """Return the last prune of a vault, however it ended."""
    own = [each for each in prunes if each.vault == vault]
    return max(own, key=_when, default=None)


def unpruned(prunes: Iterable[PruneSummary]) -> Mapping[str, PruneSummary]:
    """Return of each vault that is not pruned any more the prune that says why.

    A refusal counts until a prune was done; a failure too, once it cannot mend itself, or has come
    three times in a row.
    """
    by_vault: dict[str, list[PruneSummary]] = {}
    for each in sorted(prunes, key=_when):
        own = by_vault.setdefault(each.vault, [])
        if each.state is PruneState.DONE:
            own.clear()
        elif each.state is PruneState.REFUSED or not each.retryable or each.failures >= _PATIENCE:
            own.append(each)
    return {vault: own[-1] for vault, own in by_vault.items() if own}


def _when(each: PruneSummary) -> tuple[datetime, str]:
    return each.ended, each.id
