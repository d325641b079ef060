# SPDX-License-Identifier: Apache-2.0
"""Changes of keys as JSON: what is written is read, and nothing else."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from snapvault.errors import FormatVersionError, ManifestError
from snapvault.formats import names
from snapvault.formats.key_changes import decode_key_change, encode_key_change
from snapvault.model.notes import HandedHead, KeyChange
from snapvault.model.point import ObjectRecord

VAULT = "5a" * 16
HOST, RECOVERY, LATER = "A" * 40, "B" * 40, "C" * 64
CHANGE = KeyChange(
    id="ab" * 8,
    at=datetime(2026, 11, 20, 9, 12, 44, 18372, tzinfo=UTC),
    host="host1.example.org",
    tool="snapvault 0.1.0",
    signer=HOST,
    recipients=(RECOVERY, LATER),
    hash_key=ObjectRecord(names.later_hash_key(HOST, "ab" * 8), 300, "1" * 64),
    same=(ObjectRecord(names.hash_key(HOST), 200, "2" * 64),),
    heads=(
        HandedHead(
            "web01",
            "cd" * 8,
            ObjectRecord(names.map_of("web01", "ab" * 8), 500, "3" * 64),
            ObjectRecord(names.signature_of("web01", "ab" * 8), 700, "4" * 64),
            {"root": (40, 96)},
        ),
    ),
    added=(LATER,),
)
NAME = names.key_change(CHANGE.at, CHANGE.id)


def document(**changes: Any) -> bytes:
    return json.dumps({**json.loads(encode_key_change(CHANGE, VAULT)), **changes}).encode()


def test_what_is_written_is_read() -> None:
    assert f"keys/20261120T091244Z-{'ab' * 8}.change" == NAME
    assert decode_key_change(NAME, encode_key_change(CHANGE, VAULT), VAULT) == CHANGE


@pytest.mark.parametrize(
    "changes",
    [
        {"signer": "host1"},
        {"recipients": ["b" * 40]},
        {"hash_key": None},
        {"same": [{"name": "keys/x.hash", "size": -1, "sha256": "1" * 64}]},
        {"heads": [{"source": "../web01"}]},
        {"heads": 5},
        {"at": "yesterday"},
        {"change": "cd" * 8},
        {"vault": "00" * 16},
    ],
    ids=str,
)
def test_what_is_no_change_of_keys_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        decode_key_change(NAME, document(**changes), VAULT)


def test_a_newer_format_is_named() -> None:
    with pytest.raises(FormatVersionError, match="format 2"):
        decode_key_change(NAME, document(format=2), VAULT)
