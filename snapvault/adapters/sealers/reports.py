# SPDX-License-Identifier: Apache-2.0
"""The keys of drill reports: every trusted host reads them, whoever has a trusted key signs them.

Drills run where the recovery key is, which may be no backup host.
"""

from collections.abc import Sequence
from pathlib import Path

from snapvault.adapters.sealers import keys
from snapvault.adapters.sealers.gnupg import GnupgSealer
from snapvault.adapters.sealers.passphrase import read_passphrase
from snapvault.adapters.sealers.process import Gpg
from snapvault.errors import KeyMissingError
from snapvault.ports.sealer import Sealer


def open_report_sealer(
    home: Path, vault_keys: Sealer, *, passphrase_file: str | None = None
) -> Sealer:
    """Return a sealer for reports of a vault whose keys are `vault_keys`.

    `Readers.RECOVERY` are the recovery keys and the trusted hosts whose keys can encrypt now; a
    retired host whose key has expired is left out. It signs with the vault's signer, another
    trusted host's key, or a recovery key: the first whose secret half is in this home.

    Raises:
        KeyMissingError: there is no key here to sign with.
        ConfigError, SealError: as `open_sealer`.
    """
    gpg = Gpg(home, None if passphrase_file is None else read_passphrase(passphrase_file))
    ring = keys.list_keys(gpg)
    hosts = sorted(vault_keys.trusted)
    readers = [each for each in hosts if _can(each, ring, encrypt=True)]
    candidates = [vault_keys.signer, *hosts, *vault_keys.recipients]
    signer = next((each for each in candidates if _can(each, ring, sign=True)), None)
    if signer is None:
        raise KeyMissingError(
            "no key that may sign drill reports is in this GnuPG home",
            hint="Import the secret half of the vault's signer, of one of its trusted_signers, or"
            " of a recovery key that can sign.",
        )
    return GnupgSealer(
        gpg,
        ring,
        recipients=[*vault_keys.recipients, *readers],
        signer=signer,
        trusted=vault_keys.trusted,
    )


def _can(
    fingerprint: str, ring: Sequence[keys.Key], *, encrypt: bool = False, sign: bool = False
) -> bool:
    try:
        keys.require(fingerprint, ring, "key", encrypt=encrypt, sign=sign)
    except KeyMissingError:
        return False
    return True
