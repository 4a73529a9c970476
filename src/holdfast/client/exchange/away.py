"""Writes to a node that is away: kept in the outbox as ``http`` entries, which go out when it is back.

A change of a manifest is queued against the one that this side has seen last (If-Match, If-None-Match), and where it
has never looked for one against the moment of the change (If-Unmodified-Since). Blobs are named by their bytes and need
nothing of the kind. A manifest that arrives before its blobs is answered 424 and tried again.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from email.utils import formatdate

from holdfast.blob import Buffer, Checker, Digest
from holdfast.client.exchange.seen import Seen
from holdfast.client.offline.outbox_door import OutboxDoor
from holdfast.clock import Clock
from holdfast.outbox import http
from holdfast.peers import manifest as manifests
from holdfast.pool import Pool
from holdfast.wire import routes
from holdfast.wire.http import Target


class AwayWrites:
    """Of one side, for one node. Calls may run at once."""

    def __init__(self, target: Target, door: OutboxDoor, seen: Seen, *, clock: Clock, pool: Pool) -> None:
        self.target = target
        self._door = door
        self._seen = seen
        self._clock = clock
        self._pool = pool

    async def blob(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> None:
        """Queued, durable, once this returns; nothing if the very blob waits already. DigestMismatch if ``source`` has
        changed since it was hashed; else as ``Outbox.enqueue``."""
        outbox = await self._door.open()
        url = self._url(routes.BLOB_PUT.path.format(digest=digest))
        if not await outbox.waiting_for(url):
            new = http.put(url, purpose="create", node=self.target.id)
            await outbox.enqueue(new, self._checked(digest, size, source))

    async def manifest(self, name: str, data: bytes) -> None:
        """A manifest in its stored form, in place of the one that was seen last."""
        looked, etag = await self._pool.run(self._seen.manifest, self.target.id, name)
        new = http.put(
            self._manifest_url(name),
            content_type="application/json",
            if_match=None if etag is None else manifests.etag_field(etag),
            if_absent=looked and etag is None,
            if_unmodified_since=None if looked else formatdate(self._clock.now(), usegmt=True),
            node=self.target.id,
            etag=manifests.etag_field(manifests.etag(data)),
        )
        await (await self._door.open()).enqueue(new, data)

    async def remove(self, name: str, before: Digest | None) -> None:
        """The removal of a manifest: the one with the etag ``before``, else the one that was seen last."""
        etag = before or (await self._pool.run(self._seen.manifest, self.target.id, name))[1]
        new = http.delete(
            self._manifest_url(name),
            if_match=None if etag is None else manifests.etag_field(etag),
            if_unmodified_since=None if etag is not None else formatdate(self._clock.now(), usegmt=True),
            node=self.target.id,
        )
        await (await self._door.open()).enqueue(new)

    async def busy(self, name: str) -> bool:
        """Does a change of this manifest still wait, after what is due was tried? Then the next stands behind it."""
        outbox = await self._door.found()
        if outbox is None:
            return False
        if await outbox.waiting():
            await outbox.flush()
        return bool(await outbox.waiting_for(self._manifest_url(name)))

    async def saw(self, name: str, etag: Digest | None) -> None:
        """What the node has of that name now, None for nothing."""
        await self._pool.run(self._seen.note_manifest, self.target.id, name, etag)

    def _url(self, path: str) -> str:
        return self.target.url + path

    def _manifest_url(self, name: str) -> str:
        return self._url(routes.MANIFEST_PUT.path.format(ref=name))

    async def _checked(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> AsyncIterator[Buffer]:
        checker = Checker(digest, size)
        async for piece in source:
            await self._pool.run(checker.update, piece)
            yield piece
        checker.finish()
