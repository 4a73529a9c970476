"""Whole reads are right or fail; ranges say that nobody checked them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from hypothesis import given
from hypothesis import strategies as st

from holdfast.blob import Buffer, Digest
from holdfast.errors import Corrupt
from holdfast.pool import InlinePool
from holdfast.stores.memory import MemoryStore
from holdfast.stores.protocol import Body, Range, get_bytes, put_bytes
from holdfast.stores.verified import Unverified, VerifiedStore

POOL = InlinePool()


class _Pieces:
    def __init__(self, parts: Sequence[bytes], size: int) -> None:
        self.size = self.total = size
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        for part in self._parts:
            yield part


class LyingStore(MemoryStore):
    """Gives what it is told, whatever is asked."""

    def __init__(self, parts: Sequence[bytes], size: int | None = None) -> None:
        super().__init__()
        self.parts = parts
        self.size = sum(map(len, parts)) if size is None else size

    @asynccontextmanager
    async def get(self, digest: Digest, range_: Range | None = None) -> AsyncIterator[Body]:
        yield _Pieces(self.parts, self.size)


async def read(store: VerifiedStore, digest: Digest) -> tuple[bytes, bool]:
    """What was given out, and whether it ended as if it were all."""
    got = bytearray()
    try:
        async with store.get(digest) as body:
            async for piece in body:
                got += piece
    except Corrupt:
        return bytes(got), False
    return bytes(got), True


@given(
    parts=st.lists(st.binary(min_size=1, max_size=50), max_size=6),
    given_parts=st.lists(st.binary(min_size=1, max_size=50), max_size=6),
    extra=st.integers(-20, 20),
)
async def test_a_read_never_completes_with_a_wrong_byte(
    parts: list[bytes], given_parts: list[bytes], extra: int
) -> None:
    right = b"".join(parts)
    size = max(0, sum(map(len, given_parts)) + extra)
    got, ended = await read(VerifiedStore(LyingStore(given_parts, size), POOL), Digest.of(right))
    if ended:
        assert got == right
    else:
        assert len(got) < max(1, size), "the last piece was not held back"
    got, ended = await read(VerifiedStore(LyingStore(parts), POOL), Digest.of(right))
    assert (got, ended) == (right, True)


async def test_corruption_is_told_before_it_is_raised() -> None:
    told: list[tuple[Digest, str]] = []

    async def on_corrupt(digest: Digest, reason: str) -> None:
        told.append((digest, reason))

    digest = Digest.of(b"right")
    store = VerifiedStore(LyingStore([b"wrong"]), POOL, on_corrupt)
    assert await read(store, digest) == (b"", False)
    assert [found for found, _ in told] == [digest]
    assert Digest.of(b"wrong").hex() in told[0][1]


async def test_ranges_are_unverified() -> None:
    inner = MemoryStore()
    await put_bytes(inner, b"0123456789")
    store = VerifiedStore(inner, POOL)
    assert store.traits.checked
    async with store.get(Digest.of(b"0123456789"), Range(2, 5)) as body:
        assert isinstance(body, Unverified)
    async with store.get_range(Digest.of(b"0123456789"), Range(2, 5)) as unverified:
        assert (unverified.size, unverified.total) == (3, 10)
        assert b"".join([bytes(piece) async for piece in unverified]) == b"234"
    assert await get_bytes(store, Digest.of(b"0123456789")) == b"0123456789"
