# SPDX-License-Identifier: Apache-2.0
"""The six EBS direct calls, as strict as their documentation.

Source: botocore's model of `ebs`, version 2019-11-02.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from urllib.parse import parse_qs

from tests.support.ebs_fake_world import BLOCK, Block, RefusedError, Snapshot, World

_ROUTES = (
    ("POST", re.compile(r"/snapshots"), "StartSnapshot"),
    ("POST", re.compile(r"/snapshots/completion/([^/]+)"), "CompleteSnapshot"),
    ("PUT", re.compile(r"/snapshots/([^/]+)/blocks/([^/]+)"), "PutSnapshotBlock"),
    ("GET", re.compile(r"/snapshots/([^/]+)/blocks/([^/]+)"), "GetSnapshotBlock"),
    ("GET", re.compile(r"/snapshots/([^/]+)/blocks"), "ListSnapshotBlocks"),
    ("GET", re.compile(r"/snapshots/([^/]+)/changedblocks"), "ListChangedBlocks"),
)
_NEXT_TOKEN_LIFE = timedelta(minutes=60)
_BLOCK_TOKEN_LIFE = timedelta(days=7)
_MOST_BLOCKS = 10_000
_START_KEYS = {
    "VolumeSize",
    "ParentSnapshotId",
    "Tags",
    "Description",
    "ClientToken",
    "Encrypted",
    "KmsKeyArn",
    "Timeout",
}


@dataclass(frozen=True, slots=True)
class DirectCall:
    """A request, taken apart; header names in lower case."""

    name: str
    region: str
    account: str
    parts: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class DirectAnswer:
    """Status, headers and body of what comes back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Page:
    """What a next token stands for."""

    snapshots: tuple[str, ...]
    start: int
    expires: datetime
    serial: int


def name_of(method: str, path: str) -> tuple[str, tuple[str, ...]] | None:
    """Tell which call a request is, and the ids in its path."""
    for verb, pattern, name in _ROUTES:
        found = pattern.fullmatch(path)
        if verb == method and found:
            return name, found.groups()
    return None


def query_of(text: str) -> dict[str, str]:
    """Read a query string."""
    return {key: values[0] for key, values in parse_qs(text, keep_blank_values=True).items()}


def invalid(message: str, reason: str | None = None) -> RefusedError:
    """Make the answer to a request that makes no sense."""
    return RefusedError(400, "ValidationException", message, reason)


class DirectCalls:
    """Answers the six calls over a world.

    `page_cap` bounds what a page holds below what was asked for; with `empty_every` n each nth
    page is empty, and goes on all the same.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.page_cap = _MOST_BLOCKS
        self.empty_every = 0
        self.repeated_completion = "refuse"  # or "accept", if it says the same again
        self._pages: dict[str, _Page] = {}
        self._served = 0
        self._serials = count(1)
        self._oldest_page = 0
        self._oldest_block_token = 0

    def expire_next_tokens(self) -> None:
        """No next token given out so far is good any more."""
        self._oldest_page = next(self._serials)

    def expire_block_tokens(self) -> None:
        """No block token given out so far is good any more."""
        self._oldest_block_token = next(self._serials)

    def answer(self, call: DirectCall) -> DirectAnswer:
        """Do what the call asks for, or raise RefusedError."""
        with self.world.lock:
            match call.name:
                case "StartSnapshot":
                    return self._start(call)
                case "PutSnapshotBlock":
                    return self._put(call)
                case "CompleteSnapshot":
                    return self._complete(call)
                case "GetSnapshotBlock":
                    return self._get(call)
                case "ListSnapshotBlocks":
                    return self._list(call)
                case _:
                    return self._list_changed(call)

    # --- writing ----------------------------------------------------------------------------

    def _start(self, call: DirectCall) -> DirectAnswer:
        asked = _json(call.body)
        if unknown := set(asked) - _START_KEYS:
            raise invalid(f"unknown parameters {sorted(unknown)}", "INVALID_PARAMETER_VALUE")
        token = asked.get("ClientToken")
        if not isinstance(token, str) or not 0 < len(token) <= 255 or re.search(r"\s", token):
            raise invalid("ClientToken must have 1 to 255 characters", "INVALID_PARAMETER_VALUE")
        key = json.dumps({k: v for k, v in asked.items() if k != "ClientToken"}, sort_keys=True)
        for each in self.world.snapshots.values():
            if (each.owner, each.region) == (call.account, call.region) and each.token:
                if each.token == (token, key):
                    return _started(each)
                if each.token[0] == token:
                    raise RefusedError(
                        409, "ConflictException", "ClientToken was used with other parameters"
                    )
        size = asked.get("VolumeSize")
        if not isinstance(size, int) or not 1 <= size <= 65_536:
            raise invalid("VolumeSize must be 1 to 65536 GiB", "INVALID_VOLUME_SIZE")
        parent = self._parent(call, asked)
        if parent and size < parent.gib:
            raise invalid("VolumeSize is smaller than the parent's", "INVALID_VOLUME_SIZE")
        minutes = asked.get("Timeout", 60)
        if not isinstance(minutes, int) or not 10 <= minutes <= 4320:
            raise invalid("Timeout must be 10 to 4320 minutes", "INVALID_PARAMETER_VALUE")
        description = asked.get("Description", "")
        if not isinstance(description, str) or len(description) > 255:
            raise invalid("Description is too long", "INVALID_PARAMETER_VALUE")
        tags = _tags(asked.get("Tags", []))
        encrypted, kms_key = self._encryption(call, asked, parent)
        if not self.world.require_room_for_pending(call.account):
            raise RefusedError(
                400, "ConcurrentLimitExceededException", "too many pending snapshots"
            )
        made = Snapshot(
            id=self.world.new_id("snap"),
            region=call.region,
            owner=call.account,
            gib=size,
            lineage="",
            started=self.world.now(),
            description=description,
            tags=tags,
            encrypted=encrypted,
            kms_key=kms_key,
            direct=True,
            parent=parent.id if parent else None,
            timeout=timedelta(minutes=minutes),
            touched=self.world.now(),
            blocks=dict(parent.blocks) if parent else {},
            token=(token, key),
            unknown_for=self.world.unknown_after_start,
        )
        made.lineage = parent.lineage if parent else made.id
        self.world.snapshots[made.id] = made
        return _started(made)

    def _parent(self, call: DirectCall, asked: Mapping[str, Any]) -> Snapshot | None:
        if "ParentSnapshotId" not in asked:
            return None
        if "Encrypted" in asked:
            raise invalid(
                "ParentSnapshotId and Encrypted exclude each other", "INVALID_PARAMETER_VALUE"
            )
        found = self._seen(call, str(asked["ParentSnapshotId"]))
        if found.owner != call.account:
            raise invalid("the parent snapshot has another owner", "INVALID_SNAPSHOT_ID")
        if found.state != "completed":
            raise invalid("the parent snapshot is not completed", "INVALID_SNAPSHOT_ID")
        return found

    def _encryption(
        self, call: DirectCall, asked: Mapping[str, Any], parent: Snapshot | None
    ) -> tuple[bool, str | None]:
        key = asked.get("KmsKeyArn")
        if key is not None:
            if not asked.get("Encrypted") and not (parent and parent.encrypted):
                raise invalid("KmsKeyArn needs Encrypted", "INVALID_PARAMETER_VALUE")
            if not re.fullmatch(r"arn:aws[a-z\-]*:kms:.*:[0-9]{12}:key/.*", key):
                raise invalid("KmsKeyArn is no ARN of a key", "INVALID_PARAMETER_VALUE")
            if not self.world.knows_key(key, call.region):
                raise invalid("the KMS key does not exist", "INVALID_CUSTOMER_KEY")
        if parent and parent.encrypted:
            return True, key or parent.kms_key
        if asked.get("Encrypted") or self.world.encryption_by_default:
            return True, key or self.world.default_key(call.region, call.account)
        return False, None

    def _put(self, call: DirectCall) -> DirectAnswer:
        snapshot = self._own(call, call.parts[0])
        if snapshot.unknown_for > 0:
            snapshot.unknown_for -= 1
            raise _no_such(snapshot.id)
        self._require_open(snapshot)
        index = _number(call.parts[1], "BlockIndex")
        if index >= snapshot.gib * (1 << 30) // BLOCK:
            raise invalid(f"block {index} is beyond the volume", "INVALID_BLOCK")
        if _number(call.headers.get("x-amz-data-length"), "DataLength") != BLOCK:
            raise invalid("DataLength must be 524288", "INVALID_PARAMETER_VALUE")
        if len(call.body) != BLOCK:
            raise invalid(f"the block has {len(call.body)} bytes", "INVALID_BLOCK")
        progress = call.headers.get("x-amz-progress")
        if progress is not None and _number(progress, "Progress") > 100:
            raise invalid("Progress must be 0 to 100", "INVALID_PARAMETER_VALUE")
        expected = _checksum(call.headers, required=True)
        block = Block(call.body)
        if block.digest != expected:
            raise invalid("the checksum is not that of the data", "INVALID_BLOCK")
        snapshot.blocks[index] = snapshot.put[index] = block
        snapshot.touched = self.world.now()
        return _json_answer(201, {}, _checksum_headers(block))

    def _complete(self, call: DirectCall) -> DirectAnswer:
        snapshot = self._own(call, call.parts[0])
        changed = _number(call.headers.get("x-amz-changedblockscount"), "ChangedBlocksCount")
        expected = _checksum(call.headers, required=False)
        method = call.headers.get("x-amz-checksum-aggregation-method")
        if (expected is None) != (method is None) or method not in (None, "LINEAR"):
            raise invalid("a checksum needs the method LINEAR", "INVALID_PARAMETER_VALUE")
        if self.repeated_completion == "accept" and snapshot.completion == (changed, expected):
            return _json_answer(202, {"Status": snapshot.state})
        self._require_open(snapshot)
        if changed != len(snapshot.put):
            raise invalid(
                f"ChangedBlocksCount is {changed}, {len(snapshot.put)} blocks were written",
                "INVALID_PARAMETER_VALUE",
            )
        digests = b"".join(snapshot.put[index].digest for index in sorted(snapshot.put))
        if expected is not None and hashlib.sha256(digests).digest() != expected:
            raise invalid("the aggregate checksum differs", "INVALID_PARAMETER_VALUE")
        snapshot.completion = (changed, expected)
        self.world.seal(snapshot)
        return _json_answer(202, {"Status": snapshot.state})

    def _require_open(self, snapshot: Snapshot) -> None:
        if snapshot.state == "error" and not snapshot.sealed:
            raise invalid("the snapshot was cancelled", "WRITE_REQUEST_TIMEOUT")
        if not snapshot.direct or snapshot.sealed or snapshot.state != "pending":
            raise invalid("the snapshot is not open for writing", "INVALID_SNAPSHOT_ID")

    # --- reading ----------------------------------------------------------------------------

    def _list(self, call: DirectCall) -> DirectAnswer:
        snapshot = self._readable(call, call.parts[0])
        indexes, more, serial = self._page(call, (snapshot.id,), sorted(snapshot.blocks))
        blocks = [
            {"BlockIndex": index, "BlockToken": self._token(snapshot, index, serial)}
            for index in indexes
        ]
        return _json_answer(200, {"Blocks": blocks, **self._listing(snapshot, more)})

    def _list_changed(self, call: DirectCall) -> DirectAnswer:
        second = self._readable(call, call.parts[0])
        if "firstSnapshotId" not in call.query:
            raise invalid("FirstSnapshotId is missing", "INVALID_PARAMETER_VALUE")
        first = self._readable(call, call.query["firstSnapshotId"])
        if first.lineage != second.lineage:
            raise invalid("the snapshots are of different volumes", "UNRELATED_SNAPSHOTS")
        different = sorted(
            index
            for index in first.blocks.keys() | second.blocks.keys()
            if first.blocks.get(index) is not second.blocks.get(index)
        )
        indexes, more, serial = self._page(call, (first.id, second.id), different)
        blocks = []
        for index in indexes:
            entry: dict[str, object] = {"BlockIndex": index}
            if index in first.blocks:
                entry["FirstBlockToken"] = self._token(first, index, serial)
            if index in second.blocks:
                entry["SecondBlockToken"] = self._token(second, index, serial)
            blocks.append(entry)
        return _json_answer(200, {"ChangedBlocks": blocks, **self._listing(second, more)})

    def _listing(self, snapshot: Snapshot, more: str | None) -> dict[str, object]:
        found: dict[str, object] = {
            "ExpiryTime": (self.world.now() + _BLOCK_TOKEN_LIFE).timestamp(),
            "VolumeSize": snapshot.gib,
            "BlockSize": BLOCK,
        }
        return found | ({"NextToken": more} if more is not None else {})

    def _page(
        self, call: DirectCall, snapshots: tuple[str, ...], indexes: list[int]
    ) -> tuple[list[int], str | None, int]:
        most = _MOST_BLOCKS
        if "maxResults" in call.query:
            most = _number(call.query["maxResults"], "MaxResults")
            if not 100 <= most <= 10_000:
                raise invalid("MaxResults must be 100 to 10000", "INVALID_PARAMETER_VALUE")
        start = 0
        if "startingBlockIndex" in call.query:
            start = _number(call.query["startingBlockIndex"], "StartingBlockIndex")
        if "pageToken" in call.query:
            page = self._pages.get(call.query["pageToken"])
            if (
                page is None
                or page.snapshots != snapshots
                or page.expires < self.world.now()
                or page.serial < self._oldest_page
            ):
                raise invalid("the page token is invalid or expired", "INVALID_PAGE_TOKEN")
            start = page.start
        rest = [index for index in indexes if index >= start]
        self._served += 1
        empty = self.empty_every and self._served % self.empty_every == 0
        shown = [] if empty else rest[: min(most, self.page_cap)]
        serial = next(self._serials)
        if len(shown) == len(rest):
            return shown, None, serial
        token = base64.b64encode(f"page {serial}".encode()).decode()
        self._pages[token] = _Page(
            snapshots, rest[len(shown)], self.world.now() + _NEXT_TOKEN_LIFE, serial
        )
        return shown, token, serial

    def _token(self, snapshot: Snapshot, index: int, serial: int) -> str:
        expires = (self.world.now() + _BLOCK_TOKEN_LIFE).timestamp()
        return _signed(f"{snapshot.id} {index} {serial} {expires:.0f}")

    def _get(self, call: DirectCall) -> DirectAnswer:
        snapshot = self._readable(call, call.parts[0])
        index = _number(call.parts[1], "BlockIndex")
        self._require_token(call.query.get("blockToken"), snapshot, index)
        block = snapshot.blocks[index]
        data = block.data
        if snapshot.corrupt.get(index, 0) > 0:
            snapshot.corrupt[index] -= 1
            data = data[:77] + bytes([data[77] ^ 1]) + data[78:]
        headers = {
            "x-amz-Data-Length": str(BLOCK),
            "Content-Type": "application/octet-stream",
            **_checksum_headers(block),
        }
        return DirectAnswer(200, headers, data)

    def _require_token(self, token: str | None, snapshot: Snapshot, index: int) -> None:
        if token is None:
            raise invalid("BlockToken is missing", "INVALID_PARAMETER_VALUE")
        try:
            text = base64.b64decode(token, validate=True).decode()
            whose, which, serial, expires, _ = text.split(" ")
            good = (
                _signed(text.rpartition(" ")[0]) == token
                and (whose, int(which)) == (snapshot.id, index)
                and int(serial) >= self._oldest_block_token
                and float(expires) >= self.world.now().timestamp()
            )
        except ValueError:
            good = False
        if not good:
            raise invalid("the block token is invalid or expired", "INVALID_BLOCK_TOKEN")

    # --- which snapshot ---------------------------------------------------------------------

    def _seen(self, call: DirectCall, snapshot: str) -> Snapshot:
        if not re.fullmatch(r"snap-[0-9a-f]+", snapshot):
            raise invalid(f"{snapshot} is no snapshot id", "INVALID_SNAPSHOT_ID")
        found = self.world.find(snapshot, call.region, call.account)
        if found is None:
            raise _no_such(snapshot)
        return found

    def _own(self, call: DirectCall, snapshot: str) -> Snapshot:
        found = self._seen(call, snapshot)
        if found.owner != call.account:
            raise RefusedError(
                403, "AccessDeniedException", "not your snapshot", "UNAUTHORIZED_ACCOUNT"
            )
        return found

    def _readable(self, call: DirectCall, snapshot: str) -> Snapshot:
        found = self._seen(call, snapshot)
        if found.public and found.owner != call.account:
            raise invalid("public snapshots cannot be read", "INVALID_SNAPSHOT_ID")
        if found.tier != "standard":
            raise invalid("the snapshot is archived", "INVALID_SNAPSHOT_ID")
        if found.state != "completed":
            raise invalid(f"the snapshot is {found.state}, not completed", "INVALID_SNAPSHOT_ID")
        return found


def _no_such(snapshot: str) -> RefusedError:
    return RefusedError(
        404,
        "ResourceNotFoundException",
        f"The snapshot '{snapshot}' does not exist.",
        "SNAPSHOT_NOT_FOUND",
    )


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RefusedError(400, "SerializationException", "the body is no JSON object")
    return found


def _tags(listed: object) -> dict[str, str]:
    if not isinstance(listed, list) or len(listed) > 50:
        raise invalid("at most 50 tags", "INVALID_TAG")
    tags: dict[str, str] = {}
    for each in listed:
        key, value = each.get("Key", ""), each.get("Value", "")
        if not 0 < len(key) <= 127 or len(value) > 255 or key in tags or key.startswith("aws:"):
            raise invalid(f"tag {key!r} is invalid", "INVALID_TAG")
        tags[key] = value
    return tags


def _number(text: str | None, what: str) -> int:
    if text is None or not re.fullmatch(r"[0-9]+", text):
        raise invalid(f"{what} must be a number", "INVALID_PARAMETER_VALUE")
    return int(text)


def _checksum(headers: Mapping[str, str], *, required: bool) -> bytes | None:
    text = headers.get("x-amz-checksum")
    algorithm = headers.get("x-amz-checksum-algorithm")
    if text is None and algorithm is None and not required:
        return None
    if text is None or algorithm != "SHA256":
        raise invalid("a checksum and the algorithm SHA256 are needed", "INVALID_PARAMETER_VALUE")
    try:
        found = base64.b64decode(text, validate=True)
    except binascii.Error:
        found = b""
    if len(found) != 32:
        raise invalid("the checksum is no SHA-256 in Base64", "INVALID_PARAMETER_VALUE")
    return found


def _checksum_headers(block: Block) -> dict[str, str]:
    return {
        "x-amz-Checksum": base64.b64encode(block.digest).decode(),
        "x-amz-Checksum-Algorithm": "SHA256",
    }


def _signed(text: str) -> str:
    seal = hashlib.sha256(f"fake {text}".encode()).hexdigest()[:8]
    return base64.b64encode(f"{text} {seal}".encode()).decode()


def _started(snapshot: Snapshot) -> DirectAnswer:
    found: dict[str, object] = {
        "SnapshotId": snapshot.id,
        "OwnerId": snapshot.owner,
        "Status": snapshot.state,
        "StartTime": snapshot.started.timestamp(),
        "VolumeSize": snapshot.gib,
        "BlockSize": BLOCK,
        "Tags": [{"Key": key, "Value": value} for key, value in snapshot.tags.items()],
        "SseType": "sse-kms" if snapshot.encrypted else "none",
    }
    optional = {
        "Description": snapshot.description or None,
        "ParentSnapshotId": snapshot.parent,
        "KmsKeyArn": snapshot.kms_key,
    }
    found |= {key: value for key, value in optional.items() if value is not None}
    return _json_answer(201, found)


def _json_answer(
    status: int, found: Mapping[str, object], headers: Mapping[str, str] | None = None
) -> DirectAnswer:
    return DirectAnswer(
        status,
        {"Content-Type": "application/json", **(headers or {})},
        json.dumps(found).encode(),
    )
