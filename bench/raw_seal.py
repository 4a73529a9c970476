"""Sealing as the pack format needs it and nothing else: keyed BLAKE3 id, a key from it, AES-256-GCM into a buffer."""

from __future__ import annotations

import hmac

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ID_BYTES = 32
TAG_BYTES = 16
CHUNK_BYTES = 4 << 20
OVERHEAD_BYTES = ID_BYTES + TAG_BYTES

_ID_KEY = bytes(range(32))
_CHUNK_KEY = bytes(range(32, 64))
_NONCE = bytes(12)


def seal(plain: memoryview, sealed: memoryview) -> int:
    """Id and sealed bytes of one chunk at the start of ``sealed``; how many bytes they are."""
    id_ = blake3(plain, key=_ID_KEY).digest()
    sealed[:ID_BYTES] = id_
    end = len(plain) + OVERHEAD_BYTES
    AESGCM(_key(id_)).encrypt_into(_NONCE, plain, None, sealed[ID_BYTES:end])
    return end


def open_sealed(sealed: memoryview, plain: memoryview) -> int:
    """The chunk that ``seal`` made, into the start of ``plain``; how many bytes. Raises when anything is wrong."""
    id_ = bytes(sealed[:ID_BYTES])
    size = len(sealed) - OVERHEAD_BYTES
    AESGCM(_key(id_)).decrypt_into(_NONCE, sealed[ID_BYTES:], None, plain[:size])
    if blake3(plain[:size], key=_ID_KEY).digest() != id_:
        raise ValueError("a chunk opened to other bytes than its id promises")
    return size


def _key(id_: bytes) -> bytes:
    return hmac.digest(_CHUNK_KEY, id_, "sha256")
