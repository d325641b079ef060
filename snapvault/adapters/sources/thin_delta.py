# SPDX-License-Identifier: Apache-2.0
"""The XML of thin_delta: which chunks of two thin volumes are the same, and which are mapped.

Source: thin_delta(8). `begin` and `length` count chunks; a chunk is `data_block_size` sectors
of 512 bytes. What no element covers is mapped in neither volume.
"""

from collections.abc import Callable, Mapping
from xml.parsers import expat

from snapvault.adapters.sources.thin_ranges import Ranges

_SECTOR = 512
_LONGEST_TOKEN = 64 << 10  # bytes; an element of thin_delta has less than a hundred
_NUMBER_LENGTH = 20  # digits

_CHANGED = frozenset(("different", "left_only", "right_only"))
_MAPPED = frozenset(("same", "different", "right_only"))  # in the newer, the right one
_INSIDE = {"superblock": "", "diff": "superblock", **dict.fromkeys(_CHANGED | _MAPPED, "diff")}


class DeltaError(Exception):
    """This is not a delta of these two volumes; the message says how it shows."""


class DeltaParser:
    """Reads a delta as it comes, in memory that does not grow with it.

    `left` and `right` are the thin ids that it must be of, `size` the volume's, and `grain` the
    pool's chunk, in bytes. Once `finish` has returned, `changed` holds what may differ and `mapped`
    what may be more than zeros in the right one.
    """

    def __init__(self, left: int, right: int, *, size: int, grain: int) -> None:
        self.changed = Ranges()
        self.mapped = Ranges()
        self._ids = (left, right)
        self._size = size
        self._grain = grain
        self._open: list[str] = []
        self._seen: set[str] = set()
        self._end = 0  # of the last run, in chunks
        self._unclaimed = 0  # bytes since the last element
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._stop
        self._parser.CharacterDataHandler = _only_space
        # Without a document type there are no entities, and so nothing that grows on being read.
        self._parser.StartDoctypeDeclHandler = _refuse("a document type")
        self._parser.ProcessingInstructionHandler = _refuse("a processing instruction")

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            DeltaError: they do not belong to a delta.
        """
        for start in range(0, len(data), _LONGEST_TOKEN):
            piece = data[start : start + _LONGEST_TOKEN]
            self._unclaimed += len(piece)
            self._parse(piece, is_last=False)
            if self._unclaimed > 2 * _LONGEST_TOKEN:
                raise DeltaError("an element without an end")

    def finish(self) -> None:
        """Say that all bytes have come.

        Raises:
            DeltaError: they are not a whole delta.
        """
        self._parse(b"", is_last=True)
        if "diff" not in self._seen:
            raise DeltaError("no delta in it")

    def _parse(self, piece: bytes, *, is_last: bool) -> None:
        try:
            self._parser.Parse(piece, is_last)
        except expat.ExpatError as error:
            raise DeltaError(f"not XML: {error}") from error

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._unclaimed = 0
        if _INSIDE.get(name) != (self._open[-1] if self._open else ""):
            raise DeltaError(f'an unexpected element "{name[:40]}"')
        self._open.append(name)
        if name in ("superblock", "diff"):
            if name in self._seen:
                raise DeltaError(f'more than one element "{name}"')
            self._seen.add(name)
        if name == "superblock":
            if _number(attributes, "data_block_size") * _SECTOR != self._grain:
                raise DeltaError("the chunks have another size than the pool's")
        elif name == "diff":
            if (_number(attributes, "left"), _number(attributes, "right")) != self._ids:
                raise DeltaError("it is of other volumes")
        else:
            self._run(name, _number(attributes, "begin"), _number(attributes, "length"))

    def _stop(self, _name: str) -> None:
        self._unclaimed = 0
        self._open.pop()

    def _run(self, kind: str, begin: int, length: int) -> None:
        if length < 1 or begin < self._end:
            raise DeltaError(f"chunk {begin} is out of order")
        self._end = begin + length
        # A volume that shrank keeps in its pool what it had beyond its end.
        start, end = begin * self._grain, min(self._end * self._grain, self._size)
        if start >= end:
            return
        if kind in _CHANGED:
            self.changed.add(start, end)
        if kind in _MAPPED:
            self.mapped.add(start, end)


def _number(attributes: Mapping[str, str], name: str) -> int:
    text = attributes.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= _NUMBER_LENGTH):
        raise DeltaError(f'"{name}" is not a number')
    return int(text)


def _only_space(text: str) -> None:
    if text.strip():
        raise DeltaError("text between its elements")


def _refuse(what: str) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise DeltaError(f"{what} in it")

    return refuse
