# SPDX-License-Identifier: Apache-2.0
"""Object Lock in the settings of a vault."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from snapvault.config.strict import Shape
from snapvault.config.values import DURATION_SCHEMA, duration_from
from snapvault.model.locking import LockMode, ObjectLock

_SHORTEST, _LONGEST = timedelta(days=1), timedelta(days=3650)


class ObjectLockShape(Shape):
    """That what is stored cannot be deleted for a time."""

    mode: Literal["governance", "compliance"] = "governance"
    """Who may end a lock early: whoever has that right (governance), or nobody (compliance)."""
    period: Annotated[
        timedelta, BeforeValidator(duration_from(_SHORTEST, _LONGEST)), DURATION_SCHEMA
    ] = Field(timedelta(days=30), alias="for")
    """For how long at least what is needed is always locked, 1d to 3650d."""


def object_lock(shape: ObjectLockShape | None) -> ObjectLock | None:
    """Return it as the model has it."""
    return None if shape is None else ObjectLock(LockMode(shape.mode), shape.period)
