"""Spans: exactly the bytes asked for, from the packs where they lie, in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.blob import Digest
from holdfast.client.reading.spans import spans
from holdfast.codec.recipe import Recipe, RecipeEntry
from holdfast.codec.sealer import SEAL_OVERHEAD

CHUNK = 1000
CARRIER = Digest(bytes(32))
PACKS = tuple(Digest.of(bytes([number])) for number in range(3))


def recipe_of(size: int, packs: list[int], gaps: list[int]) -> Recipe:
    ends = {0: 64, 1: 64, 2: 64, 3: 64}
    entries = []
    for number in range(-(-size // CHUNK)):
        pack, gap = packs[number % len(packs)], gaps[number % len(gaps)]
        length = min(CHUNK, size - number * CHUNK) + SEAL_OVERHEAD
        offset = ends[pack] + 32 + gap
        ends[pack] = offset + length
        entries.append(RecipeEntry(number.to_bytes(32), pack, offset, length, bytes(16)))
    return Recipe(size=size, chunk_bytes=CHUNK, generation=1, packs=PACKS, entries=entries, content_id=bytes(32))


@given(
    st.integers(0, 20_000),
    st.lists(st.integers(0, 3), min_size=1, max_size=5),
    st.lists(st.sampled_from([0, 5, 100_000]), min_size=1, max_size=4),
    st.integers(0, 20_000),
    st.integers(0, 20_000),
    st.integers(1, 8000),
)
def test_spans_cover_the_range_once_and_in_order(
    size: int, packs: list[int], gaps: list[int], one: int, other: int, bytes_max: int
) -> None:
    recipe = recipe_of(size, packs, gaps)
    start, stop = sorted((min(one, size), min(other, size)))
    at = start
    for span in spans(recipe, CARRIER, start, stop, bytes_max):
        assert span.parts
        assert len(span.parts) == 1 or span.stop - span.start <= bytes_max
        for part in span.parts:
            entry = part.piece.entry
            assert recipe.pack_digest(entry, CARRIER) == span.pack
            assert span.start <= entry.offset
            assert entry.offset + entry.length <= span.stop
            assert part.at == at
            assert part.at == int.from_bytes(entry.id) * CHUNK + part.piece.start
            at += part.piece.stop - part.piece.start
    assert at == stop


def test_neighbours_are_one_span() -> None:
    recipe = recipe_of(10 * CHUNK, [1], [0])
    assert len(list(spans(recipe, CARRIER, 0, 10 * CHUNK, 1 << 20))) == 1
    assert len(list(spans(recipe, CARRIER, 0, 10 * CHUNK, 3 * (CHUNK + 48)))) == 4
