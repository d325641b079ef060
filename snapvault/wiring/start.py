# SPDX-License-Identifier: Apache-2.0
"""What every process of ours begins with, before it loads what it needs."""

import atexit
import ctypes
import gc
import os
from contextlib import suppress
from typing import Final

_SHORT_LIVED: Final = 200_000
_LONG_LIVED: Final = 50_000
_ARENAS: Final = 2
_M_ARENA_MAX: Final = -8  # of glibc's <malloc.h>


def lightly(*, is_short: bool = True) -> None:
    """Leave out what costs half a second of CPU, or memory, in every run, and gains nothing here.

    A process that is not `is_short` looks for cycles of garbage more often. Safe to repeat.
    """
    # numpy's linear algebra has threads that spin while they wait.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Memory that threads have freed is no other thread's, if each has an arena of its own.
    with suppress(AttributeError):  # a C library other than GNU's
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
    # Entry points of every installed package are read to find those that pydantic would load.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    # Imports and extents make objects by the ten thousand, and hardly any cycles.
    gc.set_threshold(_SHORT_LIVED if is_short else _LONG_LIVED, 20, 20)
    # Else the interpreter looks three times for cycles among all there is before it ends.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
