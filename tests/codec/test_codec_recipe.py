"""Recipes: every list of chunks comes back; one that makes no sense is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.blob import Digest
from holdfast.codec import recipe as recipes
from holdfast.codec.keys import VaultKeys
from holdfast.codec.recipe import Recipe, RecipeEntry, RecipeList, check_content, content_id, decode, encode, pieces
from holdfast.codec.sealer import SEAL_OVERHEAD
from holdfast.errors import BadRequest, Corrupt, RangeInvalid, TooLarge

KEYS = VaultKeys(b"R" * 32).generation(1)


def make(size: int, chunk_bytes: int, per_pack: int = 3, salt: bytes | None = None, first_pack: int = 0) -> Recipe:
    """A file of ``size`` bytes whose chunks lie ``per_pack`` to a pack, from pack number ``first_pack`` on."""
    entries = []
    for number in range(-(-size // chunk_bytes)):
        length = min(chunk_bytes, size - number * chunk_bytes) + SEAL_OVERHEAD
        offset = 96 + number % per_pack * (chunk_bytes + SEAL_OVERHEAD + 32)
        id_ = number.to_bytes(32, "big")
        entries.append(RecipeEntry(id_, number // per_pack + first_pack, offset, length, id_[16:]))
    packs = tuple(Digest(bytes([1]) + n.to_bytes(31, "big")) for n in range(entries[-1].pack if entries else 0))
    content = content_id(KEYS, [entry.id for entry in entries])
    return Recipe(
        size=size, chunk_bytes=chunk_bytes, generation=1, packs=packs, entries=entries, content_id=content, salt=salt
    )


FILE = make(1000, 100)


@given(st.integers(0, 5000), st.integers(1, 200), st.integers(1, 9), st.none() | st.binary(min_size=16, max_size=16))
def test_round_trip(size: int, chunk_bytes: int, per_pack: int, salt: bytes | None) -> None:
    recipe = make(size, chunk_bytes, per_pack, salt)
    data = encode(recipe)
    assert len(data) == recipes.encoded_bytes(len(recipe.entries), len(recipe.packs))
    found = decode(data)
    assert found == recipe
    assert isinstance(found, Recipe)
    check_content(KEYS, found)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_pieces_cover_exactly_the_range(one: int, other: int) -> None:
    start, stop = sorted((one, other))
    whole = bytes(n % 251 for n in range(1000))
    read = b""
    for piece in pieces(FILE, start, stop):
        number = FILE.entries.index(piece.entry)
        chunk = whole[number * 100 : number * 100 + 100]
        assert 0 <= piece.start < piece.stop <= len(chunk)
        read += chunk[piece.start : piece.stop]
    assert read == whole[start:stop]


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 1001), (1001, 1001)])
def test_ranges_outside_are_refused(start: int, stop: int) -> None:
    with pytest.raises(RangeInvalid):
        pieces(FILE, start, stop)


def test_the_carrier_is_number_zero() -> None:
    carrier = Digest(b"\xcc" * 32)
    assert FILE.pack_digest(FILE.entries[0], carrier) == carrier
    assert FILE.pack_digest(FILE.entries[3], carrier) == FILE.packs[0]


def test_a_repeated_chunk_may_lie_in_one_place() -> None:
    first = FILE.entries[0]
    recipe = msgspec.structs.replace(FILE, entries=[first] * 10, packs=())
    assert decode(encode(recipe)) == recipe


def raw(recipe: Recipe, **fields: Any) -> bytes:
    """As the encoder would write it, without its checks."""
    changed = msgspec.structs.replace(recipe, **fields)
    return recipes._encode(changed, 0, changed.entries)


def entry(number: int, **fields: Any) -> list[RecipeEntry]:
    entries = list(FILE.entries)
    entries[number] = entries[number]._replace(**fields)
    return entries


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 999},
        {"size": 1001},
        {"size": 1100},
        {"size": 0},
        {"size": 1 << 63},
        {"chunk_bytes": 0},
        {"chunk_bytes": 99},
        {"chunk_bytes": (16 << 20) + 1},
        {"entries": FILE.entries[:-1]},
        {"entries": FILE.entries[1:]},
        {"entries": [*FILE.entries, FILE.entries[-1]]},
        {"entries": [*FILE.entries[:4], FILE.entries[3], *FILE.entries[4:]]},
        {"entries": []},
        {"entries": [], "packs": ()},
        {"entries": [*FILE.entries[:8], FILE.entries[8]._replace(length=216)], "packs": FILE.packs[:2]},
        {"packs": FILE.packs[:-1]},
        {"packs": (*FILE.packs, Digest(bytes(32)))},
        {"packs": (FILE.packs[0], FILE.packs[0], FILE.packs[2])},
        {"entries": entry(4, pack=4)},
        {"entries": entry(4, pack=(1 << 32) - 1)},
        {"entries": entry(4, offset=95)},
        {"entries": entry(4, offset=0)},
        {"entries": entry(4, offset=FILE.entries[4].offset + 1)},
        {"entries": entry(4, offset=FILE.entries[3].offset)},
        {"entries": entry(4, offset=64 << 20)},
        {"entries": entry(4, length=115)},
        {"entries": entry(4, length=117)},
        {"entries": entry(9, length=115)},
        {"entries": entry(4, pack=0)},
        {"entries": entry(4, pack=1, offset=FILE.entries[3].offset, id=bytes(32))},
    ],
)
def test_recipes_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Corrupt):
        decode(raw(FILE, **fields))


def test_swapped_chunks_have_another_content_id() -> None:
    entries = list(FILE.entries)
    entries[3], entries[4] = entries[4], entries[3]
    found = decode(raw(FILE, entries=entries))
    assert isinstance(found, Recipe)
    with pytest.raises(Corrupt, match="content id"):
        check_content(KEYS, found)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"x" + data[1:],
        lambda data: data[:9] + b"\2" + data[10:],
        lambda data: data[:10] + b"\1" + data[11:],
        lambda data: data[:10] + b"\2" + data[11:],
        lambda data: data[:11] + b"\2" + data[12:],
        lambda data: data[:68] + b"\1" + data[69:],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:83],
        lambda data: b"",
    ],
)
def test_misshapen_recipes_are_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(Corrupt):
        decode(change(encode(FILE)))


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_a_recipe_or_corrupt(data: bytes, headed: bool) -> None:
    if headed:
        data = encode(FILE)[:12] + data
    try:
        found = decode(data)
    except Corrupt:
        return
    assert isinstance(found, Recipe)
    assert encode(found) == data


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes of more than 400 bytes become lists; five entries to a part."""
    monkeypatch.setattr(recipes, "RECIPE_BYTES", 400)
    monkeypatch.setattr(recipes, "PART_ENTRIES_MAX", 5)


def listed(recipe: Recipe) -> tuple[bytes, list[bytes], list[RecipeEntry]]:
    parts = recipes.encode_parts(recipe)
    packs = (*recipe.packs, Digest(b"\xee" * 32))
    places = [
        RecipeEntry(bytes([n]) * 32, len(packs) if n else 0, 96 + 1000 * n, len(part) + SEAL_OVERHEAD, bytes(16))
        for n, part in enumerate(parts)
    ]
    return recipes.encode_list(recipe, places, packs), parts, places


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [1001, 1500, 1999, 2000, 2001])
def test_a_long_recipe_becomes_a_list(size: int) -> None:
    recipe = make(size, 100, first_pack=1)
    with pytest.raises(TooLarge):
        encode(recipe)
    data, parts, places = listed(recipe)
    found = decode(data)
    assert isinstance(found, RecipeList)
    assert found.parts == places
    assert recipes.join(found, parts) == msgspec.structs.replace(recipe, packs=found.packs)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts[:-1],
        lambda parts: parts[1:],
        lambda parts: [*parts, parts[-1]],
        lambda parts: [parts[0], *parts],
        lambda parts: [parts[1], parts[1], *parts[2:]],
        lambda parts: [parts[-1], *parts[1:-1], parts[0]],
        lambda parts: [parts[0][:-60], *parts[1:]],
        lambda parts: [b"", *parts[1:]],
        lambda parts: [b"x" + parts[0][1:], *parts[1:]],
        lambda parts: [parts[0] + bytes(60), *parts[1:]],
        lambda parts: [parts[0][:16] + parts[0][16:48] + bytes(4) + parts[0][52:], *parts[1:]],
    ],
)
def test_parts_dropped_repeated_swapped_or_changed_are_refused(change: Callable[[list[bytes]], list[bytes]]) -> None:
    data, parts, _ = listed(make(1750, 100, first_pack=1))
    found = decode(data)
    assert isinstance(found, RecipeList)
    try:
        joined = recipes.join(found, change(parts))
    except Corrupt:
        return
    with pytest.raises(Corrupt):
        check_content(KEYS, joined)


@pytest.mark.usefixtures("small_parts")
def test_lists_that_make_no_sense_are_refused() -> None:
    recipe = make(1750, 100, first_pack=1)
    data, _, places = listed(recipe)
    for bad in (places[:-1], [*places, places[-1]], [places[0]._replace(length=99), *places[1:]], []):
        with pytest.raises(Corrupt):
            recipes.encode_list(recipe, bad, (*recipe.packs, Digest(b"\xee" * 32)))
    with pytest.raises(Corrupt):
        recipes.encode_list(recipe, places, recipe.packs[1:])
    with pytest.raises(BadRequest):
        recipes.encode_parts(make(1750, 100))
    with pytest.raises(Corrupt):
        decode(data[:16] + struct.pack(">Q", 1_000_000) + data[24:])


def test_the_constants_fit() -> None:
    assert 16 + recipes.PART_ENTRIES_MAX * recipes.ENTRY_BYTES <= recipes.RECIPE_BYTES
    assert recipes.PART_ENTRIES_MAX == 69_904, "as docs/formats.md says"
