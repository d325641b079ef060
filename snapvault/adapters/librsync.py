# SPDX-License-Identifier: Apache-2.0
"""librsync 2 through ctypes; docs/adr/0002-librsync-through-ctypes.md says why.

Source: librsync.h of librsync 2.3.2.
"""

import ctypes
import os
import struct
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path

from snapvault.errors import ConfigError, SignatureError, SourceError

LIBRARY = "librsync.so.2"
OLDEST_VERSION = (2, 2)  # the first with RabinKarp
_INSTALL = "Install librsync 2.2 or newer: apt-get install librsync2."

RK_BLAKE2_MAGIC = 0x72730147
MAX_STRONG_LENGTH = 32  # LIMIT: librsync, BLAKE2 sums, bytes
_MAX_BLOCK_LENGTH = 2**31 - 1  # LIMIT: librsync keeps block lengths in a C int, bytes

# magic u32 | block length u32 | strong sum length u32, big-endian
_HEADER = struct.Struct(">III")
_WEAK_LENGTH = 4

_BUFFER_SIZE = 1 << 20

_DONE = 0
_BLOCKED = 1
_MEM_ERROR = 102
_INPUT_ENDED = 103
_BAD_MAGIC = 104
_CORRUPT = 106


class _Buffers(ctypes.Structure):
    """`rs_buffers_t`: what a job may read and where it may write."""

    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_size_t),
        ("eof_in", ctypes.c_int),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_size_t),
    )


@cache
def _library() -> ctypes.CDLL:
    """Load the library once and declare what is used of it. CDLL lets go of the GIL in calls."""
    try:
        lib = ctypes.CDLL(LIBRARY)
        lib.rs_strerror.argtypes = [ctypes.c_int]
        lib.rs_strerror.restype = ctypes.c_char_p
        lib.rs_sig_begin.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
        lib.rs_sig_begin.restype = ctypes.c_void_p
        lib.rs_loadsig_file.argtypes = [
            ctypes.c_void_p,
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.c_void_p,
        ]
        lib.rs_loadsig_file.restype = ctypes.c_int
        lib.rs_build_hash_table.argtypes = [ctypes.c_void_p]
        lib.rs_build_hash_table.restype = ctypes.c_int
        lib.rs_delta_begin.argtypes = [ctypes.c_void_p]
        lib.rs_delta_begin.restype = ctypes.c_void_p
        lib.rs_job_iter.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Buffers)]
        lib.rs_job_iter.restype = ctypes.c_int
        lib.rs_job_free.argtypes = [ctypes.c_void_p]
        lib.rs_job_free.restype = ctypes.c_int
        lib.rs_free_sumset.argtypes = [ctypes.c_void_p]
        lib.rs_free_sumset.restype = None
        lib.rs_trace_to.argtypes = [ctypes.c_void_p]
        lib.rs_trace_to.restype = None
        # QUIRK: librsync 2 writes errors to stderr on its own; we raise them instead.
        lib.rs_trace_to(None)
        version = _version_of(lib)
        numbers = tuple(int(part) for part in version.split(".")[:2])
    except (OSError, AttributeError, ValueError) as error:
        raise ConfigError(f'could not load library "{LIBRARY}": {error}', hint=_INSTALL) from error
    if numbers < OLDEST_VERSION:
        raise ConfigError(f'library "{LIBRARY}" is too old: version {version}', hint=_INSTALL)
    return lib


def _version_of(lib: ctypes.CDLL) -> str:
    """Return the number in the library's "librsync 2.3.2"."""
    text = ctypes.c_char.in_dll(lib, "rs_librsync_version")
    return ctypes.string_at(ctypes.addressof(text)).decode().removeprefix("librsync ")


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    libc.fopen.restype = ctypes.c_void_p
    libc.fclose.argtypes = [ctypes.c_void_p]
    libc.fclose.restype = ctypes.c_int
    return libc


def _failure(result: int, what: str) -> SourceError:
    reason = _library().rs_strerror(result).decode()
    hint = "Free some memory, or use a larger block length." if result == _MEM_ERROR else None
    return SourceError(f"could not compute librsync {what}: {reason}", hint=hint)


class _Sums:
    """A signature in memory; freed when nobody refers to it any more, jobs included."""

    def __init__(self, sums: int) -> None:
        self.address = sums
        lib = _library()
        self._release = weakref.finalize(self, lib.rs_free_sumset, sums)
        self._release.atexit = False


class _Signature:
    """A loaded signature; see `snapvault.ports.librsync.Sums`."""

    def __init__(self, sums: _Sums) -> None:
        self._sums: _Sums | None = sums

    def delta(self, sink: Callable[[bytes], None]) -> "_Job":
        """Start a delta; ValueError: the signature is closed."""
        if self._sums is None:
            raise ValueError("the signature is closed")
        return _Job(_library().rs_delta_begin(self._sums.address), sink, "delta", self._sums)

    def close(self) -> None:
        """Let go of the signature; its memory is free once no job is left. Safe to repeat."""
        self._sums = None


def _free(lib: ctypes.CDLL, job: int, keep_alive: list[_Sums]) -> None:
    # ORDER: the job goes first, because it points into the sums.
    lib.rs_job_free(job)
    keep_alive.clear()


class _Job:
    """A librsync job, pushed forward: input is gathered to a megabyte, output goes to the sink.

    Freed when it finishes, fails, is closed or is collected, whatever comes first.
    """

    def __init__(
        self, job: int, sink: Callable[[bytes], None], what: str, sums: _Sums | None = None
    ) -> None:
        self._lib = _library()
        self._job = job
        self._sink = sink
        self._what = what
        self._input = ctypes.create_string_buffer(_BUFFER_SIZE)
        self._input_view = memoryview(self._input).cast("B")
        self._filled = 0
        self._output = ctypes.create_string_buffer(_BUFFER_SIZE)
        keep_alive = [] if sums is None else [sums]
        self._release = weakref.finalize(self, _free, self._lib, job, keep_alive)
        self._release.atexit = False

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream, of any number. ValueError: the job is over."""
        self._require_running()
        with memoryview(data) as whole, whole.cast("B") as view:
            position = 0
            while position < len(view):
                count = min(_BUFFER_SIZE - self._filled, len(view) - position)
                target = self._input_view[self._filled : self._filled + count]
                target[:] = view[position : position + count]
                self._filled += count
                position += count
                if self._filled == _BUFFER_SIZE:
                    self._run(end=False)

    def finish(self) -> None:
        """Take the end of the stream; the sink has all bytes on return, and the job is freed."""
        self._require_running()
        self._run(end=True)
        self.close()

    def close(self) -> None:
        """Free what the library holds; safe to repeat."""
        self._release()

    def _require_running(self) -> None:
        if not self._release.alive:
            raise ValueError(f"the {self._what} job is over")

    def _run(self, *, end: bool) -> None:
        try:
            self._iterate(end=end)
        except BaseException:
            self.close()
            raise

    def _iterate(self, *, end: bool) -> None:
        buffers = _Buffers(next_in=ctypes.addressof(self._input), avail_in=self._filled, eof_in=end)
        output = ctypes.addressof(self._output)
        while True:
            buffers.next_out = output
            buffers.avail_out = _BUFFER_SIZE
            result = self._lib.rs_job_iter(self._job, ctypes.byref(buffers))
            if result not in (_DONE, _BLOCKED):
                raise _failure(result, self._what)
            produced = _BUFFER_SIZE - buffers.avail_out
            if produced:
                self._sink(ctypes.string_at(output, produced))
            if result == _DONE:
                break
            # Blocked with room to write and nothing to read: it waits for more input.
            if not end and buffers.avail_in == 0 and buffers.avail_out:
                break
        self._filled = 0


class LibRsync:
    """The system's librsync, loaded when first needed; see `snapvault.ports.librsync.Rsync`.

    Every method raises ConfigError when the library is missing or too old.
    """

    def version(self) -> str:
        """Return the library's version: `2.3.2`."""
        return _version_of(_library())

    def signature(
        self, sink: Callable[[bytes], None], *, block_length: int, strong_length: int
    ) -> _Job:
        """Start a signature; ValueError: a length that librsync cannot use."""
        if not 0 < block_length <= _MAX_BLOCK_LENGTH:
            raise ValueError(f"not a block length: {block_length}")
        if not 0 < strong_length <= MAX_STRONG_LENGTH:
            raise ValueError(f"not a strong sum length: {strong_length}")
        job = _library().rs_sig_begin(block_length, strong_length, RK_BLAKE2_MAGIC)
        return _Job(job, sink, "signature")

    def sums(self, signature: Path) -> _Signature:
        """Load a signature file; it is read whole before this returns.

        Raises:
            SignatureError: the file is not a signature as `signature` writes it, or is cut short.
            SourceError: the file could not be read, or memory ran out.
        """
        lib = _library()
        _check_header(signature)
        sums = _Sums(_load(lib, signature))
        result = lib.rs_build_hash_table(sums.address)
        if result != _DONE:
            raise _failure(result, "delta")
        return _Signature(sums)


def _check_header(path: Path) -> None:
    """Refuse what librsync would misread; it takes a partial last sum for the end."""
    try:
        with path.open("rb") as file:
            raw = file.read(_HEADER.size)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise SourceError(f'could not read signature "{path}": {error.strerror}') from error
    if len(raw) < _HEADER.size:
        raise SignatureError(f'signature "{path}" is cut short: {len(raw)} bytes')
    magic, block_length, strong_length = _HEADER.unpack(raw)
    if magic != RK_BLAKE2_MAGIC:
        raise SignatureError(f'file "{path}" is not a librsync signature: magic {magic:#010x}')
    if not 0 < block_length <= _MAX_BLOCK_LENGTH or not 0 < strong_length <= MAX_STRONG_LENGTH:
        raise SignatureError(
            f'signature "{path}" is damaged: block length {block_length} bytes,'
            f" strong sums of {strong_length} bytes"
        )
    rest = (size - _HEADER.size) % (_WEAK_LENGTH + strong_length)
    if rest:
        raise SignatureError(f'signature "{path}" is cut short: {rest} bytes of its last sum')


def _load(lib: ctypes.CDLL, path: Path) -> int:
    """Read a signature into memory. From a C file, librsync allocates its sums just once."""
    libc = _libc()
    file = libc.fopen(os.fsencode(path), b"rbe")
    if not file:
        raise SourceError(f'could not read signature "{path}": {os.strerror(ctypes.get_errno())}')
    sums = ctypes.c_void_p()
    try:
        result = lib.rs_loadsig_file(file, ctypes.byref(sums), None)
    finally:
        libc.fclose(file)
    if result == _DONE and sums.value is not None:
        return sums.value
    if sums.value is not None:
        lib.rs_free_sumset(sums)
    if result in (_INPUT_ENDED, _BAD_MAGIC, _CORRUPT):
        reason = lib.rs_strerror(result).decode()
        raise SignatureError(f'signature "{path}" is damaged: {reason}')
    raise _failure(result, "delta")
