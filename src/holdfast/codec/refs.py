"""Refs: what stands for a name, as the record that the coordinator keeps and as the chunk that lets it be rebuilt.

    record = clear fields 188 | keep list digest 32 | nonce 16 | sealed fields

The coordinator reads the clear fields without keys (``parse_record``). The sealed fields bind to them as associated
data. A chunk of kind ref holds the same less the keep list digest (docs/formats.md, Ref), so that record and etag can
be rebuilt byte for byte from the pack that carries it.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast.auth.documents import canonical, uncanonical
from holdfast.blob import DIGEST_BYTES, Digest
from holdfast.codec import paths
from holdfast.codec.keys import VaultKeys, expand
from holdfast.codec.ref_fields import (
    CLEAR_BYTES,
    META_BYTES_MAX,
    TARGET_BYTES_MAX,
    VERSION,
    Attributes,
    RecipePlace,
    RefClear,
    RefKind,
    RefSealed,
    check,
    decode_clear,
    encode_clear,
    sealed_from,
    sealed_value,
)
from holdfast.codec.sealer import SEAL_OVERHEAD
from holdfast.errors import BadRequest, Corrupt, TooLarge

__all__ = [
    "CLEAR_BYTES",
    "KEEP_PACKS_MAX",
    "META_BYTES_MAX",
    "NONCE_BYTES",
    "RECORD_BYTES_MAX",
    "REF_CHUNK_BYTES_MAX",
    "TARGET_BYTES_MAX",
    "Attributes",
    "ParsedRecord",
    "RecipePlace",
    "Ref",
    "RefChunk",
    "RefClear",
    "RefKind",
    "RefSealed",
    "decode_ref_chunk",
    "encode_record",
    "encode_ref_chunk",
    "etag",
    "keep_for",
    "keep_list",
    "open_record",
    "parse_keep_list",
    "parse_record",
    "rebuild_record",
    "tags",
]

NONCE_BYTES = 16
SEALED_STEP_BYTES = 64
SEALED_BYTES_MAX = 24 << 10
RECORD_BYTES_MAX = CLEAR_BYTES + DIGEST_BYTES + NONCE_BYTES + SEALED_BYTES_MAX + SEAL_OVERHEAD
REF_CHUNK_BYTES_MAX = SEALED_BYTES_MAX  # a chunk holds more than the fields that its record seals
KEEP_PACKS_MAX = 1 << 20

RECORDS_KEPT = 256
"""A read opens the record that this device has, and then the coordinator's, which mostly is the same."""

_LABEL = b"holdfast/1/ref"
_GCM_NONCE = bytes(12)
_CHUNK_LABEL = "holdfast/ref"


class ParsedRecord(msgspec.Struct, frozen=True):
    """A record as it can be read without keys."""

    clear: RefClear
    keep: Digest
    nonce: bytes
    sealed: bytes


class Ref(msgspec.Struct, frozen=True):
    """A record opened with the vault's keys, everything checked."""

    clear: RefClear
    keep: Digest
    sealed: RefSealed
    etag: Digest


class RefChunk(NamedTuple):
    """What a chunk of kind ref holds."""

    nonce: bytes
    clear: RefClear
    sealed: RefSealed


# --- keep lists -------------------------------------------------------------------------------------------------------


def keep_list(digests: Iterable[Digest]) -> bytes:
    """The packs that a ref needs: their digests, ascending, each once, joined. Its name is their SHA-256."""
    return b"".join(sorted(set(digests)))


def parse_keep_list(data: bytes) -> list[Digest]:
    """BadRequest unless it is exactly what ``keep_list`` makes of 1 to ``KEEP_PACKS_MAX`` packs."""
    if not data or len(data) % DIGEST_BYTES or len(data) > KEEP_PACKS_MAX * DIGEST_BYTES:
        raise BadRequest("a keep list is pack digests of 32 bytes, one after another")
    found = [Digest(data[start : start + DIGEST_BYTES]) for start in range(0, len(data), DIGEST_BYTES)]
    if any(one >= other for one, other in itertools.pairwise(found)):
        raise BadRequest("a keep list is not ascending")
    return found


# --- records ----------------------------------------------------------------------------------------------------------


def encode_record(keys: VaultKeys, nonce16: bytes, clear: RefClear, sealed: RefSealed, keep: Digest) -> bytes:
    """The record of a ref; ``nonce16``: 16 random bytes that serve no other record.

    BadRequest for fields that make no sense together, TooLarge above the limits.
    """
    check(clear, sealed, whole=True)
    if (clear.name_tag, clear.parent_tag) != tags(keys, sealed.path) or clear.vault != keys.vault:
        raise BadRequest("a ref's tags are not those of its path")
    head = encode_clear(clear) + keep
    plaintext = _padded(canonical(sealed_value(sealed)))
    return head + nonce16 + AESGCM(_key(keys, clear.generation, nonce16)).encrypt(_GCM_NONCE, plaintext, head)


def etag(record: bytes) -> Digest:
    """The name of this version."""
    return Digest(hashlib.sha256(record).digest())


def parse_record(record: bytes) -> ParsedRecord:
    """The clear part of a record, strictly; needs no keys. BadRequest for anything else."""
    least = CLEAR_BYTES + DIGEST_BYTES + NONCE_BYTES + SEALED_STEP_BYTES + SEAL_OVERHEAD
    if not least <= len(record) <= RECORD_BYTES_MAX or (len(record) - least) % SEALED_STEP_BYTES:
        raise BadRequest(f"{len(record)} bytes is no length of a ref record")
    clear = decode_clear(record[:CLEAR_BYTES])
    keep_end = CLEAR_BYTES + DIGEST_BYTES
    nonce_end = keep_end + NONCE_BYTES
    return ParsedRecord(clear, Digest(record[CLEAR_BYTES:keep_end]), record[keep_end:nonce_end], record[nonce_end:])


def open_record(keys: VaultKeys, record: bytes, path: str | None) -> Ref:
    """The record of the name ``path`` (None: of whatever name it is); Corrupt unless all of it is right.

    Whether its version is one that this device may go back to is for the caller to see.
    """
    ref = _opened(keys, record)
    if path is not None and (
        not hmac.compare_digest(ref.clear.name_tag, paths.name_tag(keys.name, path)) or ref.sealed.path != path
    ):
        raise Corrupt("a ref for another name than the one asked")
    return ref


@functools.lru_cache(RECORDS_KEPT)
def _opened(keys: VaultKeys, record: bytes) -> Ref:
    try:
        parsed = parse_record(record)
    except BadRequest as error:
        raise Corrupt(error.detail) from error
    clear = parsed.clear
    if clear.vault != keys.vault:
        raise Corrupt(f"a ref of vault {clear.vault.short}, not of {keys.vault.short}")
    cipher = AESGCM(_key(keys, clear.generation, parsed.nonce))
    try:
        plaintext = cipher.decrypt(_GCM_NONCE, parsed.sealed, record[: CLEAR_BYTES + DIGEST_BYTES])
    except InvalidTag as error:
        raise Corrupt("a ref's seal does not open") from error
    sealed = _read_sealed(_unpadded(plaintext))
    _corrupt_unless_right(keys, clear, sealed, whole=True)
    return Ref(clear, parsed.keep, sealed, etag(record))


def tags(keys: VaultKeys, path: str) -> tuple[bytes, bytes]:
    """(name tag, parent tag) of ``path``."""
    return paths.name_tag(keys.name, path), paths.parent_tag(keys.name, paths.parent(path))


# --- chunks of kind ref -----------------------------------------------------------------------------------------------


def encode_ref_chunk(nonce16: bytes, clear: RefClear, sealed: RefSealed) -> bytes:
    """The plaintext of the ref chunk. A recipe in the same pack has pack None.

    The nonce is the record's. A ref that is packed again, into another pack, is another record: it takes a new nonce.
    """
    check(clear, sealed, whole=False)
    if len(nonce16) != NONCE_BYTES:
        raise BadRequest(f"a ref's nonce has {NONCE_BYTES} bytes")
    data = canonical([_CHUNK_LABEL, VERSION, nonce16, encode_clear(clear), sealed_value(sealed)])
    if len(data) > REF_CHUNK_BYTES_MAX:
        raise TooLarge(f"path and attributes of a name take more than {REF_CHUNK_BYTES_MAX} bytes")
    return data


def decode_ref_chunk(data: bytes) -> RefChunk:
    """What ``encode_ref_chunk`` was given; Corrupt for any other bytes."""
    if len(data) > REF_CHUNK_BYTES_MAX:
        raise Corrupt("a ref chunk is too long")
    try:
        value = uncanonical(data, "a ref chunk")
        head = [_CHUNK_LABEL, VERSION]
        if not (isinstance(value, list) and len(value) == 5 and value[:2] == head and type(value[1]) is int):
            raise Corrupt("no ref chunk, or one of another version")
        _, _, nonce, clear_bytes, sealed_value = value
        if not (isinstance(nonce, bytes) and len(nonce) == NONCE_BYTES and isinstance(clear_bytes, bytes)):
            raise Corrupt("a ref chunk has fields of another type")
        clear = decode_clear(clear_bytes)
        sealed = sealed_from(sealed_value)
        check(clear, sealed, whole=False)
    except BadRequest as error:
        raise Corrupt(error.detail) from error
    return RefChunk(nonce, clear, sealed)


def rebuild_record(
    keys: VaultKeys, ref_chunk: bytes, pack: Digest, recipe_packs: Sequence[Digest] = ()
) -> tuple[bytes, bytes]:
    """(record, keep list), byte for byte as they were committed, from an opened ref chunk and the pack that carries it.

    ``recipe_packs``: the pack table of the file's recipe, for a file that has one with packs in it.
    """
    nonce, clear, sealed = decode_ref_chunk(ref_chunk)
    keep = keep_for(pack, sealed, recipe_packs)
    whole = sealed.in_pack(pack)
    _corrupt_unless_right(keys, clear, whole, whole=True)
    return encode_record(keys, nonce, clear, whole, Digest.of(keep)), keep


def keep_for(pack: Digest, sealed: RefSealed, recipe_packs: Sequence[Digest] = ()) -> bytes:
    """The keep list of a ref whose chunk lies in ``pack``: that pack, the recipe's, and its pack table."""
    recipe = [] if sealed.recipe is None else [sealed.recipe.pack or pack]
    return keep_list([pack, *recipe, *recipe_packs])


# --- sealing ---------------------------------------------------------------------------------------------------------


def _key(keys: VaultKeys, generation: int, nonce16: bytes) -> bytes:
    if len(nonce16) != NONCE_BYTES:
        raise BadRequest(f"a ref's nonce has {NONCE_BYTES} bytes")
    return expand(keys.generation(generation).meta, _LABEL + nonce16)


def _padded(data: bytes) -> bytes:
    """Length, bytes, zeros to the next step: the record's length tells the path's only roughly."""
    size = 2 + len(data)
    padded = -(-size // SEALED_STEP_BYTES) * SEALED_STEP_BYTES
    if padded > SEALED_BYTES_MAX:
        raise TooLarge(f"path and attributes of a name take more than {SEALED_BYTES_MAX} bytes")
    return len(data).to_bytes(2, "big") + data + bytes(padded - size)


def _unpadded(plaintext: bytes) -> bytes:
    size = int.from_bytes(plaintext[:2], "big")
    data = plaintext[2 : 2 + size]
    if len(data) != size or _padded(data) != plaintext:
        raise Corrupt("a ref's sealed fields are not padded as they should be")
    return data


def _read_sealed(data: bytes) -> RefSealed:
    try:
        return sealed_from(uncanonical(data, "a ref's sealed fields"))
    except BadRequest as error:
        raise Corrupt(error.detail) from error


def _corrupt_unless_right(keys: VaultKeys, clear: RefClear, sealed: RefSealed, *, whole: bool) -> None:
    try:
        check(clear, sealed, whole=whole)
    except BadRequest as error:
        raise Corrupt(error.detail) from error
    if clear.vault != keys.vault:
        raise Corrupt(f"a ref of vault {clear.vault.short}, not of {keys.vault.short}")
    if (clear.name_tag, clear.parent_tag) != tags(keys, sealed.path):
        raise Corrupt("a ref's tags are not those of its path")
