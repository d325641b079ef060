# SPDX-License-Identifier: Apache-2.0
"""What one host's settings say: its vaults, its keys and where it keeps its state."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ChecksumMode = Literal["when_supported", "when_required"]

DEFAULT_STATE_DIR: Final = "/var/lib/snapvault"
DEFAULT_POLICIES: Final = "policies"


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """One vault: its store, who can read it and who signs.

    `store` is `s3://bucket`, `s3://bucket/prefix` or `file:///folder`, never with a slash at
    its end. The S3 values are None where boto3's own default counts, and mean nothing for a
    folder. `recipients`, `signer` and `trusted_signers` are as a person typed them; the sealer
    resolves them to fingerprints. `gnupg_home` is None for GnuPG's own default. Paths are
    absolute. `create_only` says whether the store refuses to replace objects; None asks a probe.
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
    storage_class: str | None = None
    request_checksum_calculation: ChecksumMode | None = None
    response_checksum_validation: ChecksumMode | None = None
    ca_bundle: Path | None = None
    create_only: bool | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one host. Paths are absolute; `vaults` is by name, in the file's order."""

    path: Path
    state_dir: Path
    policies_dir: Path
    vaults: Mapping[str, VaultSettings]
