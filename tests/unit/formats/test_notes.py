# SPDX-License-Identifier: Apache-2.0
"""Holds and records of prunes: what is written is read, and what does not belong is refused."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from snapvault.errors import FormatVersionError, ManifestError
from snapvault.formats import names, notes
from snapvault.model.notes import Hold, PruneRecord, RemovedPoint

VAULT = "5a" * 16
AT = datetime(2026, 11, 20, 1, 30, 3, 250_000, tzinfo=UTC)
HOLD = Hold("0" * 16, "1" * 16, "web01", AT, "host1", "Prüfung 2026", ("2" * 16,))
RECORD = PruneRecord(
    "3" * 16,
    AT,
    "host1",
    "snapvault 1",
    timedelta(days=7),
    (RemovedPoint("1" * 16, "web01", "points/web01/x.point", "ab" * 32, "no rule wants it"),),
    (
        "meta/web01/1111111111111111.map",
        "meta/web01/1111111111111111.sig",
        f"lists/{'ab' * 32}.list",
        f"volumes/ab/{'ab' * 16}.vol",
    ),
)
HOLD_NAME = names.hold(HOLD.point, HOLD.id)
RECORD_NAME = names.prune_record(RECORD.at, RECORD.id)

Change = Callable[[dict[str, Any]], object]


def changed(content: bytes, change: Change) -> bytes:
    document = json.loads(content)
    change(document)
    return json.dumps(document).encode()


def test_a_hold_is_read_as_it_was_written() -> None:
    content = notes.encode_hold(HOLD, VAULT)

    assert notes.decode_hold(HOLD_NAME, content, VAULT) == HOLD
    assert HOLD_NAME == "holds/1111111111111111-0000000000000000.hold"
    assert names.parse_hold(HOLD_NAME) == HOLD.id


def test_a_record_is_read_as_it_was_written() -> None:
    content = notes.encode_prune(RECORD, VAULT)

    assert notes.decode_prune(RECORD_NAME, content, VAULT) == RECORD
    assert RECORD_NAME == "prunes/20261120T013003Z-3333333333333333.prune"
    assert names.parse_prune_record(RECORD_NAME) == RECORD.id


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: d.update(format=2), FormatVersionError),
        (lambda d: d.update(vault="6b" * 16), ManifestError),
        (lambda d: d.update(point="4" * 16), ManifestError),
        (lambda d: d.update(hold="5" * 16), ManifestError),
        (lambda d: d.update(ends=["x"]), ManifestError),
        (lambda d: d.update(ends=7), ManifestError),
        (lambda d: d.update(reason=None), ManifestError),
        (lambda d: d.pop("source"), ManifestError),
    ],
)
def test_a_hold_that_does_not_belong_is_refused(change: Change, error: type[Exception]) -> None:
    content = changed(notes.encode_hold(HOLD, VAULT), change)

    with pytest.raises(error):
        notes.decode_hold(HOLD_NAME, content, VAULT)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: d.update(format=2), FormatVersionError),
        (lambda d: d.update(vault="6b" * 16), ManifestError),
        (lambda d: d.update(prune="5" * 16), ManifestError),
        (lambda d: d.update(at="2026-11-21T01:30:03.000000Z"), ManifestError),
        (lambda d: d.update(grace_seconds=-1), ManifestError),
        (lambda d: d["points"][0].update(sha256="x"), ManifestError),
        (lambda d: d["doomed"].append("vault.json"), ManifestError),
        (lambda d: d["doomed"].append("points/web01/x.point"), ManifestError),
        (lambda d: d["doomed"].append(f"keys/{'A' * 40}.hash"), ManifestError),
        (lambda d: d["doomed"].append(f"volumes/00/{'ab' * 16}.vol"), ManifestError),
        (lambda d: d["doomed"].append("meta/../vault.json"), ManifestError),
        (lambda d: d["doomed"].append(1), ManifestError),
        (lambda d: d.pop("doomed"), ManifestError),
    ],
)
def test_a_record_that_does_not_belong_is_refused(change: Change, error: type[Exception]) -> None:
    content = changed(notes.encode_prune(RECORD, VAULT), change)

    with pytest.raises(error):
        notes.decode_prune(RECORD_NAME, content, VAULT)


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_note_is_refused(content: bytes) -> None:
    with pytest.raises(ManifestError):
        notes.decode_hold(HOLD_NAME, content, VAULT)
