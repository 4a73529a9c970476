"""Chunks: plaintext to sealed bytes and back (docs/formats.md, Chunk).

Each chunk has its own key, derived from its id and from all that could be associated data; so the nonce may be zero and
one key seals exactly one (bytes, kind, version). The id is recomputed after opening: AES-GCM alone does not commit
to its key. Blocking: about 0.6 ms per MiB, so callers use a pool for large chunks.
"""

from __future__ import annotations

import enum
import hmac
import struct

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast.blob import Buffer
from holdfast.codec.keys import GenerationKeys, expand
from holdfast.errors import BadRequest, Corrupt, TooLarge

SUITE = 1  # AES-256-GCM, HKDF-SHA256, BLAKE3 ids
CODEC_NONE = 0
CHUNK_ID_BYTES = 32
CHECK_BYTES = 16
SALT_BYTES = 16
SEAL_OVERHEAD = 16
CHUNK_BYTES = 4 << 20
"""The default length of a file's chunks; the last one is shorter."""
CHUNK_BYTES_MAX = 16 << 20
"""No chunk's plaintext is longer, of any kind."""

_NONCE = bytes(12)
_INFO = struct.Struct(">16sBBBQQ32s")
_LABEL = b"holdfast/1/chunk"


class Kind(enum.IntEnum):
    """What a chunk holds. It is part of the chunk's key: a chunk never opens as another kind."""

    DATA = 1
    RECIPE = 2
    REF = 3
    INDEX = 4


def chunk_id(keys: GenerationKeys, plaintext: Buffer, salt: bytes | None = None) -> bytes:
    """The 32-byte id. ``salt`` (16 bytes): only for the data chunks of a file kept out of deduplication."""
    key = keys.id
    if salt is not None:
        if len(salt) != SALT_BYTES:
            raise BadRequest(f"a salt has {SALT_BYTES} bytes, not {len(salt)}")
        key = blake3(salt, key=key).digest()
    return blake3(plaintext, key=key).digest()


def seal_into(keys: GenerationKeys, kind: Kind, id: bytes, plaintext: Buffer, out: memoryview) -> int:
    """Seals into the start of ``out``; returns the sealed length, ``len(plaintext) + SEAL_OVERHEAD``.

    ``plaintext``: 1 to ``CHUNK_BYTES_MAX`` bytes. ``id`` must be ``chunk_id`` of exactly this plaintext: that is what
    keeps two plaintexts from ever sharing a key.
    """
    size = len(plaintext)
    if size > CHUNK_BYTES_MAX:
        raise TooLarge(f"a chunk has at most {CHUNK_BYTES_MAX} bytes, not {size}")
    if size == 0:
        raise BadRequest("an empty chunk is never sealed: an empty file has no chunks")
    sealed = size + SEAL_OVERHEAD
    AESGCM(_key(keys, kind, size, id)).encrypt_into(_NONCE, plaintext, None, out[:sealed])
    return sealed


def open_chunk(keys: GenerationKeys, kind: Kind, id: bytes, sealed: Buffer, salt: bytes | None = None) -> bytes:
    """The plaintext, once both the seal and the recomputed id are right; Corrupt otherwise."""
    size = _plaintext_bytes(id, sealed)
    try:
        plaintext = AESGCM(_key(keys, kind, size, id)).decrypt(_NONCE, sealed, None)
    except InvalidTag as error:
        raise _corrupt(kind, id, "its seal does not open") from error
    if not hmac.compare_digest(chunk_id(keys, plaintext, salt), id):
        raise _corrupt(kind, id, "its bytes have another id")
    return plaintext


def open_into(
    keys: GenerationKeys, kind: Kind, id: bytes, sealed: Buffer, out: memoryview, salt: bytes | None = None
) -> int:
    """As ``open_chunk``, into the start of ``out``; returns the plaintext length.

    When it raises Corrupt, nothing of the chunk is left in ``out``: what had been written is zeroed.
    """
    size = _plaintext_bytes(id, sealed)
    if len(out) < size:
        raise BadRequest(f"a buffer of {len(out)} bytes is too small for a chunk of {size}")
    target = out[:size]
    right = False
    try:
        AESGCM(_key(keys, kind, size, id)).decrypt_into(_NONCE, sealed, None, target)
        right = hmac.compare_digest(chunk_id(keys, target, salt), id)
    except InvalidTag as error:
        raise _corrupt(kind, id, "its seal does not open") from error
    finally:
        if not right:
            target[:] = bytes(size)
    if not right:
        raise _corrupt(kind, id, "its bytes have another id")
    return size


def check16(sealed: Buffer) -> bytes:
    """The first 16 bytes of BLAKE3 of a sealed chunk: lets it be checked without keys."""
    return blake3(sealed).digest(CHECK_BYTES)


def _key(keys: GenerationKeys, kind: Kind, size: int, id: bytes) -> bytes:
    return expand(keys.chunk, _INFO.pack(_LABEL, SUITE, kind, CODEC_NONE, size, size + SEAL_OVERHEAD, id))


def _plaintext_bytes(id: bytes, sealed: Buffer) -> int:
    size = len(sealed) - SEAL_OVERHEAD
    if not 0 < size <= CHUNK_BYTES_MAX:
        raise Corrupt(f"chunk {id.hex()[:12]}: {len(sealed)} bytes is no length of a sealed chunk")
    if len(id) != CHUNK_ID_BYTES:
        raise Corrupt(f"a chunk id has {CHUNK_ID_BYTES} bytes, not {len(id)}")
    return size


def _corrupt(kind: Kind, id: bytes, why: str) -> Corrupt:
    return Corrupt(f"{kind.name.lower()} chunk {id.hex()[:12]}: {why}")
