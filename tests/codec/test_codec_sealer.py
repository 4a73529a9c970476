"""Chunks open as exactly what was sealed, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from holdfast.codec import sealer
from holdfast.codec.keys import GenerationKeys, VaultKeys, expand
from holdfast.codec.sealer import (
    CHUNK_BYTES_MAX,
    SEAL_OVERHEAD,
    Kind,
    chunk_id,
    open_chunk,
    open_into,
    seal_into,
)
from holdfast.errors import BadRequest, Corrupt, TooLarge

KEYS = VaultKeys(b"R" * 32).generation(1)
SALT = bytes(16)
salts = st.none() | st.binary(min_size=16, max_size=16)


def seal(keys: GenerationKeys, kind: Kind, plaintext: bytes, salt: bytes | None = None) -> tuple[bytes, bytes]:
    id_ = chunk_id(keys, plaintext, salt)
    return id_, seal_as(keys, kind, id_, plaintext)


def seal_as(keys: GenerationKeys, kind: Kind, id_: bytes, plaintext: bytes) -> bytes:
    out = bytearray(len(plaintext) + SEAL_OVERHEAD + 3)
    assert seal_into(keys, kind, id_, plaintext, memoryview(out)) == len(plaintext) + SEAL_OVERHEAD
    assert out.endswith(bytes(3))
    return bytes(out[:-3])


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_expand_is_hkdf(key: bytes, info: bytes) -> None:
    assert expand(key, info) == HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(key)


@given(st.binary(min_size=1, max_size=300), st.sampled_from(Kind), salts)
def test_round_trip(plaintext: bytes, kind: Kind, salt: bytes | None) -> None:
    id_, sealed = seal(KEYS, kind, plaintext, salt)
    assert open_chunk(KEYS, kind, id_, sealed, salt) == plaintext
    out = bytearray(len(plaintext) + 5)
    assert open_into(KEYS, kind, id_, memoryview(sealed), memoryview(out), salt) == len(plaintext)
    assert out == plaintext + bytes(5)
    assert seal(KEYS, kind, plaintext, salt) == (id_, sealed), "the same chunk seals to the same bytes"


def refused(keys: GenerationKeys, kind: Kind, id_: bytes, sealed: bytes, salt: bytes | None = None) -> None:
    with pytest.raises(Corrupt):
        open_chunk(keys, kind, id_, sealed, salt)
    out = bytearray(b"\xaa" * max(len(sealed), 1))
    with pytest.raises(Corrupt):
        open_into(keys, kind, id_, sealed, memoryview(out), salt)
    assert not set(out) - {0, 0xAA}, "nothing of a refused chunk stays in the buffer"


def test_id_is_recomputed_after_opening() -> None:
    """A chunk sealed under the key of a false id opens for AES-GCM; only its recomputed id gives it away."""
    plaintext = b"not what the id says" * 5000
    false_id = chunk_id(KEYS, b"what the id says")
    for kind in Kind:
        sealed = seal_as(KEYS, kind, false_id, plaintext)
        key = sealer._key(KEYS, kind, len(plaintext), false_id)
        assert AESGCM(key).decrypt(bytes(12), sealed, None) == plaintext, "the seal itself is right"
        refused(KEYS, kind, false_id, sealed)


def test_every_flipped_bit_is_refused() -> None:
    id_, sealed = seal(KEYS, Kind.DATA, b"hold fast")
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        refused(KEYS, Kind.DATA, id_, bytes(changed))
    for bit in range(256):
        other = bytearray(id_)
        other[bit // 8] ^= 1 << bit % 8
        refused(KEYS, Kind.DATA, bytes(other), sealed)


def test_every_other_length_is_refused() -> None:
    id_, sealed = seal(KEYS, Kind.DATA, b"hold fast")
    for length in range(len(sealed)):
        refused(KEYS, Kind.DATA, id_, sealed[:length])
    refused(KEYS, Kind.DATA, id_, sealed + b"\0")
    refused(KEYS, Kind.DATA, id_, sealed + sealed)
    refused(KEYS, Kind.DATA, id_[:-1], sealed)


def test_another_kind_generation_vault_or_salt_is_refused() -> None:
    plaintext = b"hold fast"
    for kind in Kind:
        id_, sealed = seal(KEYS, kind, plaintext)
        for other in Kind:
            if other is not kind:
                refused(KEYS, other, id_, sealed)
        refused(VaultKeys(b"R" * 32).generation(2), kind, id_, sealed)
        refused(VaultKeys(b"S" * 32).generation(1), kind, id_, sealed)
        refused(KEYS, kind, id_, sealed, SALT)
    id_, sealed = seal(KEYS, Kind.DATA, plaintext, SALT)
    refused(KEYS, Kind.DATA, id_, sealed)
    refused(KEYS, Kind.DATA, id_, sealed, b"\1" * 16)


def test_limits() -> None:
    out = memoryview(bytearray(64))
    with pytest.raises(BadRequest):
        seal_into(KEYS, Kind.DATA, bytes(32), b"", out)
    with pytest.raises(TooLarge):
        seal_into(KEYS, Kind.DATA, bytes(32), bytes(CHUNK_BYTES_MAX + 1), out)
    with pytest.raises(Corrupt):
        open_chunk(KEYS, Kind.DATA, bytes(32), bytes(CHUNK_BYTES_MAX + SEAL_OVERHEAD + 1))
    with pytest.raises(BadRequest):
        chunk_id(KEYS, b"x", b"short")
    id_, sealed = seal(KEYS, Kind.DATA, b"hold fast")
    with pytest.raises(BadRequest):
        open_into(KEYS, Kind.DATA, id_, sealed, memoryview(bytearray(8)))


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes, bytes]]:
    """(key, nonce, plaintext) of everything that the sealer encrypts."""
    seen: list[tuple[bytes, bytes, bytes]] = []

    class Recording:
        def __init__(self, key: bytes) -> None:
            self.key, self.real = key, AESGCM(key)

        def encrypt_into(self, nonce: bytes, data: Any, aad: bytes | None, out: memoryview) -> int:
            seen.append((self.key, nonce, bytes(data)))
            return self.real.encrypt_into(nonce, data, aad, out)

    monkeypatch.setattr(sealer, "AESGCM", Recording)
    return seen


def test_no_key_and_nonce_serve_two_plaintexts(used: list[tuple[bytes, bytes, bytes]]) -> None:
    texts = [b"a", b"b", b"aa", bytes(1), bytes(2), bytes(16), bytes(range(200))]
    cases = 0
    for root in (b"R" * 32, b"S" * 32):
        for generation in (1, 2):
            keys = VaultKeys(root).generation(generation)
            for kind in Kind:
                for salt in (None, SALT, b"\1" * 16):
                    for text in texts:
                        seal(keys, kind, text, salt)
                        seal(keys, kind, text, salt)  # again: the same key, and the same plaintext
                        cases += 1
    assert len(used) == 2 * cases
    assert len({(key, nonce) for key, nonce, _ in used}) == cases, (
        "another kind, salt, vault or generation: another key"
    )
    assert len(set(used)) == cases, "one key seals one plaintext"
