"""Recipes: the list of chunks that make a file, and where they lie (docs/formats.md, Recipe).

    header 84 | pack table, 32 each | entries, 60 each

A recipe above ``RECIPE_BYTES`` becomes a list: the same header and table, but its entries are recipe chunks, whose
plaintexts (``encode_parts``) joined are the entries of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from blake3 import blake3

from holdfast.blob import Digest
from holdfast.codec.keys import GENERATION_MAX, GenerationKeys
from holdfast.codec.pack_layout import HEADER_BYTES, PACK_BYTES_MAX
from holdfast.codec.sealer import (
    CHECK_BYTES,
    CHUNK_BYTES_MAX,
    CHUNK_ID_BYTES,
    SALT_BYTES,
    SEAL_OVERHEAD,
)
from holdfast.errors import BadRequest, Corrupt, RangeInvalid, TooLarge

RECIPE_BYTES = 4 << 20
"""A longer recipe becomes a list of recipe chunks, each at most this long."""
RECIPE_HEADER_BYTES = 84
ENTRY_BYTES = 60
PART_ENTRIES_MAX = (RECIPE_BYTES - 16) // ENTRY_BYTES
FILE_BYTES_MAX = (1 << 63) - 1

VERSION = 1
_MAGIC = b"HFRECP\r\n"
_PART_MAGIC = b"HFRPRT\r\n"
_FILE, _LIST = 0, 1
_SALTED = 1
_NO_SALT = bytes(SALT_BYTES)
_HEADER = struct.Struct(">8sHBBIQIII32s16s")
_PART = struct.Struct(">8sHHI")
_ENTRY = struct.Struct(">32sIII16s")

assert _HEADER.size == RECIPE_HEADER_BYTES
assert _ENTRY.size == ENTRY_BYTES


class RecipeEntry(NamedTuple):
    """One chunk: its id, the number of its pack, first byte and length of its sealed bytes there, their ``check16``."""

    id: bytes
    pack: int
    offset: int
    length: int
    check: bytes


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What a file is made of. ``packs``: digests of the packs numbered 1, 2, ...; number 0 is the pack that carries the
    recipe chunk. ``generation``: of the data chunks. All chunks but the last have ``chunk_bytes`` of plaintext."""

    size: int
    chunk_bytes: int
    generation: int
    packs: tuple[Digest, ...]
    entries: Sequence[RecipeEntry]
    content_id: bytes
    salt: bytes | None = None

    def pack_digest(self, entry: RecipeEntry, carrier: Digest) -> Digest:
        """The pack of ``entry``; ``carrier`` is the pack that carries the recipe chunk."""
        return carrier if entry.pack == 0 else self.packs[entry.pack - 1]


class RecipeList(msgspec.Struct, frozen=True, kw_only=True):
    """The recipe of a very large file: ``parts`` are recipe chunks, to be opened and given to ``join``."""

    size: int
    chunk_bytes: int
    generation: int
    packs: tuple[Digest, ...]
    parts: Sequence[RecipeEntry]
    content_id: bytes
    salt: bytes | None = None

    pack_digest = Recipe.pack_digest


class Piece(NamedTuple):
    """Of one chunk's plaintext, the bytes from ``start`` up to ``stop``."""

    entry: RecipeEntry
    start: int
    stop: int


def content_id(keys: GenerationKeys, chunk_ids: Sequence[bytes]) -> bytes:
    """32 bytes that stand for a file's content as cut into chunks; ``keys`` of the data chunks' generation."""
    return blake3(b"".join(chunk_ids), key=keys.id).digest()


def check_content(keys: GenerationKeys, recipe: Recipe) -> None:
    """Corrupt unless the recipe's content id is that of its chunks."""
    if content_id(keys, [entry.id for entry in recipe.entries]) != recipe.content_id:
        raise Corrupt("a recipe's content id is not that of its chunks")


def encoded_bytes(entries: int, packs: int) -> int:
    """The length of a recipe of so many chunks and packs in the table."""
    return RECIPE_HEADER_BYTES + CHUNK_ID_BYTES * packs + ENTRY_BYTES * entries


def encode(recipe: Recipe) -> bytes:
    """The plaintext of the recipe chunk; TooLarge above ``RECIPE_BYTES``: then ``encode_parts`` and ``encode_list``."""
    if encoded_bytes(len(recipe.entries), len(recipe.packs)) > RECIPE_BYTES:
        raise TooLarge("a recipe this long becomes a list of recipe chunks")
    _check_chunks(recipe, recipe.entries)
    _check_places(recipe.packs, recipe.entries)
    return _encode(recipe, _FILE, recipe.entries)


def encode_parts(recipe: Recipe) -> list[bytes]:
    """The plaintexts of the recipe chunks that a recipe too long for one becomes, in order.

    They are not tied to the pack they land in, so no entry may name pack 0.
    """
    _check_chunks(recipe, recipe.entries)
    _check_places(recipe.packs, recipe.entries)
    if any(entry.pack == 0 for entry in recipe.entries):
        raise BadRequest("flush the packer first: the parts of a recipe name all packs by digest")
    parts = []
    for start in range(0, len(recipe.entries), PART_ENTRIES_MAX):
        entries = recipe.entries[start : start + PART_ENTRIES_MAX]
        parts.append(_PART.pack(_PART_MAGIC, VERSION, 0, len(entries)) + _table(entries))
    return parts


def encode_list(recipe: Recipe, parts: Sequence[RecipeEntry], packs: Sequence[Digest]) -> bytes:
    """The plaintext of the recipe chunk that lists ``parts``, the places of all ``encode_parts``.

    ``packs``: the recipe's table, followed by what the parts need beyond it. TooLarge if it does not fit in one chunk.
    """
    if tuple(packs[: len(recipe.packs)]) != tuple(recipe.packs):
        raise Corrupt("a recipe list's table does not begin with the recipe's")
    if encoded_bytes(len(parts), len(packs)) > CHUNK_BYTES_MAX:
        raise TooLarge("the file lies in too many packs; larger packs (pack_size) are needed for it")
    listed = RecipeList(
        size=recipe.size,
        chunk_bytes=recipe.chunk_bytes,
        generation=recipe.generation,
        packs=tuple(packs),
        parts=parts,
        content_id=recipe.content_id,
        salt=recipe.salt,
    )
    _check_parts(listed)
    return _encode(listed, _LIST, parts)


def decode(data: bytes) -> Recipe | RecipeList:
    """A recipe, or the list of the recipe chunks that make one; every field checked, Corrupt if any is wrong."""
    if not RECIPE_HEADER_BYTES <= len(data) <= CHUNK_BYTES_MAX:
        raise Corrupt(f"{len(data)} bytes is no length of a recipe")
    magic, version, level, flags, generation, size, chunk_bytes, packs, count, content, salt = _HEADER.unpack_from(data)
    if (magic, version) != (_MAGIC, VERSION):
        raise Corrupt("no recipe, or one of another version")
    if level not in (_FILE, _LIST) or flags & ~_SALTED or (not flags and salt != _NO_SALT):
        raise Corrupt("a recipe has an unknown form")
    if len(data) != encoded_bytes(count, packs):
        raise Corrupt("a recipe is not as long as its entries")
    table_end = RECIPE_HEADER_BYTES + CHUNK_ID_BYTES * packs
    table = tuple(
        [
            Digest(data[start : start + CHUNK_ID_BYTES])
            for start in range(RECIPE_HEADER_BYTES, table_end, CHUNK_ID_BYTES)
        ]
    )
    entries = [RecipeEntry._make(fields) for fields in _ENTRY.iter_unpack(memoryview(data)[table_end:])]
    if level == _FILE:
        if len(data) > RECIPE_BYTES:
            raise Corrupt("a recipe this long should be a list")
        recipe = Recipe(
            size=size,
            chunk_bytes=chunk_bytes,
            generation=generation,
            packs=table,
            entries=entries,
            content_id=content,
            salt=salt if flags else None,
        )
        _check_chunks(recipe, entries)
        _check_places(table, entries)
        return recipe
    listed = RecipeList(
        size=size,
        chunk_bytes=chunk_bytes,
        generation=generation,
        packs=table,
        parts=entries,
        content_id=content,
        salt=salt if flags else None,
    )
    _check_parts(listed)
    return listed


def join(listed: RecipeList, parts: Sequence[bytes]) -> Recipe:
    """The file's recipe from the opened chunks of ``listed.parts``, in order; Corrupt if they do not make one."""
    if len(parts) != len(listed.parts):
        raise Corrupt("a recipe list does not have all of its parts")
    entries: list[RecipeEntry] = []
    for number, part in enumerate(parts, 1):
        if len(part) < _PART.size:
            raise Corrupt("a part of a recipe is cut off")
        magic, version, reserved, count = _PART.unpack_from(part)
        full = count == PART_ENTRIES_MAX or (number == len(parts) and 0 < count < PART_ENTRIES_MAX)
        if (magic, version, reserved) != (_PART_MAGIC, VERSION, 0) or not full:
            raise Corrupt("a part of a recipe has another format")
        if len(part) != _PART.size + count * ENTRY_BYTES:
            raise Corrupt("a part of a recipe is not as long as its entries")
        entries += map(RecipeEntry._make, _ENTRY.iter_unpack(memoryview(part)[_PART.size :]))
    if any(entry.pack == 0 for entry in entries):
        raise Corrupt("a part of a recipe names its own pack")
    recipe = Recipe(
        size=listed.size,
        chunk_bytes=listed.chunk_bytes,
        generation=listed.generation,
        packs=listed.packs,
        entries=entries,
        content_id=listed.content_id,
        salt=listed.salt,
    )
    _check_chunks(recipe, entries)
    _check_places(recipe.packs, [*entries, *listed.parts])
    return recipe


def pieces(recipe: Recipe, start: int, stop: int) -> Iterator[Piece]:
    """What to read for bytes ``start`` up to ``stop`` of the file, in order; nothing for an empty range.

    RangeInvalid unless 0 <= start <= stop <= size.
    """
    if not 0 <= start <= stop <= recipe.size:
        raise RangeInvalid(f"bytes {start} to {stop} of a file of {recipe.size} bytes")
    return _pieces(recipe, start, stop)


def _pieces(recipe: Recipe, start: int, stop: int) -> Iterator[Piece]:
    length = recipe.chunk_bytes
    for number in range(start // length, -(-stop // length) if start < stop else 0):
        first = number * length
        yield Piece(recipe.entries[number], max(start - first, 0), min(stop - first, length))


def _table(entries: Sequence[RecipeEntry]) -> bytes:
    return b"".join([_ENTRY.pack(*entry) for entry in entries])


def _encode(recipe: Recipe | RecipeList, level: int, entries: Sequence[RecipeEntry]) -> bytes:
    header = _HEADER.pack(
        _MAGIC,
        VERSION,
        level,
        _SALTED if recipe.salt is not None else 0,
        recipe.generation,
        recipe.size,
        recipe.chunk_bytes,
        len(recipe.packs),
        len(entries),
        recipe.content_id,
        _NO_SALT if recipe.salt is None else recipe.salt,
    )
    return b"".join((header, *recipe.packs, _table(entries)))


def _check_chunks(recipe: Recipe, entries: Sequence[RecipeEntry]) -> None:
    """Lengths are those of a file of ``size`` bytes cut every ``chunk_bytes``: so they sum to its size."""
    _check_sizes(recipe)
    full = recipe.chunk_bytes + SEAL_OVERHEAD
    if len(entries) != -(-recipe.size // recipe.chunk_bytes):
        raise Corrupt("a recipe has not as many chunks as its size needs")
    if not entries:
        return
    if any(entry.length != full for entry in entries[:-1]):
        raise Corrupt("a recipe has a chunk of another length than it says")
    if entries[-1].length - SEAL_OVERHEAD != recipe.size - (len(entries) - 1) * recipe.chunk_bytes:
        raise Corrupt("the lengths of a recipe's chunks do not sum to the file's size")


def _check_sizes(recipe: Recipe | RecipeList) -> None:
    if not 0 <= recipe.size <= FILE_BYTES_MAX or not 1 <= recipe.chunk_bytes <= CHUNK_BYTES_MAX:
        raise Corrupt("a recipe has an impossible size")
    if not 0 <= recipe.generation <= GENERATION_MAX:
        raise Corrupt("a recipe has an impossible generation")
    if len(recipe.content_id) != CHUNK_ID_BYTES or (recipe.salt is not None and len(recipe.salt) != SALT_BYTES):
        raise Corrupt("a recipe has an id or salt of another length")


def _check_parts(listed: RecipeList) -> None:
    _check_sizes(listed)
    chunks = -(-listed.size // listed.chunk_bytes)
    count = -(-chunks // PART_ENTRIES_MAX)
    if not count or len(listed.parts) != count:
        raise Corrupt("a recipe list has not as many parts as its size needs")
    rest = chunks - (count - 1) * PART_ENTRIES_MAX
    for number, part in enumerate(listed.parts, 1):
        inside = PART_ENTRIES_MAX if number < count else rest
        if part.length != _PART.size + inside * ENTRY_BYTES + SEAL_OVERHEAD:
            raise Corrupt("a recipe list has a part of another length than its size needs")
    _check_places(listed.packs, listed.parts, all_used=False)


def _check_places(packs: Sequence[Digest], entries: Sequence[RecipeEntry], *, all_used: bool = True) -> None:
    """Every chunk lies inside of a pack of the table; in one pack, two places are the same chunk or apart."""
    if len(set(packs)) != len(packs):
        raise Corrupt("a recipe names a pack twice")
    places: dict[tuple[int, int], RecipeEntry] = {}
    for entry in entries:
        id_, pack, offset, length, check = entry
        if not 0 <= pack <= len(packs) or offset < HEADER_BYTES + CHUNK_ID_BYTES or offset + length > PACK_BYTES_MAX:
            raise Corrupt("a recipe places a chunk outside of its packs")
        if len(id_) != CHUNK_ID_BYTES or len(check) != CHECK_BYTES:
            raise Corrupt("a recipe has a chunk id or check of another length")
        if places.setdefault((pack, offset), entry) != entry:
            raise Corrupt("a recipe has two chunks in one place")
    last_pack, last_end = -1, 0
    used = 0
    for (pack, offset), entry in sorted(places.items()):
        if pack != last_pack:
            used += pack > 0
        elif offset < last_end + CHUNK_ID_BYTES:
            raise Corrupt("a recipe has chunks that overlap")
        last_pack, last_end = pack, offset + entry.length
    if all_used and used != len(packs):
        raise Corrupt("a recipe names a pack that it does not use")
