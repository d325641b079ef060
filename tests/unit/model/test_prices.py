# SPDX-License-Identifier: Apache-2.0
"""What usage and storage come to, by a table of prices."""

from datetime import date

import pytest

from snapvault.model import price_list, prices
from snapvault.model.prices import Bill, ClassPrices, OwnPrices, PriceTable, Stored
from snapvault.model.usage import Usage
from snapvault.units import GIB, KIB

TABLE = PriceTable(
    name="here",
    currency="EUR",
    as_of="2026-01-01",
    source="a contract",
    egress=0.5,
    classes={
        "STANDARD": ClassPrices(storage=2.0, put=5.0, get=1.0),
        "COLD": ClassPrices(
            storage=1.0, put=10.0, get=2.0, retrieval=0.25, minimum_size=100, overhead=32, index=8
        ),
    },
)


def test_volumes_and_the_rest_are_billed_by_their_classes() -> None:
    usage = Usage(
        puts=3000,
        gets=2000,
        deletes=9,
        bytes_up=GIB,
        bytes_down=3 * GIB,
        volume_puts=1000,
        volume_gets=1000,
        volume_down=2 * GIB,
    )

    found = prices.bill(TABLE, usage, "COLD", "STANDARD")

    assert found == Bill(requests=10 + 2 + 2 * 5 + 1, retrieval=0.5, egress=1.5)
    assert found.total == 25.0


def test_a_class_without_prices_makes_the_bill_unknown() -> None:
    assert prices.bill(TABLE, Usage(), "COLD", "STRANGE") is None
    assert prices.month(TABLE, "STRANGE", Stored()) is None


def test_small_objects_are_paid_for_as_larger_ones() -> None:
    found = prices.stored(TABLE, [("COLD", 1), ("COLD", 500), ("STANDARD", 7)])

    assert found == {
        "COLD": Stored(2, 501, 100 + 32 + 500 + 32, 16),
        "STANDARD": Stored(1, 7, 7, 0),
    }
    assert prices.month(TABLE, "COLD", found["COLD"]) == pytest.approx((664 + 16 * 2.0) / GIB)


def test_the_settings_replace_listed_prices_and_add_to_them() -> None:
    own = OwnPrices("USD", 0.0, None, {"COLD": ClassPrices(0.1), "NEW": ClassPrices(0.2)})

    found = prices.with_own(TABLE, own)

    assert found is not None
    assert (found.currency, found.egress, found.source) == ("USD", 0.0, "a contract")
    assert found.classes["COLD"] == ClassPrices(0.1, overhead=32, index=8)
    assert found.classes["NEW"] == ClassPrices(0.2)
    assert found.classes["STANDARD"] is TABLE.classes["STANDARD"]
    assert prices.with_own(TABLE, None) is TABLE
    assert prices.with_own(None, None) is None


def test_without_listed_prices_those_of_the_settings_are_all() -> None:
    found = prices.with_own(None, OwnPrices(classes={"NEW": ClassPrices(0.2)}))

    assert found is not None
    assert (found.currency, found.egress, list(found.classes)) == ("USD", 0.0, ["NEW"])


def test_a_thaw_costs_by_objects_and_bytes() -> None:
    deep = price_list.listed("us-east-1").classes["DEEP_ARCHIVE"].thaws["Bulk"]

    assert prices.thaw(deep, 1000, 100 * GIB) == pytest.approx(0.025 + 0.25)


@pytest.mark.parametrize("region", [None, *price_list.TABLES])
def test_listed_tables_say_when_and_where_from(region: str | None) -> None:
    table = price_list.listed(region)

    assert date.fromisoformat(table.as_of) < date(2027, 1, 1)
    assert table.source.startswith("https://")
    assert table.note
    assert set(table.classes) >= {"STANDARD", "STANDARD_IA", *prices.ARCHIVES}
    assert all(table.classes[name].thaws for name in prices.ARCHIVES)
    assert table.classes["GLACIER"].billed(1) == 1 + 32 * KIB


def test_a_region_without_a_table_is_told_whose_prices_these_are() -> None:
    assert price_list.listed("xx-far-9").note.startswith('No prices of region "xx-far-9" are known')
