"""The pipeline: chunks into packs, beside the event loop, in bounded memory.

A ``Packer`` fills a fixed number of reused buffers. Large chunks are sealed in the pool, small ones at once: a hop to
another thread costs more than sealing them. While one pack is hashed and sent, the next is filled; when all buffers are
in use, adding waits until the consumer releases one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from holdfast.auth.identity import Id, Identity
from holdfast.blob import Buffer, Digest
from holdfast.codec.keys import GenerationKeys
from holdfast.codec.pack import PACK_BYTES, IndexEntry, PackBuilder
from holdfast.codec.recipe import RecipeEntry
from holdfast.codec.sealer import CHUNK_BYTES_MAX, Kind
from holdfast.errors import HoldfastError, Unavailable
from holdfast.pool import Pool

INLINE_BYTES = 64 << 10
"""Chunks and packs shorter than this are sealed in the event loop: that takes less time than a visit to a thread."""

T = TypeVar("T")


class PendingPack(Generic[T]):
    """A pack on its way: being filled, then sealed, then in the consumer's hands until ``release``.

    ``owners`` is the caller's: what waits for this pack, for instance refs. ``entries`` grow while it is filled.
    """

    def __init__(self, builder: PackBuilder, freed: Callable[[PackBuilder], None]) -> None:
        self.owners: list[T] = []
        self.entries: list[IndexEntry] = builder.entries
        self._builder: PackBuilder | None = builder
        self._freed = freed
        self._digest: Digest | None = None
        self._data: memoryview | None = None
        self._error: BaseException | None = None
        self._settled = asyncio.Event()
        self._filling = 0
        self._filled = asyncio.Event()
        self._filled.set()

    @property
    def is_sealed(self) -> bool:
        return self._digest is not None

    @property
    def digest(self) -> Digest:
        """Only once it is sealed."""
        assert self._digest is not None, "await sealed() first"
        return self._digest

    @property
    def data(self) -> memoryview:
        """The whole pack, read-only; only from sealing to ``release``."""
        assert self._data is not None, "await sealed() first, and release() last"
        return self._data

    async def sealed(self) -> Digest:
        """Waits until the pack is finished; raises what made finishing fail. Any number may wait.

        A pack under way is finished when it is full or when somebody calls ``Packer.flush``.
        """
        await self._settled.wait()
        if self._error is not None:
            raise self._error
        return self.digest

    def release(self) -> None:
        """The bytes are no longer needed: the buffer goes to the next pack. May be called twice, after sealing."""
        builder, self._builder = self._builder, None
        if builder is None:
            return
        assert self._settled.is_set(), "a pack is released after it was sealed"
        self._data = None
        builder.reset()
        self._freed(builder)

    async def _fill(
        self, pool: Pool, number: int, plaintext: Buffer, id: bytes | None, salt: bytes | None
    ) -> tuple[bytes, bytes]:
        assert self._builder is not None
        if len(plaintext) < INLINE_BYTES:
            return self._builder.fill(number, plaintext, id, salt)
        self._filling += 1
        self._filled.clear()
        try:
            return await pool.run(self._builder.fill, number, plaintext, id, salt)
        finally:
            self._filling -= 1
            if not self._filling:
                self._filled.set()

    async def _finish(self, pool: Pool, device: Identity, *, pad: bool) -> None:
        try:
            await self._filled.wait()
            assert self._builder is not None
            if not all(entry.id for entry in self.entries):
                raise Unavailable("a chunk of this pack was not sealed, because its writer was stopped")
            if self._builder.length < INLINE_BYTES:
                self._digest, self._data = self._builder.finish(device, pad=pad)
            else:
                self._digest, self._data = await pool.run(self._builder.finish, device, pad=pad)
        except BaseException as error:
            self._error = error if isinstance(error, HoldfastError) else _stopped(error)
            raise
        finally:
            self._settled.set()


class Placed(NamedTuple, Generic[T]):
    """Where a chunk went: ``pending`` is its pack, ``offset`` and ``length`` those of its sealed bytes."""

    id: bytes
    pending: PendingPack[T]
    offset: int
    length: int
    check: bytes

    def entry(self, pack: int) -> RecipeEntry:
        """The same for a recipe in which the pack has the number ``pack``."""
        return RecipeEntry(self.id, pack, self.offset, self.length, self.check)


class Packer(Generic[T]):
    """Packs chunks of one vault as they come; any number of tasks of one event loop may add at once.

    ``emit`` gets each pack once it is sealed, in a task of its own; packs are emitted as they become ready, at most
    ``buffers`` at a time. It, or whoever it tells, calls ``release``. When it raises, every later call raises the same.
    """

    def __init__(
        self,
        keys: GenerationKeys,
        vault: Id,
        device: Identity,
        pool: Pool,
        *,
        pack_bytes: int = PACK_BYTES,
        buffers: int = 3,
        emit: Callable[[PendingPack[T]], Awaitable[None]],
        chunk_bytes_max: int = CHUNK_BYTES_MAX,
    ) -> None:
        assert buffers >= 1
        self._keys = keys
        self._vault = vault
        self._device = device
        self._pool = pool
        self._pack_bytes = pack_bytes
        self._chunk_bytes_max = chunk_bytes_max
        self._emit = emit
        self._unmade = buffers
        self._free: list[PackBuilder] = []
        self._changed = asyncio.Event()
        self._opening = asyncio.Lock()
        self._current: PendingPack[T] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: HoldfastError | None = None

    async def add(
        self, kind: Kind, plaintext: Buffer, *, id: bytes | None = None, salt: bytes | None = None
    ) -> Placed[T]:
        """Seals a chunk into the pack under way, or into the next one; waits while all buffers are in use.

        ``plaintext`` may be reused when this returns. ``id``: its ``chunk_id``, if known already.
        """
        pending = await self._room(len(plaintext))
        return await self._seal(pending, kind, plaintext, id, salt)

    async def add_built(
        self,
        kind: Kind,
        size_max: int,
        build: Callable[[PendingPack[T]], bytes],
        *,
        needs: Iterable[PendingPack[T]] = (),
    ) -> Placed[T]:
        """As ``add``, for bytes that depend on the pack they land in: ``build`` is called with it, exactly once.

        All of ``needs`` but that pack itself are sealed by then, so that ``build`` may use their digests.
        """
        wanted = list(needs)
        while True:
            pending = await self._room(size_max)
            waiting = [other for other in wanted if other is not pending and not other.is_sealed]
            if not waiting:
                break
            for other in waiting:
                await other.sealed()
        plaintext = build(pending)
        assert len(plaintext) <= size_max, "build gave more than it announced"
        return await self._seal(pending, kind, plaintext, None, None)

    async def flush(self, *, own: bool = False) -> None:
        """Closes the pack under way, padded, and waits until all packs closed so far are sealed and emitted.

        ``own``: a task that nobody cancels before ``close``; it seals that pack itself, which saves another task.
        """
        own_pack = None
        async with self._opening:
            if own and self._current is not None and self._current.entries:
                own_pack, self._current = self._current, None
            else:
                self._close_current(pad=True)
        if own_pack is not None:
            await self._deliver(own_pack, pad=True)
        tasks = set(self._tasks)
        if tasks:
            await asyncio.wait(tasks)
        self._check()

    async def close(self) -> None:
        """Ends without finishing: the pack under way is dropped, emits are cancelled. Call ``flush`` before. Twice is
        fine."""
        self._fail(Unavailable("the packer was closed"))
        pending, self._current = self._current, None
        if pending is not None and pending.entries:
            pending._error = self._failed
            pending._settled.set()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _seal(
        self, pending: PendingPack[T], kind: Kind, plaintext: Buffer, id: bytes | None, salt: bytes | None
    ) -> Placed[T]:
        # No await between _room's answer and reserve: nobody else can take the room.
        assert pending._builder is not None
        number = pending._builder.reserve(kind, len(plaintext))
        _, _, offset, length = pending.entries[number]
        id_, check = await pending._fill(self._pool, number, plaintext, id, salt)
        return Placed(id_, pending, offset, length, check)

    async def _room(self, size: int) -> PendingPack[T]:
        self._check()
        current = self._current
        if current is not None and current._builder is not None and current._builder.room_for(size):
            return current
        async with self._opening:
            while True:
                self._check()
                if self._current is None:
                    self._current = PendingPack(await self._take(), self._give_back)
                builder = self._current._builder
                assert builder is not None
                if builder.room_for(size):
                    return self._current
                self._close_current(pad=False)

    async def _take(self) -> PackBuilder:
        while True:
            self._check()
            if self._free:
                return self._free.pop()
            if self._unmade:
                self._unmade -= 1
                return PackBuilder(
                    self._keys, self._vault, pack_bytes=self._pack_bytes, chunk_bytes_max=self._chunk_bytes_max
                )
            self._changed.clear()
            await self._changed.wait()

    def _give_back(self, builder: PackBuilder) -> None:
        self._free.append(builder)
        self._changed.set()

    def _close_current(self, *, pad: bool) -> None:
        pending = self._current
        if pending is None or not pending.entries:
            return
        self._current = None
        task = asyncio.get_running_loop().create_task(self._deliver(pending, pad=pad))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, pending: PendingPack[T], *, pad: bool) -> None:
        try:
            await pending._finish(self._pool, self._device, pad=pad)
            await self._emit(pending)
        except HoldfastError as error:
            self._fail(error)
        except asyncio.CancelledError as error:
            self._fail(_stopped(error))
            raise
        except Exception as error:
            self._fail(_stopped(error))

    def _fail(self, error: HoldfastError) -> None:
        if self._failed is None:
            self._failed = error
        self._changed.set()

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed


def _stopped(error: BaseException) -> HoldfastError:
    failure = Unavailable(f"a pack could not be finished: {error or type(error).__name__}")
    failure.__cause__ = error
    return failure
