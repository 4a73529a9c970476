"""One node's blobs as a store: ``http://host:7420``.

What may be read and put is the node's word; this store only brings the credentials that its caller provides. Whole
reads are not compared with their digest (``VerifiedStore`` does); a put counts only with the node's signed receipt.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from holdfast.auth.documents import open_signed
from holdfast.auth.grants import Receipt
from holdfast.blob import Buffer, Digest
from holdfast.errors import Denied, DigestMismatch, HoldfastError, NotFound, Unavailable
from holdfast.inventory import PREFIXES
from holdfast.stores.protocol import Body, Info, Range, Stored, Traits, check_limit
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target

ReadGrant: TypeAlias = Callable[[Sequence[Digest]], Awaitable[bytes | None]]
"""A credential with which these may be read: a certificate or a get grant; None for a coordinator, who needs none."""
PutGrant: TypeAlias = Callable[[Digest, int], Awaitable[bytes]]
"""A put grant for a blob of that many bytes; Denied if there is none."""

STATS_AT_ONCE = 8
_EVERYWHERE = ".".join(f"{prefix:02x}" for prefix in range(PREFIXES))


class RemoteStore:
    """The node at ``target``. ``close`` leaves ``http`` open: it is the caller's."""

    def __init__(self, target: Target, *, http: HttpClient, read_grant: ReadGrant, put_grant: PutGrant) -> None:
        self._target = target
        self._http = http
        self._read_grant = read_grant
        self._put_grant = put_grant

    @property
    def traits(self) -> Traits:
        return Traits(durable=True, blob_bytes_max=None, checked=False)

    async def put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
        """As the protocol says; ``receive`` gives the receipt, too. Sends nothing that the node shows to have."""
        if await self._holds(digest, size):
            return Stored(digest, size, False)
        await self.receive(digest, size, source)
        return Stored(digest, size, True)

    async def receive(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Receipt:
        """Puts in any case, so that the copy gets a new write sequence; the receipt, checked."""
        sent = _Sent(digest, size, source)
        grant = await self._put_grant(digest, size)
        try:
            envelope = await self._http.put_blob(self._target, digest, size, lambda: sent, grant=grant)
        except HoldfastError:
            if sent.error is not None:
                raise sent.error from None
            raise
        receipt = open_signed(Receipt, envelope, self._target.id)
        if (receipt.node, receipt.digest, receipt.size) != (self._target.id, digest, size):
            raise Unavailable(f"{self._target.url} sent the receipt of another blob")
        return receipt

    @asynccontextmanager
    async def get(self, digest: Digest, range_: Range | None = None) -> AsyncIterator[Body]:
        """As the protocol says; not compared with the digest."""
        async with self._http.get_blob(self._target, digest, range_, grant=await self._read_grant([digest])) as body:
            yield body

    async def stat(self, digests: Sequence[Digest]) -> list[Info | None]:
        """What may not be read is not there."""
        wanted = list(dict.fromkeys(digests))
        found: dict[Digest, Info | None] = {}
        if len(wanted) > 1:
            present: list[Digest] = []
            for start in range(0, len(wanted), m.HAS_DIGESTS_MAX):
                page = wanted[start : start + m.HAS_DIGESTS_MAX]
                answer = await self._http.call(
                    self._target, routes.HAS, m.HasRequest(digests=page), grant=await self._read_grant(page)
                )
                bits = m.bits_of(answer.bitmap, len(page))
                present += [digest for digest, bit in zip(page, bits, strict=True) if bit]
            wanted = present
        for start in range(0, len(wanted), STATS_AT_ONCE):
            group = wanted[start : start + STATS_AT_ONCE]
            for digest, info in zip(group, await asyncio.gather(*map(self._info, group)), strict=True):
                found[digest] = info
        return [found.get(digest) for digest in digests]

    async def delete(self, digests: Sequence[Digest]) -> None:
        """Denied, always: a node gives up a blob only by a coordinator's grant for that very copy."""
        raise Denied("a node deletes only by its coordinator's grants, not through a store")

    async def list(self, after: Digest | None, limit: int) -> list[Info]:
        """As the protocol says, for a node's coordinator; Denied for everybody else."""
        check_limit(limit)
        found: list[Info] = []
        while len(found) < limit:
            room = min(limit - len(found), m.PAGE_MAX)
            query = m.InventoryQuery(prefix=_EVERYWHERE, past=found[-1].digest if found else after, limit=room)
            page = await self._http.call(self._target, routes.INVENTORY, query)
            found += [Info(entry.digest, entry.size) for entry in page.entries]
            if len(page.entries) < room:
                break
        return found

    async def close(self) -> None:
        """Does nothing: the connections belong to the client."""

    async def _info(self, digest: Digest) -> Info | None:
        try:
            return Info(
                digest, await self._http.head_blob(self._target, digest, grant=await self._read_grant([digest]))
            )
        except NotFound:
            return None

    async def _holds(self, digest: Digest, size: int) -> bool:
        try:
            info = await self._info(digest)
        except Denied:  # who may only put does not see what is there
            return False
        if info is not None and info.size != size:
            raise DigestMismatch(f"{digest} has {info.size} bytes, {size} were announced")
        return info is not None


class _Sent:
    """A source on its way: never longer or shorter than announced, and its own error is not lost on the way."""

    def __init__(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> None:
        self.error: BaseException | None = None
        self._digest = digest
        self._size = size
        self._source = source

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        seen = 0
        try:
            async for piece in self._source:
                seen += len(piece)
                if seen > self._size:
                    break
                yield piece
            if seen != self._size:
                raise DigestMismatch(f"{self._digest}: {self._size} bytes were announced, another number came")
        except Exception as error:
            self.error = error
            raise
