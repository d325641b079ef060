# SPDX-License-Identifier: Apache-2.0
"""Every failure SnapVault names, with its exit status and whether trying again can help.

One class per remedy, not per place that raises it. `docs/errors.md` is the same table
for operators; a test keeps the two equal.
"""

import errno
from typing import ClassVar, Final

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3


class SnapVaultError(Exception):
    """Base of all errors SnapVault raises on purpose.

    The summary is one line, lower case, without a full stop, and names the
    object that failed. The hint is a sentence about what to try next.
    """

    exit_status: ClassVar[int] = EXIT_BUG
    retryable: ClassVar[bool] = False

    def __init__(self, summary: str, *, hint: str | None = None) -> None:
        super().__init__(summary)
        self.hint = hint


class ConfigError(SnapVaultError):
    """The operator's file or request is wrong."""

    exit_status = 10


class LockHeldError(SnapVaultError):
    """Another run owns this source."""

    exit_status = 11
    retryable = True


class SealError(SnapVaultError):
    """GnuPG could not seal, sign or open."""

    exit_status = 12


class KeyMissingError(SealError):
    """No usable key for a fingerprint or a name."""


class IntegrityError(SnapVaultError):
    """Stored bytes contradict the manifest. Never retried, never a warning."""

    exit_status = 13


class ManifestError(IntegrityError):
    """A manifest is damaged, forged, out of place or not signed by a trusted key."""


class VolumeError(IntegrityError):
    """A volume's bytes are not what its manifest says."""


class SignatureError(IntegrityError):
    """A map or a signature object is not what its manifest says, or contradicts itself."""


class FormatVersionError(IntegrityError):
    """Written by a newer SnapVault."""


class StoreError(SnapVaultError):
    """The object store refused or failed."""

    exit_status = 14


class StoreUnavailableError(StoreError):
    """The store did not answer, or asked us to come back later."""

    retryable = True


class StoreDeniedError(StoreError):
    """The store knows us and says no, or does not know us."""


class StoreMissingError(StoreError):
    """The bucket or the folder itself is not there."""


class ObjectMissingError(StoreError):
    """An object is not there."""


class ObjectArchivedError(StoreError):
    """An object lies in an archive: it can be read hours after somebody has asked for it."""


class SourceError(SnapVaultError):
    """The source could not be read."""

    exit_status = 15


class SnapshotOverflowError(SourceError):
    """Copy-on-write space ran out while the snapshot was read."""


class QuiesceError(SourceError):
    """The source could not be brought to rest."""

    retryable = True


class RestoreError(SnapVaultError):
    """The target could not take the restore."""

    exit_status = 16


class NoRestorePointError(RestoreError):
    """No restore point answers the request."""


class TargetNotEmptyError(RestoreError):
    """Restoring here would overwrite something."""


class ObjectiveMissedError(SnapVaultError):
    """RPO or RTO breached, or a drill failed."""

    exit_status = 17


class NotifyError(SnapVaultError):
    """Somebody could not be told; the backup itself is not touched by it."""

    exit_status = 18


class NotifyUnavailableError(NotifyError):
    """Who is to be told did not answer, or asked us to come back later."""

    retryable = True


class DrillError(SnapVaultError):
    """What a drill needs could not be started, or did not take what was restored."""

    exit_status = 19


class MachineError(DrillError):
    """A machine could not be started, or did not do what was asked of it."""


class HostError(SnapVaultError):
    """This host does not let us work just now: a port is taken, a folder is full."""

    exit_status = 20
    retryable = True


class StateError(HostError):
    """The state folder, or another folder of ours, is full or cannot be used just now."""


# What the operating system says where trying again cannot help: only a person changes it.
_FOR_A_PERSON: Final = frozenset(
    (
        errno.EACCES,
        errno.EPERM,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
    )
)


def refusal_of_state(error: OSError) -> type[StateError] | type[ConfigError]:
    """Return the class of error that what the operating system says of a folder of ours is."""
    return ConfigError if error.errno in _FOR_A_PERSON else StateError
