# SPDX-License-Identifier: Apache-2.0
"""What each key can open of the newest restore points, by what the objects themselves say.

It is counted over the maps, in bytes of the streams, and each volume's first bytes tell whom it
is sealed to. They never change, so each is asked for once.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from snapvault.engine import metadata
from snapvault.engine.files import write_durably
from snapvault.engine.pipeline import WORKERS, ordered, threads
from snapvault.engine.vault import Held, Vault
from snapvault.errors import IntegrityError, ObjectMissingError
from snapvault.formats import names
from snapvault.ports.sealer import Addressees

_CACHE = "readers.json"


@dataclass(frozen=True, slots=True)
class Share:
    """What can be opened of one point: `data_bytes` in all, and of them by each key.

    Who is in `metadata` can open the maps and the key for block hashes as well, without which
    the data is of no use. Zeros are no data.
    """

    held: Held
    data_bytes: int
    opened_bytes: Mapping[str, int]
    metadata: frozenset[str]

    def restores(self, key: str) -> bool:
        """Tell whether a key alone restores the point as a whole."""
        return key in self.metadata and self.opened_bytes.get(key, 0) == self.data_bytes

    @property
    def keys(self) -> frozenset[str]:
        """Every key that opens anything of it."""
        return self.metadata | self.opened_bytes.keys()


def shares(vault: Vault, points: Iterable[Held], addressees: Addressees) -> list[Share]:
    """Return what each key can open of some points; what is missing or damaged nobody can.

    Raises:
        KeyMissingError: no key here opens the maps.
        IntegrityError: an object is missing or damaged.
        StoreError: the vault cannot be read.
    """
    live: list[tuple[Held, Counter[str]]] = []
    for held in points:
        used: Counter[str] = Counter()
        for extents in metadata.read_maps(vault, held.point, held.point.streams):
            used.update(extents.live_bytes())
        live.append((held, used))
    known = _Known(vault, addressees)
    known.learn({names.volume(volume) for _, used in live for volume in used})
    found = []
    for held, used in live:
        opened: Counter[str] = Counter()
        for volume, size in used.items():
            for key in known.readers(names.volume(volume)):
                opened[key] += size
        found.append(Share(held, used.total(), opened, _of_metadata(held, known)))
    known.keep()
    return found


def _of_metadata(held: Held, known: "_Known") -> frozenset[str]:
    """Return who can open all that a restore needs beside volumes."""
    wanted = {
        names.map_of(held.point.source, entry.point)
        for stream in held.point.streams
        for entry in stream.map_log
    }
    if any(stream.engine == "blocks" for stream in held.point.streams):
        wanted.add(held.point.hash_key.name)
    known.learn(wanted)
    every = [known.readers(name) for name in wanted]
    return frozenset.intersection(*every) if every else frozenset()


class _Known:
    """Readers of objects, asked of the store once and then kept on this host, by key id."""

    def __init__(self, vault: Vault, addressees: Addressees) -> None:
        self._vault = vault
        self._addressees = addressees
        self._path = vault.state / _CACHE
        self._ids: dict[str, frozenset[str]] = self._kept()
        self._is_new = False

    def readers(self, name: str) -> frozenset[str]:
        """Return who can open an object that was learned of."""
        return frozenset(self._addressees.owner(key) for key in self._ids.get(name, ()))

    def learn(self, wanted: Iterable[str]) -> None:
        """Ask for the readers of objects that are not known yet."""
        unknown = sorted(name for name in wanted if name not in self._ids)
        with threads(WORKERS, "readers") as pool:
            for name, ids in ordered(self._ask, unknown, ahead=2 * WORKERS, pool=pool):
                if ids:
                    self._ids[name] = ids
                    self._is_new = True

    def keep(self) -> None:
        """Write down what was learned, for the next time."""
        if not self._is_new:
            return
        # Most objects have the same readers: sets of them, by number.
        sets: dict[frozenset[str], int] = {}
        numbers = {name: sets.setdefault(ids, len(sets)) for name, ids in self._ids.items()}
        document = {"sets": [sorted(each) for each in sets], "objects": numbers}
        self._vault.state.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, [json.dumps(document).encode()])

    def _ask(self, name: str) -> tuple[str, frozenset[str]]:
        try:
            size = min(self._vault.store.stat(name).size, self._addressees.head_size)
            head = self._vault.store.get_part(name, 0, size) if size else b""
            return name, self._addressees.ids(head)
        except (ObjectMissingError, IntegrityError):
            return name, frozenset()

    def _kept(self) -> dict[str, frozenset[str]]:
        try:
            document = json.loads(self._path.read_bytes())
            sets = [frozenset(str(key) for key in each) for each in document["sets"]]
            return {str(name): sets[number] for name, number in document["objects"].items()}
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
            return {}
