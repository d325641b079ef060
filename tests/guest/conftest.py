# SPDX-License-Identifier: Apache-2.0
"""The guest that the tests in this folder share."""

from collections.abc import Iterator

import pytest

from tests.support.guest import GIB, Guest


@pytest.fixture(scope="session")
def guest() -> Iterator[Guest]:
    """A running guest with three empty disks, /dev/vda to /dev/vdc."""
    with Guest(disks=[GIB] * 3) as running:
        yield running
