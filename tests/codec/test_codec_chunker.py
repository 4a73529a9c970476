"""Cutting: whatever the pieces, the chunks are the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.blob import Buffer
from holdfast.codec.chunker import Chunker
from holdfast.errors import BadRequest


async def source(pieces: Sequence[Buffer]) -> AsyncIterator[Buffer]:
    for piece in pieces:
        yield piece


async def cut(chunker: Chunker, pieces: Sequence[Buffer]) -> list[bytes]:
    return [bytes(chunk) async for chunk in chunker.cut(source(pieces))]


@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 50), st.integers(1, 3))
def test_same_chunks_whatever_the_pieces(pieces: list[bytes], chunk_bytes: int, buffers: int) -> None:
    whole = b"".join(pieces)
    chunker = Chunker(chunk_bytes, buffers)
    expected = [whole[start : start + chunk_bytes] for start in range(0, len(whole), chunk_bytes)]
    assert asyncio.run(cut(chunker, pieces)) == expected
    assert asyncio.run(cut(chunker, [memoryview(piece) for piece in pieces])) == expected, "and again, buffers reused"


async def test_an_empty_source_has_no_chunks() -> None:
    assert await cut(Chunker(), []) == []
    assert await cut(Chunker(), [b"", b""]) == []


async def test_buffers_are_reused_and_a_whole_piece_is_not_copied() -> None:
    seen = [memoryview(chunk).obj async for chunk in Chunker(4, 2).cut(source([b"ab"] * 12))]
    assert len({id(buffer) for buffer in seen}) == 2
    whole = bytearray(b"abcd")
    assert [memoryview(chunk).obj async for chunk in Chunker(4).cut(source([whole]))] == [whole]


@pytest.mark.parametrize("chunk_bytes", [0, -1, (16 << 20) + 1])
def test_bounds(chunk_bytes: int) -> None:
    with pytest.raises(BadRequest):
        Chunker(chunk_bytes)
