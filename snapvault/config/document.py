# SPDX-License-Identifier: Apache-2.0
"""YAML without surprises: what is read of YAML 1.2's core schema, and what is refused.

Plain scalars are null (`null`, `~` or nothing), true and false, decimal numbers, or text. `yes`,
`012`, `1:30` and `2026-11-20` are text, as are hexadecimal and octal numbers. Refused are keys
given twice, anchors, aliases and merge keys, tags, keys that are no scalars, and several documents
in one file. PyYAML splits the text into events; everything above that is here, because its own
constructors follow YAML 1.1 and lose the lines.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from snapvault.config.problems import Problem, ProblemError, quoted

Location = tuple[str | int, ...]

_DENIED: Final = "Let this user read it, or run as the user who owns it."

MAX_FILE_SIZE: Final = 1024 * 1024
_MAX_DEPTH: Final = 16

_NULL: Final = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS: Final = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_QUOTES: Final = ('"', "'")
_MISSING: Final = re.compile(r"^expected ('.' or '.'), but got '<.*>'")
_FLOAT: Final = re.compile(
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says: plain values, and the place of each key and list item."""

    path: Path
    value: object
    places: Mapping[Location, Place]

    def place(self, location: Location) -> Place:
        """Return where a value is, or else the nearest thing around it."""
        while location not in self.places:
            location = location[:-1]
        return self.places[location]


def read_document(path: Path, *, hint_when_missing: str | None = None) -> Document:
    """Read a YAML file.

    Raises:
        ProblemError: it is not there, cannot be read, or is not YAML as read here.
    """
    text = _read_text(path, hint_when_missing)
    try:
        return _Builder(path, yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except yaml.reader.ReaderError as error:
        place = _place_of(text, error.position)
        character = error.character
        shown = character if isinstance(character, str) else chr(character)
        message = f"not YAML: the character {ascii(shown)[1:-1]} is not allowed"
        raise ProblemError(_problem(path, message, place)) from error
    except yaml.MarkedYAMLError as error:
        raise ProblemError(_syntax_problem(path, text, error)) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # QUIRK: PyYAML 6.0 lets ValueError through for escapes past the last Unicode character.
        raise ProblemError(
            Problem(path, "not YAML: an escape or a number is out of range")
        ) from error


def _read_text(path: Path, hint_when_missing: str | None) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_SIZE + 1)
    except FileNotFoundError as error:
        raise ProblemError(Problem(path, "there is no such file", hint_when_missing)) from error
    except IsADirectoryError as error:
        raise ProblemError(Problem(path, "expected a file, found a folder")) from error
    except OSError as error:
        message = f"could not read it: {(error.strerror or 'unknown error').lower()}"
        hint = _DENIED if isinstance(error, PermissionError) else None
        raise ProblemError(Problem(path, message, hint)) from error
    except ValueError as error:
        raise ProblemError(Problem(path, "not a path")) from error
    if len(raw) > MAX_FILE_SIZE:
        raise ProblemError(Problem(path, "expected at most 1 MiB, found more"))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ProblemError(
            Problem(
                path,
                f"expected UTF-8 text, found the byte 0x{raw[error.start]:02x}",
                hint="Save the file in the UTF-8 encoding.",
                line=line,
            )
        ) from error


def _syntax_problem(path: Path, text: str, error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    hint = None
    complaint = " ".join((error.problem or error.context or "it cannot be read").split())
    at = "" if mark is None else text[mark.index : mark.index + 1]
    start = error.context_mark
    if at == "\t":
        complaint, hint = "a tab where only spaces can be", "Indent with spaces."
    elif "mapping values are not allowed" in complaint:
        complaint = 'a ":" where no key can be'
        hint = 'Check the indentation, and put text that holds ": " in quotes.'
    elif start is not None and mark is not None and mark.index >= len(text.rstrip()):
        # What is never closed is told where it is opened.
        mark = start
        opened = text[mark.index : mark.index + 1]
        shown = "a quotation mark" if opened in _QUOTES else f'a "{opened}"'
        complaint = f"{shown} is opened here and never closed"
    elif "<block end>" in complaint:
        complaint = "this line does not fit those above it"
        hint = "Indent what belongs together by the same number of spaces."
    elif "cannot start any token" in complaint or "alphabetic or numeric character" in complaint:
        # An alias or an anchor is told where its name is missing.
        complaint = "text that starts with a character that means something else"
        hint = 'Put it in quotes, as in "* * * * *" or "@daily".'
    elif match := _MISSING.search(complaint):
        complaint = f"a {match[1].replace(chr(39), chr(34))} is missing before this"
    place = None if mark is None else Place(mark.line + 1, mark.column + 1)
    return _problem(path, f"not YAML: {complaint.replace(chr(39), chr(34))}", place, hint)


def _place_of(text: str, position: int) -> Place:
    before = text[:position]
    return Place(before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)


def _problem(path: Path, message: str, place: Place | None, hint: str | None = None) -> Problem:
    line, column = (place.line, place.column) if place else (None, None)
    return Problem(path, message, hint, line=line, column=column)


class _Builder:
    """Turns parser events into plain values, once."""

    def __init__(self, path: Path, events: Iterator[yaml.Event]) -> None:
        self._path = path
        self._events = events
        self._places: dict[Location, Place] = {}

    def document(self) -> Document:
        next(self._events)  # the stream's start
        if not isinstance(next(self._events), yaml.DocumentStartEvent):
            raise ProblemError(Problem(self._path, "expected a mapping, found an empty file"))
        first = next(self._events)
        self._places[()] = _start(first)
        value = self._value(first, ())
        next(self._events)  # the document's end
        if isinstance(another := next(self._events), yaml.DocumentStartEvent):
            raise self._refusal(another, "expected one YAML document, found a second")
        return Document(self._path, value, self._places)

    def _value(self, event: yaml.Event, location: Location) -> object:
        self._refuse_extras(event)
        if len(location) > _MAX_DEPTH:
            raise self._refusal(event, f"expected at most {_MAX_DEPTH} levels, found more")
        if isinstance(event, yaml.ScalarEvent):
            return _resolve(self._text(event), plain=event.implicit[0])
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(location)
        return self._mapping(location)

    def _sequence(self, location: Location) -> list[object]:
        items: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            inner = (*location, len(items))
            self._places[inner] = _start(event)
            items.append(self._value(event, inner))
        return items

    def _mapping(self, location: Location) -> dict[str, object]:
        values: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            self._refuse_extras(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise self._refusal(event, "expected text as the key, found a list or a mapping")
            key = self._text(event)
            if key == "<<" and event.implicit[0]:
                raise self._refusal(event, "merge keys are not read")
            inner = (*location, key)
            if key in values:
                first = self._places[inner].line
                raise self._refusal(event, f"key {quoted(key)} is already on line {first}")
            self._places[inner] = _start(event)
            values[key] = self._value(next(self._events), inner)
        return values

    def _text(self, event: yaml.ScalarEvent) -> str:
        text = str(event.value)
        if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            raise self._refusal(event, "expected text, found a character that no text can hold")
        return text

    def _refuse_extras(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._refusal(event, "anchors and aliases are not read", "Write the value out.")
        if getattr(event, "tag", None) is not None:
            raise self._refusal(event, "tags are not read", 'Leave out the word after the "!".')

    def _refusal(self, event: yaml.Event, message: str, hint: str | None = None) -> ProblemError:
        return ProblemError(_problem(self._path, message, _start(event), hint))


def _start(event: yaml.Event) -> Place:
    mark = event.start_mark
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)


def _resolve(text: str, *, plain: bool) -> object:
    if not plain:
        return text
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text.replace(".", "") if text[-1] in "fFnN" else text)
    return text
