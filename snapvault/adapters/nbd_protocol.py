# SPDX-License-Identifier: Apache-2.0
"""The numbers of the NBD protocol, for the client that backs up and the server that restores.

Source: doc/proto.md of the NBD project, as far as SnapVault speaks it.
"""

import errno
import struct
from typing import Final

# --- negotiation ----------------------------------------------------------------------------

INIT_MAGIC: Final = b"NBDMAGIC"
OPTION_MAGIC: Final = 0x49484156454F5054
OPTION_REPLY_MAGIC: Final = 0x3E889045565A9

FIXED_NEWSTYLE: Final = 1  # flags of the handshake, of both sides
NO_ZEROES: Final = 2

OPTION_EXPORT_NAME: Final = 1
OPTION_ABORT: Final = 2
OPTION_LIST: Final = 3
OPTION_INFO: Final = 6
OPTION_GO: Final = 7
OPTION_STRUCTURED_REPLY: Final = 8
OPTION_LIST_META_CONTEXT: Final = 9
OPTION_SET_META_CONTEXT: Final = 10

REPLY_ACK: Final = 1
REPLY_SERVER: Final = 2
REPLY_INFO: Final = 3
REPLY_META_CONTEXT: Final = 4
REPLY_ERROR_UNSUPPORTED: Final = 1 << 31 | 1
REPLY_ERROR_INVALID: Final = 1 << 31 | 3
REPLY_ERROR_UNKNOWN: Final = 1 << 31 | 6
REPLY_ERROR_TOO_BIG: Final = 1 << 31 | 9

INFO_EXPORT: Final = 0
INFO_NAME: Final = 1
INFO_BLOCK_SIZE: Final = 3

ALLOCATION: Final = "base:allocation"
IS_HOLE: Final = 1  # flags of an extent of ALLOCATION: nothing is allocated there
IS_ZERO: Final = 2  # and: it reads as zeros

# --- transmission ---------------------------------------------------------------------------

HAS_FLAGS: Final = 1  # flags of an export
READ_ONLY: Final = 1 << 1
SEND_DF: Final = 1 << 7
CAN_MULTI_CONN: Final = 1 << 8
SEND_CACHE: Final = 1 << 10

REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF

# magic u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u32, big-endian
REQUEST: Final = struct.Struct(">IHHQQI")

READ: Final = 0
WRITE: Final = 1
DISCONNECT: Final = 2
TRIM: Final = 4
CACHE: Final = 5
WRITE_ZEROES: Final = 6
BLOCK_STATUS: Final = 7

DO_NOT_FRAGMENT: Final = 1 << 2  # flags of a request
REQUEST_ONE: Final = 1 << 3

DONE: Final = 1  # flag of a chunk: it is the reply's last
CHUNK_NONE: Final = 0
CHUNK_DATA: Final = 1
CHUNK_HOLE: Final = 2
CHUNK_STATUS: Final = 5
CHUNK_ERROR: Final = 1 << 15  # set in all types of chunks that tell an error
CHUNK_ERROR_TOLD: Final = CHUNK_ERROR | 1

TEXT_LIMIT: Final = 4096  # LIMIT: bytes of a text in the protocol
LARGEST_REQUEST: Final = 32 << 20  # LIMIT: what every server takes, bytes

ERRORS: Final = {
    1: errno.EPERM,
    5: errno.EIO,
    12: errno.ENOMEM,
    22: errno.EINVAL,
    28: errno.ENOSPC,
    75: errno.EOVERFLOW,
    95: errno.ENOTSUP,
    108: errno.ESHUTDOWN,
}
"""The protocol's own numbers for what went wrong, as Linux's."""
