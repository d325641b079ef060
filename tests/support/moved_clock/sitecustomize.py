# SPDX-License-Identifier: Apache-2.0
"""Python imports this at its start, where MovedClock put the folder in front of its path."""

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

from snapvault import clock

_FILE = Path(os.environ["SNAPVAULT_TEST_CLOCK"])
_real = clock.now


def _moved() -> datetime:
    return _real() + timedelta(seconds=float(_FILE.read_text()))


clock.now = _moved

if "daemon" in sys.orig_argv:
    from snapvault.daemon import service

    # A clock that was moved is noticed sooner; nothing else waits for it.
    service._LONGEST_WAIT = 0.2  # type: ignore[misc]
    if "SNAPVAULT_TEST_TELLING" in os.environ:
        service._TELLING_SECONDS = float(  # type: ignore[misc]
            os.environ["SNAPVAULT_TEST_TELLING"]
        )
