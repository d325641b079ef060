# SPDX-License-Identifier: Apache-2.0
"""When a host prunes a vault by itself."""

from typing import Annotated, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

from snapvault.config.problems import found
from snapvault.config.schedules import ScheduleShape
from snapvault.model.settings import DAILY_PRUNE

_DAILY: Final = "daily"
_NEVER: Final = "never"
DAILY: Final = ScheduleShape.model_construct(cron=DAILY_PRUNE.cron, jitter=DAILY_PRUNE.jitter)


def _prune(value: object) -> object:
    match value:
        case "daily":
            return DAILY
        case "never" | False:
            return None
        case dict():
            return value
    raise ValueError(
        f'expected "{_DAILY}", "{_NEVER}" or a schedule such as {{cron: "0 7 * * *"}},'
        f" found {found(value)}"
    )


Prune = Annotated[
    ScheduleShape | None,
    BeforeValidator(_prune),
    WithJsonSchema({"anyOf": [{"type": "string", "enum": [_DAILY, _NEVER]}, {"type": "object"}]}),
    Field(json_schema_extra={"default": _DAILY}),
]
