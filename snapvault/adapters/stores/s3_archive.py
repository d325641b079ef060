# SPDX-License-Identifier: Apache-2.0
"""Objects of a bucket that lie in an archive class: how they lie, and their thaw."""

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any

from snapvault.adapters.stores.naming import require_name
from snapvault.adapters.stores.retrying import Persistence
from snapvault.adapters.stores.s3 import S3Settings, connect, translated
from snapvault.adapters.stores.s3_errors import Request
from snapvault.errors import ObjectArchivedError, StoreError
from snapvault.model.prices import ARCHIVES, STANDARD
from snapvault.ports.archive import ClassTraits, Frost, Lying, Tier


class S3Archive:
    """The objects below a prefix of one bucket; calls that fail for a reason that passes repeat.

    `count` is told of each kind of call as `MeteredStore` names them. It connects when it is
    first asked.
    """

    def __init__(
        self,
        settings: S3Settings,
        persist: Persistence,
        count: Callable[[str, int], None] = lambda _kind, _amount: None,
    ) -> None:
        self._settings = settings
        self._persist = persist
        self._count = count
        self._prefix = f"{settings.prefix.strip('/')}/" if settings.prefix.strip("/") else ""

    @cached_property
    def _client(self) -> Any:
        with translated(self._request("open", None)):
            return connect(self._settings)

    def look(self, name: str) -> Lying:
        """Return how an object lies."""
        self._count("stats", 1)
        head = self._persist(partial(self._head, name))
        kept_as = str(head.get("StorageClass") or STANDARD)
        if kept_as not in ARCHIVES:
            return Lying(Frost.READABLE, kept_as)
        # LIMIT: `ongoing-request="true"`, or "false" with an expiry-date (Amazon S3, HeadObject).
        told = str(head.get("Restore") or "")
        if 'ongoing-request="true"' in told:
            return Lying(Frost.THAWING, kept_as)
        return Lying(Frost.READABLE if 'ongoing-request="false"' in told else Frost.FROZEN, kept_as)

    def thaw(self, name: str, *, tier: Tier, days: int) -> None:
        """Ask for a copy of an object that can be read for some days."""
        self._count("puts", 1)
        request = {"Days": days, "GlacierJobParameters": {"Tier": tier.value}}

        def ask() -> None:
            with self._translated("thaw", name):
                self._client.restore_object(
                    Bucket=self._settings.bucket, Key=self._key(name), RestoreRequest=request
                )

        try:
            self._persist(ask)
        except StoreError as error:
            if _code(error) != "RestoreAlreadyInProgress":
                raise

    def probe(self, storage_class: str) -> ClassTraits:
        """Put a small object of a class, look how it lies, try to read it, and delete it."""
        name = f"probe/{secrets.token_hex(8)}"
        at = {"Bucket": self._settings.bucket, "Key": self._key(name)}
        try:
            with self._translated("store", name):
                self._client.put_object(**at, Body=b"probe", StorageClass=storage_class)
            lying = self.look(name)
            try:
                with self._translated("read", name):
                    self._client.get_object(**at)["Body"].close()
                freezes = False
            except ObjectArchivedError:
                freezes = True
        finally:
            with self._translated("delete", name):
                self._client.delete_object(**at)
        return ClassTraits(keeps=lying.storage_class == storage_class, freezes=freezes)

    def _head(self, name: str) -> dict[str, Any]:
        with self._translated("look up", name):
            head: dict[str, Any] = self._client.head_object(
                Bucket=self._settings.bucket, Key=self._key(name)
            )
        return head

    def _key(self, name: str) -> str:
        return self._prefix + require_name(name)

    def _request(self, verb: str, name: str | None) -> Request:
        location = f"s3://{self._settings.bucket}/{self._prefix}".rstrip("/")
        return Request(verb, name, location, self._settings.bucket)

    def _translated(self, verb: str, name: str) -> AbstractContextManager[None]:
        return translated(self._request(verb, name))


def _code(error: StoreError) -> str:
    """Return the error code that a server's refusal had."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
