"""Reading packs that are still in the outbox, and all others from their nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from holdfast.blob import Digest
from holdfast.client.device.settings import ClientSettings
from holdfast.client.names.names import Names
from holdfast.client.offline.queued_names import QueuedNames
from holdfast.client.reading.content import ContentReader
from holdfast.client.reading.fetch import PackReader
from holdfast.codec.keys import VaultKeys
from holdfast.errors import HoldfastError
from holdfast.pool import Pool
from holdfast.wire import messages as m

T = TypeVar("T")


class QueuedPackReader(PackReader):
    """The outbox first: it needs no network. Then the nodes, because a pack leaves the outbox when it is delivered."""

    def __init__(self, nodes: PackReader, queued: QueuedNames) -> None:
        self._nodes = nodes
        self._queued = queued
        self.buffers = nodes.buffers

    async def read(
        self,
        pack: Digest,
        start: int,
        stop: int,
        holders: Sequence[m.NodeAddress],
        check: Callable[[memoryview], Awaitable[T]],
    ) -> T:
        """As ``PackReader.read``."""
        outbox = await self._queued.outbox()
        if outbox is not None and await outbox.queue.pack(pack) is not None:
            buffer = self.buffers.take(stop - start)
            try:
                view, at = memoryview(buffer)[: stop - start], 0
                async for piece in outbox.queue.read_pack(pack, start, stop):
                    view[at : at + len(piece)] = piece
                    at += len(piece)
                if at == stop - start:
                    return await check(view)
            except HoldfastError:
                if not holders and await self._queued.holds(pack):
                    raise
            finally:
                self.buffers.give(buffer)
        return await self._nodes.read(pack, start, stop, holders, check)


class ContentHere(ContentReader):
    """Files whose packs may lie in the outbox."""

    def __init__(
        self,
        keys: VaultKeys,
        nodes: PackReader,
        names: Names,
        pool: Pool,
        settings: ClientSettings,
        queued: QueuedNames,
    ) -> None:
        super().__init__(keys, QueuedPackReader(nodes, queued), names, pool, settings)
        self._queued = queued

    async def holders(self, places: dict[Digest, list[m.NodeAddress]], pack: Digest) -> Sequence[m.NodeAddress]:
        """As ``ContentReader.holders``; nobody needs to be known to hold what lies in the outbox."""
        if pack not in places and await self._queued.holds(pack):
            return ()
        return await super().holders(places, pack)
