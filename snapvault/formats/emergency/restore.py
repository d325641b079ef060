# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: UP017, B905 - it runs on Python 3.8
"""Restore from a copy of a SnapVault bucket, without SnapVault.

    python3 restore.py FOLDER                             what is there
    python3 restore.py FOLDER SOURCE --to TARGET          the newest restore point of SOURCE

Needs Python 3.8 or newer, gpg and zstd; the recovery key must be in GnuPG's usual home.
Reads vaults of format 1 (docs/format.md of SnapVault, which cites every section below).
Nothing is fetched from a network, and nothing is written but TARGET.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
from array import array
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, NamedTuple, Optional, Union  # noqa: UP035

FORMAT_VERSION = 1

# Exit statuses, as SnapVault's own (docs/errors.md).
USAGE = 2
LOCAL = 10
SEAL = 12
INTEGRITY = 13
MISSING = 14
TARGET = 16

ZERO, PARENT, FIRST_VOLUME = 0, 1, 2
META_MAGIC = b"SVMETA\x00\x01"
MOST_HEADER = 256 << 20  # bytes
PIECE = 1 << 20  # bytes read at a time

_SOURCE = re.compile(r"[a-z0-9][a-z0-9._-]*")
_POINT_ID = re.compile(r"[0-9a-f]{16}")
_VOLUME_ID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
_POINT_NAME = re.compile(r"(\d{8}T\d{6}Z)-([0-9a-f]{16})\.point")

Document = Dict[str, Any]  # noqa: UP006


class Failure(Exception):  # noqa: N818
    """A foreseeable failure: one line, perhaps a hint, and the exit status."""

    def __init__(self, status: int, summary: str, hint: str | None = None) -> None:
        super().__init__(summary)
        self.status = status
        self.hint = hint


# --- GnuPG and zstd ------------------------------------------------------------------------


class Programs:
    """gpg and zstd, and how they are called."""

    def __init__(self, passphrase_file: str | None) -> None:
        missing = [name for name in ("gpg", "zstd") if shutil.which(name) is None]
        if missing:
            raise Failure(
                LOCAL,
                f"not installed: {', '.join(missing)}",
                "Install them, for example with: apt-get install gnupg zstd.",
            )
        self.decrypt = ["gpg", "--batch", "--trust-model", "always", *_OFFLINE]
        if passphrase_file is not None:
            if not Path(passphrase_file).is_file():
                raise Failure(LOCAL, f'no passphrase file "{passphrase_file}"')
            self.decrypt += ["--pinentry-mode", "loopback", "--passphrase-file", passphrase_file]
        if sys.stdin is not None and sys.stdin.isatty():
            # A passphrase prompt on a bare console needs to know which one.
            os.environ.setdefault("GPG_TTY", os.ttyname(sys.stdin.fileno()))

    @contextmanager
    def key_ring(self, keys: list[Path]) -> Iterator[str]:
        """Make a throw-away GnuPG home that holds public keys and nothing else."""
        with tempfile.TemporaryDirectory(prefix="svr") as home:
            Path(home).chmod(0o700)
            if keys:
                command = [*_verifying(home), "--import", *map(str, keys)]
                subprocess.run(
                    command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
                )
            yield home

    def read_signed(self, path: Path, home: str) -> tuple[bytes, str]:
        """Return what a signed message says and the fingerprint of the primary key that signed."""
        with tempfile.TemporaryFile() as status_file:
            status_fd = status_file.fileno()
            command = [*_verifying(home), "--status-fd", str(status_fd), "--output", "-"]
            done = subprocess.run(
                [*command, "--decrypt", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(status_fd,),
                check=False,
            )
            status = _status(status_file)
        words = [line[0] for line in status]
        valid = [line for line in status if line[0] == "VALIDSIG"]
        unknown = [line[1] for line in status if line[0] == "NO_PUBKEY" and len(line) > 1]
        if unknown:
            raise Failure(
                INTEGRITY,
                f"signed by key {unknown[0]}, which is not among the keys of the vault",
                "Put the signer's public key into the folder keys/ of the copy, as an .asc file.",
            )
        if "REVKEYSIG" in words:
            raise Failure(INTEGRITY, "signed by a key that was revoked")
        if (
            done.returncode != 0
            or len(valid) != 1
            or words.count("NEWSIG") > 1
            or words.count("PLAINTEXT") != 1
            or not {"GOODSIG", "EXPKEYSIG"} & set(words)
        ):
            raise Failure(INTEGRITY, "its signature does not hold")
        _refuse_late(status, int(valid[0][3]))
        return done.stdout, valid[0][-1]

    @contextmanager
    def opened(self, path: Path, label: str) -> Iterator[IO[bytes]]:
        """Decrypt and unpack a stored object, through a pipe; proven only when the block ends.

        The block must read to the end, or raise.
        """
        finished = False
        with ExitStack() as files:
            sealed = files.enter_context(path.open("rb"))
            status_file = files.enter_context(tempfile.TemporaryFile())
            words = files.enter_context(tempfile.TemporaryFile())
            status_fd = status_file.fileno()
            decrypt = subprocess.Popen(
                [*self.decrypt, "--status-fd", str(status_fd), "--output", "-", "--decrypt"],
                stdin=sealed,
                stdout=subprocess.PIPE,
                stderr=words,
                pass_fds=(status_fd,),
            )
            unpack = subprocess.Popen(
                ["zstd", "-d", "-c", "-q"],
                stdin=decrypt.stdout,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert decrypt.stdout is not None and unpack.stdout is not None  # noqa: S101, PT018
            decrypt.stdout.close()
            try:
                yield unpack.stdout
                finished = True
            except Failure:
                # What stops the reader is often gpg's refusal, which says more.
                unpack.stdout.close()
                unpack.wait()
                if decrypt.wait() > 0:
                    self._judge(label, decrypt.returncode, status_file, words)
                raise
            finally:
                unpack.stdout.close()
                for process in (decrypt, unpack):
                    if not finished:
                        process.kill()
                    process.wait()
            self._judge(label, decrypt.returncode, status_file, words)
            if unpack.returncode != 0:
                raise Failure(INTEGRITY, f"{label} cannot be unpacked: zstd refuses it")

    @staticmethod
    def _judge(label: str, code: int, status_file: IO[bytes], words: IO[bytes]) -> None:
        """Raise unless gpg decrypted everything and proved that it was not altered."""
        status = _status(status_file)
        seen = [line[0] for line in status]
        if code == 0 and "DECRYPTION_OKAY" in seen and "GOODMDC" in seen:
            return
        readers = [line[1] for line in status if line[0] == "ENC_TO"]
        if readers and len(readers) == seen.count("NO_SECKEY"):
            raise Failure(
                SEAL,
                f"{label} cannot be opened: no secret key for {' or '.join(readers)}",
                "Import the recovery key first: gpg --import recovery-key.asc.",
            )
        causes = [line[2] for line in status if line[:2] == ["ERROR", "pkdecrypt_failed"]]
        if causes:
            reason = _REASONS.get(int(causes[-1]) & 0xFFFF, _last(words))
            raise Failure(
                SEAL,
                f"{label} could not be decrypted: {reason}",
                "On a bare console run export GPG_TTY=$(tty) first, or use --passphrase-file.",
            )
        raise Failure(
            INTEGRITY if "DECRYPTION_INFO" in seen else SEAL,
            f"{label} could not be decrypted: {_last(words)}",
        )


# What GnuPG says of a secret key that it could not use (gpg-error's numbers).
_REASONS = {
    11: "the passphrase is wrong",
    62: "nobody typed the passphrase in time",
    85: "no program to ask for the passphrase",
    86: "no program to ask for the passphrase",
    99: "the question for the passphrase was canceled",
}

_OFFLINE = ["--disable-dirmngr", "--no-auto-key-retrieve", "--no-auto-key-locate"]


def _verifying(home: str) -> list[str]:
    home_only = ["--homedir", home, "--no-options", "--no-autostart", "--trust-model", "always"]
    return ["gpg", "--batch", "--no-tty", "--quiet", *home_only, *_OFFLINE]


def _status(file: IO[bytes]) -> list[list[str]]:
    """Return gpg's status lines, in words."""
    file.seek(0)
    lines = file.read().decode("utf-8", "replace").split("\n")
    return [line.split()[1:] for line in lines if line.startswith("[GNUPG:] ")]


def _refuse_late(status: list[list[str]], signed_at: int) -> None:
    """Refuse a signature made after its key had expired; one made before still counts."""
    ends = [line[1] for line in status if line[0] == "KEYEXPIRED" and len(line) > 1]
    if any(line[0] == "EXPKEYSIG" for line in status) and not any(
        end.isdigit() and signed_at <= int(end) for end in ends
    ):
        raise Failure(INTEGRITY, "signed by a key that had expired")


def _last(words: IO[bytes]) -> str:
    """Return the last line a program said, without its own name."""
    words.seek(0)
    lines = words.read().decode("utf-8", "replace").strip().splitlines()
    return re.sub(r"^(gpg|zstd): ", "", lines[-1]).strip() if lines else "no reason given"


# --- the vault: sections 1, 2, 7 and 8 --------------------------------------------------------


class Point(NamedTuple):
    """A restore point whose manifest was proven."""

    document: Document
    signer: str
    taken_at: datetime

    @property
    def order(self) -> tuple[int, datetime, str]:
        """What the newest point has most of."""
        return self.document["sequence"], self.taken_at, self.document["point"]


class Broken(NamedTuple):
    """A manifest that does not count: its name, the time in its name, and why."""

    name: str
    named_time: str
    failure: Failure


class Vault:
    """A copy of a bucket."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        record = self.folder / "vault.json"
        if not record.is_file():
            raise Failure(
                MISSING,
                f'no vault in folder "{folder}": it has no "vault.json"',
                "FOLDER is the copy of the bucket, or of the prefix in it that holds vault.json.",
            )
        with decoding('"vault.json"'):
            document = json.loads(record.read_bytes())
            require_format("the vault", document["format"])
            self.id = str(document["vault"])

    def sources(self) -> list[str]:
        """Return the names of all sources, sorted."""
        points = self.folder / "points"
        if not points.is_dir():
            return []
        return sorted(
            entry.name
            for entry in points.iterdir()
            if entry.is_dir() and _SOURCE.fullmatch(entry.name)
        )

    def keys(self) -> list[Path]:
        """Return the files of public keys."""
        return sorted((self.folder / "keys").glob("*.asc"))

    def object(self, label: str, name: str, size: int, sha256: str) -> Path:
        """Return the path of a stored object once size and digest are as the manifest says."""
        path = self.sized(label, name, size)
        digest = hashlib.sha256()
        with path.open("rb") as file:
            for piece in iter(lambda: file.read(PIECE), b""):
                digest.update(piece)
        if digest.hexdigest() != sha256:
            raise Failure(
                INTEGRITY,
                f"{label} is damaged: SHA-256 differs from the manifest",
                f'Fetch "{name}" again; if it stays so, restore another point with --at.',
            )
        return path

    def sized(self, label: str, name: str, size: int) -> Path:
        """Return the path of a stored object once its size is as the manifest says."""
        path = self.folder / name
        if not path.is_file():
            raise Failure(
                MISSING,
                f'{label} is missing: no file "{name}"',
                "Fetch the bucket again; perhaps the copy was not whole.",
            )
        found = path.stat().st_size
        if found != size:
            raise Failure(
                INTEGRITY,
                f"{label} is damaged: {found} bytes, the manifest says {size}",
                f'Fetch "{name}" again; if it stays so, restore another point with --at.',
            )
        return path


def points(
    vault: Vault, source: str, programs: Programs, home: str
) -> tuple[list[Point], list[Broken]]:
    """Read and prove every manifest of a source; return points by age, and what does not count."""
    folder = vault.folder / "points" / source
    found = sorted(path for path in folder.iterdir() if _POINT_NAME.fullmatch(path.name))

    def read(path: Path) -> Union[Point, Broken]:  # noqa: UP007
        try:
            return manifest(vault, source, path, *programs.read_signed(path, home))
        except Failure as failure:
            return Broken(f"points/{source}/{path.name}", path.name.split("-")[0], failure)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(read, found))
    good = sorted(
        (result for result in results if isinstance(result, Point)), key=lambda point: point.order
    )
    return good, [result for result in results if isinstance(result, Broken)]


def manifest(vault: Vault, source: str, path: Path, content: bytes, signer: str) -> Point:
    """Read a manifest whose signature was proven: section 8."""
    with decoding("the manifest"):
        document = json.loads(content)
        require_format("the manifest", document["format"])
        written = datetime.strptime(document["taken_at"] + "+0000", "%Y-%m-%dT%H:%M:%S.%fZ%z")
        taken_at = written.astimezone(timezone.utc)
        named = f"{taken_at:%Y%m%dT%H%M%SZ}-{document['point']}.point"
        if document["source"] != source or named != path.name:
            raise Failure(
                INTEGRITY,
                f'out of place: it says that it is "points/{document["source"]}/{named}"',
            )
        if document["vault"] != vault.id:
            raise Failure(INTEGRITY, f"out of place: it belongs to vault {document['vault']}")
        if not whole(document["sequence"]):
            raise ValueError("impossible sequence")
        for stream in document["streams"]:
            if not (
                _SOURCE.fullmatch(stream["name"])
                and whole(stream["size"])
                and stream["engine"] in {"blocks", "rolling"}
                and _SHA256.fullmatch(stream["digest"])
                and stream["map"]
                and all(_POINT_ID.fullmatch(point) and whole(n) for point, n in stream["map"])
            ):
                raise ValueError(f"impossible stream {stream['name']!r}")
        for record in document["objects"] + document["lists"]:
            if not (whole(record["size"]) and _SHA256.fullmatch(record["sha256"])):
                raise ValueError(f"impossible object {record['name']!r}")
    return Point(document, signer, taken_at)


def volumes_of(vault: Vault, point: Point) -> dict[str, tuple[int, str]]:
    """Read a point's lists: volume id to size and SHA-256. Section 7."""
    listed: dict[str, tuple[int, str]] = {}
    for record in point.document["lists"]:
        label = f'list of volumes "{record["sha256"]}"'
        name = f"lists/{record['sha256']}.list"
        if record["name"] != name:
            raise Failure(INTEGRITY, f'the manifest calls {label} "{record["name"]}"')
        path = vault.object(label, name, record["size"], record["sha256"])
        with decoding(label):
            document = json.loads(path.read_bytes())
            require_format(label, document["format"])
            for volume, size, sha256 in document["volumes"]:
                if not (_VOLUME_ID.fullmatch(volume) and whole(size) and _SHA256.fullmatch(sha256)):
                    raise ValueError(f"impossible volume {volume!r}")
                if listed.setdefault(volume, (size, sha256)) != (size, sha256):
                    raise ValueError(f"volume {volume} is listed twice, differently")
    return listed


# How reading bytes that are not what they should be fails.
_UNREADABLE = (
    AttributeError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


@contextmanager
def decoding(label: str) -> Iterator[None]:
    """Say that something cannot be read, instead of how reading it failed."""
    try:
        yield
    except _UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise Failure(INTEGRITY, f"{label} cannot be read: {reason}") from error


def require_format(label: str, version: object) -> None:
    """Refuse every format but the one this script reads."""
    if version != FORMAT_VERSION:
        raise Failure(
            INTEGRITY,
            f"{label} has format {version}, this script reads {FORMAT_VERSION}",
            "Use the restore.py of the vault itself, or a newer SnapVault.",
        )


def whole(value: object) -> bool:
    """Tell whether a JSON value is a number of bytes or the like."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# --- maps: section 5 --------------------------------------------------------------------------


class Map(NamedTuple):
    """A stream's extents at one point, in stream order."""

    starts: array[int]
    length: array[int]
    place: array[int]
    offset: array[int]
    volumes: list[str]
    size: int


def maps_of(
    vault: Vault, point: Point, streams: list[Document], programs: Programs
) -> dict[str, list[Map]]:
    """Read the logs of maps of some streams, oldest entry first. Each object is opened once."""
    source = point.document["source"]
    objects = {record["name"]: record for record in point.document["objects"]}
    wanted: dict[str, dict[str, int]] = {}
    for stream in streams:
        for point_id, size in stream["map"]:
            wanted.setdefault(point_id, {})[stream["name"]] = size
    read: dict[tuple[str, str], Map] = {}
    for point_id, sizes in wanted.items():
        name = f"meta/{source}/{point_id}.map"
        label = f'map "{name}"'
        if name not in objects:
            raise Failure(INTEGRITY, f"the manifest does not vouch for {label}")
        path = vault.object(label, name, objects[name]["size"], objects[name]["sha256"])
        with programs.opened(path, label) as clear, decoding(label):
            for stream_name, extents in sections(clear, sizes, label):
                read[stream_name, point_id] = extents
        missing = [name for name in sizes if (name, point_id) not in read]
        if missing:
            raise Failure(INTEGRITY, f'{label} has no part for stream "{missing[0]}"')
    return {
        stream["name"]: [read[stream["name"], point_id] for point_id, _ in stream["map"]]
        for stream in streams
    }


def sections(clear: IO[bytes], sizes: dict[str, int], label: str) -> Iterator[tuple[str, Map]]:
    """Find the maps of the named streams in a container, and read to its end."""
    magic = exactly(clear, len(META_MAGIC))
    if magic[:7] == META_MAGIC[:7]:
        require_format(label, magic[7])
    if magic != META_MAGIC:
        raise ValueError("it is not a container")
    seen: set[str] = set()
    while True:
        (header_size,) = struct.unpack("<I", exactly(clear, 4))
        if header_size == 0:
            break
        if header_size > MOST_HEADER:
            raise ValueError(f"it announces a header of {header_size} bytes")
        header = json.loads(exactly(clear, header_size))
        (size,) = struct.unpack("<Q", exactly(clear, 8))
        name = header["stream"]
        if header["kind"] != "map" or name in seen:
            raise ValueError(f"unexpected part for stream {name!r}")
        seen.add(name)
        if name in sizes:
            if size != sizes[name]:
                raise ValueError(f"{size} bytes for stream {name!r}, not {sizes[name]}")
            yield name, decode_map(header, exactly(clear, size))
        else:
            while size:
                size -= len(exactly(clear, min(size, PIECE)))
    if clear.read(1):
        raise ValueError("it goes on after its end")


def exactly(file: IO[bytes], size: int) -> bytes:
    """Read that many bytes."""
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it is cut short")
    return data


def decode_map(header: Document, payload: bytes) -> Map:
    """Read a map's columns: section 5.1."""
    count = header["extents"]
    volumes = header["volumes"]
    if len(payload) != 20 * count:
        raise ValueError(f"{len(payload)} bytes for {count} extents")
    if len(set(volumes)) != len(volumes) or not all(map(_VOLUME_ID.fullmatch, volumes)):
        raise ValueError("impossible volume ids")
    length = column("Q", payload[: 8 * count])
    place = column("I", payload[8 * count : 12 * count])
    shift = column("q", payload[12 * count :])
    starts = array("Q", bytes(8 * count))
    offset = array("Q", bytes(8 * count))
    start = data_start = data_shift = copy_shift = 0
    most = FIRST_VOLUME + len(volumes)
    for row in range(count):
        size, where = length[row], place[row]
        if size == 0 or where >= most:
            raise ValueError(f"extent {row} is impossible")
        starts[row] = start
        if where == PARENT:
            copy_shift += shift[row]
            offset[row] = start + copy_shift
        elif where != ZERO:
            data_shift += shift[row]
            offset[row] = data_start + data_shift
            data_start += size
        elif shift[row]:
            raise ValueError(f"extent {row} is impossible")
        start += size
    if start != header["size"]:
        raise ValueError(f"{start} bytes of a stream of {header['size']}")
    return Map(starts, length, place, offset, volumes, start)


def column(code: str, data: bytes) -> array[int]:
    """Read little-endian numbers."""
    numbers = array(code)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def resolve(log: list[Map]) -> Iterator[tuple[int, int, Optional[str], int]]:  # noqa: UP045
    """Find where a stream's bytes lie: (stream offset, length, volume or None, volume offset).

    Goes from the newest map down, and takes to the next only what is still unknown.
    """
    wanted = array("Q", [0, log[-1].size, 0] if log[-1].size else [])
    for extents in reversed(log):
        rest = array("Q")
        columns = extents.length, extents.place, extents.offset
        for row in range(0, len(wanted), 3):
            target, left, begin = wanted[row : row + 3]
            if begin + left > extents.size:
                raise ValueError("it refers to bytes beyond the end of its parent")
            index = bisect_right(extents.starts, begin) - 1
            inside = begin - extents.starts[index]
            while left:
                length, place, offset = (numbers[index] for numbers in columns)
                taken = min(left, length - inside)
                if place == PARENT:
                    rest.extend((target, taken, offset + inside))
                elif place == ZERO:
                    yield target, taken, None, 0
                else:
                    volume = extents.volumes[place - FIRST_VOLUME]
                    yield target, taken, volume, offset + inside
                target += taken
                left -= taken
                index += 1
                inside = 0
        wanted = rest
    if wanted:
        raise ValueError("the first map of its log is not a full one")


# --- the target -------------------------------------------------------------------------------


class Plan:
    """What to read from every volume, and where it belongs."""

    def __init__(self) -> None:
        # Volume id to numbers in fours: offset in the volume, length, stream, offset in it.
        self.volumes: dict[str, array[int]] = {}
        self.zeros: list[tuple[int, int, int]] = []
        self.bytes = 0

    def add(self, number: int, log: list[Map]) -> None:
        """Add a stream."""
        for target, length, volume, offset in resolve(log):
            if volume is None:
                self.zeros.append((number, target, length))
            else:
                row = self.volumes.setdefault(volume, array("Q"))
                row.extend((offset, length, number, target))
                self.bytes += length


class Output(NamedTuple):
    """One stream's file, open for writing."""

    label: str
    fd: int


class Place:
    """Where a restore goes: a new file or folder under a name of its own until it is proven."""

    def __init__(self, target: str, *, streams: list[Document], folder: bool) -> None:
        self.target = Path(target)
        self.named_folder = target.endswith("/")
        self.streams = streams
        self.folder = folder
        self.device = False
        self.temporary: Optional[Path] = None  # noqa: UP045
        self.outputs: list[Output] = []

    def check(self, *, force: bool, needed: int) -> None:
        """Refuse what would overwrite something, or has no room.

        Raises:
            Failure: the target cannot take the restore.
        """
        label = f'target "{self.target}"'
        try:
            mode: Optional[int] = self.target.lstat().st_mode  # noqa: UP045
            if stat.S_ISLNK(self.target.lstat().st_mode):
                mode = self.target.stat().st_mode
        except FileNotFoundError:
            mode = None
        if mode is not None and stat.S_ISBLK(mode) and not self.folder:
            if not force:
                raise Failure(
                    TARGET,
                    f"{label} is a block device",
                    "Add --force to overwrite everything on it.",
                )
            self.device = True
            return
        if mode is not None:
            inside = self.target / (self.streams[0]["name"] if not self.folder else "restored")
            raise Failure(
                TARGET,
                f"{label} exists already",
                f'Name a new one, like "{inside}".'
                if stat.S_ISDIR(mode)
                else "Name a new one; this script never overwrites files.",
            )
        if self.named_folder and not self.folder:
            name = self.streams[0]["name"]
            raise Failure(
                TARGET,
                f'{label} is meant to be a folder, but stream "{name}" alone becomes a file',
                f'Leave out the slash, or make the folder and name "{self.target / name}".',
            )
        parent = self.target.absolute().parent
        if not parent.is_dir():
            raise Failure(TARGET, f'cannot restore into folder "{parent}": it is not there')
        room = os.statvfs(parent)
        free = room.f_bavail * room.f_frsize
        if free < needed:
            raise Failure(
                TARGET, f'no room in "{parent}": {units(needed)} are needed, {units(free)} free'
            )

    def open(self) -> None:
        """Open an output for every stream."""
        if self.device:
            self._open_device()
            return
        name = f".{self.target.name}.snapvault-{secrets.token_hex(4)}"
        self.temporary = self.target.absolute().parent / name
        if self.folder:
            self.temporary.mkdir(mode=0o700)
        for stream in self.streams:
            path = self.temporary / stream["name"] if self.folder else self.temporary
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            self.outputs.append(Output(f'stream "{stream["name"]}"', fd))
            os.ftruncate(fd, stream["size"])

    def _open_device(self) -> None:
        stream = self.streams[0]
        fd = os.open(self.target, os.O_RDWR | os.O_EXCL)
        self.outputs.append(Output(f'stream "{stream["name"]}"', fd))
        room = os.lseek(fd, 0, os.SEEK_END)
        if room < stream["size"]:
            raise Failure(
                TARGET,
                f'block device "{self.target}" is too small: {units(room)},'
                f" {units(stream['size'])} are needed",
            )

    def finish(self) -> None:
        """Make the restore durable and give it its name."""
        for output in self.outputs:
            os.fsync(output.fd)
        if self.temporary is None:
            return
        if os.path.lexists(self.target):
            raise Failure(TARGET, f'target "{self.target}" appeared during the restore')
        self.temporary.rename(self.target)
        self.temporary = None

    def close(self) -> None:
        """Close everything, and remove what was not finished."""
        for output in self.outputs:
            os.close(output.fd)
        if self.temporary is None:
            return
        if self.folder:
            shutil.rmtree(self.temporary, ignore_errors=True)
        elif self.temporary.exists():
            self.temporary.unlink()


def write(
    vault: Vault,
    plan: Plan,
    listed: dict[str, tuple[int, str]],
    place: Place,
    programs: Programs,
) -> None:
    """Decrypt each volume once and write its bytes everywhere they belong."""
    if place.device:
        # A file starts as zeros, a device holds what was there before.
        for number, target, length in plan.zeros:
            for start in range(0, length, PIECE):
                write_at(
                    place.outputs[number].fd, bytes(min(PIECE, length - start)), target + start
                )
    progress = Progress(len(plan.volumes), plan.bytes)
    for volume, numbers in plan.volumes.items():
        label = f'volume "{volume}"'
        path = vault.object(label, volume_name(volume), *listed[volume])
        rows = sorted(
            (numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3])
            for at in range(0, len(numbers), 4)
        )
        with programs.opened(path, label) as clear:
            scatter(clear, rows, place.outputs, label)
        progress.step(sum(row[1] for row in rows))
    progress.end()


def scatter(
    clear: IO[bytes], rows: list[tuple[int, int, int, int]], outputs: list[Output], label: str
) -> None:
    """Write (offset, length, output, target) rows, sorted by offset, from a volume's raw bytes."""
    position = 0
    following = 0
    active: list[tuple[int, int, int, int]] = []
    for piece in iter(lambda: clear.read(PIECE), b""):
        view = memoryview(piece)
        end = position + len(piece)
        while following < len(rows) and rows[following][0] < end:
            active.append(rows[following])
            following += 1
        for offset, length, number, target in active:
            begin = max(offset, position)
            stop = min(offset + length, end)
            part = view[begin - position : stop - position]
            write_at(outputs[number].fd, part, target + begin - offset)
        active = [row for row in active if row[0] + row[1] > end]
        position = end
    if active or following < len(rows):
        raise Failure(INTEGRITY, f"{label} ends after {position} bytes, the map needs more of it")


def write_at(fd: int, data: Union[bytes, memoryview], target: int) -> None:  # noqa: UP007
    """Write all bytes at a place."""
    while len(data):
        done = os.pwrite(fd, data, target)
        data = data[done:]
        target += done


def volume_name(volume: str) -> str:
    """Return the name of a volume: section 2."""
    return f"volumes/{volume[:2]}/{volume}.vol"


class Progress:
    """Says how far the restore is: one line that changes on a terminal, else every tenth."""

    def __init__(self, volumes: int, total: int) -> None:
        self.volumes = volumes
        self.total = total
        self.done = 0
        self.written = 0
        self.terminal = sys.stderr.isatty()

    def step(self, written: int) -> None:
        """Count one volume more."""
        self.done += 1
        self.written += written
        line = (
            f"volume {self.done} of {self.volumes}, "
            f"{units(self.written)} of {units(self.total)} written"
        )
        if self.terminal:
            print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
        elif self.done * 10 // self.volumes > (self.done - 1) * 10 // self.volumes:
            say(line)

    def end(self) -> None:
        """Leave the line."""
        if self.terminal and self.done:
            print(file=sys.stderr)


def verified(place: Place) -> list[str]:
    """Check what can be checked of the streams' own digests, and say what was."""
    lines = []
    for stream, output in zip(place.streams, place.outputs):
        if stream["engine"] == "rolling":
            digest = hashlib.sha256()
            position = 0
            left = stream["size"]
            while left:
                piece = os.pread(output.fd, min(PIECE, left), position)
                if not piece:
                    break
                digest.update(piece)
                position += len(piece)
                left -= len(piece)
            if digest.hexdigest() != stream["digest"]:
                raise Failure(INTEGRITY, f"{output.label} is damaged: SHA-256 differs")
            lines.append(f"{output.label}: {units(stream['size'])}, its SHA-256 is the manifest's")
        else:
            lines.append(
                f"{output.label}: {units(stream['size'])}, from intact volumes; "
                "its own digest is BLAKE3, which Python does not have, and was not computed"
            )
    return lines


# --- the command --------------------------------------------------------------------------------


def restore(vault: Vault, options: argparse.Namespace, programs: Programs, home: str) -> None:
    """Restore a source at a point in time."""
    point = choose(vault, options, programs, home)
    document = point.document
    streams: list[Document] = document["streams"]
    if options.stream:
        streams = [stream for stream in streams if stream["name"] == options.stream]
        if not streams:
            names = ", ".join(f'"{stream["name"]}"' for stream in document["streams"])
            raise Failure(
                TARGET,
                f'source "{options.source}" has no stream "{options.stream}"',
                f"It has {names}.",
            )
    if not streams:
        raise Failure(INTEGRITY, f'point "{document["point"]}" has no streams')
    announce(point, options.signer)
    listed = volumes_of(vault, point)
    plan = planned(vault, point, streams, programs)
    for volume in plan.volumes:
        if volume not in listed:
            raise Failure(INTEGRITY, f'the manifest does not vouch for volume "{volume}"')
    if options.needs:
        for volume in sorted(plan.volumes):
            print(volume_name(volume))
        return
    for volume in plan.volumes:
        vault.sized(f'volume "{volume}"', volume_name(volume), listed[volume][0])
    place = Place(options.to, streams=streams, folder=len(streams) > 1)
    try:
        place.check(force=options.force, needed=plan.bytes)
        place.open()
        write(vault, plan, listed, place, programs)
        lines = verified(place)
        place.finish()
    except OSError as error:
        raise Failure(TARGET, f'could not write "{options.to}": {error.strerror}') from error
    finally:
        place.close()
    print(f'restored "{options.source}" of {moment(point.taken_at)} to "{options.to}"')
    print(f"verified: the manifest's signature, all maps, {len(plan.volumes)} volumes (SHA-256)")
    for line in lines:
        print(line)


def planned(vault: Vault, point: Point, streams: list[Document], programs: Programs) -> Plan:
    """Read the maps and make the plan."""
    logs = maps_of(vault, point, streams, programs)
    plan = Plan()
    for number, stream in enumerate(streams):
        with decoding(f'the map of stream "{stream["name"]}"'):
            if logs[stream["name"]][-1].size != stream["size"]:
                raise ValueError("its size is not the manifest's")
            plan.add(number, logs[stream["name"]])
    return plan


def choose(vault: Vault, options: argparse.Namespace, programs: Programs, home: str) -> Point:
    """Find the newest restore point at or before the wanted time."""
    source = options.source
    if source not in vault.sources():
        names = ", ".join(f'"{name}"' for name in vault.sources()) or "none"
        raise Failure(TARGET, f'no source "{source}" in the vault', f"Sources in it: {names}.")
    good, broken = points(vault, source, programs, home)
    if options.signer:
        broken += [
            Broken(
                f"points/{source}/{point.taken_at:%Y%m%dT%H%M%SZ}-{point.document['point']}.point",
                f"{point.taken_at:%Y%m%dT%H%M%SZ}",
                Failure(INTEGRITY, f"signed by {point.signer}, not by the signer you named"),
            )
            for point in good
            if point.signer not in options.signer
        ]
        good = [point for point in good if point.signer in options.signer]
    suitable = [point for point in good if point.taken_at.replace(microsecond=0) <= options.at]
    latest = f"{options.at.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}"
    newest = suitable[-1] if suitable else None
    since = f"{newest.taken_at:%Y%m%dT%H%M%SZ}" if newest else ""
    doubtful = [entry for entry in broken if since <= entry.named_time <= latest]
    if doubtful:
        # An older point is never restored silently in the place of one that is damaged.
        entry = max(doubtful, key=lambda entry: entry.named_time)
        raise Failure(
            entry.failure.status,
            f'manifest "{entry.name}" does not count: {entry.failure}',
            (f"{entry.failure.hint} " if entry.failure.hint else "")
            + (
                f"Or restore the point before it: --at {moment(newest.taken_at)}."
                if newest
                else "No point before it counts either."
            ),
        )
    if newest is None:
        raise Failure(
            TARGET,
            f'no restore point of "{source}" at or before {moment(options.at)}',
            f"The oldest is of {moment(good[0].taken_at)}." if good else None,
        )
    others = sorted({point.signer for point in good} - {newest.signer})
    if others and not options.signer:
        say(f"note: other points of this source are signed by {', '.join(others)}")
    return newest


def announce(point: Point, signers: list[str]) -> None:
    """Say what will be restored, and who vouches for it."""
    document = point.document
    say(
        f'source "{document["source"]}", taken {moment(point.taken_at)}, '
        f"point {document['point']}, consistency: {document['consistency']}"
    )
    if signers:
        say(f"signed by {point.signer}, as you asked")
        return
    say("")
    say("    SIGNED BY   " + spaced(point.signer))
    say("")
    say("Compare this fingerprint with the one on paper: if it differs, somebody else made this")
    say("restore point. With --signer FINGERPRINT no other is accepted.")
    say("")


def show(vault: Vault, sources: list[str], programs: Programs, home: str) -> int:
    """List restore points; return INTEGRITY when some manifest does not count."""
    print(f"vault {vault.id}")
    status = 0
    signers: set[str] = set()
    for source in sources:
        good, broken = points(vault, source, programs, home)
        print(f"\n{source}")
        for point in good:
            streams = ", ".join(
                f"{stream['name']} ({units(stream['size'])})"
                for stream in point.document["streams"]
            )
            print(f"  {moment(point.taken_at)}  {point.document['point']}  {streams}")
            signers.add(point.signer)
        for entry in broken:
            status = INTEGRITY
            print(f"  does not count: {entry.name}: {entry.failure}")
    for signer in sorted(signers):
        print(f"\nsigned by {spaced(signer)}: compare with the fingerprint on paper")
    return status


def moment(time: datetime) -> str:
    """Write a time as --at takes it."""
    return f"{time.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def time_from(text: str) -> datetime:
    """Read what was typed after --at; a day or a minute without a zone means all of it."""
    compact = re.fullmatch(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", text)
    if compact:
        text = "{}-{}-{}T{}:{}:{}Z".format(*compact.groups())
    try:
        time = datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in "Zz" else text)
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            time += timedelta(days=1, seconds=-1)
        elif re.fullmatch(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d", text):
            time += timedelta(seconds=59)
        return time.astimezone()  # a time without a zone is in this machine's
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f'"{text}" is not a time; write 2026-11-20 or 2026-11-20 03:00 or 2026-11-20T03:00:00Z'
        ) from None


def fingerprint_from(text: str) -> str:
    """Read a fingerprint, with or without spaces."""
    found = re.sub(r"\s", "", text).upper()
    found = re.sub("^0X", "", found)
    if not _FINGERPRINT.fullmatch(found):
        raise argparse.ArgumentTypeError(f'"{text}" is not a whole fingerprint')
    return found


def spaced(fingerprint: str) -> str:
    """Write a fingerprint in groups of four."""
    return " ".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4))


def units(size: float) -> str:
    """Write a number of bytes."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def say(line: str) -> None:
    """Tell the person, apart from the result."""
    print(line, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    found = argparse.ArgumentParser(
        prog="restore.py",
        description="Restore from a copy of a SnapVault bucket with Python, gpg and zstd alone.",
        epilog="Without SOURCE it lists every restore point; with SOURCE and no --to, its own.",
    )
    found.add_argument("folder", metavar="FOLDER", help="the copy of the bucket")
    found.add_argument("source", metavar="SOURCE", nargs="?", help="what to restore")
    found.add_argument(
        "--to",
        metavar="TARGET",
        help="a new file; a new folder, if the source has several streams and no --stream is"
        " given; or a block device, with --force",
    )
    found.add_argument(
        "--at",
        metavar="TIME",
        type=time_from,
        default=datetime.max.replace(tzinfo=timezone.utc),
        help="the newest point at or before this time, like 2026-11-20 (that whole day) or"
        ' "2026-11-20 03:00" (both in the time of this machine) or 2026-11-20T03:00:00Z;'
        " without it, the newest of all",
    )
    found.add_argument("--stream", metavar="NAME", help="this stream of the source only")
    found.add_argument(
        "--signer",
        metavar="FINGERPRINT",
        type=fingerprint_from,
        action="append",
        default=[],
        help="accept only points that this key signed; may be given several times",
    )
    found.add_argument(
        "--passphrase-file",
        metavar="FILE",
        help="the recovery key's passphrase, if nobody types it",
    )
    found.add_argument("--force", action="store_true", help="overwrite a block device")
    found.add_argument(
        "--needs",
        action="store_true",
        help="only print the names of the volumes that the restore would read, so that the copy"
        " needs no others; needs keys/, points/, meta/ and lists/",
    )
    return found


def run(options: argparse.Namespace) -> int:
    """Do what was asked; return the exit status."""
    vault = Vault(options.folder)
    programs = Programs(options.passphrase_file)
    with programs.key_ring(vault.keys()) as home:
        if options.source and (options.to or options.needs):
            restore(vault, options, programs, home)
            return 0
        sources = vault.sources()
        if options.source:
            if options.source not in sources:
                choose(vault, options, programs, home)
            sources = [options.source]
        return show(vault, sources, programs, home)


def main(arguments: Optional[List[str]] = None) -> int:  # noqa: UP006, UP045
    """Run the command; failures become a line and a number."""
    commands = parser()
    options = commands.parse_args(arguments)
    if options.to and not options.source:
        commands.error("--to needs a SOURCE")
    try:
        return run(options)
    except Failure as failure:
        say(f"restore.py: {failure}")
        if failure.hint:
            say(f"hint: {failure.hint}")
        return failure.status
    except OSError as error:
        say(f'restore.py: could not read "{error.filename}": {error.strerror}')
        return MISSING
    except KeyboardInterrupt:
        say("restore.py: interrupted; nothing was left behind")
        return 128 + signal.SIGINT


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
