# SPDX-License-Identifier: Apache-2.0
"""Where the passphrase of a secret key comes from, and the type that keeps it out of sight."""

import os
from pathlib import Path

from snapvault.errors import ConfigError

CREDENTIAL = "credential:"


class Secret:
    """Text that neither `repr`, `str`, a log nor a traceback shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "Secret(***)"

    def reveal(self) -> str:
        """Return the text, for the one line that hands it to GnuPG."""
        return self._text


def read_passphrase(source: str) -> Secret:
    """Read a passphrase from a file, or from a systemd credential named as `credential:NAME`.

    One newline at its end is not part of it.

    Raises:
        ConfigError: it is missing, empty, not one line of text, or a file others can read.
    """
    # systemd hands credentials over in a folder of the service's own, and sees to their mode.
    credential = source.startswith(CREDENTIAL)
    path = _credential(source.removeprefix(CREDENTIAL)) if credential else Path(source)
    what = "passphrase credential" if credential else "passphrase file"
    name = source.removeprefix(CREDENTIAL) if credential else source
    try:
        raw = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f'could not read {what} "{name}": {_reason(error)}') from error
    if mode & 0o077 and not credential:
        raise ConfigError(
            f'{what} "{name}" can be read by others: mode {mode & 0o777:04o}',
            hint=f'Run "chmod 600 {name}".',
        )
    return Secret(_one_line(raw, f'{what} "{name}"'))


def _one_line(raw: bytes, what: str) -> str:
    try:
        text = raw.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        # SAFETY: `from None`, since the decoder's error carries the bytes themselves.
        raise ConfigError(f"{what} is not UTF-8 text") from None
    if not text:
        raise ConfigError(f"{what} is empty")
    if any(mark in text for mark in "\n\r\0"):
        raise ConfigError(f"{what} has more than one line", hint="Keep one line in it.")
    return text


def _credential(name: str) -> Path:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        raise ConfigError(
            f'passphrase credential "{name}" is not there: systemd passed no credentials',
            hint=f'Add "LoadCredential={name}:PATH" to the unit, or name a file instead.',
        )
    if "/" in name or name in {"", ".", ".."}:
        raise ConfigError(f'"{name}" is not the name of a credential')
    return Path(folder) / name


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
