# SPDX-License-Identifier: Apache-2.0
"""What a run of gpg proved, judged by its status lines and its exit status together.

Nothing counts as a success unless gpg says so in so many words. Source: doc/DETAILS of
GnuPG 2.2, "Format of the --status-fd output".
"""

from snapvault.adapters.sealers.process import Outcome
from snapvault.errors import IntegrityError, KeyMissingError, SealError

# Lines that an honest run never prints.
_REFUSED = ("UNEXPECTED", "FAILURE", "ERROR", "NODATA", "BADMDC", "DECRYPTION_FAILED")
_SIGNATURE_REFUSED = (*_REFUSED, "BADSIG", "ERRSIG", "EXPSIG", "REVKEYSIG", "BEGIN_DECRYPTION")

# libgpg-error's numbers: the source in the top byte, the code in the lower sixteen bits.
_AGENT, _PINENTRY = 4, 5  # damage is reported by libgcrypt or gpg itself
_NO_AGENT = 77
_BAD_PASSPHRASE = 11
_CODES = {
    _BAD_PASSPHRASE: "wrong passphrase",
    _NO_AGENT: "gpg-agent does not start",
    85: "no passphrase, and nobody to ask for it",
    99: "no passphrase",
}


def require_sealed(outcome: Outcome) -> None:
    """Return if gpg encrypted all it was given.

    Raises:
        SealError: it did not.
    """
    if outcome.returncode != 0 or not outcome.has("END_ENCRYPTION") or outcome.has(*_REFUSED):
        raise SealError(f"could not encrypt: {outcome.reason}")


def require_signed(outcome: Outcome, signer: str) -> None:
    """Return if gpg made a signature.

    Raises:
        SealError: it did not; the passphrase is a frequent reason.
    """
    if outcome.returncode == 0 and outcome.has("SIG_CREATED") and not outcome.has(*_REFUSED):
        return
    for words in outcome.values("FAILURE"):
        if words[0] in {"sign", "sign-encrypt"}:
            raise _locked(f'could not sign with key "{signer}"', int(words[1]), outcome)
    raise SealError(f'could not sign with key "{signer}": {outcome.reason}')


def lacks_agent(outcome: Outcome) -> bool:
    """Say whether it is gpg-agent that is missing, which makes secret keys look missing too."""
    return any(int(words[-1]) & 0xFFFF == _NO_AGENT for words in outcome.values("FAILURE"))


def require_opened(outcome: Outcome) -> None:
    """Return if gpg decrypted one message whose integrity it proved.

    Raises:
        KeyMissingError: no secret key for it is here.
        SealError: the secret key could not be used.
        IntegrityError: anything else, a message without integrity protection included.
    """
    if (
        outcome.returncode == 0
        and len(outcome.values("DECRYPTION_OKAY")) == 1
        and len(outcome.values("GOODMDC")) == 1
        and len(outcome.values("PLAINTEXT")) == 1
        and not outcome.has(*_REFUSED)
    ):
        return
    if not outcome.has("DECRYPTION_KEY"):
        _refuse_keys(outcome)
    if not outcome.has("ENC_TO"):
        raise IntegrityError("not a sealed object: it is no encrypted OpenPGP message")
    raise IntegrityError("sealed object is damaged: GnuPG could not prove its integrity")


def require_verified(outcome: Outcome) -> str:
    """Return the fingerprint of the primary key that made the one signature of a message.

    A key that has expired since still vouches for what it signed before. A revoked key does
    not: nobody can tell when a stolen key really signed.

    Raises:
        IntegrityError: there is not exactly one good signature over exactly one text.
    """
    refused = next((word for word, _ in outcome.status if word in _SIGNATURE_REFUSED), None)
    if outcome.has("NO_PUBKEY"):
        key = outcome.values("NO_PUBKEY")[0][0]
        raise IntegrityError(
            f'signature cannot be checked: key "{key}" is not in the key ring',
            hint="If you trust this key, import its public half into the GnuPG home.",
        )
    if outcome.has("REVKEYSIG"):
        raise IntegrityError("signature does not count: its key is revoked")
    valid = outcome.values("VALIDSIG")
    once = all(len(outcome.values(word)) == 1 for word in ("NEWSIG", "PLAINTEXT"))
    if outcome.returncode != 0 or refused or not once or len(valid) != 1 or len(valid[0]) < 10:
        raise IntegrityError("signed object is damaged: it has no good signature")
    if outcome.has("EXPKEYSIG"):
        signed_at = int(valid[0][2])
        expiries = [int(words[0]) for words in outcome.values("KEYEXPIRED")]
        if not expiries or signed_at >= min(expiries):
            raise IntegrityError("signature does not count: its key had expired before")
    elif len(outcome.values("GOODSIG")) != 1:
        raise IntegrityError("signed object is damaged: it has no good signature")
    return valid[0][9]


def _refuse_keys(outcome: Outcome) -> None:
    """Raise if it was a secret key, not the message, that stood in the way."""
    for words in outcome.values("ERROR"):
        if words[0] == "pkdecrypt_failed" and int(words[1]) >> 24 in {_AGENT, _PINENTRY}:
            raise _locked("could not use the secret key", int(words[1]), outcome)
    missing = [words[0] for words in outcome.values("NO_SECKEY")]
    if missing and not outcome.has("ERROR"):
        raise KeyMissingError(
            f"no secret key that opens it is here: it is sealed to {', '.join(missing)}",
            hint="Restore with a GnuPG home that holds a recovery key.",
        )


def _locked(summary: str, number: int, outcome: Outcome) -> SealError:
    reason = _CODES.get(number & 0xFFFF, outcome.reason)
    if number >> 24 == _PINENTRY:
        reason = "no passphrase, and nobody to ask for it"
    if number & 0xFFFF == _NO_AGENT:
        return SealError(
            f"{summary}: {reason}",
            hint="Its socket lies in the GnuPG home, whose path must be short: see "
            '"gpgconf --list-dirs agent-socket".',
        )
    if number & 0xFFFF == _BAD_PASSPHRASE:
        return SealError(f"{summary}: {reason}", hint="Correct what passphrase_file holds.")
    return SealError(
        f"{summary}: {reason}",
        hint="Name a passphrase_file, or let gpg-agent know the passphrase.",
    )
