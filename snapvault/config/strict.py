# SPDX-License-Identifier: Apache-2.0
"""What every mapping of settings and policies has in common."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """A mapping with known keys, read without conversions."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    private: ClassVar[frozenset[str]] = frozenset()
    """Keys with values below them that messages do not show."""

    @classmethod
    def written_keys(cls) -> list[str]:
        """Return the keys as files have them, in the order of the shape."""
        return [field.alias or name for name, field in cls.model_fields.items()]
