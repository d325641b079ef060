# SPDX-License-Identifier: Apache-2.0
"""List prices of Amazon S3, as data; a vault's `prices` replaces or extends them.

Only the first step of prices that fall with the amount, and no free allowances: a bill is
lower than what comes of them, if anything.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Final

from snapvault.model.prices import ClassPrices, PriceTable, ThawPrice

_KIB: Final = 1 << 10
_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)

# Source: "Understanding archive retrieval options" in the Amazon S3 user guide, for the times.
_GLACIER_THAWS: Final = {
    "Bulk": ThawPrice(0.0, 0.0, 5 * _HOUR, 12 * _HOUR),
    "Standard": ThawPrice(0.01, 0.05, 3 * _HOUR, 5 * _HOUR),
    "Expedited": ThawPrice(0.03, 10.0, _MINUTE, 5 * _MINUTE),
}
_DEEP_THAWS: Final = {
    "Bulk": ThawPrice(0.0025, 0.025, None, 48 * _HOUR),
    "Standard": ThawPrice(0.02, 0.10, None, 12 * _HOUR),
}

_CLASSES: Final[Mapping[str, ClassPrices]] = {
    "STANDARD": ClassPrices(storage=0.023, put=0.005, get=0.0004),
    "STANDARD_IA": ClassPrices(
        storage=0.0125,
        put=0.01,
        get=0.001,
        retrieval=0.01,
        minimum_days=30,
        minimum_size=128 * _KIB,
    ),
    "ONEZONE_IA": ClassPrices(
        storage=0.01,
        put=0.01,
        get=0.001,
        retrieval=0.01,
        minimum_days=30,
        minimum_size=128 * _KIB,
    ),
    "GLACIER_IR": ClassPrices(
        storage=0.004,
        put=0.02,
        get=0.01,
        retrieval=0.03,
        minimum_days=90,
        minimum_size=128 * _KIB,
    ),
    "GLACIER": ClassPrices(
        storage=0.0036,
        put=0.03,
        get=0.0004,
        minimum_days=90,
        overhead=32 * _KIB,
        index=8 * _KIB,
        thaws=_GLACIER_THAWS,
    ),
    "DEEP_ARCHIVE": ClassPrices(
        storage=0.00099,
        put=0.05,
        get=0.0004,
        minimum_days=180,
        overhead=32 * _KIB,
        index=8 * _KIB,
        thaws=_DEEP_THAWS,
    ),
}

_VIRGINIA: Final = PriceTable(
    name="Amazon S3, us-east-1",
    currency="USD",
    as_of="2025-10-28",
    source="https://aws.amazon.com/s3/pricing/",
    egress=0.09,
    classes=_CLASSES,
    note="Storage, and the requests of STANDARD, are of that date; other requests, retrieval and"
    " egress agree with copies of the list from 2022 to 2026. Requests of GLACIER_IR could"
    " not be confirmed.",
)

TABLES: Final[Mapping[str, PriceTable]] = {
    "us-east-1": _VIRGINIA,
    "eu-west-1": replace(
        _VIRGINIA,
        name="Amazon S3, eu-west-1",
        note="Storage agrees with bills of 2026. Requests, retrieval and egress are those of"
        " us-east-1: that they are the same could not be confirmed for the archive classes.",
    ),
}
"""Price tables by region."""

DEFAULT_REGION: Final = "us-east-1"
"""Whose prices are shown for a region that has no table."""


def listed(region: str | None) -> PriceTable:
    """Return the table of a region, or that of the default one with a note that says so."""
    found = TABLES.get(region or DEFAULT_REGION)
    if found is not None:
        return found
    table = TABLES[DEFAULT_REGION]
    note = f'No prices of region "{region}" are known: those of {DEFAULT_REGION} are shown.'
    return replace(table, note=f"{note} {table.note}")
