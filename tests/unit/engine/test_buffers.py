# SPDX-License-Identifier: Apache-2.0
import ctypes
import resource
from pathlib import Path

import pytest

from snapvault.engine.buffers import dense, sparse


@pytest.mark.parametrize("make", [dense, sparse])
@pytest.mark.parametrize("size", [0, 1, 4096, (2 << 20) + 1])
def test_memory_is_zeroed_and_of_the_size_asked_for(make: type, size: int) -> None:
    buffer = make(size)

    assert len(buffer) == size
    assert bytes(buffer) == bytes(size)


def test_dense_memory_starts_at_a_page() -> None:
    buffer = dense(5000)

    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))

    assert address % resource.getpagesize() == 0


def test_sparse_memory_takes_no_room_until_it_is_written() -> None:
    before = resident_kib()

    table = sparse(256 << 20)
    read = sum(table[:: 1 << 12])
    table[128 << 20] = 1

    assert read == 0
    assert resident_kib() - before < 16 << 10


def resident_kib() -> int:
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1])
