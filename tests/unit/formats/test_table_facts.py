# SPDX-License-Identifier: Apache-2.0
"""What a restore point records of a dump's tables."""

from snapvault.formats import table_facts
from snapvault.model.tables import TableFacts, Tables, TablesSummary

TABLES: Tables = {
    "shop": {"orders": TableFacts(800, "aa" * 16), "ö\udcff": TableFacts(0, "bb" * 16)},
    "bank": {"ledger": TableFacts(4, "cc" * 16)},
}


def test_a_summary_comes_back_from_the_facts_of_a_stream() -> None:
    summary = table_facts.summarize(TABLES)

    facts = table_facts.encode(summary)

    assert (facts["tables"], facts["rows"]) == ("3", "804")
    assert table_facts.decode({"server": "MariaDB 10.11", **facts}) == summary


def test_the_rule_stays_what_points_were_made_with() -> None:
    one: Tables = {"shop": {"orders": TableFacts(2, "0f" * 16)}}

    assert table_facts.encode(table_facts.summarize(one)) == {
        "tables": "1",
        "rows": "2",
        "tables_digest": "1:87283d3a872740cf945c47e1ba9ff056",
    }


def test_the_order_of_tables_does_not_matter() -> None:
    turned = {name: dict([*TABLES[name].items()][::-1]) for name in [*TABLES][::-1]}

    assert table_facts.summarize(turned) == table_facts.summarize(TABLES)


def test_every_fact_of_every_table_counts() -> None:
    changed: list[Tables] = [
        {**TABLES, "bank": {"ledger": TableFacts(4, "cd" * 16)}},
        {**TABLES, "bank": {"ledger": TableFacts(5, "cc" * 16)}},
        {**TABLES, "bank": {"ledgers": TableFacts(4, "cc" * 16)}},
        {"shop": TABLES["shop"], "band": TABLES["bank"]},
        {"shop": TABLES["shop"]},
        {},
    ]

    digests = {table_facts.summarize(tables).digest for tables in [TABLES, *changed]}

    assert len(digests) == len(changed) + 1


def test_what_we_cannot_compare_with_is_no_summary() -> None:
    facts = table_facts.encode(TablesSummary(1, 2, "00" * 16))

    assert table_facts.decode({}) is None
    assert table_facts.decode({**facts, "tables_digest": "2:" + "00" * 16}) is None
    assert table_facts.decode({**facts, "rows": "many"}) is None
    assert table_facts.decode({"tables_digest": facts["tables_digest"]}) is None
