"""The chunker: any source of buffers becomes chunks of one length, the last one shorter (docs/formats.md, Chunk)."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

from holdfast.blob import Buffer
from holdfast.codec.sealer import CHUNK_BYTES, CHUNK_BYTES_MAX
from holdfast.errors import BadRequest


def check_chunk_bytes(chunk_bytes: int) -> None:
    """BadRequest unless files may be cut into chunks of ``chunk_bytes``."""
    if not 1 <= chunk_bytes <= CHUNK_BYTES_MAX:
        raise BadRequest(f"chunks have 1 to {CHUNK_BYTES_MAX} bytes, not {chunk_bytes}")


class Chunker:
    """Cuts sources, one after another, over ``buffers`` buffers that it reuses; serve one source at a time."""

    def __init__(self, chunk_bytes: int = CHUNK_BYTES, buffers: int = 2) -> None:
        check_chunk_bytes(chunk_bytes)
        assert buffers >= 1
        self.chunk_bytes = chunk_bytes
        self._ring: list[bytearray | None] = [None] * buffers
        self._next = 0

    async def cut(self, source: AsyncIterable[Buffer]) -> AsyncIterator[Buffer]:
        """Chunks of ``chunk_bytes``, the last one shorter but not empty; none at all for an empty source.

        A chunk is valid until ``buffers`` more were asked for; with one buffer, until the next. A piece that is
        exactly a whole chunk is handed on without a copy, so it must live as long.
        """
        target: memoryview | None = None
        filled = 0
        async for piece in source:
            view = memoryview(piece).cast("B")
            while view:
                if target is None:
                    if len(view) == self.chunk_bytes:
                        yield view
                        break
                    target, filled = self._buffer(), 0
                taken = min(self.chunk_bytes - filled, len(view))
                target[filled : filled + taken] = view[:taken]
                filled += taken
                view = view[taken:]
                if filled == self.chunk_bytes:
                    yield target
                    target = None
        if target is not None:
            yield target[:filled]

    def _buffer(self) -> memoryview:
        found = self._ring[self._next]
        if found is None:
            found = self._ring[self._next] = bytearray(self.chunk_bytes)
        self._next = (self._next + 1) % len(self._ring)
        return memoryview(found)
