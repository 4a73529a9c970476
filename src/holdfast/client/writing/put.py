"""Putting one file: read, cut, deduplicated, packed, and its name committed (docs/design.md, How data flows).

A file whose stamp is that of the last put is not read again; a content that is known is not written again; a chunk that
is known is not sent again. Packs that turn out to be gone are sent once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from holdfast.blob import Buffer
from holdfast.client.device.local import FileStat, LocalEntry, OpenedFile, file_stat, is_settled, look, read_small, same
from holdfast.client.names.drafts import Chunk, Draft, Group, KnownRecipe, NewRecipe, mark_of
from holdfast.client.names.index_file import Batch, ChunkPlace, IndexFile, SeenRef
from holdfast.client.writing.put_options import PutOptions, directory_draft, prepare
from holdfast.client.writing.uploader import Uploader
from holdfast.clock import Clock, Randomness
from holdfast.codec import recipe, refs
from holdfast.codec.chunker import Chunker
from holdfast.codec.pipeline import INLINE_BYTES
from holdfast.codec.refs import Attributes, RefKind
from holdfast.codec.sealer import SALT_BYTES, SEAL_OVERHEAD, Kind, check16, chunk_id, seal_into
from holdfast.errors import HoldfastError, PacksGone, Unavailable
from holdfast.files import Files
from holdfast.pool import Pool

SMALL_BYTES_MAX = 1 << 20
"""Files up to this are read in one go."""
CHUNKS_AHEAD = 2
ATTEMPTS = 4
ATTEMPT_S = 1.0
"""Packs that are gone are sent again at once; if they still do not count, their nodes need a moment to be heard of."""
FILE_MODE = 0o644


class Content(NamedTuple):
    """A file's content in the network. ``id`` is its content id; ``size`` in bytes."""

    id: bytes
    size: int
    recipe: KnownRecipe | NewRecipe


class Known(NamedTuple):
    """What the index says before a put."""

    ref: SeenRef | None
    stat: FileStat | None
    recipe: KnownRecipe | None


class FilePutter:
    """Puts single files through one uploader. Calls may run at once."""

    def __init__(
        self,
        uploader: Uploader,
        files: Files,
        pool: Pool,
        clock: Clock,
        randomness: Randomness,
        counted: Callable[[int, str], None],
        ask: Callable[[str], Awaitable[SeenRef | None]],
    ) -> None:
        """``counted`` hears of bytes read, with the name they belong to; ``ask`` gives a name's present record."""
        self.uploader = uploader
        self._files = files
        self._pool = pool
        self._clock = clock
        self._randomness = randomness
        self._counted = counted
        self._ask = ask

    async def put_path(self, source: Path, name: str, options: PutOptions, ancestors: Sequence[str]) -> Draft:
        """Stores the regular file ``source`` as ``name``; returns the committed draft."""
        local = await self._pool.run(look, source)
        for attempt in range(ATTEMPTS):
            known = await self._known(local, name)
            stored, state = await self.store_file(
                local, known, options, name, reread=options.reread or attempt > 0, trust=attempt == 0
            )
            attributes = Attributes(
                stored.size, state.st_mtime_ns, state.st_mode & 0o7777, None, dict(options.meta or {})
            )
            draft = self._draft(name, attributes, stored, options)
            try:
                return await self.commit(draft, known.ref, options, ancestors)
            except PacksGone as error:
                await self._again(attempt, error)
        raise AssertionError("unreachable")

    async def put_stream(
        self,
        source: Buffer | AsyncIterable[Buffer],
        name: str,
        options: PutOptions,
        ancestors: Sequence[str],
        *,
        mode: int,
        mtime_ns: int,
    ) -> Draft:
        """Stores bytes that come from memory or from a stream, which can be read once only."""
        whole = source if isinstance(source, bytes | bytearray | memoryview) else None
        tag = refs.tags(self.uploader.keys, name)[0]
        for attempt in range(ATTEMPTS):
            if whole is not None and len(whole) <= min(SMALL_BYTES_MAX, options.chunk_bytes):
                stored, seen = await self._store_small(whole, name, tag, options, attempt == 0)
                seen = self.uploader.index.held(tag) or seen  # another put of the name may have ended meanwhile
            else:
                chunks = _cut(source, options.chunk_bytes) if whole is None else _slices(whole, options.chunk_bytes)
                stored = await self._store_chunks(chunks, name, options, whole is None or attempt == 0)
                seen = await self.uploader.index.ref(tag)
            attributes = Attributes(stored.size, mtime_ns, mode & 0o7777, None, dict(options.meta or {}))
            draft = self._draft(name, attributes, stored, options)
            try:
                return await self.commit(draft, seen, options, ancestors)
            except PacksGone as error:
                if whole is None:
                    raise Unavailable(
                        "chunks that this put relied on are gone from the network; put it once more, they will be sent"
                    ) from error
                await self._again(attempt, error)
        raise AssertionError("unreachable")

    async def _again(self, attempt: int, error: PacksGone) -> None:
        """Returns when it is time to send everything once more; Unavailable after the last attempt."""
        if attempt == ATTEMPTS - 1:
            raise Unavailable(
                "the coordinator does not count the nodes that took this put's packs; is the network just starting? "
                "(holdfast status)"
            ) from error
        if attempt:
            await self._clock.sleep(ATTEMPT_S)

    async def store_file(
        self, local: LocalEntry, known: Known, options: PutOptions, name: str, *, reread: bool, trust: bool = True
    ) -> tuple[Content, os.stat_result]:
        """The file's content in the network and its state; read only if it is not the one seen last time.

        ``trust`` False: what the index says of chunks is not relied on, everything is sent.
        """
        if known.recipe is not None and known.stat is not None and options.dedup and not reread:
            return Content(known.stat.content, known.recipe.size, known.recipe), local.stat
        self.uploader.check_size(name, local.stat.st_size, options.chunk_bytes)
        if local.stat.st_size <= min(SMALL_BYTES_MAX, options.chunk_bytes):
            read = await self._pool.run(
                read_small, self._files, local.path, min(SMALL_BYTES_MAX, options.chunk_bytes), self._clock.now
            )
            if read is not None:
                stored = await self._store_chunks(_slices(read.data, options.chunk_bytes), name, options, trust)
                await self._seen(local.path, read.stat, stored, settled=read.settled and options.dedup)
                return stored, read.stat
        for _ in range(2):
            opened = await self._pool.run(OpenedFile, self._files, local.path)
            try:
                stored = await self._store_chunks(self._cut(opened, options.chunk_bytes), name, options, trust)
                after = await self._pool.run(opened.unchanged)
                if after is not None and after.st_size == stored.size:
                    settled = is_settled(after, self._clock.now()) and options.dedup
                    await self._seen(local.path, after, stored, settled=settled)
                    return stored, after
            finally:
                await self._pool.run(opened.close)
        raise Unavailable(f"{local.path}: changed while it was read, twice; it was not stored")

    async def commit(self, draft: Draft, seen: SeenRef | None, options: PutOptions, ancestors: Sequence[str]) -> Draft:
        """Commits one draft with the directories above it; waits until it stands."""
        if options.if_match is not None and (seen is None or seen.etag != options.if_match):
            seen = await self._ask(draft.path)  # another device may have made the version that is meant
        elif options.rule == "no-clobber" and seen is not None:
            seen = await self._ask(draft.path)  # another device may have deleted it
        prepare(draft, seen, options)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def settled(group: Group, error: HoldfastError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        now = int(self._clock.now() * 1e9)
        above = [directory_draft(path, draft.survive, now) for path in ancestors]
        await self.uploader.submit(Group([*above, draft], settled))
        self.uploader.finish()
        await future
        return draft

    def _draft(self, name: str, attributes: Attributes, stored: Content, options: PutOptions) -> Draft:
        mark = mark_of(RefKind.FILE, attributes, stored.id, options.asked_survive) if options.dedup else b""
        return Draft(
            name,
            RefKind.FILE,
            attributes,
            options.survive,
            recipe=stored.recipe,
            content=stored.id if options.dedup else b"",
            mark=mark,
            rule=options.rule,
        )

    async def _known(self, local: LocalEntry, name: str) -> Known:
        tag = refs.tags(self.uploader.keys, name)[0]
        directory, base = stat_key(local.path)

        def ask(file: IndexFile) -> Known:
            stat = file.stat(directory, base)
            known = None
            if stat is not None and same(local.stat, stat):
                place = file.contents((stat.content,)).get(stat.content)
                known = None if place is None else KnownRecipe.decode(place)
            return Known(file.refs((tag,)).get(tag), stat, known)

        return await self.uploader.index.run(ask)

    async def _seen(self, path: str, state: os.stat_result, stored: Content, *, settled: bool) -> None:
        """Remembers the stamp; the content's place follows with the commit."""
        directory, base = stat_key(path)
        if settled:
            batch = Batch()
            batch.stats.append((directory, base, file_stat(state, stored.id)))
            await self.uploader.index.later(batch)

    async def _store_small(
        self, data: Buffer, name: str, tag: bytes, options: PutOptions, trust: bool
    ) -> tuple[Content, SeenRef | None]:
        """As ``_store_chunks``, of one chunk or none, with what the index has of the name: asked in one visit."""
        uploader, size = self.uploader, len(data)
        keys = uploader.chunk_keys
        uploader.check_size(name, size, options.chunk_bytes)
        salt = None if options.dedup else self._randomness.bytes(SALT_BYTES)
        ids = [chunk_id(keys, data, salt)] if size else []
        content = recipe.content_id(keys, ids)
        known_ones = options.dedup and trust

        def ask(file: IndexFile) -> tuple[dict[bytes, bytes], dict[bytes, ChunkPlace], SeenRef | None]:
            places = file.chunks(ids) if known_ones else {}
            return file.contents((content,)) if known_ones else {}, places, file.refs((tag,)).get(tag)

        contents, places, seen = await uploader.index.run(ask)
        self._counted(size, name)
        known = KnownRecipe.decode(contents[content]) if content in contents else None
        if known is not None and known.size == size:
            return Content(content, size, known), seen
        found: list[Chunk] = []
        for id_ in ids:
            if id_ in places:
                found.append(await self.known_chunk(id_, data, places[id_]))
            else:
                found.append(await uploader.chunk(id_, data, salt))
        made = await uploader.recipe(size, options.chunk_bytes, content, ids, found, salt)
        return Content(content, size, made), seen

    async def _store_chunks(
        self, chunks: AsyncIterator[Buffer], name: str, options: PutOptions, trust: bool = True
    ) -> Content:
        """Chunks in order become packed chunks and a recipe, or the recipe that is known for them."""
        uploader = self.uploader
        keys = uploader.chunk_keys
        salt = None if options.dedup else self._randomness.bytes(SALT_BYTES)
        ids: list[bytes] = []
        found: list[Chunk] = []
        under_way: list[asyncio.Task[Chunk]] = []
        size = 0
        try:
            async with contextlib.aclosing(chunks) as source:  # type: ignore[type-var]
                async for chunk in source:
                    if len(chunk) < SMALL_BYTES_MAX:
                        id_ = chunk_id(keys, chunk, salt)
                    else:
                        id_ = await self._pool.run(chunk_id, keys, chunk, salt)
                    ids.append(id_)
                    size += len(chunk)
                    uploader.check_size(name, size, options.chunk_bytes)
                    under_way.append(asyncio.create_task(self._place(id_, chunk, salt, trust)))
                    if len(under_way) >= CHUNKS_AHEAD:
                        found.append(await under_way[0])
                        del under_way[0]
                    self._counted(len(chunk), name)
                    if size == CHUNKS_AHEAD * options.chunk_bytes:
                        uploader.warm()
            for task in under_way:
                found.append(await task)
        except BaseException:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            raise
        content = recipe.content_id(keys, ids)
        if options.dedup and trust and not any(not isinstance(one, ChunkPlace) for one in found):
            known = await self.known_content(content)
            if known is not None and known.size == size:
                return Content(content, size, known)
        made = await uploader.recipe(size, options.chunk_bytes, content, ids, found, salt)
        return Content(content, size, made)

    async def known_content(self, content: bytes) -> KnownRecipe | None:
        place = (await self.uploader.index.run(lambda file: file.contents((content,)))).get(content)
        return None if place is None else KnownRecipe.decode(place)

    async def _place(self, id_: bytes, chunk: Buffer, salt: bytes | None, trust: bool) -> Chunk:
        if salt is None and trust:
            known = (await self.uploader.index.chunks((id_,))).get(id_)
            if known is not None:
                return await self.known_chunk(id_, chunk, known)
        return await self.uploader.chunk(id_, chunk, salt)

    async def known_chunk(self, id_: bytes, chunk: Buffer, known: ChunkPlace) -> Chunk:
        """A chunk that the index knows. One known from its pack's index alone gets its mark: sealing is repeatable."""
        if known.mark:
            return known
        if known.length != len(chunk) + SEAL_OVERHEAD:
            return await self.uploader.chunk(id_, chunk)

        def mark() -> bytes:
            sealed = bytearray(known.length)
            seal_into(self.uploader.chunk_keys, Kind.DATA, id_, chunk, memoryview(sealed))
            return check16(sealed)

        marked = known._replace(mark=mark() if len(chunk) < INLINE_BYTES else await self._pool.run(mark))
        batch = Batch()
        batch.chunks.append((id_, marked))
        await self.uploader.index.later(batch)
        return marked

    async def _cut(self, opened: OpenedFile, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """A file's chunks in buffers that are reused: each is valid until ``CHUNKS_AHEAD`` more were asked for.

        The next one is read while one is looked at: a file that did not change costs little more than its hash.
        """
        ring = [bytearray(chunk_bytes) for _ in range(CHUNKS_AHEAD + 1)]

        def read(number: int) -> asyncio.Task[int]:
            view = memoryview(ring[number % len(ring)])
            return asyncio.create_task(self._pool.run(opened.read_into, view, number * chunk_bytes))

        number, coming = 0, read(0)
        try:
            while True:
                count = await coming
                view = memoryview(ring[number % len(ring)])[:count]
                number += 1
                if count == chunk_bytes:
                    coming = read(number)
                if count:
                    yield view
                if count < chunk_bytes:
                    return
        finally:
            await asyncio.gather(coming, return_exceptions=True)  # nobody reads on when the file is closed


def _cut(source: Buffer | AsyncIterable[Buffer], chunk_bytes: int) -> AsyncIterator[Buffer]:
    assert not isinstance(source, bytes | bytearray | memoryview)
    return Chunker(chunk_bytes, CHUNKS_AHEAD + 1).cut(source)


async def _slices(data: Buffer, chunk_bytes: int) -> AsyncIterator[Buffer]:
    view = memoryview(data).cast("B")
    for start in range(0, len(view), chunk_bytes):
        yield view[start : start + chunk_bytes]


def stat_key(path: str) -> tuple[bytes, bytes]:
    """(directory, name) under which the index keeps a file's stamp."""
    directory, base = os.path.split(os.path.abspath(path))
    return os.fsencode(directory), os.fsencode(base)
