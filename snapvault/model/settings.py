# SPDX-License-Identifier: Apache-2.0
"""What one host's settings say: its vaults, its keys and where it keeps its state."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from snapvault.model.locking import ObjectLock
from snapvault.model.notices import Wish
from snapvault.model.policy import Limits, Schedule, UploadSpan
from snapvault.model.prices import OwnPrices

ChecksumMode = Literal["when_supported", "when_required"]

DEFAULT_STATE_DIR: Final = "/var/lib/snapvault"
DEFAULT_POLICIES: Final = "policies"
DEFAULT_LISTEN: Final = "127.0.0.1:9797"
DEFAULT_PRUNE_GRACE: Final = timedelta(days=7)
DEFAULT_WISHES: Final = frozenset((Wish.FAILURE, Wish.RECOVERY, Wish.BREACH))
DAILY_PRUNE: Final = Schedule(cron="30 6 * * *", jitter=timedelta(minutes=30))
"""When a vault is pruned unless the settings say otherwise: after the backups of the night."""


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """One vault: its store, who can read it and who signs.

    `store` is `s3://bucket`, `s3://bucket/prefix` or `file:///folder`, never with a slash at
    its end. The S3 values are None where boto3's own default counts, and mean nothing for a
    folder. `recipients`, `signer` and `trusted_signers` are as a person typed them; the sealer
    resolves them to fingerprints. `gnupg_home` is None for GnuPG's own default. Paths are
    absolute. `create_only` says whether the store refuses to replace objects; None asks a probe.
    This host prunes it by itself when `prune` says, None: never. What no restore point needs any
    more stays for `prune_grace`, and unless `prune_early` for as long as its storage class is paid
    for. What is put is locked as `object_lock` says; None: not at all. `volume_storage_class` None:
    as `storage_class`. `prices` None: list prices.
    """

    name: str
    store: str
    recipients: tuple[str, ...]
    signer: str
    trusted_signers: tuple[str, ...] = ()
    gnupg_home: Path | None = None
    passphrase_file: Path | None = None
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    storage_class: str | None = None
    volume_storage_class: str | None = None
    request_checksum_calculation: ChecksumMode | None = None
    response_checksum_validation: ChecksumMode | None = None
    ca_bundle: Path | None = None
    create_only: bool | None = None
    prune: Schedule | None = DAILY_PRUNE
    prune_grace: timedelta = DEFAULT_PRUNE_GRACE
    object_lock: ObjectLock | None = None
    prune_early: bool = False
    prices: OwnPrices | None = None

    @property
    def volumes_class(self) -> str | None:
        """The storage class of volumes; None: the store's own default."""
        return self.volume_storage_class or self.storage_class


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """How the daemon runs.

    At most `max_jobs` sources are backed up at one time. `listen_host` and `listen_port` are where
    the status page is served, host None: nowhere; port 0: a free one. `token_file` holds what
    whoever looks must know; without it only loopback addresses are served. A stop takes at
    most `stop_timeout`. Runs, alarms and logs are remembered for `keep_history`.
    """

    max_jobs: int = 2
    listen_host: str | None = "127.0.0.1"
    listen_port: int = 9797
    token_file: Path | None = None
    stop_timeout: timedelta = timedelta(seconds=60)
    keep_history: timedelta = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class MailSettings:
    """Mail through an SMTP server. `security` is `starttls`, `tls` or `none`.

    `password_file`'s first line is the password of `user`; both or neither. `ca_bundle` is
    trusted instead of the system's certificates.
    """

    host: str
    sender: str
    to: tuple[str, ...]
    port: int = 587
    security: str = "starttls"
    user: str | None = None
    password_file: Path | None = None
    ca_bundle: Path | None = None


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """A JSON document by POST. The URL and the headers may hold secrets: left out of `repr`.

    The URL is `url`, or the first line of `url_file`. `{source}`, `{vault}` and `{policy}` in it
    stand for names. `body` is a template (Jinja) of another document; None: ours.
    """

    url: str | None = field(default=None, repr=False)
    url_file: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: str | None = None
    ca_bundle: Path | None = None


@dataclass(frozen=True, slots=True)
class PingSettings:
    """A ping per run, as healthchecks.io takes it: `URL/start`, `URL` and `URL/fail`.

    The URL is as for a webhook.
    """

    url: str | None = field(default=None, repr=False)
    url_file: Path | None = None
    ca_bundle: Path | None = None


@dataclass(frozen=True, slots=True)
class NotifierSettings:
    """Somebody to tell, and what of; a ping is told of every run, whatever `on` says.

    `subject` and `text` are templates (Jinja) of a mail; None: ours. A notice that cannot be
    delivered within `timeout` is tried again a few times.
    """

    name: str
    to: MailSettings | WebhookSettings | PingSettings
    on: frozenset[Wish] = DEFAULT_WISHES
    subject: str | None = None
    text: str | None = None
    timeout: timedelta = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class HostLimits:
    """What all runs of a host together may take.

    `upload` and `read` are in bytes per second; in a span of `uploads`, days being the host's
    own, the first that holds the moment counts instead of `upload`. `each` is for every run
    whose policy says nothing else.
    """

    upload: int | None = None
    uploads: tuple[UploadSpan, ...] = ()
    read: int | None = None
    each: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one host. Paths are absolute; `vaults` is by name, in the file's order."""

    path: Path
    state_dir: Path
    policies_dir: Path
    vaults: Mapping[str, VaultSettings]
    daemon: DaemonSettings = field(default_factory=DaemonSettings)
    notify: Mapping[str, NotifierSettings] = field(default_factory=dict)
    limits: HostLimits = field(default_factory=HostLimits)
