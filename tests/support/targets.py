# SPDX-License-Identifier: Apache-2.0
"""A restore target in memory that records what was done to it."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class MemoryTarget:
    """Bytes in the making; `content` is there once committed. Starts out full of garbage."""

    size: int
    content: bytes | None = None
    aborted: bool = False
    writes: list[tuple[int, int]] = field(default_factory=list)
    _bytes: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._bytes = bytearray(b"\xaa" * self.size)

    def write(self, offset: int, data: memoryview) -> None:
        self.writes.append((offset, len(data)))
        self._bytes[offset : offset + len(data)] = data

    def reserve(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise ValueError("reserved beyond the end")

    def zero(self, offset: int, length: int) -> None:
        self._bytes[offset : offset + length] = bytes(length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._bytes[offset : offset + len(buffer)]

    def commit(self) -> None:
        self.content = bytes(self._bytes)

    def abort(self) -> None:
        self.aborted = self.content is None
