# SPDX-License-Identifier: Apache-2.0
"""A download, on answers that a real server gives only by mistake."""

import io
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from snapvault.adapters.stores.s3_body import Download, FileBody, read_part
from snapvault.adapters.stores.s3_errors import Request
from snapvault.errors import IntegrityError, StoreError, StoreUnavailableError
from tests.support.throttles import RecordedThrottle


def download(*answers: dict[str, Any]) -> tuple[Download, list[tuple[int, str | None]]]:
    """Return a download that is given these answers, and the list of what it asks for."""
    asked: list[tuple[int, str | None]] = []
    left = list(answers)

    def fetch(offset: int, etag: str | None) -> dict[str, Any]:
        asked.append((offset, etag))
        return left.pop(0)

    def translated() -> AbstractContextManager[None]:
        return nullcontext()

    return Download("x", "s3://bucket", fetch=fetch, translated=translated), asked


def answer(body: bytes, *, size: int, content_range: str | None = None) -> dict[str, Any]:
    found = {"Body": io.BytesIO(body), "ContentLength": size, "ETag": '"e"'}
    return found if content_range is None else found | {"ContentRange": content_range}


def test_a_body_that_ends_early_without_a_word_is_not_the_end() -> None:
    reading, asked = download(
        answer(b"sea", size=6), answer(b"led", size=3, content_range="bytes 3-5/6")
    )
    reading.connect()

    assert reading.read(10) == b"sea"
    with pytest.raises(StoreUnavailableError, match="after 3 of 6 bytes"):
        reading.read(10)
    assert (reading.read(10), reading.read(10)) == (b"led", b"")
    assert asked == [(0, None), (3, '"e"')]


@pytest.mark.parametrize("content_range", [None, "bytes 0-5/6", "bytes 3-6/7"])
def test_an_answer_that_does_not_go_on_where_we_were_is_refused(content_range: str | None) -> None:
    reading, _ = download(
        answer(b"sea", size=6), answer(b"sealed", size=6, content_range=content_range)
    )
    reading.connect()
    reading.read(10)
    with pytest.raises(StoreUnavailableError):
        reading.read(10)

    with pytest.raises(IntegrityError, match="changed while it was read"):
        reading.read(10)


REQUEST = Request("read", "x", "s3://bucket", "bucket")


def part(given: dict[str, Any], offset: int, size: int) -> bytes:
    return read_part(given, offset, size, request=REQUEST, translated=lambda request: nullcontext())


def test_a_part_is_read_to_its_end_and_the_transfer_ended() -> None:
    given = answer(b"eal", size=3, content_range="bytes 1-3/6")

    assert part(given, 1, 3) == b"eal"
    assert given["Body"].closed


@pytest.mark.parametrize("content_range", [None, "", "bytes */6", "bytes 0-5/6"])
def test_a_server_that_takes_no_notice_of_a_range_is_found_out(content_range: str | None) -> None:
    given = answer(b"sealed", size=6, content_range=content_range)

    with pytest.raises(StoreError, match="only as a whole"):
        part(given, 1, 3)

    assert given["Body"].closed


def test_a_part_that_the_object_cuts_short_is_no_part() -> None:
    given = answer(b"led", size=3, content_range="bytes 3-5/6")

    with pytest.raises(IntegrityError, match="shorter than it should be"):
        part(given, 3, 4)


def test_a_part_that_ends_early_without_a_word_is_asked_for_again() -> None:
    given = answer(b"le", size=3, content_range="bytes 3-5/6")

    with pytest.raises(StoreUnavailableError, match="after 2 of 3 bytes"):
        part(given, 3, 3)


def test_a_file_body_gives_more_than_asked_for_but_not_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "spooled"
    path.write_bytes(b"x" * 300_000)

    with path.open("rb", buffering=0) as file:
        body = FileBody(file, 300_000)

        assert len(body.read(16_384)) == 1 << 18
        assert len(body.read(16_384)) == 300_000 - (1 << 18)
        assert body.read(16_384) == b""


@pytest.mark.parametrize("piece", [1, 1000, 1 << 18])
def test_a_file_body_gives_what_its_throttle_lets_pass(tmp_path: Path, piece: int) -> None:
    content = bytes(range(250)) * 10
    (tmp_path / "spooled").write_bytes(content)
    throttle = RecordedThrottle(piece=piece)

    with (tmp_path / "spooled").open("rb", buffering=0) as file:
        body = FileBody(file, len(content), throttle)
        read = list(iter(lambda: body.read(16_384), b""))
        once = throttle.total
        body.seek(100)
        again = body.read()

    assert b"".join(read) == content
    assert max(map(len, read)) == min(piece, len(content))
    assert once == len(content)
    # What is sent again counts again.
    assert again == content[100:]
    assert throttle.total == once + len(content) - 100
