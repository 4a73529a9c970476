"""Blobs in a NATS JetStream object store: ``nats://host:4222/bucket?replicas=3``.

Other NATS clients read what lies here, and what they put under a hex digest is read here. A blob is there once its
meta message is: chunks come first, and a put that fails deletes its own. What a crash of this process may leave are
chunks without a meta message (``sweep`` deletes them). Servers acknowledge before they sync unless told otherwise, and
a client cannot see that: the store counts as durable only when the operator says so (``sync=always``) or the servers'
monitoring ports do (``monitor=``).
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from holdfast.blob import Buffer, Checker, Digest
from holdfast.clock import Clock, Randomness
from holdfast.errors import BadConfig, HoldfastError, NotFound, Unavailable
from holdfast.pool import Pool
from holdfast.stores.nats import bucket as nats_bucket
from holdfast.stores.nats import names as nats_names
from holdfast.stores.nats.access import NatsAccess
from holdfast.stores.nats.bucket import BucketState
from holdfast.stores.nats.layout import Bucket, Meta, chunk_bytes
from holdfast.stores.nats.link import WRONG_SEQUENCE, NatsLink, Refused
from holdfast.stores.nats.read import NatsBody
from holdfast.stores.nats.write import ACK_S, ChunkWriter, purge
from holdfast.stores.protocol import Body, Info, Range, Stored, Traits, check_limit
from holdfast.stores.rechunk import rechunked
from holdfast.stores.side_by_side import side_by_side
from holdfast.stores.single_put import SinglePut, check_size
from holdfast.stores.url import StoreUrl
from holdfast.wire.network import Network

LOOKS_AT_ONCE = 64
DELETES_AT_ONCE = 16
NAMES_S = 5.0
"""Pages of one list after the first come from names this old at most: what was put elsewhere since may be left out."""
ORPHAN_AGE_S = 3600.0
SERVER_MIN = (2, 11)


class NatsStore:
    """One bucket. ``init`` makes it, ``open`` opens it. ``id`` is None for a bucket that other clients made."""

    def __init__(
        self,
        link: NatsLink,
        bucket: Bucket,
        state: BucketState,
        *,
        durable: bool,
        pool: Pool,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        """For ``open`` only."""
        self.id = state.store_id
        self._link = link
        self._bucket = bucket
        self._pool = pool
        self._clock = clock
        self._randomness = randomness
        self._traits = Traits(durable=durable, blob_bytes_max=None, checked=False)
        self._puts = SinglePut()
        self._chunk_bytes = chunk_bytes(link.payload_max)
        self._names: list[Digest] = []
        self._names_until = -1.0
        self._cleaning: set[asyncio.Task[None]] = set()
        self._closed = False

    @staticmethod
    async def init(url: StoreUrl, *, access: NatsAccess, clock: Clock, randomness: Randomness) -> str:
        """Makes the bucket with ``replicas`` copies (1) and returns the store's id.

        A bucket that other clients made gets an id and keeps its objects. Exists if it has an id already.
        """
        async with _linked(url, access, clock, randomness) as link:
            return await nats_bucket.create(link, Bucket(url.path), int(url.options.get("replicas", "1")), randomness)

    @classmethod
    async def open(
        cls, url: StoreUrl, *, access: NatsAccess, pool: Pool, clock: Clock, randomness: Randomness, network: Network
    ) -> NatsStore:
        """Never makes a bucket: BadConfig if there is none, or if it is not as the URL says."""
        bucket = Bucket(url.path)
        link = await _connect(url, access, clock, randomness)
        try:
            state = await nats_bucket.look(link, bucket)
            if state is None:
                raise nats_bucket.missing(bucket)
            asked = url.options.get("replicas")
            if asked is not None and int(asked) != state.replicas:
                raise BadConfig(
                    f"the bucket {bucket.name} keeps {state.replicas} copies and the URL says {asked}: correct "
                    f"the URL, or change the bucket with 'holdfast store scale URL --replicas {asked}'"
                )
            durable = await _durable(url, state, network)
            return cls(link, bucket, state, durable=durable, pool=pool, clock=clock, randomness=randomness)
        except BaseException:
            await link.close()
            raise

    @staticmethod
    async def scale(
        url: StoreUrl,
        replicas: int,
        *,
        access: NatsAccess,
        clock: Clock,
        randomness: Randomness,
        seen: Callable[[BucketState], None] = lambda state: None,
    ) -> BucketState:
        """Changes the number of copies and returns when all are complete."""
        async with _linked(url, access, clock, randomness) as link:
            return await nats_bucket.scale(link, Bucket(url.path), replicas, clock=clock, seen=seen)

    @property
    def traits(self) -> Traits:
        return self._traits

    async def claim(self, server: str | None) -> str:
        """Writes down who serves the bucket unless that stands there already; what stands there then.

        ``server`` None: writes nothing; "" if nobody does.
        """
        self._check_open()
        return await nats_bucket.claim(self._link, self._bucket, server)

    # -- put

    async def put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
        """As the protocol says. Of several processes that put one digest at once, one says that it was new."""
        self._check_open()
        return await self._puts.run(digest, size, lambda: self._put(digest, size, source))

    async def _put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
        meta, revision = await self._meta(digest)
        if meta is not None:
            return _known(meta, size)
        nuid = self._randomness.bytes(11).hex()
        writer = ChunkWriter(self._link, self._bucket, nuid, self._clock)
        try:
            checker = Checker(digest, size)
            async for data in rechunked(source, self._chunk_bytes):
                hashing = asyncio.ensure_future(self._pool.run(checker.update, data))
                try:
                    if checker.size > self._chunk_bytes:  # a single chunk is checked before it is sent
                        await writer.add(data)
                finally:
                    await hashing
                if checker.size <= self._chunk_bytes:
                    checker.finish()
                    await writer.add(data)
            checker.finish()
            sequences = await writer.finish()
            meta = Meta(digest, nuid, size, len(sequences), self._chunk_bytes, sequences)
            there = await self._commit(meta, revision)
        except BaseException:
            await self._finish_cleaning(writer.abandon())
            raise
        if there is not None:
            await self._finish_cleaning(writer.abandon())
            return _known(there, size)
        self._names_until = -1.0
        return Stored(digest, size, True)

    async def _commit(self, meta: Meta, revision: int) -> Meta | None:
        """Makes the blob visible; the meta message of somebody who was quicker, or None."""
        subject, data = self._bucket.meta(meta.digest), meta.encode(self._bucket)

        async def once() -> Meta | None:
            headers = {
                "Nats-Rollup": "sub",
                "Nats-Expected-Last-Subject-Sequence": str(revision),
                "Nats-Msg-Id": f"{meta.nuid}-meta",
            }
            acknowledged = await self._link.publish(subject, data, headers)
            try:
                await asyncio.wait_for(acknowledged, ACK_S)
            except Refused as error:
                if error.error_code != WRONG_SEQUENCE:
                    raise
                found, _ = await self._meta(meta.digest)
                if found is None:
                    raise Unavailable(f"{meta.digest} was put and deleted elsewhere meanwhile") from error
                return None if found.nuid == meta.nuid else found
            return None

        try:
            return await self._link.patiently(once, "a put")
        except Refused as error:
            raise error.translated("a put") from error

    async def _finish_cleaning(self, cleaning: Coroutine[Any, Any, None]) -> None:
        """Goes on when the caller is cancelled; its failure does not hide the one that made it necessary."""

        async def clean() -> None:
            with contextlib.suppress(HoldfastError):  # the cluster is away: ``sweep`` finds what is left
                await cleaning

        task = asyncio.ensure_future(clean())
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)
        await asyncio.shield(task)

    # -- reads

    @asynccontextmanager
    async def get(self, digest: Digest, range_: Range | None = None) -> AsyncIterator[Body]:
        """As the protocol says; not compared with the digest (``VerifiedStore`` does)."""
        meta, _ = await self._meta(digest)
        if meta is None:
            raise NotFound(f"{digest} is not in this store")
        start, stop = (0, meta.size) if range_ is None else range_.within(meta.size)

        async def still_there() -> bool:
            found, _ = await self._meta(digest)
            return found is not None and found.nuid == meta.nuid

        yield NatsBody(self._link, self._bucket, meta, start, stop, clock=self._clock, still_there=still_there)

    async def _meta(self, digest: Digest) -> tuple[Meta | None, int]:
        """The meta message as the leader has it, if it stands for a blob, and its sequence (0 for none)."""
        self._check_open()
        found = await self._link.stored(self._bucket.stream, {"last_by_subj": self._bucket.meta(digest)})
        return (None, 0) if found is None else (Meta.decode(digest, found.data), found.sequence)

    async def stat(self, digests: Sequence[Digest]) -> list[Info | None]:
        """By their meta messages, as the leader has them."""
        self._check_open()
        wanted = list(dict.fromkeys(digests))
        metas = await side_by_side(LOOKS_AT_ONCE, wanted, self._meta)
        found = {digest: meta for digest, (meta, _) in zip(wanted, metas, strict=True)}
        return [None if (meta := found[digest]) is None else Info(digest, meta.size) for digest in digests]

    async def list(self, after: Digest | None, limit: int) -> list[Info]:
        """As the protocol says; objects that no digest names are left out. See ``NAMES_S``."""
        check_limit(limit)
        self._check_open()
        if after is None or self._clock.monotonic() > self._names_until:
            self._names = await nats_names.blobs(self._link, self._bucket)
            self._names_until = self._clock.monotonic() + NAMES_S
        names = self._names
        place = 0 if after is None else bisect.bisect_right(names, after)
        page: list[Info] = []
        while len(page) < limit and place < len(names):
            asked = names[place : place + limit - len(page)]
            place += len(asked)
            page += [info for info in await self.stat(asked) if info is not None]
        return page

    # -- delete

    async def delete(self, digests: Sequence[Digest]) -> None:
        """For good: meta message first, then its chunks. Leaves no deletion mark behind."""
        self._check_open()
        await side_by_side(DELETES_AT_ONCE, list(dict.fromkeys(digests)), self._delete)
        self._names_until = -1.0

    async def _delete(self, digest: Digest) -> None:
        meta, revision = await self._meta(digest)
        if meta is None:
            return
        await purge(self._link, self._bucket, self._bucket.meta(digest), up_to=revision)
        await purge(self._link, self._bucket, self._bucket.chunks(meta.nuid))

    async def sweep(self, older_than_s: float = ORPHAN_AGE_S) -> int:
        """Deletes chunks that no meta message names and that are older than ``older_than_s``; how many puts' they were.

        They come from processes that died in the middle of a put. Safe beside puts of other processes as long as none
        takes longer than ``older_than_s``.
        """
        self._check_open()
        return await nats_names.sweep(self._link, self._bucket, older_than_s, self._clock)

    # -- the end

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("this store is closed")

    async def close(self) -> None:
        """Ends what is under way."""
        self._closed = True
        if self._cleaning:
            await asyncio.wait(self._cleaning)
        await self._link.close()


async def _connect(url: StoreUrl, access: NatsAccess, clock: Clock, randomness: Randomness) -> NatsLink:
    tls = "tls" in url.options
    link = await NatsLink.connect(url.host.split(","), access, tls=tls, clock=clock, randomness=randomness)
    if link.version < SERVER_MIN:
        await link.close()
        raise BadConfig(f"{url.host} is a NATS server older than {'.'.join(map(str, SERVER_MIN))}")
    return link


@asynccontextmanager
async def _linked(url: StoreUrl, access: NatsAccess, clock: Clock, randomness: Randomness) -> AsyncIterator[NatsLink]:
    link = await _connect(url, access, clock, randomness)
    try:
        yield link
    finally:
        await link.close()


async def _durable(url: StoreUrl, state: BucketState, network: Network) -> bool:
    """What the URL says, unless the bucket or a server contradicts it."""
    stated, monitors = url.options.get("sync") == "always", url.options.get("monitor")
    if not stated and monitors is None:
        return False
    why = nats_bucket.volatile(state)
    if why is None and monitors is not None:
        why = await nats_bucket.unsynced(state, monitors.split(","), network)
    if why is not None and stated:
        raise BadConfig(f"the URL says sync=always, but {why}")
    return why is None


def _known(meta: Meta, size: int) -> Stored:
    stored = Stored(meta.digest, meta.size, False)
    check_size(stored, size)
    return stored
