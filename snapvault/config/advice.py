# SPDX-License-Identifier: Apache-2.0
"""What to write in place of what is wrong, as far as the shapes of the files tell."""

import shlex
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, get_args, get_origin

from snapvault.config.document import Location
from snapvault.config.kinds import LATER_KINDS, OTHER_WORDS, SourceShape, StreamShape
from snapvault.config.problems import nearest_hint, quoted
from snapvault.config.strict import Shape

_BOOLEAN_WORDS: Final = frozenset(("yes", "no", "on", "off", "y", "n", "true", "false"))
_AWS_WORDS: Final = frozenset(
    (
        *("access_key", "access_key_id", "aws_access_key_id"),
        *("secret_key", "secret_access_key", "aws_secret_access_key"),
    )
)
_PASSWORD_WORDS: Final = frozenset(("passphrase", "passwd", "password", "token"))
_PASSWORD_FILES: Final = ("defaults_file", "passphrase_file", "password_file", "token_file")
_KIND_WORDS: Final = frozenset(("kind", "type"))
_PROGRAM: Final = "run"


def unknown_key(shape: type[Shape], location: Location) -> tuple[str, str | None]:
    """Say that the last key of a location is unknown there, and what may be meant."""
    parent, key = shape_at(shape, location[:-1]), str(location[-1])
    known = sorted(parent.written_keys()) if parent else []
    near = _of_secret(key, known) or nearest_hint(key, known, what="keys")
    if not (parent and issubclass(parent, StreamShape)):
        return f"unknown key {quoted(key)}", _belongs(shape, location, key) or near
    if key in LATER_KINDS:
        return f"source kind {quoted(key)} is not in this release", LATER_KINDS[key]
    if key in OTHER_WORDS:
        return f"unknown source kind {quoted(key)}", f"Did you mean {quoted(OTHER_WORDS[key])}?"
    if key in _KIND_WORDS:
        return f"unknown key {quoted(key)}", 'The kind is itself the key: "image: {path: /srv/x}".'
    if key in SourceShape.model_fields:
        elsewhere: str | None = "It belongs to a source, not to one of its streams."
    else:
        elsewhere = _belongs(shape, location, key)
    if elsewhere is not None:
        return f"unknown key {quoted(key)}", elsewhere
    return f"unknown source kind {quoted(key)}", near


def type_hint(
    kind: str, shape: type[Shape], location: Location, value: object, *, private: bool
) -> str | None:
    """Return what to write for a value of the wrong type; `kind` is pydantic's name for it.

    A `private` value is not shown.
    """
    hint: str | None = None
    match kind, value:
        case "string_type", bool() | int() | float():
            hint = "Put it in quotes to make it text."
        case "bool_type", str() if value.lower() in _BOOLEAN_WORDS:
            hint = "Write true or false, without quotes."
        case "int_type", str() if value.strip().isdecimal():
            hint = "Write it without quotes and leading zeros."
        case "list_type", str() if location[-1:] == (_PROGRAM,):
            hint = f"Write the program and its arguments as a list: {_words(value)}."
        case "list_type", str():
            hint = "Put it in brackets." if private else f"Put it in brackets: [{quoted(value)}]."
        case "dict_type", list():
            hint = 'Write names with a ":" after them, without a "-" before.'
        case "model_type" | "model_attributes_type", _ if here := shape_at(shape, location):
            hint = f"Its keys are {', '.join(map(quoted, here.written_keys()))}."
    return hint


def shape_at(shape: type[Shape], location: Location) -> type[Shape] | None:
    """Follow a location through the shapes; None where it leads to no shape."""
    current: Any = shape
    for part in location:
        current = _plain(current)
        if isinstance(current, type) and issubclass(current, Shape):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else None
        elif get_origin(current) in (dict, list, Mapping):
            current = get_args(current)[-1]
        else:
            return None
    current = _plain(current)
    return current if isinstance(current, type) and issubclass(current, Shape) else None


def _words(line: str) -> str:
    try:
        words = shlex.split(line)
    except ValueError:
        words = []
    return f"[{', '.join(map(quoted, words or ('systemctl', 'stop', 'shop')))}]"


def _of_secret(key: str, known: Iterable[str]) -> str | None:
    """Say where what is secret belongs instead."""
    if key.lower() in _AWS_WORDS:
        return (
            "Credentials are not written here: they come from AWS_ACCESS_KEY_ID and"
            ' AWS_SECRET_ACCESS_KEY, from "~/.aws/credentials" or from a role.'
        )
    files = [each for each in known if each in _PASSWORD_FILES]
    if key in _PASSWORD_WORDS and files:
        return f"It is not written here: put it into a file, and name that with {quoted(files[0])}."
    return None


def _belongs(shape: type[Shape], location: Location, key: str) -> str | None:
    """Say where a key belongs that is one of a shape below or around; None: nowhere near."""
    parent = shape_at(shape, location[:-1])
    below = [] if parent is None else [place for place, keys in _below(parent) if key in keys]
    if below:
        return f"It belongs under {' or '.join(below)}: check the indentation."
    for end in range(len(location) - 2, -1, -1):
        around = shape_at(shape, location[:end])
        if around is not None and key in around.written_keys():
            where = f"under {quoted(str(location[end - 1]))}" if end else "at the top of the file"
            return f"It belongs {where}: check the indentation."
    return None


def _below(parent: type[Shape]) -> Iterator[tuple[str, list[str]]]:
    """Yield the mappings right below a shape, each as people find it, with its keys."""
    for name, field in parent.model_fields.items():
        annotation = _plain(field.annotation)
        named = get_origin(annotation) is dict
        inner = _plain(get_args(annotation)[-1]) if named else annotation
        if isinstance(inner, type) and issubclass(inner, Shape):
            place = quoted(field.alias or name)
            yield (f"a name in {place}" if named else place), inner.written_keys()


def _plain(annotation: Any) -> Any:
    """Take `X` out of `X | None`."""
    if get_origin(annotation) is types.UnionType:
        return next(each for each in get_args(annotation) if each is not type(None))
    return annotation
