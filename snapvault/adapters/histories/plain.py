# SPDX-License-Identifier: Apache-2.0
"""Flat values as JSON texts, and back: what a later release has added to them is passed over."""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from snapvault import clock
from snapvault.adapters.database import UntrustedError
from snapvault.model.runs import SourceKey

_Value = TypeVar("_Value")


def written(value: object) -> str:
    """Write a dataclass of texts, numbers, moments, durations and the like; the same each time."""
    return json.dumps(_plain(value), sort_keys=True)


def read(text: str, kind: type[_Value], **special: Callable[[Any], object]) -> _Value:
    """Read what `written` wrote of a kind; `special` reads the fields of these names.

    Raises:
        UntrustedError: the text is anything else.
    """
    try:
        return build(json.loads(text), kind, **special)
    except (KeyError, TypeError, ValueError) as error:
        raise UntrustedError(f"not a {kind.__name__}: {error}") from error


def moment(text: str) -> datetime:
    """Read a moment that `written` wrote.

    Raises:
        UntrustedError: the text is anything else.
    """
    try:
        found = _value(json.loads(text))
    except ValueError as error:
        raise UntrustedError(str(error)) from error
    if not isinstance(found, datetime):
        raise UntrustedError(f'not a time: "{text}"')
    return found


def build(
    document: Mapping[str, Any], kind: type[_Value], **special: Callable[[Any], object]
) -> _Value:
    """Return a value of a kind.

    Raises:
        KeyError, TypeError, ValueError: the document is of anything else.
    """
    if not is_dataclass(kind):
        raise TypeError(f"{kind} is no dataclass")
    values = {
        field.name: special.get(field.name, _value)(document[field.name])
        for field in fields(kind)
        if field.name in document
    }
    return kind(**values)


def _plain(value: object) -> object:
    match value:
        case SourceKey():
            return {"key": list(value)}
        case datetime():
            return {"time": clock.to_text(value)}
        case timedelta():
            return {"seconds": value.total_seconds()}
        case tuple():
            return [_plain(each) for each in value]
        case _ if is_dataclass(value):
            return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        case _:
            return value


def _value(document: Any) -> object:
    match document:
        case {"key": [str(vault), str(source)]}:
            return SourceKey(vault, source)
        case {"time": str(text)}:
            return clock.from_text(text)
        case {"seconds": float() | int() as seconds}:
            return timedelta(seconds=seconds)
        case list():
            return tuple(_value(each) for each in document)
        case dict():
            raise ValueError("a value of no known kind")
        case _:
            return document
