# SPDX-License-Identifier: Apache-2.0
"""Targets that can be paths, and hardly are: no restore goes to a folder that is called `s3:`."""

import difflib
import os
import re
from collections.abc import Sequence

import typer

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PLACE = re.compile(r"([A-Za-z]{2,4}):")


def require_path(to: str, *, places: Sequence[str] = ()) -> None:
    """Refuse what is not there and looks like an address, or like one of these places, mistyped.

    A path of such a name can be written with `./` before it.

    Raises:
        BadParameter: it is such a text.
    """
    if os.path.lexists(to):
        return
    otherwise = f'a path of that name is "./{to}"'
    if to.startswith("~"):
        raise _wrong(
            f'"{to}" begins with a "~" that the shell did not replace: leave out quotes, and "="'
            f" before it; {otherwise}"
        )
    if _ADDRESS.match(to):
        raise _wrong(f'expected a path, found the address "{to}"; {otherwise}')
    found = _PLACE.match(to)
    near = difflib.get_close_matches(found[1].lower(), places, n=1) if found else []
    if near:
        raise _wrong(f'"{to}" is no place that is known; {otherwise}. Did you mean "{near[0]}:"?')


def _wrong(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--to")
