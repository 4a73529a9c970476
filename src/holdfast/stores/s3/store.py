"""Blobs in an S3 bucket: ``s3://bucket/prefix?endpoint=https://host&region=...``.

A blob is the object ``<prefix>/blobs/<hex digest>``; nothing else lies there, and ``<prefix>/holdfast-store`` holds the
store's id. Up to ``SINGLE_BYTES_MAX`` a blob is one request that creates or fails; larger ones are multipart uploads,
which are completed only when the digest is right. Services that ignore If-None-Match write the same bytes again: no
harm, but two processes may both hear that a blob was new. What a crash of this process may leave are parts of an upload
that nobody sees; a lifecycle rule of the bucket removes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import obstore
from obstore import exceptions as s3_errors
from obstore.store import S3Store as Client

from holdfast.blob import PIECE_BYTES_MAX, Buffer, Checker, Digest
from holdfast.clock import Randomness
from holdfast.errors import BadConfig, BadRequest, Exists, NotFound, TimedOut, Unavailable
from holdfast.pool import Pool
from holdfast.stores.protocol import Body, Info, Range, Stored, Traits, check_limit
from holdfast.stores.rechunk import rechunked
from holdfast.stores.s3.service import connect, translated
from holdfast.stores.side_by_side import side_by_side
from holdfast.stores.single_put import SinglePut, check_size
from holdfast.stores.url import StoreUrl

T = TypeVar("T")

SINGLE_BYTES_MAX = 32 << 20
"""Twice a pack: packs go up in one request, held in memory."""
SINGLES_AT_ONCE = 8
PART_BYTES = 16 << 20
PARTS_MAX = 9_000  # the protocol allows 10,000
PARTS_AT_ONCE = 3
BLOB_BYTES_MAX = 5 << 40
REQUESTS_AT_ONCE = 32
STREAM_BYTES = 256 * 1024
STALL_S = 30.0
STORE_ID = "holdfast-store"
SERVED_BY = "holdfast-served-by"
_BLOBS = "blobs/"


class S3Store:
    """One prefix of a bucket. ``init`` gives it an id, ``open`` opens it; ``id`` is None where ``init`` never ran."""

    def __init__(self, client: Client, store_id: str | None, *, durable: bool, pool: Pool) -> None:
        """For ``open`` only."""
        self.id = store_id
        self._client = client
        self._pool = pool
        self._traits = Traits(durable=durable, blob_bytes_max=BLOB_BYTES_MAX, checked=False)
        self._puts = SinglePut()
        self._singles = asyncio.Semaphore(SINGLES_AT_ONCE)
        self._ending: set[asyncio.Future[Any]] = set()
        self._ranges = True  # the service answers them
        self._closed = False

    @staticmethod
    async def init(url: StoreUrl, *, environment: Mapping[str, str], randomness: Randomness) -> str:
        """Gives the prefix an id and returns it; never makes a bucket. Exists if there is one."""
        client = connect(url, environment)
        found = await _store_id(client, url)
        if found is None:
            store_id = randomness.bytes(16).hex()
            try:
                with translated(f"making a store in {url}"):
                    await obstore.put_async(client, STORE_ID, store_id.encode(), mode="create", use_multipart=False)
                return store_id
            except Unavailable as error:
                if not isinstance(error.__cause__, s3_errors.AlreadyExistsError):
                    raise
                found = await _store_id(client, url)
        raise Exists(f"{url} holds a store already ({found})")

    @classmethod
    async def open(cls, url: StoreUrl, *, environment: Mapping[str, str], pool: Pool) -> S3Store:
        """BadConfig if there is no such bucket.

        Durable on acknowledgement: Amazon's own service, and any other of which the URL says ``sync=always``.
        """
        client = connect(url, environment)
        durable = "endpoint" not in url.options or url.options.get("sync") == "always"
        return cls(client, await _store_id(client, url), durable=durable, pool=pool)

    @property
    def traits(self) -> Traits:
        return self._traits

    async def claim(self, server: str | None) -> str:
        """Writes down who serves the prefix unless that stands there already; what stands there then.

        ``server`` None: writes nothing; "" if nobody does.
        """
        self._check_open()
        found = await _text(self._client, SERVED_BY, "asking who serves this store")
        if found is None and server is not None:
            try:
                with translated("writing down who serves this store"):
                    await obstore.put_async(
                        self._client, SERVED_BY, server.encode(), mode="create", use_multipart=False
                    )
            except Unavailable as error:
                if not isinstance(error.__cause__, s3_errors.AlreadyExistsError):
                    raise
            found = await _text(self._client, SERVED_BY, "asking who serves this store")
        return found or ""

    # -- put

    async def put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
        """As the protocol says."""
        self._check_open()
        if size > BLOB_BYTES_MAX:
            raise BadRequest(f"S3 takes objects of at most {BLOB_BYTES_MAX} bytes, not {size}")
        return await self._puts.run(digest, size, lambda: self._put(digest, size, source))

    async def _put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
        known = await self._known(digest, size)
        if known is not None:
            return known
        checker = Checker(digest, size)
        if size > SINGLE_BYTES_MAX:
            await self._put_parts(digest, checker, source)
            return Stored(digest, size, True)
        async with self._singles:
            data = bytearray()
            async for piece in rechunked(source, PIECE_BYTES_MAX):
                await self._pool.run(checker.update, piece)
                data += piece
            checker.finish()
            try:
                with translated(f"a put of {digest}"):
                    await self._end(
                        obstore.put_async(self._client, _key(digest), data, mode="create", use_multipart=False)
                    )
            except Unavailable as error:
                if not isinstance(error.__cause__, s3_errors.AlreadyExistsError):
                    raise
                known = await self._known(digest, size)
                if known is None:
                    raise
                return known
        return Stored(digest, size, True)

    async def _known(self, digest: Digest, size: int) -> Stored | None:
        info = await self._look(digest)
        if info is None:
            return None
        stored = Stored(digest, info.size, False)
        check_size(stored, size)
        return stored

    async def _put_parts(self, digest: Digest, checker: Checker, source: AsyncIterable[Buffer]) -> None:
        """The library aborts the upload when what it reads from fails: so every way to fail is told to it there."""
        feed: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(1)

        async def fed() -> AsyncIterator[bytes]:
            while (item := await feed.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item

        part_bytes = max(PART_BYTES, -(-checker.size // PARTS_MAX))
        upload = asyncio.ensure_future(
            obstore.put_async(
                self._client,
                _key(digest),
                fed(),
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=PARTS_AT_ONCE,
            )
        )

        async def give(item: bytes | None) -> None:
            giving = asyncio.ensure_future(feed.put(item))
            try:
                await asyncio.wait([giving, upload], return_when=asyncio.FIRST_COMPLETED)
            finally:
                giving.cancel()
            if upload.done():
                with translated(f"a put of {digest}"):
                    upload.result()

        try:
            async for piece in rechunked(source, PIECE_BYTES_MAX):
                await self._pool.run(checker.update, piece)
                await give(piece)
            checker.finish()
            await give(None)
            with translated(f"a put of {digest}"):
                await self._end(upload)
        except BaseException:
            await self._end(_abort(feed, upload))
            raise

    async def _end(self, ending: Awaitable[T]) -> T:
        """Goes on when the caller is cancelled; ``close`` waits for it."""
        task = asyncio.ensure_future(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return await asyncio.shield(task)

    # -- reads

    @asynccontextmanager
    async def get(self, digest: Digest, range_: Range | None = None) -> AsyncIterator[Body]:
        """As the protocol says; not compared with the digest (``VerifiedStore`` does)."""
        self._check_open()
        if range_ is not None and (range_.start < 0 or (range_.stop is not None and range_.stop <= range_.start)):
            range_.within(await self._size(digest))  # a service would make something else of it
        found = await self._request(digest, range_)
        total = int(found.meta["size"])
        start, stop = (0, total) if range_ is None else range_.within(total)
        if found.range not in ((start, stop), (0, total)):
            raise Unavailable(f"a get of {digest}: the service sent bytes {found.range} of {total}")
        yield _S3Body(found, digest, start, stop, total)

    async def _request(self, digest: Digest, range_: Range | None) -> obstore.GetResult:
        """What was asked for, or the whole blob where the service does not answer ranges as HTTP wants it."""
        options: obstore.GetOptions = {}
        if range_ is not None and self._ranges:
            start, stop = range_
            options["range"] = {"offset": start} if stop is None else (start, stop)
        try:
            with translated(f"a get of {digest}"):
                return await obstore.get_async(self._client, _key(digest), options=options)
        except Unavailable as error:
            if not options:
                raise
            if "non-partial response" in str(error.__cause__):
                self._ranges = False
                return await self._request(digest, None)
            assert range_ is not None
            range_.within(await self._size(digest))  # a range outside of the blob looks like any other failure
            raise

    async def _size(self, digest: Digest) -> int:
        info = await self._look(digest)
        if info is None:
            raise NotFound(f"{digest} is not in this store")
        return info.size

    async def _look(self, digest: Digest) -> Info | None:
        try:
            with translated(f"a look at {digest}"):
                found = await obstore.head_async(self._client, _key(digest))
        except NotFound:
            return None
        return Info(digest, int(found["size"]))

    async def stat(self, digests: Sequence[Digest]) -> list[Info | None]:
        """One request for each."""
        self._check_open()
        wanted = list(dict.fromkeys(digests))
        found = dict(zip(wanted, await side_by_side(REQUESTS_AT_ONCE, wanted, self._look), strict=True))
        return [found[digest] for digest in digests]

    async def list(self, after: Digest | None, limit: int) -> list[Info]:
        """As the protocol says; keys that are no digests are left out."""
        check_limit(limit)
        self._check_open()
        page: list[Info] = []
        with translated("a list"):
            offset = None if after is None else _key(after)
            async for entries in obstore.list(self._client, _BLOBS, offset=offset, chunk_size=max(limit, 50)):
                for entry in entries:
                    digest = _digest(entry["path"])
                    if digest is None or (after is not None and digest <= after):
                        continue
                    if page and digest <= page[-1].digest:
                        raise Unavailable("the service does not list its keys in ascending order, as S3 must")
                    page.append(Info(digest, int(entry["size"])))
                    if len(page) == limit:
                        return page
        return page

    # -- delete, end

    async def delete(self, digests: Sequence[Digest]) -> None:
        """For good, a thousand in one request."""
        self._check_open()
        keys = [_key(digest) for digest in dict.fromkeys(digests)]
        if keys:
            try:
                with translated("a delete"):
                    await obstore.delete_async(self._client, keys)
            except NotFound:
                pass  # some services say so of what is not there

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("this store is closed")

    async def close(self) -> None:
        """Waits for uploads that are being completed or aborted."""
        self._closed = True
        if self._ending:
            await asyncio.wait(self._ending)


class _Abandoned(Exception):
    """Told to an upload that has to be aborted."""


async def _abort(feed: asyncio.Queue[bytes | Exception | None], upload: asyncio.Future[Any]) -> None:
    if not upload.done():
        while not feed.empty():
            feed.get_nowait()
        feed.put_nowait(_Abandoned())
        await asyncio.wait([upload])
    if not upload.cancelled():
        upload.exception()  # seen: nobody else asks


class _S3Body:
    """A body as the service sends it."""

    def __init__(self, found: obstore.GetResult, digest: Digest, start: int, stop: int, total: int) -> None:
        """Of what ``found`` brings, the bytes ``start`` to ``stop`` of the blob."""
        self.size = stop - start
        self.total = total
        self._found = found
        self._digest = digest
        self._start = start

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        stream = aiter(self._found.stream(min_chunk_size=STREAM_BYTES))
        skip, left = self._start - self._found.range[0], self.size
        while left:
            with translated(f"a get of {self._digest}"):
                try:
                    piece = memoryview(await asyncio.wait_for(anext(stream), STALL_S))
                except StopAsyncIteration:
                    raise Unavailable(f"a get of {self._digest} ended {left} bytes early") from None
                except TimeoutError as error:
                    raise TimedOut(f"a get of {self._digest}: the service stopped sending") from error
            skipped = min(skip, len(piece))
            skip -= skipped
            piece = piece[skipped : skipped + left]
            left -= len(piece)
            for start in range(0, len(piece), PIECE_BYTES_MAX):
                yield piece[start : start + PIECE_BYTES_MAX]


def _key(digest: Digest) -> str:
    return f"{_BLOBS}{digest}"


def _digest(key: str) -> Digest | None:
    try:
        return Digest.parse(key.rpartition("/")[2])
    except BadRequest:
        return None


async def _store_id(client: Client, url: StoreUrl) -> str | None:
    try:
        return await _text(client, STORE_ID, f"{url}")
    except BadConfig as error:
        raise BadConfig(f"{url}: there is no bucket {url.host}; make it with the service's own tools") from error


async def _text(client: Client, key: str, what: str) -> str | None:
    """A small object's text, None if there is none; BadConfig without a bucket."""
    try:
        with translated(what):
            found = await obstore.get_async(client, key)
            return bytes(await found.bytes_async()).decode("ascii", "replace").strip()
    except NotFound as error:
        if "NoSuchBucket" in str(error.__cause__):
            raise BadConfig(f"{what}: there is no such bucket") from error
        return None
