# SPDX-License-Identifier: Apache-2.0
"""Verifies: what `snapvault verify` found in a vault, and until when that is alarming."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from snapvault.model.usage import NOTHING, Usage

LEVELS: Final = ("objects", "data", "full")
"""How deep a verify looks, the shallowest first."""

_WHOLE: Final = 100.0


@dataclass(frozen=True, slots=True)
class VerifySummary:
    """One verify of a vault that came to its end.

    `source` None: all sources. `level` is one of `LEVELS`, `share` the part that was looked at, in
    percent. `findings` counts what is wrong; `message` is the first of it, one line. `requests`
    is what was asked of the store, and `usage` the same in detail.
    """

    id: str
    vault: str
    source: str | None
    level: str
    share: float
    ended: datetime
    seconds: float
    points: int
    findings: int
    message: str | None = None
    requests: int = 0
    usage: Usage = NOTHING

    @property
    def is_clean(self) -> bool:
        """Whether it looked at everything, and nothing is wrong."""
        return not self.findings and self.share >= _WHOLE


def mends(later: VerifySummary, finding: VerifySummary) -> bool:
    """Tell whether a later verify shows that what another one found is over.

    It must have looked as deep, at as many sources, and at all of them: a clean sample
    proves nothing of what it left out.
    """
    return (
        later.is_clean
        and later.vault == finding.vault
        and later.source in {None, finding.source}
        and _depth(later) >= _depth(finding)
        and later.ended > finding.ended
    )


def unmended(verifies: Iterable[VerifySummary]) -> Mapping[str, VerifySummary]:
    """Return the newest verify of each vault that found something and that none has mended."""
    known = sorted(verifies, key=lambda each: each.ended)
    return {
        each.vault: each
        for each in known
        if each.findings and not any(mends(other, each) for other in known)
    }


def last_of_levels(verifies: Iterable[VerifySummary], vault: str) -> tuple[VerifySummary, ...]:
    """Return the newest verify of each level of a vault, the shallowest first.

    One of all sources is preferred to newer ones of single sources.
    """
    own = [each for each in verifies if each.vault == vault]
    return tuple(
        max(found, key=lambda each: (each.source is None, each.ended))
        for level in LEVELS
        if (found := [each for each in own if each.level == level])
    )


def _depth(verify: VerifySummary) -> int:
    return LEVELS.index(verify.level) if verify.level in LEVELS else -1
