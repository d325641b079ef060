# SPDX-License-Identifier: Apache-2.0
"""Where the passphrase of a secret key comes from, and the type that keeps it out of sight."""

import os
import shlex
from pathlib import Path
from typing import Final

from snapvault.errors import ConfigError

# Where systemd puts the credentials of services, in a folder for each: systemd.exec(5).
_CREDENTIALS: Final = "/run/credentials"
_WRITE: Final = (
    "Write the passphrase of this host's keys into it, on one line that this user alone can read,"
    ' or correct "passphrase_file" in the settings.'
)


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


def read_passphrase(path: str) -> Secret:
    """Read a passphrase from a file, which may be a systemd credential.

    One newline at its end is not part of it.

    Raises:
        ConfigError: it is missing, empty, not one line of text, or a file others can read.
    """
    is_credential = _is_credential(Path(path))
    what = f'passphrase {"credential" if is_credential else "file"} "{path}"'
    try:
        raw = Path(path).read_bytes()
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise ConfigError(
            f"could not read {what}: {_reason(error)}",
            hint=f'Put it into "/etc/credstore/{Path(path).name}" and restart the service; while '
            "that is up, commands find it too."
            if is_credential
            else _WRITE,
        ) from error
    # systemd sees to a credential's readers itself, by an access control list too.
    if mode & 0o077 and not is_credential:
        raise ConfigError(
            f"{what} can be read by others: mode {mode & 0o777:04o}",
            hint=f'Run "chmod 600 {shlex.quote(path)}".',
        )
    return Secret(_one_line(raw, what))


def _one_line(raw: bytes, what: str) -> str:
    try:
        text = raw.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        # SAFETY: `from None`, since the decoder's error carries the bytes themselves.
        raise ConfigError(f"{what} is not UTF-8 text", hint=_WRITE) from None
    if not text:
        raise ConfigError(f"{what} is empty", hint=_WRITE)
    if any(mark in text for mark in "\n\r\0"):
        raise ConfigError(f"{what} has more than one line", hint="Keep one line in it.")
    return text


def _is_credential(path: Path) -> bool:
    folders = (_CREDENTIALS, os.environ.get("CREDENTIALS_DIRECTORY"))
    return any(path.is_relative_to(folder) for folder in folders if folder)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
