# SPDX-License-Identifier: Apache-2.0
"""The shape of the two kinds of files, key by key; docs/policies.md says the same in prose.

The sources of a policy are in kinds.py, its drill in drills.py, its schedule in schedules.py; the
parts of both that concern the daemon in daemon.py, limits.py and notify.py.
"""

from datetime import timedelta
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from snapvault.config.daemon import DaemonShape
from snapvault.config.drills import DrillShape
from snapvault.config.kinds import SourceShape
from snapvault.config.limits import HostLimitsShape, LimitsShape
from snapvault.config.locking import ObjectLockShape
from snapvault.config.notify import NotifierName, NotifierShape
from snapvault.config.prices import PricesShape
from snapvault.config.pruning import DAILY, Prune
from snapvault.config.schedules import ScheduleShape
from snapvault.config.strict import Shape
from snapvault.config.values import (
    DURATION_SCHEMA,
    AnyStorageClass,
    Budget,
    Count,
    DurationOrNever,
    EndpointUrl,
    JobCount,
    KeyText,
    LeastSize,
    Level,
    Name,
    Names,
    PathText,
    Percentage,
    PositiveDuration,
    Region,
    Room,
    SomeText,
    StorageClass,
    StoreUrl,
    UpToAWeek,
    VolumeSize,
    duration_from,
)
from snapvault.model import policy, settings
from snapvault.units import format_duration

_RETRY: Final = policy.Retry()


class ObjectivesShape(Shape):
    """What a disaster may cost at most."""

    rpo: PositiveDuration | None = None
    """The age that the newest restore point may reach."""
    rto: PositiveDuration | None = None
    """The time that a restore may take."""
    drill: PositiveDuration | None = None
    """The age that the newest good drill may reach."""
    min_size: LeastSize | None = None
    """The size below which a restore point is suspicious, or its part of the one before."""


class RetentionShape(Shape):
    """How many restore points are kept. A point that any rule wants stays."""

    last: Count = 0
    """The newest points, whenever they were taken."""
    hourly: Count = 0
    """The newest point of each of that many hours."""
    daily: Count = 0
    """The newest point of each of that many days."""
    weekly: Count = 0
    """The newest point of each of that many weeks."""
    monthly: Count = 0
    """The newest point of each of that many months."""
    yearly: Count = 0
    """The newest point of each of that many years."""
    within: PositiveDuration | None = None
    """Everything younger than this."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(getattr(self, key) for key in type(self).model_fields):
            raise ValueError("expected a rule that keeps at least one restore point, found none")
        return self


class HintsShape(Shape):
    """How far a platform is trusted that tells what changed."""

    sample: Percentage = "0.1%"
    """The part of what is told to be unchanged that is read and compared each time."""
    full_read_every: DurationOrNever = timedelta(days=30)
    """The age of the last full read at which everything is read again."""


class RewritingShape(Shape):
    """How much is stored again, so that old volumes can go."""

    budget: Budget = "15%"
    """At most this part of what changes; 0%: nothing."""


class RetryShape(Shape):
    """How a failed run is tried again, if that can help."""

    attempts: Annotated[int, Field(ge=1, le=100)] = _RETRY.attempts
    """How often a run is tried in all."""
    delay: UpToAWeek = _RETRY.delay
    """The pause before the second attempt; it doubles from one to the next."""
    max_delay: UpToAWeek = _RETRY.max_delay
    """The longest pause; never shorter than delay."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "max_delay" in self.model_fields_set and self.max_delay < self.delay:
            raise ValueError(
                f'expected "max_delay" to be at least "delay", {format_duration(self.delay)},'
                f" found {format_duration(self.max_delay)}"
            )
        return self


class PolicyShape(Shape):
    """A policy file."""

    model_config = ConfigDict(title="SnapVault policy")

    vault: str
    """The vault of the settings to store in."""
    schedule: ScheduleShape | None = None
    """When to run; left out: only when asked."""
    objectives: ObjectivesShape = ObjectivesShape.model_construct()
    """What a disaster may cost at most."""
    retention: RetentionShape | None = None
    """How many restore points are kept; left out: all."""
    copy_to: Names = Field(default_factory=list)
    """Other vaults of the settings that restore points are copied to after each backup."""
    copy_retention: RetentionShape | None = None
    """How many restore points are kept in these; left out: as in the vault."""
    sources: dict[Name, SourceShape] = Field(min_length=1)
    """What to protect, by name."""
    volume_size: VolumeSize = Field(
        policy.DEFAULT_VOLUME_SIZE, json_schema_extra={"default": "64 MiB"}
    )
    """How much data goes into one stored object, before compression."""
    compression_level: Level = policy.DEFAULT_COMPRESSION_LEVEL
    """The zstd level."""
    fine_hashes: Room = Field(policy.DEFAULT_FINE_HASHES, json_schema_extra={"default": "1024 MiB"})
    """What finer hashes, and tags, of a dump or disk may take on this host; 0 B: none are kept."""
    enabled: bool = True
    """Whether the schedule counts."""
    hints: HintsShape = HintsShape.model_construct()
    """How far a platform is trusted that tells what changed."""
    rewriting: RewritingShape = RewritingShape.model_construct()
    """How much is stored again, so that old volumes can go."""
    max_jobs: JobCount | None = None
    """How many sources of the policy are backed up at one time; left out: as the host lets."""
    retry: RetryShape = RetryShape.model_construct()
    """How a failed run is tried again."""
    limits: LimitsShape = LimitsShape.model_construct()
    """What each run may take."""
    notify: Names | None = None
    """Notifiers of the settings to tell; left out: all; empty: nobody."""
    drill: DrillShape | None = None
    """How restores are rehearsed; left out: they are not."""


class VaultShape(Shape):
    """A vault."""

    store: StoreUrl
    """Where it is: an S3 bucket, with a prefix if wanted, or a folder."""
    endpoint_url: EndpointUrl | None = None
    """The address of an S3 service; left out: AWS."""
    region: Region | None = None
    """The S3 region."""
    profile: SomeText | None = None
    """The profile of the AWS configuration whose credentials count here."""
    storage_class: StorageClass | None = None
    """The S3 storage class of what is stored."""
    volume_storage_class: AnyStorageClass | None = None
    """The S3 storage class of volumes; left out: that of all."""
    request_checksum_calculation: settings.ChecksumMode | None = None
    """When uploads carry a checksum."""
    response_checksum_validation: settings.ChecksumMode | None = None
    """When checksums of downloads are compared."""
    ca_bundle: PathText | None = None
    """Certificates to trust instead of the system's."""
    create_only: bool | None = None
    """Whether the store refuses to replace objects; left out: found out by trying."""
    prune: Prune = DAILY
    """When this host prunes it by itself."""
    prune_grace: Annotated[
        timedelta,
        BeforeValidator(duration_from(timedelta(days=1), timedelta(days=365))),
        DURATION_SCHEMA,
    ] = settings.DEFAULT_PRUNE_GRACE
    """How long what no restore point needs any more stays, 1d to 365d."""
    object_lock: ObjectLockShape | None = None
    """That what is stored cannot be deleted for a time, by S3 Object Lock; left out: it can."""
    prune_early: bool = False
    """Whether objects go before the days are over that their storage class is paid for."""
    prices: PricesShape | None = None
    """What the store costs; left out: list prices."""
    gnupg_home: PathText | None = None
    """GnuPG's folder; left out: GnuPG's own default."""
    recipients: list[KeyText] = Field(min_length=1)
    """Keys that can restore."""
    signer: KeyText
    """This host's own key."""
    trusted_signers: list[KeyText] = Field(default_factory=list)
    """Keys of other hosts that write into this vault."""
    passphrase_file: PathText | None = None
    """A file with the passphrase of this host's keys."""
    passphrase_credential: Name | None = None
    """The systemd credential with that passphrase."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.passphrase_file is not None and self.passphrase_credential is not None:
            raise ValueError(
                'expected at most one of "passphrase_file" and "passphrase_credential", found both'
            )
        if self.object_lock is not None and not self.store.startswith("s3://"):
            raise ValueError('expected "object_lock" for a store in S3 only, found it for a folder')
        return self


class SettingsShape(Shape):
    """The settings file."""

    private = frozenset(("notify",))

    model_config = ConfigDict(title="SnapVault settings")

    state_dir: PathText = settings.DEFAULT_STATE_DIR
    """The folder for the catalog, locks and unfinished work."""
    policies: PathText = settings.DEFAULT_POLICIES
    """The folder with the policy files."""
    vaults: dict[Name, VaultShape] = Field(min_length=1)
    """Vaults by name."""
    daemon: DaemonShape = DaemonShape.model_construct()
    """How the daemon runs."""
    limits: HostLimitsShape = HostLimitsShape.model_construct()
    """What all runs of the host together may take."""
    notify: dict[NotifierName, NotifierShape] = Field(default_factory=dict)
    """Whom to tell, by name."""
