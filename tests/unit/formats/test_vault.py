# SPDX-License-Identifier: Apache-2.0
"""`vault.json`."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.errors import FormatVersionError, IntegrityError
from snapvault.formats import vault
from snapvault.formats.vault import VaultRecord

RECORD = VaultRecord("0123456789abcdef" * 2, datetime(2026, 11, 20, 1, 30, tzinfo=UTC), 16_384)


@given(
    st.builds(
        VaultRecord,
        vault=st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
        created_at=st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)),
        block_size=st.integers(9, 24).map(lambda power: 1 << power),
        create_only=st.booleans(),
    )
)
def test_any_record_comes_back(record: VaultRecord) -> None:
    assert vault.decode(vault.encode(record)) == record


def test_the_text_is_the_documents() -> None:
    assert json.loads(vault.encode(RECORD)) == {
        "format": 1,
        "vault": "0123456789abcdef" * 2,
        "created_at": "2026-11-20T01:30:00.000000Z",
        "block_size": 16_384,
        "create_only": True,
    }


def test_a_newer_vault_is_refused_by_its_number() -> None:
    with pytest.raises(FormatVersionError, match="format 2"):
        vault.decode(b'{"format": 2}')


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("vault", "short"),
        ("vault", None),
        ("created_at", "yesterday"),
        ("created_at", 7),
        ("block_size", 0),
        ("block_size", 511),
        ("block_size", 3 * 4096),
        ("block_size", 1 << 25),
        ("block_size", "16384"),
        ("block_size", 4096.0),
    ],
)
def test_an_impossible_member_is_refused(member: str, value: object) -> None:
    document = json.loads(vault.encode(RECORD)) | {member: value}

    with pytest.raises(IntegrityError, match=r"vault\.json"):
        vault.decode(json.dumps(document).encode())


@given(st.binary(max_size=40) | st.sampled_from([b"[]", b"7", b"null", b"{}", b'"format"']))
def test_anything_else_is_no_record(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        vault.decode(content)
