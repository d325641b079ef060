# SPDX-License-Identifier: Apache-2.0
"""The JSON schemas of files, with what the docstrings of shapes and keys say."""

import ast
import inspect
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from textwrap import dedent
from typing import Any, get_args

from pydantic.json_schema import GenerateJsonSchema

from snapvault.config.strict import Shape
from snapvault.units import format_duration


def schema_of(shape: type[Shape]) -> dict[str, Any]:
    """Return the JSON schema of a file, for editors."""
    _rebuild(shape, set())
    return shape.model_json_schema(schema_generator=_Schema)


class _Schema(GenerateJsonSchema):
    """Writes default durations as policies do, not as ISO 8601."""

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, Shape):
            return {key: self.encode_default(value) for key, value in dft}
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def _rebuild(shape: type[Shape], done: set[type[Shape]]) -> None:
    """Describe a shape and those in it; these first, since what was made of them is taken over."""
    if shape in done:
        return
    done.add(shape)
    told: dict[str, str] = {}
    for each in reversed(shape.__mro__):
        if issubclass(each, Shape):
            told |= _docstrings(each)
    for name, field in shape.model_fields.items():
        field.description = field.description or told.get(name)
        for inner in _shapes_in(field.annotation):
            _rebuild(inner, done)
    shape.model_rebuild(force=True)


def _shapes_in(annotation: Any) -> Iterator[type[Shape]]:
    if isinstance(annotation, type) and issubclass(annotation, Shape):
        yield annotation
    for each in get_args(annotation):
        yield from _shapes_in(each)


def _docstrings(shape: type[Shape]) -> dict[str, str]:
    """Return the strings below the keys of a shape in its source, by key."""
    tree = ast.parse(dedent(inspect.getsource(shape)))
    found: dict[str, str] = {}
    for key, below in pairwise(ast.iter_child_nodes(tree.body[0])):
        match key, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
    return found
