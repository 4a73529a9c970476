"""The chunk index of a device that has none: read back from the sealed indexes of the vault's packs.

The coordinator lists the packs; of each that this device has not listed yet, the end is read (trailer and, unless it is
long, the index in one range; else a second one), from any holder, hedged. Only the vault's keys open an index, so a
coordinator or node can withhold chunks but never invent one. What lies elsewhere is only a chunk sent once more: so
nothing here is needed for a put to be right, and every failure is a pack left for the next time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from holdfast import logs
from holdfast.blob import Digest
from holdfast.client.names.index import Index
from holdfast.client.names.index_file import IndexFile, ListedPack
from holdfast.client.names.names import Names, places
from holdfast.client.reading.fetch import PackReader
from holdfast.clock import Clock
from holdfast.codec.keys import GENERATION_FIRST, VaultKeys
from holdfast.codec.pack import PackHeader, Trailer, index_range, open_index, parse_trailer
from holdfast.codec.pack_layout import IndexEntry
from holdfast.codec.sealer import Kind
from holdfast.errors import Corrupt, HoldfastError, Unavailable
from holdfast.pool import Pool
from holdfast.stores.side_by_side import side_by_side
from holdfast.wire import messages as m

TAIL_BYTES = 4096
"""What is read of a pack first: its trailer and an index of up to 94 chunks."""
BEHIND = 4
"""Packs read at once behind a put."""
ASKED = 16
"""Packs read at once when somebody waits for it."""
WRITTEN = 64
"""Packs whose rows are written together: so much is read again at most when a rebuild was stopped."""
AGAIN_S = 24 * 3600
"""Packs that no node gave are asked for again after this."""

_log = logs.get_logger(__name__)


class IndexRebuilt(NamedTuple):
    """What a rebuild did. ``packs`` were read, ``known`` were listed before, ``missed`` could not be read now."""

    packs: int = 0
    chunks: int = 0
    known: int = 0
    missed: int = 0


class IndexRebuild:
    """For one vault and index. Runs one at a time; may be stopped at any moment and goes on where it was."""

    def __init__(
        self, keys: VaultKeys, names: Names, reader: PackReader, index: Index, pool: Pool, clock: Clock
    ) -> None:
        self._keys = keys
        self._names = names
        self._reader = reader
        self._index = index
        self._pool = pool
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._seen = -1  # which of the index's files was looked at

    def begin(self) -> None:
        """Behind a put: if this index was never complete, what it lacks is read; at most one pass for each file."""
        if self._seen == self._index.begun:
            return
        self._seen = self._index.begun
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._behind())

    async def wait(self, seconds: float) -> None:
        """Returns when the pass behind is over, or after ``seconds``."""
        if self._task is not None and not self._task.done() and seconds > 0:
            await asyncio.wait({self._task}, timeout=seconds)

    async def close(self) -> None:
        """Stops the pass behind. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run(
        self, progressed: Callable[[IndexRebuilt], None] = lambda _: None, *, width: int = ASKED
    ) -> IndexRebuilt:
        """Reads the index of every pack that is not listed yet. Unavailable when the coordinator does not answer."""
        async with self._one_at_a_time:
            done = IndexRebuilt()
            async for page in self._names.vault_packs():
                held = places(page.packs, page.nodes)
                lacking = await self._index.run(lambda file, packs=list(held): file.unlisted(packs))  # type: ignore[misc]
                sizes = {pack.digest: pack.size for pack in page.packs}
                done = done._replace(known=done.known + len(held) - len(lacking))
                for at in range(0, len(lacking), WRITTEN):
                    listed, missed = await self._read_all(lacking[at : at + WRITTEN], sizes, held, width)
                    await self._index.run(lambda file, packs=listed: file.list_packs(packs))  # type: ignore[misc]
                    done = done._replace(
                        packs=done.packs + len(listed),
                        chunks=done.chunks + sum(len(pack.chunks) for pack in listed),
                        missed=done.missed + missed,
                    )
                    progressed(done)
            again = int(self._clock.now()) + AGAIN_S if done.missed else 0
            await self._index.run(lambda file: file.set_rebuilt(again))
        _log.info("index_rebuilt", packs=done.packs, chunks=done.chunks, known=done.known, missed=done.missed)
        return done

    async def _behind(self) -> None:
        try:
            again = await self._index.run(IndexFile.rebuilt)
            if again is None or 0 < again <= self._clock.now():
                await self.run(width=BEHIND)
        except HoldfastError as error:
            _log.info("index_not_rebuilt", reason=error.detail)

    async def _read_all(
        self,
        packs: Sequence[Digest],
        sizes: dict[Digest, int],
        held: dict[Digest, list[m.NodeAddress]],
        width: int,
    ) -> tuple[list[ListedPack], int]:
        """(those that could be read, how many could not), ``width`` at once."""

        async def read(pack: Digest) -> ListedPack | None:
            try:
                return ListedPack(pack, sizes[pack], await self._read(pack, sizes[pack], held[pack]))
            except (Unavailable, Corrupt) as error:
                _log.info("pack_not_listed", pack=str(pack), reason=error.detail)
                return None

        listed = [one for one in await side_by_side(width, packs, read) if one is not None]
        return listed, len(packs) - len(listed)

    async def _read(self, pack: Digest, size: int, holders: Sequence[m.NodeAddress]) -> list[tuple[bytes, int, int]]:
        """(id, offset, length) of the pack's data chunks."""
        found = await read_index(self._keys, self._reader, self._pool, pack, size, holders)
        return [(entry.id, entry.offset, entry.length) for entry in found if entry.kind is Kind.DATA]


async def read_index(
    keys: VaultKeys, reader: PackReader, pool: Pool, pack: Digest, size: int, holders: Sequence[m.NodeAddress]
) -> list[IndexEntry]:
    """All chunks of a pack of ``size`` bytes, from its end; Unavailable, Corrupt."""
    header = PackHeader(GENERATION_FIRST, keys.vault)  # the trailer's signature covers it
    start = max(size - TAIL_BYTES, 0)

    async def end(view: memoryview) -> Trailer | list[IndexEntry]:
        trailer = parse_trailer(view, header, size)
        first, last = index_range(trailer)
        if first < start:
            return trailer
        return open_index(keys, header, trailer, view[first - start : last - start])

    found = await reader.read(pack, start, size, holders, end)
    if not isinstance(found, Trailer):
        return found
    trailer = found

    async def rest(view: memoryview) -> list[IndexEntry]:
        return await pool.run(open_index, keys, header, trailer, view)

    return await reader.read(pack, *index_range(trailer), holders, rest)
