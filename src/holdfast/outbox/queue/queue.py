"""The durable queue as the rest of the room sees it: asynchronous, sealed, with writes that share a sync.

Owns ``DIRECTORY/queue.db``, ``bodies/`` and ``alive/``. An entry is acknowledged once its body is durable under its
name and its row is. What is under way is in ``tries``, what a person wishes in ``wishes``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path

from holdfast import logs
from holdfast.blob import Buffer, Digest, pieces
from holdfast.clock import Clock, Randomness
from holdfast.errors import BadRequest, NotFound, Unavailable
from holdfast.files import Files
from holdfast.outbox.entry import DeliveryClass, Entry, NewEntry, State
from holdfast.outbox.queue.bodies import INLINE_BYTES_MAX, StoredBody, stored_size
from holdfast.outbox.queue.core import GROUP_MAX, QueueCore
from holdfast.outbox.queue.entries import counts
from holdfast.outbox.queue.file import QueueFile
from holdfast.outbox.queue.rows import Fresh, PackRow, Total, pack_name
from holdfast.outbox.queue.sealing import ENTRY_ID_BYTES
from holdfast.outbox.queue.tries import Tries
from holdfast.outbox.queue.wishes import Wishes
from holdfast.outbox.settings import OutboxSettings
from holdfast.pool import Pool

PAYLOAD_BYTES_MAX = 1 << 20
SWEEP_NAMES = 500

_log = logs.get_logger(__name__)


class Queue:
    """Use from one event loop; any number of calls at once. Make one with ``open``."""

    def __init__(self, core: QueueCore) -> None:
        """For ``open`` only."""
        self.directory = core.directory
        self.settings = core.settings
        self.tries = Tries(core)
        self.wishes = Wishes(core, self.tries)
        self._core = core
        self._stored_packs: dict[Digest, int] = {}
        self._adding = 0
        self._added_all = asyncio.Event()
        self._closing = False

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        seed: bytes,
        clock: Clock,
        randomness: Randomness,
        files: Files,
        pool: Pool,
        thread: Pool,
        settings: OutboxSettings,
    ) -> Queue:
        """The queue in ``directory``, made if there is none. ``seed``: 32 secret bytes that unwrap its key.

        ``thread`` has one worker and serves nothing else; both pools stay the caller's. Denied for a wrong seed,
        BadConfig or Corrupt for a directory that is no outbox or a damaged one: then nothing was changed.
        """

        def make() -> QueueFile:
            try:
                files.make_directory(directory / "bodies")
            except OSError as error:
                raise Unavailable(f"{directory} cannot be made: {error.strerror or error}") from error
            return QueueFile(directory / "queue.db", files, seed, randomness)

        core = QueueCore(
            directory,
            await thread.run(make),
            clock=clock,
            randomness=randomness,
            files=files,
            pool=pool,
            thread=thread,
            settings=settings,
        )
        queue = cls(core)
        await core.bodies.remove(await thread.run(queue._start))
        return queue

    def _start(self) -> list[str]:
        """Frees what dead processes had claimed and forgets their moderate entries; returns files to remove."""
        file, names = self._core.file, list[str]()
        with file.change(durable=False):
            self.tries.release()
        moderate = file.entries.moderate_of(self._core.alive.dead)
        for start in range(0, len(moderate), GROUP_MAX):
            with file.change():
                for sequence in moderate[start : start + GROUP_MAX]:
                    names += file.entries.remove(file.entries.row(sequence))
        if moderate:
            _log.warning("outbox_moderate_forgotten", entries=len(moderate), directory=str(self.directory))
        self._core.count()
        return names

    async def rewrap(self, old: bytes, new: bytes) -> None:
        """The secret that wraps the queue key is another one from now on; Denied if ``old`` was not it."""
        await self._core.write(lambda: self._core.file.rewrap(old, new, self._core.randomness))

    async def close(self) -> None:
        """Lets what is being added end; claims of this process are free again. May be called twice."""
        if self._closing:
            return
        self._closing = True
        if self._adding:
            self._added_all.clear()
            await self._added_all.wait()
        await self._core.close()

    # --- adding -------------------------------------------------------------------------------------------------------

    async def add(self, new: NewEntry, body: Buffer | AsyncIterable[Buffer] | None = None) -> int:
        """Queues one entry; when this returns its sequence, it survives a power cut.

        BadRequest for what may not be queued, TooLarge, NoSpace when the outbox or the disk is full (nothing else is
        touched), StorePoisoned after a failed sync.
        """
        core, delivery_class = self._core, new.delivery_class()
        core.health.check()
        self._begin_adding()
        try:
            process = core.process or await core.token()
            id_ = core.randomness.bytes(ENTRY_ID_BYTES)
            if body is None:
                return await self._added(new, delivery_class, id_, None)
            cipher = core.seals.cipher(id_, "body")
            if isinstance(body, bytes) or not isinstance(body, AsyncIterable):  # the second look is a slow one
                if memoryview(body).nbytes <= min(INLINE_BYTES_MAX, self.settings.body_bytes_max):
                    return await self._added(new, delivery_class, id_, core.bodies.inline(id_, cipher, body))
                body = pieces(body)
            name = f"{process.hex()}-{id_.hex()}"
            stored = await core.bodies.store(
                name,
                id_,
                cipher,
                body,
                size_max=self.settings.body_bytes_max,
                critical=delivery_class is DeliveryClass.CRITICAL,
            )
            try:
                return await self._added(new, delivery_class, id_, stored)
            except BaseException:
                if stored.inline is None:
                    await core.bodies.remove([name])
                raise
        finally:
            self._end_adding()

    def _begin_adding(self) -> None:
        """``close`` waits from here on for ``_end_adding``."""
        if self._closing:
            raise Unavailable("the outbox is closed")
        self._adding += 1

    def _end_adding(self) -> None:
        self._adding -= 1
        if not self._adding:
            self._added_all.set()

    async def _added(self, new: NewEntry, delivery_class: DeliveryClass, id_: bytes, stored: StoredBody | None) -> int:
        size = 0 if stored is None else stored.size
        sealed = self._core.records.sealed_record(
            id_,
            new,
            delivery_class=delivery_class,
            size=size,
            created=self._core.clock.now(),
            digest=None if stored is None else stored.digest,
        )
        if len(sealed) > PAYLOAD_BYTES_MAX:
            raise BadRequest(f"an entry of the outbox without its body has at most {PAYLOAD_BYTES_MAX} bytes")
        fresh = Fresh(
            id=id_,
            delivery_class=delivery_class,
            kind=new.kind,
            size=size,
            stored=0 if stored is None else stored_size(size),
            filed=stored is not None and stored.inline is None,
            target=self._core.seals.target_tag(new.target),
            keys=tuple(self._core.seals.tag("key", key) for key in new.keys),
            needs=new.needs,
            sealed=sealed,
            body=None if stored is None else stored.inline,
        )
        await self._core.space.reserve(fresh.stored, critical=delivery_class is DeliveryClass.CRITICAL)
        try:
            if not new.needs:
                return await self._core.write_together(self._insert, (fresh, new))
            packs = [(digest, self._stored_packs[digest]) for digest in new.needs if digest in self._stored_packs]
            (sequence,) = await self._core.write(lambda: self._insert([(fresh, new)], packs))
        finally:
            self._core.space.release(fresh.stored)
        for digest, _ in packs:
            self._stored_packs.pop(digest, None)
        return sequence

    def _insert(
        self, items: Sequence[tuple[Fresh, NewEntry]], packs: Sequence[tuple[Digest, int]] = ()
    ) -> Sequence[int]:
        """In the queue's thread and inside a change."""
        core = self._core
        sequences = core.file.entries.add([fresh for fresh, _ in items], core.process or b"", packs)
        large = False
        for sequence, (fresh, new) in zip(sequences, items, strict=True):
            self.tries.recall(sequence, fresh.keys, new)
            core.space.held += fresh.stored
            large = large or fresh.filed
        if large or counts(sequences):  # what others put in is seen now and then, so that small ones cost no question
            core.count()
        return sequences

    async def add_pack(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> None:
        """Keeps a sealed pack, durable when this returns; entries queued after it may need it.

        It goes with the last entry that needs it; one that nobody ever needs goes at a later start. May be called
        again for a pack that is there. DigestMismatch, NoSpace, StorePoisoned, TooLarge.
        """
        if size > self.settings.body_bytes_max:
            raise BadRequest(f"a pack in the outbox has at most {self.settings.body_bytes_max} bytes")
        if digest in self._stored_packs or await self._core.ask(lambda: self._core.file.packs.find(digest)) is not None:
            return
        self._begin_adding()
        try:
            await self._core.bodies.store_raw(pack_name(await self._core.token(), digest), digest, size, source)
        finally:
            self._end_adding()
        self._stored_packs[digest] = size

    async def pack(self, digest: Digest) -> PackRow | None:
        """What is known of a pack, None if the outbox does not hold it."""
        return await self._core.ask(lambda: self._core.file.packs.find(digest))

    async def read_pack(self, digest: Digest, start: int = 0, stop: int | None = None) -> AsyncIterator[Buffer]:
        """Bytes of a pack in pieces of at most 1 MiB, not hashed; NotFound, Corrupt."""
        row = await self.pack(digest)
        size = self._stored_packs.get(digest) if row is None else row.size
        if size is None:
            raise NotFound(f"the outbox does not hold the pack {digest}")
        name = pack_name(await self._core.token(), digest) if row is None else row.file_name()
        stop = size if stop is None else min(stop, size)
        while start < stop:
            end = min(start + (1 << 20), stop)
            yield await self._core.bodies.read_raw(name, start, end)
            start = end

    async def pack_sent(self, digest: Digest, facts: bytes) -> None:
        """The pack is on its nodes; ``facts`` (receipts, say) are kept sealed for the other entries that need it."""
        sealed = self._core.seals.seal(bytes(digest), "pack", facts, b"")
        await self._core.write(lambda: self._core.file.packs.set_facts(digest, sealed))

    async def pack_facts(self, digest: Digest) -> bytes | None:
        """What ``pack_sent`` was told, None if the pack still has to be sent."""
        row = await self.pack(digest)
        if row is None or row.facts is None:
            return None
        found = self._core.seals.open(bytes(digest), "pack", row.facts, b"")
        return found if isinstance(found, bytes) else None

    # --- asked --------------------------------------------------------------------------------------------------------

    async def page(self, after: int = 0, limit: int = 100, states: Sequence[State] | None = None) -> list[Entry]:
        """Entries above sequence ``after``, ascending, at most ``limit``; damaged ones without what was sealed."""

        def read() -> list[Entry]:
            return [
                self._core.records.entry_or_damaged(row) for row in self._core.file.entries.page(after, limit, states)
            ]

        return await self._core.ask(read)

    async def find(self, sequence: int) -> Entry:
        """NotFound if there is none."""
        return await self._core.ask(lambda: self._core.records.entry_or_damaged(self._core.file.entries.row(sequence)))

    async def of_key(self, key: str) -> list[Entry]:
        """What waits for a key, in order; conflicts with it. The last one is what the key will hold."""

        def read() -> list[Entry]:
            numbers = self._core.file.order.of_key(self._core.seals.tag("key", key))
            return [self._core.records.entry_or_damaged(self._core.file.entries.row(number)) for number in numbers]

        return await self._core.ask(read)

    async def totals(self) -> list[Total]:
        """Entries and bytes by state and class; packs are a row without them."""
        return await self._core.ask(self._core.file.entries.totals)

    async def oldest(self) -> Entry | None:
        """The first entry that is still to be delivered."""

        def read() -> Entry | None:
            row = self._core.file.entries.oldest()
            return None if row is None else self._core.records.entry_or_damaged(row)

        return await self._core.ask(read)

    async def sweep(self) -> int:
        """Removes bodies that no row names, left by processes that died; how many."""
        names = await self._core.pool.run(self._core.files.list, self._core.bodies.directory)
        removed = 0
        dead: dict[str, bool] = {}

        def orphans(some: Sequence[str]) -> list[str]:
            found = []
            for name in some:
                process = name.partition("-")[0]
                if process not in dead:
                    try:
                        dead[process] = self._core.alive.dead(bytes.fromhex(process))
                    except ValueError:
                        dead[process] = False  # not ours
                if dead[process] and not self._core.file.entries.is_named(name):
                    found.append(name)
            return found

        for start in range(0, len(names), SWEEP_NAMES):
            lost = await self._core.ask(lambda start=start: orphans(names[start : start + SWEEP_NAMES]))  # type: ignore[misc]
            await self._core.bodies.remove(lost)
            removed += len(lost)
        await self._core.ask(self._core.alive.sweep)
        return removed
