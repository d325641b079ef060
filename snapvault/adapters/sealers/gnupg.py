# SPDX-License-Identifier: Apache-2.0
"""The sealer that is GnuPG: docs/format.md, section 3."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from snapvault.adapters.sealers import keys, packets, verdicts
from snapvault.adapters.sealers.passphrase import Secret, read_passphrase
from snapvault.adapters.sealers.process import PIECE, Gpg, Outcome
from snapvault.errors import IntegrityError, KeyMissingError, SealError
from snapvault.ports.sealer import Parts, Readers, Signed
from snapvault.ports.store import Readable

_RECIPIENT = "recipient key"
_SIGNER = "signer key"
_TRUSTED = "trusted signer key"


def open_sealer(
    home: Path,
    *,
    recipients: Sequence[str],
    signer: str,
    trusted_signers: Sequence[str] = (),
    passphrase_file: str | None = None,
) -> "GnupgSealer":
    """Resolve the keys that a person typed to full fingerprints, once; `check` judges them.

    `home` is the GnuPG home. `passphrase_file` is a path; without it,
    gpg-agent is asked.

    Raises:
        KeyMissingError: a name fits no key, or several.
        ConfigError: the home or the passphrase file is unusable.
        SealError: gpg is not installed.
    """
    passphrase = None if passphrase_file is None else read_passphrase(passphrase_file)
    if not recipients:
        raise KeyMissingError("no recipient key is named", hint="Name at least one recipient.")
    gpg = Gpg(home, passphrase)
    ring = keys.list_keys(gpg)
    return GnupgSealer(
        gpg,
        ring,
        recipients=[keys.resolve(typed, ring, _RECIPIENT, home=home) for typed in recipients],
        signer=keys.resolve(signer, ring, _SIGNER, home=home),
        trusted=[keys.resolve(typed, ring, _TRUSTED, home=home) for typed in trusted_signers],
    )


class GnupgSealer:
    """GnuPG with its keys chosen; made by `open_sealer`."""

    def __init__(
        self,
        gpg: Gpg,
        ring: Sequence[keys.Key],
        *,
        recipients: Sequence[str],
        signer: str,
        trusted: Iterable[str],
    ) -> None:
        self._gpg = gpg
        self._ring = ring
        self._recipients = tuple(sorted(set(recipients)))
        self._signer = signer
        self._trusted = frozenset({signer, *trusted})

    @property
    def recipients(self) -> tuple[str, ...]:
        """Fingerprints of the recovery keys."""
        return self._recipients

    @property
    def signer(self) -> str:
        """Fingerprint of this host's own key."""
        return self._signer

    @property
    def trusted(self) -> frozenset[str]:
        """Fingerprints whose signatures count."""
        return self._trusted

    def check(self) -> None:
        """Prove that every key can do its part, by one signed and encrypted message."""
        readers = self._to(Readers.RECOVERY_AND_HOST)
        outcome = self._gpg.run(
            ["--local-user", self._signer, *readers, "--sign", "--encrypt"],
            [b"check"],
            _drop,
            unlock=True,
        )
        if outcome.returncode == 0:
            # QUIRK: gpg 2.2.40 encrypts to a disabled key when told to trust all keys. What was
            # read at the start tells, and spares a run of gpg; only a refusal looks again.
            try:
                self._judge_keys(self._ring)
            except KeyMissingError:
                self._judge_keys(keys.list_keys(self._gpg))
        elif not verdicts.lacks_agent(outcome):
            self._judge_keys(keys.list_keys(self._gpg))
        verdicts.require_signed(outcome, self._signer)
        verdicts.require_sealed(outcome)

    def export(self, fingerprint: str) -> bytes:
        """Return a public key, without other people's signatures on it."""
        armored: list[bytes] = []
        self._gpg.run(
            ["--armor", "--export-options=export-minimal", "--export", fingerprint],
            sink=armored.append,
        )
        if not armored:
            raise KeyMissingError(f'key "{fingerprint}" is not in the key ring')
        return b"".join(armored)

    def seal(self, data: bytes, readers: Readers) -> bytes:
        """Encrypt bytes in memory."""
        sealed: list[bytes] = []
        outcome = self._gpg.run([*self._to(readers), "--encrypt"], [data], sealed.append)
        self._require_sealed(outcome)
        return b"".join(sealed)

    def seal_to_file(self, chunks: Iterable[bytes], path: Path, readers: Readers) -> None:
        """Encrypt chunks into a new file, which gpg itself writes.

        Raises:
            SealError: the file exists, or could not be written.
        """
        if path.exists():
            raise SealError(f'could not seal into file "{path}": it exists')
        arguments = [*self._to(readers), "--output", str(path.absolute()), "--encrypt"]
        try:
            self._require_sealed(self._gpg.run(arguments, chunks))
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def open(self, sealed: bytes) -> bytes:
        """Decrypt bytes in memory."""
        opened: list[bytes] = []
        verdicts.require_opened(self._decrypt([sealed], opened.append))
        return b"".join(opened)

    def open_stream(
        self, sealed: Readable, sink: Callable[[bytes], None], *, vouched: bool = False
    ) -> None:
        """Decrypt in pieces of at most a mebibyte; in this process if `vouched` allows that."""
        feed: Iterable[bytes] = _pieces(sealed)
        if vouched:
            # What only those need who read data is not loaded by every command.
            from snapvault.adapters.sealers import message_stream as here  # noqa: PLC0415

            head = _head(sealed, here.HEAD)
            is_long = len(head) == here.HEAD
            stream = here.MessageStream.begin(head, self._told_key) if is_long else None
            if stream is not None:
                stream.pass_on(chain([head], _pieces(sealed, here.PIECE)), sink)
                return
            feed = chain([head], feed)
        verdicts.require_opened(self._decrypt(feed, sink))

    def open_parts(self, size: int, fetch: Callable[[int, int], bytes]) -> Parts | None:
        """Open a message to decrypt parts of it, if it is made as gpg makes it of a pipe."""
        # What only a restore in place needs is not loaded by every command.
        from snapvault.adapters.sealers.message_parts import open_parts  # noqa: PLC0415

        return open_parts(size, fetch, self._session_key)

    def sign(self, content: bytes) -> bytes:
        """Return a signed message that holds `content`."""
        signed: list[bytes] = []
        outcome = self._gpg.run(
            ["--local-user", self._signer, "--sign"], [content], signed.append, unlock=True
        )
        if outcome.returncode != 0 and not verdicts.lacks_agent(outcome):
            ring = keys.list_keys(self._gpg)
            home = self._gpg.home
            keys.require(self._signer, ring, _SIGNER, encrypt=False, sign=True, home=home)
        verdicts.require_signed(outcome, self._signer)
        return b"".join(signed)

    def read_signed(self, message: bytes) -> Signed:
        """Return what a signed message says, once its signature is proven."""
        packets.require_one_signed_text(message)
        content: list[bytes] = []
        outcome = self._gpg.run(["--output", "-", "--verify"], [message], content.append)
        return Signed(b"".join(content), verdicts.require_verified(outcome))

    def _to(self, readers: Readers) -> list[str]:
        own = [self._signer] if readers is Readers.RECOVERY_AND_HOST else []
        return [
            argument
            for fingerprint in dict.fromkeys([*self._recipients, *own])
            for argument in ("--recipient", fingerprint)
        ]

    def _decrypt(self, feed: Iterable[bytes], sink: Callable[[bytes], None]) -> Outcome:
        return self._gpg.run(["--decrypt"], feed, sink, unlock=True)

    def _session_key(self, head: bytes) -> Secret | None:
        """Return the key of a message that begins like this: `algorithm:hexadecimal digits`.

        Raises: as `open`, when there is no key.
        """
        # SAFETY: gpg tells the key on pipes and in a log in memory that are ours. Neither is
        # shown: of this outcome no reason and no status line may get into a message.
        arguments = ["--show-session-key", "--decrypt"]
        outcome = self._gpg.run(arguments, [head], _drop, unlock=True)
        found = outcome.values("SESSION_KEY")
        if not found:
            verdicts.require_opened(outcome)
        return Secret(found[0][0]) if len(found) == 1 and found[0] else None

    def _told_key(self, head: bytes) -> Secret | None:
        """Return the key of a message if gpg can tell it by the head: the whole may say more.

        Raises:
            KeyMissingError, SealError: as `open`.
        """
        try:
            return self._session_key(head)
        except IntegrityError:
            return None

    def _require_sealed(self, outcome: Outcome) -> None:
        if outcome.has("INV_RECP"):
            self._judge_keys(keys.list_keys(self._gpg), sign=False)
        verdicts.require_sealed(outcome)

    def _judge_keys(self, ring: Sequence[keys.Key], *, sign: bool = True) -> None:
        """Look for the key that stands in the way, to say which and why."""
        home = self._gpg.home
        for fingerprint in self._recipients:
            keys.require(fingerprint, ring, _RECIPIENT, encrypt=True, sign=False, home=home)
        keys.require(self._signer, ring, _SIGNER, encrypt=True, sign=sign, home=home)


def _pieces(sealed: Readable, size: int = PIECE) -> Iterator[bytes]:
    while piece := sealed.read(size):
        yield piece


def _head(sealed: Readable, size: int) -> bytes:
    head = b""
    while len(head) < size and (piece := sealed.read(size - len(head))):
        head += piece
    return head


def _drop(piece: bytes) -> None:
    """Take what nobody needs."""
