# SPDX-License-Identifier: Apache-2.0
"""What every mapping of settings and policies has in common."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """A mapping with known keys, read without conversions.

    What pydantic makes of a shape is made when a file is first read, once for all shapes in it;
    what only its JSON schema tells, its docstrings, is read by described.py. Both would cost every
    start of the program. A shape whose defaults stand for a missing key is made by
    `model_construct`: nothing is to be checked, and pydantic need make nothing of it.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, defer_build=True)

    private: ClassVar[frozenset[str]] = frozenset()
    """Keys with values below them that messages do not show."""

    @classmethod
    def written_keys(cls) -> list[str]:
        """Return the keys as files have them, in the order of the shape."""
        return [field.alias or name for name, field in cls.model_fields.items()]
