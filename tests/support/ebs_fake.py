# SPDX-License-Identifier: Apache-2.0
"""A fake of AWS, as far as EBS goes, as strict as the real one: for boto3 with an endpoint_url.

    with EbsFake() as fake:
        volume = fake.add_volume(1)
        volume.write(0, b"...")
        machine = fake.add_instance({"/dev/xvda": volume})
        ec2, ebs = fake.client("ec2"), fake.client("ebs")

`ebs_fake_direct` has the six EBS direct calls, `ebs_fake_ec2` those of EC2 and STS,
`ebs_fake_world` what exists. Requests must be signed with a known key.
"""

import asyncio
import json
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import boto3
import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.loaders import Loader, create_loader

from tests.support import ebs_fake_direct as direct
from tests.support.ebs_fake_ec2 import (
    Ec2Calls,
    QueryCall,
    StsCalls,
    read_query,
    unauthorized,
    with_denied,
)
from tests.support.ebs_fake_world import (
    ACCOUNT,
    REGIONS,
    Instance,
    RefusedError,
    Snapshot,
    Volume,
    World,
)
from tests.support.loopback import LoopbackServer

STRANGER = "999988887777"
_TOGETHER_SECONDS = 60.0
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request,\s*"
    r"SignedHeaders=([^,]+),\s*Signature=([0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The call has no effect; the client gets this error."""

    status: int
    code: str
    reason: str | None = None
    message: str = "injected"


@dataclass(frozen=True, slots=True)
class LostAnswer:
    """The call has its effect; its answer is lost."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection breaks before the call has any effect."""


Fault = Refusal | LostAnswer | Cut

BROKEN = Refusal(500, "InternalServerException")
THROTTLED = Refusal(400, "RequestThrottledException", "ACCOUNT_THROTTLED")
TOO_MANY = Refusal(429, "ThrottlingException")
EC2_THROTTLED = Refusal(503, "RequestLimitExceeded", message="Request limit exceeded.")
EXPIRED_PAGE = Refusal(400, "ValidationException", "INVALID_PAGE_TOKEN")
EXPIRED_BLOCK = Refusal(400, "ValidationException", "INVALID_BLOCK_TOKEN")


@dataclass(slots=True)
class _Rule:
    fault: Fault
    skip: int
    left: int
    every: int = 1


@dataclass(slots=True)
class _Bucket:
    per_second: float
    tokens: float
    at: float


@dataclass(frozen=True, slots=True)
class Key:
    """An access key and whose it is."""

    access: str
    secret: str
    account: str
    session: str | None = None

    @property
    def user(self) -> str:
        """The caller's ARN."""
        kind = "assumed-role/fake/session" if self.session else "user/fake"
        service = "sts" if self.session else "iam"
        return f"arn:aws:{service}::{self.account}:{kind}"


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it came, whatever became of it."""

    name: str
    region: str
    account: str
    parameters: Mapping[str, str]


def session(access: str, secret: str, token: str | None = None, *, region: str) -> Any:
    """Return a boto3 session; all of them parse the models of the services only once."""
    inner: Any = botocore.session.Session()
    inner.register_component("data_loader", _models())
    return boto3.session.Session(access, secret, token, region, botocore_session=inner)


@cache
def _models() -> Loader:
    return create_loader()


class EbsFake:
    """The service, on a free port of 127.0.0.1, from construction until `stop`.

    Volumes, instances and snapshots are in `world`, and `world` says how long things stay pending
    (`looks_until_completed`, `looks_until_available`), whether they fail (`snapshots_to_fail`),
    how many may be pending (`most_pending`), and whether the account encrypts by
    default. `direct` says how pages look (`page_cap`, `empty_every`) and makes tokens expire, also
    through `advance`. `inject`, `throttle`, `limit`, `deny`, `expire_credentials` are faults.
    `calls` counts by name, `log` has every call, `refused` counts (name, error code),
    `most_in_flight` is how many calls of a name were being answered at once.
    `delay` makes calls of a name take so many seconds; with `together`, those of a name are
    answered once so many of them were under way at once; `before` is run ahead of a call.
    """

    def __init__(self) -> None:
        self.world = World()
        self.direct = direct.DirectCalls(self.world)
        self.ec2 = Ec2Calls(self.world)
        self.key = Key("AKIAFAKEFAKEFAKEFAKE", "fake-secret", ACCOUNT)
        self.keys = {self.key.access: self.key}
        self.roles: dict[str, set[str]] = {}
        self.calls: Counter[str] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()
        self.log: list[Call] = []
        self.delay: dict[str, float] = {}
        self.together: dict[str, int] = {}
        self.before: dict[str, Callable[[], None]] = {}
        self.in_flight: Counter[str] = Counter()
        self.most_in_flight: Counter[str] = Counter()
        self.verify_signatures = True
        self._denied: set[str] = set()
        self._rules: defaultdict[str, list[_Rule]] = defaultdict(list)
        self._buckets: dict[str, _Bucket] = {}
        self._expire_in: int | None = None
        self._sts = StsCalls(self._assume)
        self._lock = threading.Lock()
        for region in REGIONS:
            self._add_public_snapshot(region)
        self._server = LoopbackServer(self._serve)

    # --- what exists ------------------------------------------------------------------------

    def add_volume(
        self,
        gib: int = 1,
        *,
        region: str = "eu-west-1",
        zone: str = "",
        encrypted: bool = False,
        tags: Mapping[str, str] | None = None,
        account: str = ACCOUNT,
    ) -> Volume:
        """Make an empty volume."""
        made = Volume(
            self.world.new_id("vol"), region, zone or f"{region}a", gib, account, self.world.lock,
            encrypted=encrypted, tags=dict(tags or {}), created=self.world.now(),
        )  # fmt: skip
        made.kms_key = self.world.default_key(region, account) if encrypted else None
        self.world.volumes[made.id] = made
        return made

    def add_instance(
        self, volumes: Mapping[str, Volume], *, tags: Mapping[str, str] | None = None
    ) -> Instance:
        """Make a running machine of volumes by device name; the first one is the root."""
        first = next(iter(volumes.values()))
        made = Instance(
            self.world.new_id("i"), first.region, first.owner, dict(volumes), dict(tags or {})
        )
        for device, volume in volumes.items():
            volume.instance, volume.device, volume.state = made.id, device, "in-use"
        self.world.instances[made.id] = made
        return made

    def add_role(self, arn: str, *, trusts: str = ACCOUNT) -> None:
        """Let an account take on a role, in whatever account the role is."""
        self.roles.setdefault(arn, set()).add(trusts)

    def own_snapshots(self, region: str | None = None) -> list[Snapshot]:
        """Return the snapshots that are not a stranger's, in the order they were made."""
        return [
            each
            for each in self.world.snapshots.values()
            if each.owner != STRANGER and region in (None, each.region)
        ]

    def advance(self, seconds: float) -> None:
        """Let time pass in the cloud."""
        self.world.advance(seconds)

    # --- faults -----------------------------------------------------------------------------

    def inject(self, name: str, fault: Fault, *, times: int = 1, after: int = 0) -> None:
        """Let calls of a name meet a fault: `times` of them, once `after` went through."""
        self._rules[name].append(_Rule(fault, after, times))

    def throttle(self, name: str, *, every: int, fault: Fault | None = None) -> None:
        """Refuse each `every`th call of a name, for ever."""
        self._rules[name].append(_Rule(fault or _throttled(name), every - 1, 1 << 60, every))

    def limit(self, name: str, *, per_second: float, burst: float) -> None:
        """Refuse calls of a name that come faster."""
        self._buckets[name] = _Bucket(per_second, burst, time.monotonic())

    def deny(self, *names: str) -> None:
        """Refuse calls of these names for lack of permission."""
        self._denied |= set(names)

    def expire_credentials(self, *, after: int = 0) -> None:
        """Refuse every call once `after` more were answered, until `renew_credentials`."""
        self._expire_in = after

    def renew_credentials(self) -> None:
        """Accept the credentials again."""
        self._expire_in = None

    # --- for clients ------------------------------------------------------------------------

    @property
    def endpoint_url(self) -> str:
        """Where clients find it: EC2, EBS and STS alike."""
        return f"http://127.0.0.1:{self._server.port}"

    def environment(self) -> dict[str, str]:
        """Return the variables that make boto3 use the key."""
        return {
            "AWS_ACCESS_KEY_ID": self.key.access,
            "AWS_SECRET_ACCESS_KEY": self.key.secret,
        }

    def client(self, service: str, *, region: str = "eu-west-1") -> Any:
        """Return a boto3 client for a test's own questions."""
        make = session(self.key.access, self.key.secret, region=region).client
        return make(service, endpoint_url=self.endpoint_url)

    def stop(self) -> None:
        """Stop; safe to repeat."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- serving ----------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await _read(reader, writer)) is not None:
            answer = await self._answer(request)
            if answer is None:
                writer.transport.abort()
                return
            head = [f"HTTP/1.1 {answer.status} Fake", f"Content-Length: {len(answer.body)}"]
            head += [f"{key}: {value}" for key, value in answer.headers.items()]
            writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + answer.body)
            await writer.drain()

    async def _answer(self, request: _Request) -> direct.DirectAnswer | None:
        parts = urlsplit(request.target)
        found = _AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
        service = found[4] if found else "ebs"
        form = read_query(request.body) if service != "ebs" else {}
        route = direct.name_of(request.method, unquote(parts.path))
        name = form.get("Action", "") if service != "ebs" else route[0] if route else "unknown"
        self.calls[name] += 1
        self.in_flight[name] += 1
        self.most_in_flight[name] = max(self.most_in_flight[name], self.in_flight[name])
        try:
            if name in self.delay:
                await asyncio.sleep(self.delay[name])
            await self._company(name)
            fault = self._due(name)
            if isinstance(fault, Cut):
                return None
            key = self._authenticate(request, found)
            region = found[3] if found else ""
            query = form or direct.query_of(parts.query)
            self.log.append(Call(name, region, key.account, query))
            self._permit(name, service, key, fault)
            if name in self.before:
                self.before[name]()
            if service == "ebs":
                if route is None:
                    raise RefusedError(404, "UnknownOperationException", "no such call")
                call = direct.DirectCall(
                    name, region, key.account, route[1], query, request.headers, request.body
                )
                self._require_right_to_tag(call, key)
                answer = self.direct.answer(call)
            else:
                asked = QueryCall(name, region, key.account, form)
                asked = with_denied(asked, self._denied, key.user)
                body = (
                    self._sts.answer(asked, self.world.now())
                    if service == "sts"
                    else self.ec2.answer(asked)
                )
                answer = direct.DirectAnswer(200, {"Content-Type": "text/xml"}, body)
            return None if isinstance(fault, LostAnswer) else answer
        except RefusedError as error:
            self.refused[name, error.code] += 1
            return _refusal(service, error)
        finally:
            self.in_flight[name] -= 1

    async def _company(self, name: str) -> None:
        """Wait for other calls of the name; who waits in vain is answered in the end."""
        deadline = time.monotonic() + _TOGETHER_SECONDS
        while self.most_in_flight[name] < self.together.get(name, 0):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.005)

    def _due(self, name: str) -> Fault | None:
        for rule in self._rules[name]:
            if rule.left <= 0:
                continue
            if rule.skip > 0:
                rule.skip -= 1
                continue
            rule.left -= 1
            rule.skip = rule.every - 1
            return rule.fault
        bucket = self._buckets.get(name)
        if bucket is not None:
            now = time.monotonic()
            filled = bucket.tokens + (now - bucket.at) * bucket.per_second
            bucket.tokens, bucket.at = min(filled, max(bucket.per_second, 1)), now
            if bucket.tokens < 1:
                return _throttled(name)
            bucket.tokens -= 1
        return None

    def _authenticate(self, request: _Request, found: re.Match[str] | None) -> Key:
        """Tell whose request it is.

        Raises:
            RefusedError: with what AWS says: each service says it differently.
        """
        if found is None:
            raise RefusedError(403, "MissingAuthenticationTokenException", "not signed")
        service, region = found[4], found[3]
        key = self.keys.get(found[1])
        unknown = {
            "ec2": RefusedError(
                401,
                "AuthFailure",
                "AWS was not able to validate the provided access credentials",
            ),
            "sts": RefusedError(
                403,
                "InvalidClientTokenId",
                "The security token included in the request is invalid.",
            ),
        }.get(
            service,
            RefusedError(
                403,
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            ),
        )
        if key is None or key.session != request.headers.get("x-amz-security-token"):
            raise unknown
        if region not in REGIONS:  # one that the account has not enabled
            raise unknown
        if self.verify_signatures and _signature(request, found, key) != found[6]:
            code = {"ec2": "AuthFailure", "sts": "SignatureDoesNotMatch"}
            raise RefusedError(
                403, code.get(service, "InvalidSignatureException"), "the signature differs"
            )
        return key

    def _permit(self, name: str, service: str, key: Key, fault: Fault | None) -> None:
        if self._expire_in is not None:
            if self._expire_in <= 0:
                raise _EXPIRED[service]
            self._expire_in -= 1
        if isinstance(fault, Refusal):
            raise RefusedError(fault.status, fault.code, fault.message, fault.reason)
        if name in self._denied:
            action = f"{service}:{name}"
            if service == "ec2":
                raise unauthorized(key.user, action)
            raise RefusedError(
                403,
                "AccessDeniedException" if service == "ebs" else "AccessDenied",
                f"User: {key.user} is not authorized to perform: {action}",
                "UNAUTHORIZED_ACCOUNT",
            )

    def _require_right_to_tag(self, call: direct.DirectCall, key: Key) -> None:
        denied = call.name == "StartSnapshot" and "CreateTags" in self._denied
        if denied and b'"Tags"' in call.body:
            raise RefusedError(
                403,
                "AccessDeniedException",
                f"User: {key.user} is not authorized to perform: ec2:CreateTags",
                "DEPENDENCY_ACCESS_DENIED",
            )

    def _assume(self, role: str, account: str) -> tuple[str, str, str] | None:
        if account not in self.roles.get(role, set()):
            return None
        with self._lock:
            number = len(self.keys)
            made = Key(
                f"ASIAFAKE{number:012d}", f"secret-{number}", role.split(":")[4], f"token-{number}"
            )
            self.keys[made.access] = made
        return made.access, made.secret, made.session or ""

    def _add_public_snapshot(self, region: str) -> None:
        made = Snapshot(
            self.world.new_id("snap"), region, STRANGER, 8, "vol-0stranger", self.world.now(),
            volume="vol-0000000000000999", description="public image", state="completed",
            sealed=True, public=True,
        )  # fmt: skip
        self.world.snapshots[made.id] = made


_EXPIRED = {
    "ec2": RefusedError(400, "RequestExpired", "Request has expired."),
    "sts": RefusedError(
        400, "ExpiredToken", "The security token included in the request is expired"
    ),
    "ebs": RefusedError(
        403, "ExpiredTokenException", "The security token included in the request is expired"
    ),
}
_DIRECT_NAMES = {
    "StartSnapshot",
    "PutSnapshotBlock",
    "CompleteSnapshot",
    "ListSnapshotBlocks",
    "ListChangedBlocks",
    "GetSnapshotBlock",
}


def _throttled(name: str) -> Refusal:
    return THROTTLED if name in _DIRECT_NAMES else EC2_THROTTLED


def _refusal(service: str, error: RefusedError) -> direct.DirectAnswer:
    if service == "ebs":
        told = {"Message": error.message, "message": error.message}
        if error.reason:
            told["Reason"] = error.reason
        headers = {"Content-Type": "application/json", "x-amzn-ErrorType": error.code}
        return direct.DirectAnswer(error.status, headers, json.dumps(told).encode())
    inside = f"<Code>{error.code}</Code><Message>{error.message}</Message>"
    if service == "sts":
        body = f"<ErrorResponse><Error>{inside}</Error><RequestId>fake</RequestId></ErrorResponse>"
    else:
        body = (
            f"<Response><Errors><Error>{inside}</Error></Errors>"
            "<RequestID>fake</RequestID></Response>"
        )
    return direct.DirectAnswer(error.status, {"Content-Type": "text/xml"}, body.encode())


def _signature(request: _Request, found: re.Match[str], key: Key) -> str:
    """Return what the signature must be (Signature Version 4)."""
    signed = {name: request.headers.get(name, "") for name in found[5].split(";")}
    host = request.headers.get("host", "")
    copy: Any = AWSRequest(
        request.method, f"http://{host}{request.target}", signed, data=request.body
    )
    copy.context["timestamp"] = request.headers.get("x-amz-date", "")
    credentials = Credentials(key.access, key.secret)
    auth: Any = SigV4Auth(credentials, found[4], found[3])
    text = auth.string_to_sign(copy, auth.canonical_request(copy))
    return str(auth.signature(text, copy))


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Request | None:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, *rest = raw.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    fields = (part.partition(":") for part in rest if part)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return _Request(method, target, headers, body)
