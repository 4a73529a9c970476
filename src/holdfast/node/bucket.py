"""A bucket under a node: a NATS or S3 store that other nodes may serve too, dressed as what a node asks of its store.

A bucket cannot move a blob aside, so its trash and its quarantine are rows of the ledger: the blob stays where it is
until its time has come (``trash``), and nobody is given it meanwhile. What lies there may have been put, damaged or
deleted by others: a copy that this process has neither put nor re-read is hashed before a put of the same blob is
acknowledged.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, runtime_checkable

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import Buffer, Digest
from holdfast.errors import BadConfig, Corrupt, NotFound
from holdfast.pool import Pool
from holdfast.stores.disk.space import SpaceBook, StoreSpace
from holdfast.stores.disk.store import Verdict
from holdfast.stores.protocol import Body, Info, Range, Store, Stored, Traits
from holdfast.stores.verified import VerifiedStore

SHARED = "shared"
KNOWN_MAX = 65_536
"""Copies remembered as right."""
UNBOUNDED = 1 << 60
"""Bytes free where nobody says how many there are."""

_log = logs.get_logger(__name__)


@runtime_checkable
class Bucket(Store, Protocol):
    """What is dressed: ``stores.nats.NatsStore`` and ``stores.s3.S3Store``."""

    @property
    def id(self) -> str | None: ...

    async def claim(self, server: str | None) -> str:
        """Writes down who serves it unless that stands there already; what stands there then.

        ``server`` None: writes nothing; "" if nobody does.
        """
        ...


async def claim(bucket: Bucket, node: Id, *, joined: bool) -> None:
    """Makes sure that this node may serve the bucket; BadConfig if it may not.

    A node of a network serves a bucket alone: the network counts copies by stores, and may have one node give up what
    another still counts. Nodes without a coordinator share one.
    """
    if bucket.id is None:
        raise BadConfig("this bucket has no store id: make it one with 'holdfast store init URL'")
    wanted = str(node) if joined else SHARED
    _refuse_unless(await bucket.claim(wanted), wanted)


async def check_free(bucket: Bucket, *, joined: bool) -> None:
    """Before a node is made on the bucket: as ``claim``, but nothing is written; a node that is new owns none yet."""
    found = await bucket.claim(None)
    if found:
        _refuse_unless(found, "" if joined else SHARED)


def _refuse_unless(found: str, wanted: str) -> None:
    if found != wanted:
        whose = "by nodes that belong to no network" if found == SHARED else f"by the node {found}"
        raise BadConfig(f"this bucket is served {whose}; take another bucket for this node")


class BucketStore:
    """A ``NodeStore``. Closing it closes the bucket."""

    def __init__(
        self, bucket: Bucket, *, pool: Pool, capacity: int | None, used: Callable[[], int], alone: bool
    ) -> None:
        """``capacity``: bytes that may lie there for this node; ``used``: those that do. ``bucket`` has an id."""
        assert bucket.id is not None, "open_bucket has looked"
        self.id: str = bucket.id
        self.alone = alone
        self._bucket = bucket
        self._checked = VerifiedStore(bucket, pool)
        self._used = used
        self._book = SpaceBook(capacity=capacity, reserve=0, free=UNBOUNDED)
        self._known: OrderedDict[Digest, None] = OrderedDict()

    @property
    def traits(self) -> Traits:
        return self._bucket.traits

    @property
    def poisoned(self) -> str | None:
        """Never: whether its servers write is theirs to say, each time anew."""
        return None

    def space(self) -> StoreSpace:
        self._count()
        return self._book.read()

    def _count(self) -> None:
        self._book.move(used=self._used() - self._book.read().used)

    async def put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
        """As the protocol says; a copy that is there already counts once it was found right, else it is replaced."""
        self._count()
        with self._book.reserved(size):
            if digest not in self._known and (await self._bucket.stat([digest]))[0] is not None:
                await self._replace_if_wrong(digest)
            stored = await self._bucket.put(digest, size, source)
        self._remember(digest)
        return stored

    async def _replace_if_wrong(self, digest: Digest) -> None:
        try:
            if await self.verify(digest):
                return
        except NotFound:
            return
        _log.error("bucket_copy_replaced", digest=str(digest))
        await self._bucket.delete([digest])

    @asynccontextmanager
    async def get(self, digest: Digest, range_: Range | None = None) -> AsyncIterator[Body]:
        """As the protocol says; a whole blob is compared with its digest before its last piece."""
        async with self._checked.get(digest, range_) as body:
            yield body

    async def stat(self, digests: Sequence[Digest]) -> list[Info | None]:
        return await self._bucket.stat(digests)

    async def list(self, after: Digest | None, limit: int) -> list[Info]:
        return await self._bucket.list(after, limit)

    async def delete(self, digests: Sequence[Digest]) -> None:
        """Nothing yet: the ledger's row says that it lies in trash, until ``discard``."""

    async def discard(self, digests: Sequence[Digest]) -> None:
        """For good."""
        for digest in digests:
            self._known.pop(digest, None)
        await self._bucket.delete(digests)

    async def verify(self, digest: Digest) -> Verdict:
        """Reads and hashes; wrong twice, it counts as quarantined: the caller's row keeps it from everybody."""
        for verdict in (Verdict.RIGHT, Verdict.RIGHT_AT_SECOND_READ):
            try:
                async with self._checked.get(digest) as body:
                    async for _ in body:
                        pass
            except Corrupt as error:
                _log.warning("bucket_copy_wrong", digest=str(digest), reason=error.detail)
                self._known.pop(digest, None)
                continue
            self._remember(digest)
            return verdict
        return Verdict.QUARANTINED

    async def sweep(self) -> int:
        """What puts that were cut off left behind, where the bucket cannot tidy up by itself; how many puts' it was."""
        tidy = getattr(self._bucket, "sweep", None)
        return 0 if tidy is None else int(await tidy())

    async def close(self) -> None:
        await asyncio.shield(self._bucket.close())

    def _remember(self, digest: Digest) -> None:
        self._known[digest] = None
        self._known.move_to_end(digest)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
