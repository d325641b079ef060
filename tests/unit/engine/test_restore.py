# SPDX-License-Identifier: Apache-2.0
"""How much room a restore takes where it is taken in grains."""

import numpy as np
import pytest

from snapvault.engine.restore import room_needed
from snapvault.model.extents import FIRST_VOLUME, ZERO, ExtentMap


@pytest.mark.parametrize(
    ("extents", "needed"),
    [
        ([], 0),
        ([(ZERO, 1000)], 0),
        ([(FIRST_VOLUME, 1)], 100),
        ([(FIRST_VOLUME, 100)], 100),
        ([(FIRST_VOLUME, 101)], 200),
        # Two extents in one grain, and an extent that begins in the last grain of another.
        ([(FIRST_VOLUME, 10), (ZERO, 10), (FIRST_VOLUME, 10)], 100),
        ([(ZERO, 90), (FIRST_VOLUME, 20), (ZERO, 10), (FIRST_VOLUME, 300)], 500),
        ([(FIRST_VOLUME, 10), (ZERO, 390), (FIRST_VOLUME, 10), (FIRST_VOLUME, 5)], 200),
    ],
)
def test_room_is_counted_in_grains_that_hold_data(
    extents: list[tuple[int, int]], needed: int
) -> None:
    column = np.array(extents, dtype=np.uint64).reshape(-1, 2)
    found = ExtentMap(
        length=column[:, 1],
        place=column[:, 0].astype(np.uint32),
        offset=np.zeros(len(column), np.uint64),
        volumes=("volume",),
    )

    assert room_needed(found, 100) == needed
