# SPDX-License-Identifier: Apache-2.0
"""What every mapping of settings and policies has in common."""

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """A mapping with known keys, read without conversions."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )
