# SPDX-License-Identifier: Apache-2.0
"""Paths in files: absolute, from the home folder, or relative to the file they are written in."""

from pathlib import Path


def absolute(path: Path) -> Path:
    """Make the path of a file that the operator named absolute; symbolic links stay."""
    return Path.cwd() / path.expanduser()


def resolve(text: str, *, beside: Path) -> Path:
    """Resolve a path that is written in the file `beside`; symbolic links and `..` stay.

    Raises:
        ValueError: it starts with a home folder that nobody knows.
    """
    try:
        return beside.parent / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f'expected a path, found "{text}", whose home folder is unknown') from None
