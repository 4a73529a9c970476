"""A small file is read while the coordinator is asked whether its name still means what this device saw last.

Two round trips side by side instead of one after another. What was read counts only if the answer names the very same
record; what goes wrong on the way is not heard of, because the file is then read as usual.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from holdfast.blob import Digest
from holdfast.client.names.names import Found, Names
from holdfast.client.reading.content import ContentReader
from holdfast.codec.refs import RefKind
from holdfast.errors import HoldfastError

AHEAD_BYTES_MAX = 64 << 10
"""More is not read on suspicion."""


class ReadAhead:
    """``async with``: begins to read; ends it, if it goes on, on leaving. Calling it gives what was read."""

    def __init__(self, names: Names, content: ContentReader, path: str | None, start: int, stop: int | None) -> None:
        """Bytes ``start`` up to ``stop`` (None: the end) of ``path``, a normal one; None reads nothing ahead."""
        self._names = names
        self._content = content
        self._start = start
        self._stop = stop
        recent = path is not None and names.recent(path)
        self._path = path if recent else None
        self._task: asyncio.Task[tuple[Digest, list[bytes]] | None] | None = None

    async def __aenter__(self) -> ReadAhead:
        if self._path is not None:
            self._task = asyncio.create_task(self._read(self._path))
        return self

    async def __call__(self, found: Found) -> list[bytes] | None:
        """The bytes, if the record that was read ahead is the one that was found."""
        early = None if self._task is None else await self._task
        return early[1] if early is not None and early[0] == found.ref.etag else None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _read(self, path: str) -> tuple[Digest, list[bytes]] | None:
        try:
            found = await self._names.remembered(path)
            if found is None or found.ref.clear.kind is not RefKind.FILE:
                return None
            size = found.ref.sealed.attributes.size
            if min(size, size if self._stop is None else self._stop) - self._start > AHEAD_BYTES_MAX:
                return None
            pieces = [bytes(piece) async for piece in self._content.stream(found, self._start, self._stop)]
        except HoldfastError:
            return None
        return found.ref.etag, pieces
