# SPDX-License-Identifier: Apache-2.0
"""Fetching objects: nothing that is read from a vault is used before its digest is known to fit.

Or, where it must be used as it streams by, before the whole is declared good.
"""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from snapvault.errors import (
    IntegrityError,
    ManifestError,
    ObjectMissingError,
    SealError,
    SignatureError,
    VolumeError,
)
from snapvault.formats import names, volume_list
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.point import ObjectRecord
from snapvault.ports.sealer import Sealer
from snapvault.ports.store import Readable, StoreReader

_PIECE = 1 << 20  # bytes
_HELD_IN_MEMORY = 16 << 20  # bytes
_VERIFY = 'Run "snapvault verify --level data" to see which restore points need it.'


def get(store: StoreReader, record: ObjectRecord) -> bytes:
    """Return a small object whose digest fits.

    Raises:
        IntegrityError: it is missing or damaged.
    """
    try:
        data = store.get(record.name)
    except ObjectMissingError as error:
        raise missing(record) from error
    if len(data) != record.size or hashlib.sha256(data).hexdigest() != record.sha256:
        raise damaged(record)
    return data


def open_sealed(
    store: StoreReader, sealer: Sealer, record: ObjectRecord, sink: Callable[[bytes], None]
) -> None:
    """Fetch and decrypt an object in pieces; what `sink` got is proven only on return.

    Raises:
        IntegrityError: the object is missing or damaged; its name is in the message.
        KeyMissingError: no key here opens it.
    """
    try:
        with store.open(record.name) as raw:
            reader = _Digesting(raw)
            try:
                sealer.open_stream(reader, sink, vouched=True)
            except (IntegrityError, SealError) as error:
                reader.drain()
                if not reader.fits(record):
                    raise damaged(record) from error
                if isinstance(error, IntegrityError):
                    error.add_note(f'in object "{record.name}"')
                raise
            reader.drain()
            if not reader.fits(record):
                raise damaged(record)
    except ObjectMissingError as error:
        raise missing(record) from error


def open_unproven(
    store: StoreReader, sealer: Sealer, record: ObjectRecord, sink: Callable[[bytes], None]
) -> None:
    """Fetch and decrypt an object in pieces, for who proves what `sink` got in another way.

    Only when it cannot be opened it is read once more, to say whether it is damaged.

    Raises: as `open_sealed`.
    """
    try:
        with store.open(record.name) as raw:
            sealer.open_stream(raw, sink, vouched=True)
    except ObjectMissingError as error:
        raise missing(record) from error
    except (IntegrityError, SealError) as error:
        require_undamaged(store, record)
        if isinstance(error, IntegrityError):
            error.add_note(f'in object "{record.name}"')
        raise


def open_metadata(
    store: StoreReader,
    sealer: Sealer,
    record: ObjectRecord,
    sink: Callable[[bytes], None],
    folder: Path,
) -> None:
    """Fetch a sealed object, prove its digest, and only then decrypt it in pieces.

    Whoever writes to the bucket can seal to our keys too: what is unpacked into memory must be
    known to be ours before. Large objects wait, sealed, in a nameless file of `folder`.

    Raises: as `open_sealed`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.SpooledTemporaryFile(_HELD_IN_MEMORY, "w+b", dir=str(folder)) as file:
        download(store, record, file.write)
        file.seek(0)
        try:
            sealer.open_stream(file, sink, vouched=True)
        except IntegrityError as error:
            error.add_note(f'in object "{record.name}"')
            raise


def require_undamaged(store: StoreReader, record: ObjectRecord) -> None:
    """Read a whole object for nothing but to see that it is what its record says.

    Raises:
        IntegrityError: it is missing or damaged.
    """
    digest_of(store, record, lambda _: None)


def digest_of(store: StoreReader, record: ObjectRecord, on_read: Callable[[int], None]) -> None:
    """Read a whole object and hold it against its record.

    Raises:
        IntegrityError: it is missing or damaged.
    """
    download(store, record, lambda piece: on_read(len(piece)))


def download(store: StoreReader, record: ObjectRecord, sink: Callable[[bytes], object]) -> None:
    """Read a whole object into a sink, as it is stored; what it got is proven on return.

    One that is longer than its record is not read on.

    Raises:
        IntegrityError: it is missing or damaged.
    """
    try:
        with store.open(record.name) as raw:
            reader = _Digesting(raw)
            while not reader.exceeds(record) and (piece := reader.read(_PIECE)):
                sink(piece)
    except ObjectMissingError as error:
        raise missing(record) from error
    if not reader.fits(record):
        raise damaged(record)


def part_reader(
    store: StoreReader, record: VolumeRecord, on_read: Callable[[int], None]
) -> Callable[[int, int], bytes]:
    """Return what fetches the bytes [begin, end) of a volume as stored, which nothing proves.

    It is safe from several threads if `on_read` is, which hears how many bytes came.
    """
    name = names.volume(record.volume)

    def read(begin: int, end: int) -> bytes:
        data = store.get_part(name, begin, end - begin)
        on_read(len(data))
        return data

    return read


def get_list(store: StoreReader, record: ObjectRecord) -> tuple[VolumeRecord, ...]:
    """Return a list of volumes.

    Raises:
        IntegrityError: it is missing or damaged.
    """
    return volume_list.decode(get(store, record))


def object_of(record: VolumeRecord) -> ObjectRecord:
    """Return a volume as the object it is stored as."""
    return ObjectRecord(names.volume(record.volume), record.size, record.sha256)


def missing(record: ObjectRecord) -> IntegrityError:
    """Return the error of an object that a manifest names and the vault does not hold."""
    return _kind(record)(f"{_label(record)} is missing from the vault", hint=_VERIFY)


def damaged(record: ObjectRecord) -> IntegrityError:
    """Return the error of an object whose bytes are not those the manifest names."""
    return _kind(record)(
        f"{_label(record)} is damaged: size or SHA-256 differs from the manifest", hint=_VERIFY
    )


def _kind(record: ObjectRecord) -> type[IntegrityError]:
    if record.name.startswith(names.VOLUMES):
        return VolumeError
    return SignatureError if record.name.startswith(names.META) else ManifestError


def _label(record: ObjectRecord) -> str:
    kind = "volume" if record.name.startswith(names.VOLUMES) else "object"
    return f'{kind} "{record.name}"'


class _Digesting:
    """Passes bytes on and keeps their count and SHA-256."""

    def __init__(self, raw: Readable) -> None:
        self._raw = raw
        self._sha256 = hashlib.sha256()
        self._size = 0

    def read(self, size: int, /) -> bytes:
        piece = self._raw.read(size)
        self._sha256.update(piece)
        self._size += len(piece)
        return piece

    def drain(self) -> None:
        while self.read(_PIECE):
            pass

    def exceeds(self, record: ObjectRecord) -> bool:
        return self._size > record.size

    def fits(self, record: ObjectRecord) -> bool:
        return self._size == record.size and self._sha256.hexdigest() == record.sha256
