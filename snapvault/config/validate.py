# SPDX-License-Identifier: Apache-2.0
"""From pydantic's errors to our problems: file, line, field, expected, found, nearest key."""

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import takewhile
from typing import Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from snapvault.config import advice
from snapvault.config.document import Document, Location
from snapvault.config.problems import Problem, found, is_near
from snapvault.config.strict import Shape

AnyShape = TypeVar("AnyShape", bound=Shape)

_EXPECTED: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_SECRETS: Final = "environment"
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def validate(document: Document, shape: type[AnyShape]) -> AnyShape | tuple[Problem, ...]:
    """Read a document as a shape, or return everything wrong with it, in the file's order."""
    try:
        return shape.model_validate(document.value)
    except ValidationError as error:
        # A missing key comes after what else is wrong there.
        details = sorted(
            error.errors(include_url=False), key=lambda each: each["type"] == "missing"
        )
    # A misspelled key explains why one is missing.
    unknown = [each["loc"] for each in details if each["type"] == "extra_forbidden"]
    problems = [
        _problem(document, shape, each)
        for each in details
        if each["type"] != "missing" or not _is_explained(each["loc"], unknown)
    ]
    return tuple(sorted(problems, key=lambda problem: problem.line or 0))


def _is_explained(missing: Location, unknown: Iterable[Location]) -> bool:
    return any(
        key[:-1] == missing[:-1] and is_near(str(key[-1]), str(missing[-1])) for key in unknown
    )


def problem_at(
    document: Document, location: Location, message: str, hint: str | None = None
) -> Problem:
    """Make a problem of one field of a document."""
    return Problem(
        document.path,
        message,
        hint,
        line=document.place(location).line,
        field=_dotted(location) or None,
    )


def _problem(document: Document, shape: type[Shape], details: ErrorDetails) -> Problem:
    # Pydantic marks a wrong key of a mapping with "[key]" after it.
    location = tuple(part for part in details["loc"] if part != "[key]")
    message, hint = _say(shape, location, details)
    problem = problem_at(document, location, message, hint)
    if _is_private(shape, location):
        return replace(problem, field=_dotted(_without_secrets(location)))
    return problem


def _say(shape: type[Shape], location: Location, details: ErrorDetails) -> tuple[str, str | None]:
    kind, value = details["type"], details["input"]
    private = _is_private(shape, location)
    if kind == "extra_forbidden":
        if private and not _PLAIN_KEY.fullmatch(str(location[-1])):
            return "unknown key, which may be secret and is not shown", None
        return advice.unknown_key(shape, location)
    if kind == "missing":
        return "expected a value, found no such key", None
    if expected := _EXPECTED.get(kind):
        shown = _kind_of(value) if private else found(value)
        hint = advice.type_hint(kind, shape, location, value, private=private)
        return f"expected {expected}, found {shown}", hint
    hint = getattr(details.get("ctx", {}).get("error"), "hint", None)
    return _say_refused(details, found(value)), hint


def _is_private(shape: type[Shape], location: Location) -> bool:
    """Tell whether a value may be a secret, such as a variable of a program's environment."""
    return _SECRETS in location or location[:1] in [(key,) for key in shape.private]


def _without_secrets(location: Location) -> Location:
    """Leave out where a key may be a secret that somebody put in the wrong place."""
    plain = takewhile(lambda key: isinstance(key, int) or _PLAIN_KEY.fullmatch(key), location)
    return tuple(plain)


def _kind_of(value: object) -> str:
    match value:
        case str():
            return "text"
        case bool():
            return found(value)
        case int() | float():
            return "a number"
        case _:
            return found(value)


def _say_refused(details: ErrorDetails, shown: str) -> str:
    match details.get("ctx", {}):
        case {"error": error}:
            message = str(error)
        case {"expected": choices}:
            message = f"expected {str(choices).replace(chr(39), chr(34))}, found {shown}"
        case {"min_length": _}:
            message = "expected at least one entry, found none"
        case {"ge": least}:
            message = f"expected a number of at least {least}, found {shown}"
        case {"le": most}:
            message = f"expected a number of at most {most}, found {shown}"
        case _:
            message = details["msg"].lower().rstrip(".")
    return message


def _dotted(location: Location) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text
