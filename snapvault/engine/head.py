# SPDX-License-Identifier: Apache-2.0
"""The newest point's maps and signatures as this host keeps them, so that a night fetches nothing.

A cache: one folder named by the point, complete once its index is there, and rebuilt from the vault
when it is missing or damaged.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from snapvault.engine import key_changes, metadata
from snapvault.engine.files import sync_folder, write_durably
from snapvault.engine.vault import Held, Vault
from snapvault.errors import IntegrityError, KeyMissingError
from snapvault.formats import maps
from snapvault.model.extents import ExtentMap

_INDEX = "index.json"
_SIGNATURE = ".sig"


@dataclass(frozen=True, slots=True)
class Head:
    """The parent of the next point: full maps by stream, and files with the full signatures.

    `fine_hashes` are files with finer hashes, and `tags` with tags, of the streams that have some.
    """

    held: Held
    maps: Mapping[str, ExtentMap]
    signatures: Mapping[str, Path]
    fine_hashes: Mapping[str, Path]
    tags: Mapping[str, Path]


def load(vault: Vault, heads: Path, held: Held) -> Head:
    """Return the head of a source from this host's cache, or from the vault.

    Raises:
        IntegrityError: the vault's own objects are missing or damaged.
        KeyMissingError: this host's key does not open them.
    """
    folder = heads / held.point.point
    try:
        return _cached(folder, held)
    except (OSError, ValueError, KeyError, TypeError, IntegrityError):
        vault.events.emit("head.rebuilt", source=held.point.source, point=held.point.point)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        full = metadata.read_maps(vault, held.point, held.point.streams)
        metadata.write_signatures(vault, held.point, folder)
    except KeyMissingError:
        handed = key_changes.handed_over(vault, held.point)
        if handed is None:
            raise
        full = metadata.read_maps(vault, handed, handed.streams)
        metadata.write_signatures(vault, handed, folder)
    by_stream = {
        stream.name: extents for stream, extents in zip(held.point.streams, full, strict=True)
    }
    keep(heads, held.point.point, by_stream)
    return _cached(folder, held)


def fine_hashes(folder: Path, stream: str) -> Path:
    """Return where in a point's folder the finer hashes of a stream belong."""
    return folder / f"{stream}.fine"


def tags(folder: Path, stream: str) -> Path:
    """Return where in a point's folder the tags of a disk belong."""
    return folder / f"{stream}.tags"


def anchors(fine: Path) -> Path:
    """Return where the anchors of a stream belong, given where its finer hashes lie."""
    return fine.with_suffix(".anchors")


@dataclass(frozen=True, slots=True)
class Kept:
    """A head as it lies in this host's cache: nothing says yet that it is whole."""

    source: str
    point: str
    folder: Path

    def signatures(self) -> dict[str, Path]:
        """Return the files of signatures that are there, by stream."""
        return {path.name.removesuffix(_SIGNATURE): path for path in self.folder.glob("*.sig")}


def all_kept(sources: Path) -> list[Kept]:
    """Return the newest head of every source that this host keeps, oldest first."""
    found: list[tuple[int, Kept]] = []
    for folder in sources.iterdir() if sources.is_dir() else ():
        heads: list[tuple[int, Kept]] = []
        for index in folder.glob(f"heads/*/{_INDEX}"):
            with suppress(FileNotFoundError):  # a run has just replaced it by a newer one
                kept = Kept(folder.name, index.parent.name, index.parent)
                heads.append((index.stat().st_mtime_ns, kept))
        found += sorted(heads, key=lambda each: each[0])[-1:]
    return [kept for _, kept in sorted(found, key=lambda each: each[0])]


def load_kept(kept: Kept, held: Held) -> Head | None:
    """Return a head from this host's cache, and only from there; None if it is gone or damaged.

    Without finer hashes and tags, which are of use to the source's own next night alone.
    """
    try:
        return _cached(kept.folder, held, has_spare=False)
    except (OSError, ValueError, KeyError, TypeError, IntegrityError):
        return None


def new_folder(heads: Path, point: str) -> Path:
    """Return an empty folder for the signatures `<stream>.sig` of a point in the making.

    Drops what runs that failed have left; the parent's folder stays.
    """
    heads.mkdir(parents=True, exist_ok=True)
    for other in heads.iterdir():
        if not (other / _INDEX).exists():
            shutil.rmtree(other, ignore_errors=True)
    folder = heads / point
    folder.mkdir()
    return folder


def keep(heads: Path, point: str, full_maps: Mapping[str, ExtentMap]) -> None:
    """Complete a point's folder, whose signatures are there, and drop all others."""
    folder = heads / point
    index: dict[str, object] = {"point": point, "streams": {}}
    streams: dict[str, object] = {}
    for stream, extents in full_maps.items():
        header = maps.header(stream, extents)
        hasher = _map_hasher(header)
        write_durably(_map(folder, stream), _hashed(maps.encode(extents), hasher))
        streams[stream] = {
            "map": header,
            "map_digest": hasher.hexdigest(),
            "signature_digest": _digest(folder / f"{stream}.sig"),
            "fine_digest": _digest_if_there(fine_hashes(folder, stream)),
            "tags_digest": _digest_if_there(tags(folder, stream)),
        }
    index["streams"] = streams
    # ORDER: the index goes last; a folder without it is no cache (docs/design.md, local state).
    write_durably(folder / _INDEX, [json.dumps(index).encode()])
    for other in heads.iterdir():
        if other.name != point:
            shutil.rmtree(other, ignore_errors=True)
    sync_folder(heads)


def _cached(folder: Path, held: Held, *, has_spare: bool = True) -> Head:
    index = json.loads((folder / _INDEX).read_bytes())
    full: dict[str, ExtentMap] = {}
    files: dict[str, Path] = {}
    spare: dict[str, dict[str, Path]] = {"fine_digest": {}, "tags_digest": {}}
    for stream in held.point.streams:
        entry = index["streams"][stream.name]
        payload = _map(folder, stream.name).read_bytes()
        hasher = _map_hasher(entry["map"]).update(payload)
        signature = folder / f"{stream.name}.sig"
        if (
            hasher.hexdigest() != entry["map_digest"]
            or _digest(signature) != entry["signature_digest"]
        ):
            raise ValueError("a cached file is damaged")
        full[stream.name] = maps.decode(entry["map"], payload)
        if full[stream.name].size != stream.size:
            raise ValueError("a cached map is of another point")
        files[stream.name] = signature
        # SAFETY: only those of this very point. Hashes of other bytes would name bytes that the
        # parent does not have there.
        for key, path in (
            ("fine_digest", fine_hashes(folder, stream.name)),
            ("tags_digest", tags(folder, stream.name)),
        ):
            digest = _digest_if_there(path) if has_spare else None
            if digest is not None and digest == entry.get(key):
                spare[key][stream.name] = path
    return Head(held, full, files, spare["fine_digest"], spare["tags_digest"])


def _map(folder: Path, stream: str) -> Path:
    return folder / f"{stream}.map"


def _map_hasher(header: dict[str, object]) -> blake3:
    # The header too: a damaged volume id would be another volume's.
    return blake3(json.dumps(header, sort_keys=True).encode())


def _hashed(pieces: Iterable[bytes], hasher: blake3) -> Iterator[bytes]:
    for piece in pieces:
        hasher.update(piece)
        yield piece


def _digest_if_there(path: Path) -> str | None:
    try:
        return _digest(path)
    except FileNotFoundError:
        return None


def _digest(path: Path) -> str:
    hasher = blake3()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()
