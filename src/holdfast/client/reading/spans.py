"""Which ranges of which packs bring the bytes of a file: neighbours in one pack are fetched as one range. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from holdfast.blob import Digest
from holdfast.codec import recipe as recipes
from holdfast.codec.recipe import Piece, Recipe

GAP_BYTES = 16 << 10
"""Bytes between two wanted chunks that are fetched along rather than asked around."""


class Part(NamedTuple):
    """A piece of a chunk and the place of its first byte in the file."""

    piece: Piece
    at: int


class Span(NamedTuple):
    """Bytes ``start`` to ``stop`` of ``pack`` hold all of ``parts``, which follow one another in the file."""

    pack: Digest
    start: int
    stop: int
    parts: tuple[Part, ...]


def spans(recipe: Recipe, carrier: Digest, start: int, stop: int, bytes_max: int) -> Iterator[Span]:
    """In the file's order; each at most ``bytes_max`` long, or one chunk. RangeInvalid as ``recipe.pieces``."""
    parts: list[Part] = []
    pack: Digest | None = None
    first = last = 0
    at = start
    for piece in recipes.pieces(recipe, start, stop):
        entry = piece.entry
        digest = recipe.pack_digest(entry, carrier)
        end = entry.offset + entry.length
        joins = pack == digest and 0 <= entry.offset - last <= GAP_BYTES and end - first <= bytes_max
        if parts and not joins:
            assert pack is not None
            yield Span(pack, first, last, tuple(parts))
            parts = []
        if not parts:
            pack, first = digest, entry.offset
        last = end
        parts.append(Part(piece, at))
        at += piece.stop - piece.start
    if parts:
        assert pack is not None
        yield Span(pack, first, last, tuple(parts))
