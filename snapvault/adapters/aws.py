# SPDX-License-Identifier: Apache-2.0
"""EC2 and EBS through boto3: clients, calls that are paced and repeated, failures in our words.

botocore's own retries are off: `Caller` is the one place that tries again.
"""

import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from snapvault import clock
from snapvault.errors import SnapVaultError

if TYPE_CHECKING:
    from mypy_boto3_ebs import EBSClient
    from mypy_boto3_ec2 import EC2Client

CONNECTIONS: Final = 32  # for each service
BLOCK: Final = 512 << 10  # LIMIT: the EBS direct APIs know no other size of a block, bytes

Result = TypeVar("Result")

_FIRST_CONTACT = 3  # attempts before anything was reached

_VENDOR_ERRORS = (BotoCoreError, ClientError, ResponseParserError, HTTPError)
_UNREACHED = (ConnectTimeoutError, EndpointConnectionError)
_UNANSWERED = (
    NoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    HTTPError,
    ResponseParserError,
)
_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    CredentialRetrievalError,
    TokenRetrievalError,
)
_BUSY = {
    "ConcurrentLimitExceededException",
    "EC2ThrottledException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SnapshotCreationPerVolumeRateExceeded",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_UNKNOWN = {
    "AuthFailure",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_EBS_ACTIONS = {
    "CompleteSnapshot",
    "GetSnapshotBlock",
    "ListChangedBlocks",
    "ListSnapshotBlocks",
    "PutSnapshotBlock",
    "StartSnapshot",
}
_STS_ACTIONS = {"AssumeRole", "AssumeRoleWithWebIdentity", "GetCallerIdentity"}
_TOLD_ACTION = re.compile(r"perform: ([a-z0-9-]+:[A-Za-z]+)")

_CREDENTIALS_HINT = (
    'Set "profile" or "role_arn", or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, '
    "or give this machine an instance role."
)
_EXPIRED_HINT = (
    'Give "role_arn", a profile or an instance role, which are renewed by themselves; '
    "temporary keys in the environment must outlast the whole run."
)


class Trouble(Enum):
    """What went wrong with a call, by what can be done about it."""

    BUSY = "busy"  # nothing was done; waiting will help
    UNSURE = "unsure"  # no answer, or a broken one: it may have been done
    DENIED = "denied"
    CREDENTIALS = "credentials"  # none, unknown ones, or expired ones
    MISSING = "missing"
    REFUSED = "refused"


class AwsError(Exception):
    """What a call ended with; `told` makes it an error of ours, and nothing else lets it out.

    `code` is the service's own, and `why` the reason that EBS adds to it: `UNRELATED_SNAPSHOTS`.
    """

    def __init__(
        self, trouble: Trouble, text: str, *, code: str = "", why: str = "", hint: str | None = None
    ) -> None:
        super().__init__(text)
        self.trouble = trouble
        self.text = text
        self.code = code
        self.why = why
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Clients:
    """What talks to one account in one region; safe from several threads."""

    ec2: "EC2Client"
    ebs: "EBSClient"
    region: str

    def close(self) -> None:
        """Close all connections; safe to repeat."""
        self.ec2.close()
        self.ebs.close()


@contextmanager
def told(kind: type[SnapVaultError], what: str) -> Iterator[None]:
    """Turn what fails inside into an error of ours: `what: why`.

    `what` begins a sentence: `could not snapshot instance "i-1"`.
    """
    try:
        yield
    except AwsError as failure:
        raise kind(f"{what}: {failure.text}", hint=failure.hint) from failure
    except _VENDOR_ERRORS as error:
        found = diagnose(error)
        raise kind(f"{what}: {found.text}", hint=found.hint) from error


def translate(error: Exception, what: str, kind: type[SnapVaultError]) -> SnapVaultError:
    """Return the error of ours for a AwsError or a vendor's exception; see `told`."""
    found = error if isinstance(error, AwsError) else diagnose(error)
    return kind(f"{what}: {found.text}", hint=found.hint)


def open_clients(
    region: str | None, profile: str | None, role_arn: str | None, endpoint_url: str | None
) -> Clients:
    """Return clients; None is boto3's own default. A role is taken on anew before it expires.

    Nothing is asked of the network yet; the caller closes them.

    Raises:
        AwsError: no such profile, no region, or an endpoint that is no URL.
    """
    with _diagnosed():
        session = botocore.session.Session(profile=profile)
        region = region or session.get_config_variable("region")
        if region is None:
            raise NoRegionError
        config = Config(
            region_name=region,
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            user_agent_extra="snapvault",
        )
        if role_arn is not None:
            _take_on(session, profile, role_arn, endpoint_url, config)
        maker = boto3.session.Session(botocore_session=session)
        try:
            return Clients(
                maker.client("ec2", endpoint_url=endpoint_url, config=config),
                maker.client("ebs", endpoint_url=endpoint_url, config=config),
                region,
            )
        except ValueError as error:
            raise AwsError(Trouble.REFUSED, f'endpoint "{endpoint_url}" is not a URL') from error


class _RoleProvider(CredentialProvider):
    """The credentials of a role, renewed with those that the session has by itself."""

    METHOD = "snapvault-assume-role"

    def __init__(self, fetcher: AssumeRoleCredentialFetcher) -> None:
        super().__init__()
        self._fetcher = fetcher

    def load(self) -> DeferredRefreshableCredentials:
        return DeferredRefreshableCredentials(
            refresh_using=self._fetcher.fetch_credentials, method=self.METHOD
        )


def _take_on(
    session: botocore.session.Session,
    profile: str | None,
    role_arn: str,
    endpoint_url: str | None,
    config: Config,
) -> None:
    """Let a session, before its first client, have the role's credentials."""
    # A session looks for credentials once and keeps them; the role is asked for with another's.
    asking = botocore.session.Session(profile=profile)
    own = asking.get_credentials()
    if own is None:
        raise NoCredentialsError
    fetcher = AssumeRoleCredentialFetcher(
        partial(asking.create_client, endpoint_url=endpoint_url, config=config),
        own,
        role_arn,
        extra_args={"RoleSessionName": "snapvault"},
    )
    session.register_component("credential_provider", CredentialResolver([_RoleProvider(fetcher)]))


class Pace:
    """Lets calls through at a rate, with a burst of a quarter of a second. For all threads."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1.0 / per_second
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when it is this call's turn."""
        with self._lock:
            now = clock.monotonic()
            turn = max(self._next, now - 0.25)
            self._next = turn + self._interval
        if turn > now:
            clock.sleep(turn - now)


class Caller:
    """Makes calls at a pace, and repeats those that fail for a reason that passes.

    Waits are random between half a limit and the limit, which doubles from 0.2 s to 20 s.
    Until something was reached there, a server that is not is tried only a few times: a wrong
    address is no passing weakness. For all threads.
    """

    def __init__(self, pace: Pace | None = None, *, attempts: int = 10) -> None:
        self._pace = pace
        self._attempts = attempts
        self._lock = threading.Lock()
        self._met = False
        self.retries = 0

    def call(
        self,
        function: Callable[[], Result],
        *,
        repeatable: bool = True,
        attempts: int | None = None,
    ) -> Result:
        """Return what `function` returns; one that is not repeatable, only after "not now".

        Raises:
            AwsError: it cannot work, or did not work in any attempt.
        """
        left = attempts or self._attempts
        limit = 0.2
        while True:
            left -= 1
            if self._pace is not None:
                self._pace.wait()
            try:
                with _diagnosed():
                    result = function()
                self._met = True
                return result  # noqa: TRY300 - what is answered is the normal end
            except AwsError as failure:
                if not isinstance(failure.__cause__, _UNREACHED):
                    self._met = True
                elif not self._met:
                    left = min(left, _FIRST_CONTACT - 1)
                passes = failure.trouble is Trouble.BUSY or (
                    repeatable and failure.trouble is Trouble.UNSURE
                )
                if not passes or left <= 0:
                    raise
            with self._lock:
                self.retries += 1
            clock.sleep(random.uniform(limit / 2, limit))  # noqa: S311 - spreads load, no secret
            limit = min(2 * limit, 20.0)


@contextmanager
def _diagnosed() -> Iterator[None]:
    try:
        yield
    except _VENDOR_ERRORS as error:
        raise diagnose(error) from error


def diagnose(error: Exception) -> AwsError:
    """Say what a vendor's exception means."""
    if isinstance(error, ClientError):
        return _diagnose_answer(error)
    if isinstance(error, _UNANSWERED):
        return AwsError(
            Trouble.UNSURE,
            f"AWS does not answer: {_one_line(str(error))}",
            hint='Check the network, "region" and "endpoint_url".',
        )
    if isinstance(error, _NO_CREDENTIALS):
        return AwsError(
            Trouble.CREDENTIALS,
            f"no credentials: {_one_line(str(error))}",
            hint=_CREDENTIALS_HINT,
        )
    if isinstance(error, NoRegionError):
        return AwsError(Trouble.REFUSED, "no region is set", hint='Set "region" in the policy.')
    return AwsError(Trouble.REFUSED, _one_line(str(error)))


def _diagnose_answer(error: ClientError) -> AwsError:
    details = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(details.get("Code") or status)
    why = str(error.response.get("Reason") or "")
    message = _one_line(str(details.get("Message") or ""))
    if code in _BUSY or status == 429:
        trouble, text, hint = Trouble.BUSY, f"AWS asked us to slow down ({why or code})", None
    elif code in _DENIED or code.endswith("AccessDenied"):
        action = _action(error.operation_name, message)
        trouble, text = Trouble.DENIED, f"not allowed to use {action} ({code})"
        hint = f"Allow {action} to these credentials in IAM."
    elif code in _EXPIRED:
        trouble, text = Trouble.CREDENTIALS, f"the credentials have expired ({code})"
        hint = _EXPIRED_HINT
    elif code in _UNKNOWN:
        trouble, text = Trouble.CREDENTIALS, f"AWS does not know these credentials ({code})"
        hint = _CREDENTIALS_HINT
    elif code.endswith((".NotFound", ".Malformed")) or code == "ResourceNotFoundException":
        trouble, text = Trouble.MISSING, f"it is not there ({why or code})"
        hint = "Check its id, the region, and the account that the credentials belong to."
    elif status >= 500:
        trouble, text, hint = Trouble.UNSURE, f"AWS failed to answer ({code})", None
    else:
        reason = why or code
        trouble, text = Trouble.REFUSED, f"{message} ({reason})" if message else reason
        hint = None
    return AwsError(trouble, text, code=code, why=why, hint=hint)


def _action(operation: str, message: str) -> str:
    """Return the IAM action that is missing: the one the answer names, or the call's own."""
    if named := _TOLD_ACTION.search(message):
        return named[1]
    if operation in _EBS_ACTIONS:
        return f"ebs:{operation}"
    return f"{'sts' if operation in _STS_ACTIONS else 'ec2'}:{operation}"


def _one_line(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:]
