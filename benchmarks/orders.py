# SPDX-License-Identifier: Apache-2.0
"""A table of orders: the rows of the first day, and what the days after it do to them."""

import random
from collections.abc import Iterator

import numpy as np

SCHEMA = """
CREATE DATABASE shop; USE shop;
CREATE TABLE orders (
  id bigint NOT NULL PRIMARY KEY, customer int NOT NULL, email varchar(80) NOT NULL,
  state varchar(12) NOT NULL, total decimal(10,2) NOT NULL, created datetime NOT NULL,
  token char(16) NOT NULL, note varchar(120) DEFAULT NULL, KEY customer (customer)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
"""
ROW_BYTES = 159  # about, as text

_STATES = ("new", "paid", "packed", "shipped", "delivered", "returned", "canceled")
_BETWEEN = 16  # numbers from one order to the next; those that come later lie between them
_BATCH = 10_000  # rows
_TRANSACTION = 50  # changed rows
_CUSTOMERS = 200_000


class Orders:
    """The rows by their numbers; the same seed makes the same rows and the same changes."""

    def __init__(self, count: int, *, seed: int) -> None:
        self._seed = seed
        self._count = count
        self._gone: set[int] = set()
        self._taken: set[int] = set()
        self._text = _text(seed)

    def first(self) -> Iterator[bytes]:
        """Yield the rows of the first day as lines, fields between tabs, many at a time."""
        numbers = np.random.default_rng(self._seed)
        for start in range(1, self._count + 1, _BATCH):
            count = min(_BATCH, self._count + 1 - start)
            ids = [number * _BETWEEN for number in range(start, start + count)]
            rows = self._rows(ids, numbers)
            yield "".join(["\t".join(row) + "\n" for row in rows]).encode()

    def change(self, number: int, share: float) -> tuple[int, Iterator[str]]:
        """Return how many rows change on a day, and the statements that change them, anywhere.

        Of ten rows eight get another state and total, or another note (longer or shorter), one is
        new and one goes.
        """
        count = round(self._count * share)
        return count, self._statements(count, number)

    def _statements(self, count: int, number: int) -> Iterator[str]:
        chance = random.Random(f"{self._seed} {number}")
        fresh = self._rows([self._free(chance) for _ in range(count)], _numbers(chance))
        statements = []
        for row in fresh:
            what = chance.randrange(10)
            if what == 0:
                values = ",".join(f"'{field}'" for field in row)
                statements.append(f"INSERT INTO orders VALUES ({values});")
            elif what == 1:
                gone = self._used(chance)
                self._gone.add(gone)
                statements.append(f"DELETE FROM orders WHERE id={gone};")
            else:
                fields = f"state='{row[3]}',total={row[4]}" if what < 7 else f"note='{row[7]}'"
                statements.append(f"UPDATE orders SET {fields} WHERE id={self._used(chance)};")
            if len(statements) == _TRANSACTION:
                yield f"BEGIN;{''.join(statements)}COMMIT;\n"
                statements = []
        yield f"BEGIN;{''.join(statements)}COMMIT;\n"

    def _used(self, chance: random.Random) -> int:
        """Return the number of an order of the first day that is still there."""
        while True:
            number = chance.randrange(1, self._count + 1) * _BETWEEN
            if number not in self._gone:
                return number

    def _free(self, chance: random.Random) -> int:
        """Return a number that no order ever had."""
        while True:
            number = chance.randrange(self._count) * _BETWEEN + chance.randrange(1, _BETWEEN)
            if number not in self._taken:
                self._taken.add(number)
                return number

    def _rows(self, ids: list[int], numbers: np.random.Generator) -> list[tuple[str, ...]]:
        def column(end: int) -> list[int]:
            found: list[int] = numbers.integers(0, end, len(ids)).tolist()
            return found

        words, text = self._text
        places, lengths = column(len(text) - 200), column(80)
        return [
            (
                str(number),
                str(customer),
                f"{words[customer % 3001]}.{words[customer % 1999]}@example.org",
                _STATES[state],
                f"{total / 100:.2f}",
                _moment(number // _BETWEEN // 7, second),
                f"{token:016x}",
                text[place : place + 15 + length],
            )
            for number, customer, state, total, second, token, place, length in zip(
                ids,
                column(_CUSTOMERS),
                column(len(_STATES)),
                column(1_000_000),
                column(60),
                column(1 << 62),
                places,
                lengths,
                strict=True,
            )
        ]


def _numbers(chance: random.Random) -> np.random.Generator:
    return np.random.default_rng(chance.getrandbits(64))


def _moment(minute: int, second: int) -> str:
    return (
        f"2026-{minute // 40320 % 12 + 1:02}-{minute // 1440 % 28 + 1:02} "
        f"{minute // 60 % 24:02}:{minute % 60:02}:{second:02}"
    )


def _text(seed: int) -> tuple[list[str], str]:
    """Make words, and a long text of them in which some are much more frequent than others."""
    words = list(_words(random.Random(seed), 4000))
    weights = 1 / np.arange(1, len(words) + 1)
    picks = np.random.default_rng(seed).choice(len(words), 200_000, p=weights / weights.sum())
    return words, " ".join(words[pick] for pick in picks)


def _words(chance: random.Random, count: int) -> Iterator[str]:
    beginnings = [*"bcdfglmnprst", "br", "gr", "pl", "st"]
    middles, endings = ("a", "e", "i", "o", "u", "ea", "ou"), ("", "n", "r", "s", "t", "ll", "st")
    for _ in range(count):
        parts = (beginnings, middles, endings) * chance.choice((1, 1, 2))
        yield "".join(chance.choice(part) for part in parts)
