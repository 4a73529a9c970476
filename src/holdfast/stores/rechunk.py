"""A source cut anew: buffers of any size come in, immutable ones of one size go out."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

from holdfast.blob import Buffer


async def rechunked(source: AsyncIterable[Buffer], size: int) -> AsyncIterator[bytes]:
    """The same bytes in pieces of ``size`` bytes; the last may be shorter, none is empty."""
    held = bytearray()
    async for piece in source:
        view = memoryview(piece)
        if held:
            taken = view[: size - len(held)]
            held += taken
            view = view[len(taken) :]
            if len(held) < size:
                continue
            yield bytes(held)
            held = bytearray()
        while len(view) >= size:
            yield bytes(view[:size])
            view = view[size:]
        held += view
    if held:
        yield bytes(held)
