# SPDX-License-Identifier: Apache-2.0
"""Counting tables in dumps that pass by."""

from itertools import pairwise

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from snapvault.adapters.dump_tables import MARIADB, POSTGRESQL, Dialect, DumpTables
from snapvault.model.tables import Tables

SHOP = rb"""/*M!999999\- enable the sandbox mode */
-- MariaDB dump 10.19  Distrib 10.11.19-MariaDB
USE `sh``op`;
--
-- Dumping data for table `a ``b``; c`
--

LOCK TABLES `a ``b``; c` WRITE;
INSERT INTO `a ``b``; c` VALUES
(1,'one),\n(;\n'),
(2,NULL);
INSERT INTO `a ``b``; c` VALUES
(3,'three');
/*!40000 ALTER TABLE `a ``b``; c` ENABLE KEYS */;
UNLOCK TABLES;
CREATE PROCEDURE p()
INSERT INTO `a ``b``; c` VALUES
(4,'four');
-- Dumping data for table `empty`
UNLOCK TABLES;
USE `other`;
-- Dumping data for table `kept`
INSERT INTO `kept` (`id`, `v`, row_start) VALUES (1,1,'a'),
(2,1,'b');
UNLOCK TABLES;
USE `mysql`;
-- Dumping data for table `user`
INSERT INTO `user` VALUES
(1);
UNLOCK TABLES;
-- Dump completed
"""

LEDGER = rb"""--
-- PostgreSQL database dump
--
CREATE FUNCTION f() AS $$
COPY public.fake (v) FROM stdin;
1
\.
$$;
--
-- Data for Name: two; Type: TABLE DATA; Schema: public; Owner: anna
--

COPY public.two (v) FROM stdin;
12
\N
\.


--
-- Data for Name: empty; Type: TABLE DATA; Schema: public; Owner: anna
--

COPY public.empty (v) FROM stdin;
\.


--
-- Data for Name: ta"ble x; Type: TABLE DATA; Schema: odd Schema; Owner: anna
--

COPY "odd Schema"."ta""ble x" (v, "w) FROM stdin;") FROM stdin;
\\.	1
	2

\.


--
-- Data for Name: BLOBS; Type: BLOBS; Schema: -; Owner: -
--

COPY public.fake (v) FROM stdin;
1
\.
--
-- PostgreSQL database dump complete
--
"""


def counted(dialect: Dialect, dump: bytes, *cuts: int) -> Tables | None:
    """Count a dump that comes in pieces."""
    tables = DumpTables(dialect, "ledger")
    places = [0, *sorted(cuts), len(dump)]
    for start, end in pairwise(places):
        tables.feed(dump[start:end])
    return tables.facts()


def rows(found: Tables | None) -> dict[str, dict[str, int]]:
    assert found is not None
    return {
        database: {name: facts.rows for name, facts in tables.items()}
        for database, tables in found.items()
    }


def test_rows_of_mariadb_are_counted_in_their_tables_alone() -> None:
    assert rows(counted(MARIADB, SHOP)) == {
        "sh`op": {"a `b`; c": 3, "empty": 0},
        "other": {"kept": 2},
    }


def test_rows_of_postgresql_are_counted_in_their_tables_alone() -> None:
    assert rows(counted(POSTGRESQL, LEDGER)) == {
        "ledger": {"public.two": 2, "public.empty": 0, '"odd Schema"."ta""ble x"': 3}
    }


def test_the_rule_stays_what_points_were_made_with() -> None:
    shop, ledger = counted(MARIADB, SHOP), counted(POSTGRESQL, LEDGER)

    assert shop is not None
    assert ledger is not None
    kept = blake3(b"\n(1,1,'a'),\n(2,1,'b')").hexdigest(length=16)
    two = blake3(b"\n12\n\\N").hexdigest(length=16)
    assert shop["other"]["kept"].digest == kept
    assert ledger["ledger"]["public.two"].digest == two
    assert shop["sh`op"]["empty"].digest == blake3(b"").hexdigest(length=16)


@given(st.lists(st.integers(0, len(SHOP)), max_size=6), st.sampled_from([1, 700]))
def test_how_a_dump_comes_in_pieces_does_not_matter(cuts: list[int], factor: int) -> None:
    """With the second factor it is longer than what is looked at together."""
    shop = SHOP.replace(b"one", b"one" * factor * 100)
    ledger = LEDGER.replace(b"12", b"12" * factor * 100)

    assert counted(MARIADB, shop, *cuts) == counted(MARIADB, shop)
    assert counted(POSTGRESQL, ledger, *cuts) == counted(POSTGRESQL, ledger)
    assert rows(counted(MARIADB, shop, *cuts)) == rows(counted(MARIADB, SHOP))
    assert rows(counted(POSTGRESQL, ledger, *cuts)) == rows(counted(POSTGRESQL, LEDGER))


def test_where_a_statement_begins_does_not_matter() -> None:
    joined = SHOP.replace(b"(2,NULL);\nINSERT INTO `a ``b``; c` VALUES\n", b"(2,NULL),\n")
    assert joined != SHOP

    assert counted(MARIADB, joined) == counted(MARIADB, SHOP)


@pytest.mark.parametrize(
    ("dialect", "dump", "old", "new", "table"),
    [
        (MARIADB, SHOP, b"'three'", b"'thrEe'", ("sh`op", "a `b`; c")),
        (MARIADB, SHOP, b"(2,NULL)", b"(5,NULL)", ("sh`op", "a `b`; c")),
        (MARIADB, SHOP, b"(1,1,'a')", b"(7,1,'a')", ("other", "kept")),
        (MARIADB, SHOP, b"(2,1,'b')", b"(2,1,'c')", ("other", "kept")),
        (POSTGRESQL, LEDGER, b"12\n\\N\n", b"\\N\n12\n", ("ledger", "public.two")),
        (POSTGRESQL, LEDGER, b"\t2\n\n", b"\t2\nx\n", ("ledger", '"odd Schema"."ta""ble x"')),
    ],
)
def test_another_row_is_another_digest_of_its_table_alone(
    dialect: Dialect, dump: bytes, old: bytes, new: bytes, table: tuple[str, str]
) -> None:
    before, after = counted(dialect, dump), counted(dialect, dump.replace(old, new))

    assert before is not None
    assert after is not None
    changed = {
        (database, name)
        for database, tables in before.items()
        for name, facts in tables.items()
        if after[database][name] != facts
    }
    assert changed == {table}
    assert rows(before) == rows(after)


@pytest.mark.parametrize(
    "dump",
    [
        b"-- MySQL dump 10.13  Distrib 8.4.2\n" + SHOP,
        SHOP.replace(b"VALUES\n(3", b"VALUES (3"),
        b"x" * (9 << 20),
    ],
)
def test_a_dump_that_is_written_in_another_way_is_not_counted(dump: bytes) -> None:
    assert counted(MARIADB, dump) is None


def test_a_long_definition_is_passed_over() -> None:
    long = b"-- " + b"x" * (3 << 20) + b"\n"

    assert counted(POSTGRESQL, long + LEDGER) == counted(POSTGRESQL, LEDGER)
