"""Refs: what stands for a name, as the record that the coordinator keeps and as the chunk that lets it be rebuilt.

    record = clear fields 188 | keep list digest 32 | nonce 16 | sealed fields

The coordinator reads the clear fields without keys (``parse_record``). The sealed fields bind to them as associated
data. A chunk of kind ref holds the same less the keep list digest (docs/formats.md, Ref), so that record and etag can
be rebuilt byte for byte from the pack that carries it.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import itertools
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast.auth.documents import canonical, uncanonical
from holdfast.auth.identity import Id
from holdfast.blob import DIGEST_BYTES, Digest
from holdfast.codec import paths
from holdfast.codec.keys import VaultKeys, expand
from holdfast.codec.pack_layout import HEADER_BYTES, PACK_BYTES_MAX
from holdfast.codec.sealer import CHUNK_BYTES_MAX, CHUNK_ID_BYTES, SEAL_OVERHEAD, SUITE
from holdfast.errors import BadRequest, Corrupt, TooLarge

NONCE_BYTES = 16
CLEAR_BYTES = 188
SEALED_STEP_BYTES = 64
SEALED_BYTES_MAX = 24 << 10
RECORD_BYTES_MAX = CLEAR_BYTES + DIGEST_BYTES + NONCE_BYTES + SEALED_BYTES_MAX + SEAL_OVERHEAD
META_BYTES_MAX = 8 << 10
TARGET_BYTES_MAX = 4095
KEEP_PACKS_MAX = 1 << 20

VERSION = 1
_MAGIC = b"HFREFR\r\n"
_CLEAR = struct.Struct(">8sHBBI32s32s32sBBHQ32s32s")
_PREVIOUS = 1
_NO_PREVIOUS = bytes(DIGEST_BYTES)
_LABEL = b"holdfast/1/ref"
_GCM_NONCE = bytes(12)
_CHUNK_LABEL = "holdfast/ref"
_U63 = (1 << 63) - 1

assert _CLEAR.size == CLEAR_BYTES


class RefKind(enum.IntEnum):
    """What a name stands for. A tombstone says that it was deleted; its versions go on counting."""

    FILE = 1
    DIRECTORY = 2
    LINK = 3
    TOMBSTONE = 4


class RefClear(msgspec.Struct, frozen=True):
    """What the coordinator sees of a ref. ``previous``: the etag of the version before, None if there was none."""

    vault: Id
    generation: int
    name_tag: bytes
    parent_tag: bytes
    kind: RefKind
    survive: int
    version: int
    previous: Digest | None
    author: Id


class Attributes(msgspec.Struct, frozen=True):
    """Of a file, directory or link. ``size`` in bytes; ``mtime_ns`` since 1970; ``mode``: permission bits; ``target``:
    where a link points; ``meta``: the user's own; ``extra``: those a newer version wrote, kept as they are."""

    size: int = 0
    mtime_ns: int = 0
    mode: int = 0
    target: str | None = None
    meta: Mapping[str, str] = {}
    extra: Mapping[str, Any] = {}


class RecipePlace(NamedTuple):
    """Where a recipe chunk lies; ``pack`` None: in the pack that carries the ref chunk. ``offset`` and ``length`` are
    those of the sealed bytes."""

    pack: Digest | None
    offset: int
    length: int
    id: bytes


class RefSealed(msgspec.Struct, frozen=True):
    """What only the vault's owner sees. ``recipe`` only for files; ``run_start``: the first byte of the file's last run
    in the recipe's pack, so that [run_start, recipe.offset + recipe.length) brings a small file in one read."""

    path: str
    attributes: Attributes
    recipe: RecipePlace | None = None
    run_start: int = 0

    def in_pack(self, pack: Digest) -> RefSealed:
        """The same, with ``pack`` named where it was "this pack": as records hold it."""
        if self.recipe is None or self.recipe.pack is not None:
            return self
        return msgspec.structs.replace(self, recipe=self.recipe._replace(pack=pack))


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
    """BadRequest unless it is exactly what ``keep_list`` makes of at most ``KEEP_PACKS_MAX`` packs."""
    if len(data) % DIGEST_BYTES or len(data) > KEEP_PACKS_MAX * DIGEST_BYTES:
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
    _check(clear, sealed, whole=True)
    if (clear.name_tag, clear.parent_tag) != tags(keys, sealed.path) or clear.vault != keys.vault:
        raise BadRequest("a ref's tags are not those of its path")
    head = _encode_clear(clear) + keep
    plaintext = _padded(canonical(_sealed_value(sealed)))
    return head + nonce16 + AESGCM(_key(keys, clear.generation, nonce16)).encrypt(_GCM_NONCE, plaintext, head)


def etag(record: bytes) -> Digest:
    """The name of this version."""
    return Digest(hashlib.sha256(record).digest())


def parse_record(record: bytes) -> ParsedRecord:
    """The clear part of a record, strictly; needs no keys. BadRequest for anything else."""
    least = CLEAR_BYTES + DIGEST_BYTES + NONCE_BYTES + SEALED_STEP_BYTES + SEAL_OVERHEAD
    if not least <= len(record) <= RECORD_BYTES_MAX or (len(record) - least) % SEALED_STEP_BYTES:
        raise BadRequest(f"{len(record)} bytes is no length of a ref record")
    clear = _decode_clear(record[:CLEAR_BYTES])
    keep_end = CLEAR_BYTES + DIGEST_BYTES
    nonce_end = keep_end + NONCE_BYTES
    return ParsedRecord(clear, Digest(record[CLEAR_BYTES:keep_end]), record[keep_end:nonce_end], record[nonce_end:])


def open_record(keys: VaultKeys, record: bytes, path: str | None) -> Ref:
    """The record of the name ``path`` (None: of whatever name it is); Corrupt unless all of it is right.

    Whether its version is one that this device may go back to is for the caller to see.
    """
    try:
        parsed = parse_record(record)
    except BadRequest as error:
        raise Corrupt(error.detail) from error
    clear = parsed.clear
    if clear.vault != keys.vault:
        raise Corrupt(f"a ref of vault {clear.vault.short}, not of {keys.vault.short}")
    if path is not None and not hmac.compare_digest(clear.name_tag, paths.name_tag(keys.name, path)):
        raise Corrupt("a ref for another name than the one asked")
    cipher = AESGCM(_key(keys, clear.generation, parsed.nonce))
    try:
        plaintext = cipher.decrypt(_GCM_NONCE, parsed.sealed, record[: CLEAR_BYTES + DIGEST_BYTES])
    except InvalidTag as error:
        raise Corrupt("a ref's seal does not open") from error
    sealed = _read_sealed(_unpadded(plaintext))
    _corrupt_unless_right(keys, clear, sealed, whole=True)
    if path is not None and sealed.path != path:
        raise Corrupt("a ref for another name than the one asked")
    return Ref(clear, parsed.keep, sealed, etag(record))


def tags(keys: VaultKeys, path: str) -> tuple[bytes, bytes]:
    """(name tag, parent tag) of ``path``."""
    return paths.name_tag(keys.name, path), paths.parent_tag(keys.name, paths.parent(path))


# --- chunks of kind ref -----------------------------------------------------------------------------------------------


def encode_ref_chunk(nonce16: bytes, clear: RefClear, sealed: RefSealed) -> bytes:
    """The plaintext of the ref chunk. A recipe in the same pack has pack None."""
    _check(clear, sealed, whole=False)
    if len(nonce16) != NONCE_BYTES:
        raise BadRequest(f"a ref's nonce has {NONCE_BYTES} bytes")
    return canonical([_CHUNK_LABEL, VERSION, nonce16, _encode_clear(clear), _sealed_value(sealed)])


def decode_ref_chunk(data: bytes) -> RefChunk:
    """What ``encode_ref_chunk`` was given; Corrupt for any other bytes."""
    try:
        value = uncanonical(data, "a ref chunk")
        if not (isinstance(value, list) and len(value) == 5 and value[:2] == [_CHUNK_LABEL, VERSION]):
            raise Corrupt("no ref chunk, or one of another version")
        _, _, nonce, clear_bytes, sealed_value = value
        if not (isinstance(nonce, bytes) and len(nonce) == NONCE_BYTES and isinstance(clear_bytes, bytes)):
            raise Corrupt("a ref chunk has fields of another type")
        clear = _decode_clear(clear_bytes)
        sealed = _sealed_from(sealed_value)
        _check(clear, sealed, whole=False)
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


# --- fields -----------------------------------------------------------------------------------------------------------


def _key(keys: VaultKeys, generation: int, nonce16: bytes) -> bytes:
    if len(nonce16) != NONCE_BYTES:
        raise BadRequest(f"a ref's nonce has {NONCE_BYTES} bytes")
    return expand(keys.generation(generation).meta, _LABEL + nonce16)


def _encode_clear(clear: RefClear) -> bytes:
    return _CLEAR.pack(
        _MAGIC,
        VERSION,
        SUITE,
        clear.kind,
        clear.generation,
        clear.vault,
        clear.name_tag,
        clear.parent_tag,
        clear.survive,
        0 if clear.previous is None else _PREVIOUS,
        0,
        clear.version,
        _NO_PREVIOUS if clear.previous is None else clear.previous,
        clear.author,
    )


def _decode_clear(data: bytes) -> RefClear:
    if len(data) != CLEAR_BYTES:
        raise BadRequest("the clear fields of a ref have another length")
    fields = _CLEAR.unpack(data)
    magic, version_, suite, kind, generation, vault, name, parent, survive, flags, zero, version, previous, author = (
        fields
    )
    if (magic, version_, suite) != (_MAGIC, VERSION, SUITE):
        raise BadRequest("no ref record, or one of another version")
    if kind not in _KINDS or flags & ~_PREVIOUS or zero or (not flags and previous != _NO_PREVIOUS):
        raise BadRequest("a ref record has a field that this version does not know")
    if not 1 <= version <= _U63 or (flags and version == 1):
        raise BadRequest("a ref record has an impossible version")
    return RefClear(
        Id(vault),
        generation,
        name,
        parent,
        _KINDS[kind],
        survive,
        version,
        Digest(previous) if flags else None,
        Id(author),
    )


_KINDS = {int(kind): kind for kind in RefKind}


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


def _sealed_value(sealed: RefSealed) -> list[Any]:
    found = sealed.attributes
    attributes: dict[str, Any] = {"size": found.size, "mode": found.mode, "mtime": found.mtime_ns}
    if found.target is not None:
        attributes["target"] = found.target
    if found.meta:
        attributes["meta"] = found.meta
    if found.extra:
        attributes |= found.extra
    recipe = None
    if sealed.recipe is not None:
        pack, offset, length, id_ = sealed.recipe
        recipe = [None if pack is None else bytes(pack), offset, length, id_]
    return [sealed.path, attributes, recipe, sealed.run_start]


def _read_sealed(data: bytes) -> RefSealed:
    try:
        return _sealed_from(uncanonical(data, "a ref's sealed fields"))
    except BadRequest as error:
        raise Corrupt(error.detail) from error


def _sealed_from(value: Any) -> RefSealed:
    if not (isinstance(value, list) and len(value) == 4):
        raise Corrupt("a ref's sealed fields have another form")
    path, found, recipe, run_start = value
    if not (isinstance(path, str) and isinstance(found, dict) and all(isinstance(name, str) for name in found)):
        raise Corrupt("a ref's sealed fields have another type")
    place = None
    if recipe is not None:
        if not (isinstance(recipe, list) and len(recipe) == 4):
            raise Corrupt("a ref's recipe has another form")
        pack, offset, length, id_ = recipe
        if not (isinstance(id_, bytes) and (pack is None or isinstance(pack, bytes))):
            raise Corrupt("a ref's recipe has another type")
        place = RecipePlace(None if pack is None else Digest(pack), offset, length, id_)
    if "meta" in found and not found["meta"]:
        raise Corrupt("a ref's attributes are not in their one form")
    if "target" in found and found["target"] is None:
        raise Corrupt("a ref's attributes are not in their one form")
    try:
        attributes = Attributes(
            found.pop("size"),
            found.pop("mtime"),
            found.pop("mode"),
            found.pop("target", None),
            found.pop("meta", {}),
            found,
        )
    except KeyError as error:
        raise Corrupt(f"a ref lacks the attribute {error}") from error
    return RefSealed(path, attributes, place, run_start)


def _check(clear: RefClear, sealed: RefSealed, *, whole: bool) -> None:
    """BadRequest unless the fields are in bounds and go together; ``whole``: the recipe's pack must be named."""
    if not 1 <= clear.version <= _U63 or (clear.previous is not None and clear.version == 1):
        raise BadRequest(f"a ref's versions begin at 1, and the first has no previous one (version {clear.version})")
    if not 0 <= clear.survive <= 255:
        raise BadRequest(f"survive is a number from 0 to 255, not {clear.survive}")
    if paths.normalise(sealed.path) != sealed.path:
        raise BadRequest("a ref's path is not in its one form (NFC)")
    _check_attributes(clear.kind, sealed.attributes)
    recipe = sealed.recipe
    if (recipe is not None) != (clear.kind is RefKind.FILE):
        raise BadRequest("files have a recipe, and nothing else has")
    if recipe is None:
        if sealed.run_start != 0 or type(sealed.run_start) is not int:
            raise BadRequest("a ref without a recipe has no run")
        return
    if whole and recipe.pack is None:
        raise BadRequest("a record names the recipe's pack")
    if not all(type(number) is int for number in (recipe.offset, recipe.length, sealed.run_start)):
        raise BadRequest("a ref's recipe has another type")
    if (
        len(recipe.id) != CHUNK_ID_BYTES
        or not SEAL_OVERHEAD < recipe.length <= CHUNK_BYTES_MAX + SEAL_OVERHEAD
        or not HEADER_BYTES + CHUNK_ID_BYTES <= recipe.offset <= PACK_BYTES_MAX - recipe.length
        or not HEADER_BYTES <= sealed.run_start <= recipe.offset
    ):
        raise BadRequest("a ref places its recipe outside of a pack")


def _check_attributes(kind: RefKind, found: Attributes) -> None:
    numbers = (found.size, found.mtime_ns, found.mode)
    if not all(type(number) is int for number in numbers):
        raise BadRequest("a ref's size, time or mode is no number")
    if not (0 <= found.size <= _U63 and -_U63 <= found.mtime_ns <= _U63 and 0 <= found.mode <= 0o7777):
        raise BadRequest("a ref's size, time or mode is out of bounds")
    if (found.target is not None) != (kind is RefKind.LINK):
        raise BadRequest("links have a target, and nothing else has")
    if found.target is not None:
        _check_target(found.target)
    if found.meta:
        if not isinstance(found.meta, dict) or not all(
            isinstance(text, str) for pair in found.meta.items() for text in pair
        ):
            raise BadRequest("user metadata are pairs of texts")
        try:
            size = sum(len(text.encode("utf-8")) for pair in found.meta.items() for text in pair)
        except UnicodeEncodeError as error:
            raise BadRequest("user metadata must be UTF-8") from error
        if size > META_BYTES_MAX:
            raise TooLarge(f"user metadata take {size} bytes; the limit is {META_BYTES_MAX}")
    elif not isinstance(found.meta, Mapping):
        raise BadRequest("user metadata are pairs of texts")
    if found.extra and not _KNOWN.isdisjoint(found.extra):
        raise BadRequest("an extra attribute has the name of a known one")


_KNOWN = frozenset({"size", "mode", "mtime", "target", "meta"})


def _check_target(target: object) -> None:
    try:
        if isinstance(target, str) and 0 < len(target.encode("utf-8")) <= TARGET_BYTES_MAX and "\0" not in target:
            return
    except UnicodeEncodeError:
        pass
    raise BadRequest(f"a link's target is 1 to {TARGET_BYTES_MAX} bytes of UTF-8")


def _corrupt_unless_right(keys: VaultKeys, clear: RefClear, sealed: RefSealed, *, whole: bool) -> None:
    try:
        _check(clear, sealed, whole=whole)
    except BadRequest as error:
        raise Corrupt(error.detail) from error
    if clear.vault != keys.vault:
        raise Corrupt(f"a ref of vault {clear.vault.short}, not of {keys.vault.short}")
    if (clear.name_tag, clear.parent_tag) != tags(keys, sealed.path):
        raise Corrupt("a ref's tags are not those of its path")
