# SPDX-License-Identifier: Apache-2.0
"""A dump of a database as text: a table of orders in INSERT statements of many rows each."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_STATEMENT = 1_000_000  # bytes: about as long as mysqldump makes them
_BETWEEN = b"),("
_STATES = ("new", "paid", "packed", "shipped", "delivered", "returned", "canceled")
_HEAD = b"""-- A dump for benchmarks
DROP TABLE IF EXISTS `orders`;
CREATE TABLE `orders` (
  `id` bigint NOT NULL AUTO_INCREMENT, `customer` int NOT NULL, `email` varchar(80) NOT NULL,
  `state` varchar(12) NOT NULL, `total` decimal(10,2) NOT NULL, `created` datetime NOT NULL,
  `token` char(16) NOT NULL, `note` varchar(120) DEFAULT NULL, PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
LOCK TABLES `orders` WRITE;
"""
_FOOT = b"UNLOCK TABLES;\n"
_START, _END = b"INSERT INTO `orders` VALUES (", b");\n"


def make(path: Path, size: int, *, seed: int) -> int:
    """Write a dump of about `size` bytes; return how many rows it has."""
    writer = _Rows(seed)
    rows = written = 0
    with path.open("wb", buffering=1 << 20) as out:
        written += out.write(_HEAD)
        while written < size:
            made = writer.some(_STATEMENT // 150)
            rows += len(made)
            written += out.write(_START + _BETWEEN.join(made) + _END)
        out.write(_FOOT)
    return rows


def change(old: Path, new: Path, *, share: float, seed: int) -> int:
    """Write `new` as `old` one night later; return how many rows differ.

    Of the changed rows, which lie anywhere, eight in ten get another state, total or note
    (longer or shorter), one is new and one is gone.
    """
    chance, writer = random.Random(seed), _Rows(seed)
    changed = 0
    owed = 0.0
    with old.open("rb") as source, new.open("wb", buffering=1 << 20) as out:
        for line in source:
            if not line.startswith(_START):
                out.write(line)
                continue
            rows = line[len(_START) : -len(_END)].split(_BETWEEN)
            owed += len(rows) * share
            count, owed = int(owed), owed - int(owed)
            for place in sorted(chance.sample(range(len(rows)), count), reverse=True):
                rows[place : place + 1] = _edited(rows[place], chance, writer)
            changed += count
            out.write(_START + _BETWEEN.join(rows) + _END)
    return changed


def _edited(row: bytes, chance: random.Random, writer: "_Rows") -> list[bytes]:
    what = chance.randrange(10)
    if what == 0:
        return []
    if what == 1:
        return [row, *writer.some(1, first=int(row.split(b",", 1)[0]))]
    fields = row.split(b",")  # notes hold no commas
    if what < 6:
        fields[3] = f"'{chance.choice(_STATES)}'".encode()
        fields[4] = f"{chance.randrange(100_000) / 100:.2f}".encode()
    else:
        fields[7] = writer.some(1)[0].split(b",")[7]
    return [b",".join(fields)]


class _Rows:
    """Makes rows of 100 to 200 bytes; the same seed makes the same rows."""

    def __init__(self, seed: int) -> None:
        self._numbers = np.random.default_rng(seed)
        self._next = 1
        words = list(_words(random.Random(seed), 4000))
        weights = 1 / np.arange(1, len(words) + 1)
        picks = self._numbers.choice(len(words), 200_000, p=weights / weights.sum())
        self._words = words
        self._text = " ".join(words[pick] for pick in picks)

    def some(self, count: int, *, first: int | None = None) -> list[bytes]:
        """Return so many rows, without the brackets around each."""
        start = self._next if first is None else first
        self._next = start + count

        def column(end: int) -> list[int]:
            numbers: list[int] = self._numbers.integers(0, end, count).tolist()
            return numbers

        text, words = self._text, self._words
        customers, tokens, totals = column(200_000), column(1 << 62), column(1_000_000)
        states, places = column(len(_STATES)), column(len(text) - 200)
        lengths, seconds = column(80), column(60)
        rows = []
        for index in range(count):
            number, customer, place = start + index, customers[index], places[index]
            minute = number // 7
            name = f"{words[customer % 3001]}.{words[customer % 1999]}"
            rows.append(
                f"{number},{customer},'{name}@example.org','{_STATES[states[index]]}',"
                f"{totals[index] / 100:.2f},'2026-{minute // 40320 % 12 + 1:02}-"
                f"{minute // 1440 % 28 + 1:02} {minute // 60 % 24:02}:{minute % 60:02}:"
                f"{seconds[index]:02}','{tokens[index]:016x}',"
                f"'{text[place : place + 15 + lengths[index]]}'".encode()
            )
        return rows


def _words(chance: random.Random, count: int) -> Iterator[str]:
    beginnings = (
        "b",
        "br",
        "c",
        "d",
        "f",
        "g",
        "gr",
        "l",
        "m",
        "n",
        "p",
        "pl",
        "r",
        "s",
        "st",
        "t",
    )
    middles, endings = ("a", "e", "i", "o", "u", "ea", "ou"), ("", "n", "r", "s", "t", "ll", "st")
    for _ in range(count):
        parts = (beginnings, middles, endings) * chance.choice((1, 1, 2))
        yield "".join(chance.choice(part) for part in parts)
