"""The durable queue as the rest of the room sees it: asynchronous, sealed, with writes that share a sync.

Owns ``DIRECTORY/queue.db``, ``bodies/`` and ``alive/``. An entry is acknowledged once its body is durable under its
name and its row is. What is delivered goes by one transaction that also hands its result to the next entry of its key;
files go after that, so that a crash leaves at most an orphan, which a later start removes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from holdfast import logs
from holdfast.blob import Buffer, Digest, pieces
from holdfast.clock import Clock, Randomness
from holdfast.errors import BadRequest, Corrupt, HoldfastError, NotFound, Unavailable
from holdfast.files import Files
from holdfast.outbox.alive import Alive, boot_id
from holdfast.outbox.bodies import Bodies, StoredBody, stored_size
from holdfast.outbox.entry import DeliveryClass, Entry, NewEntry, State
from holdfast.outbox.next_step import PARKED, Change, Lane, LaneView, Settled
from holdfast.outbox.outcomes import Conflicted, Delivered, Outcome
from holdfast.outbox.queue_file import QueueFile
from holdfast.outbox.queue_rows import Fresh, PackRow, Row, Total, pack_name, theirs_name
from holdfast.outbox.records import Records
from holdfast.outbox.sealing import ENTRY_ID_BYTES
from holdfast.outbox.settings import OutboxSettings
from holdfast.outbox.space import Space
from holdfast.pool import Pool
from holdfast.stores.disk_health import DiskHealth

GROUP_MAX = 256
"""Writes in one transaction."""
PAYLOAD_BYTES_MAX = 1 << 20
SWEEP_NAMES = 500

T = TypeVar("T")

_log = logs.get_logger(__name__)


class Queue:
    """Use from one event loop; any number of calls at once. Make one with ``open``."""

    def __init__(
        self,
        directory: Path,
        file: QueueFile,
        *,
        clock: Clock,
        randomness: Randomness,
        files: Files,
        pool: Pool,
        thread: Pool,
        settings: OutboxSettings,
    ) -> None:
        """For ``open`` only."""
        self.directory = directory
        self.settings = settings
        self._file = file
        self._seals = file.seals
        self._clock = clock
        self._randomness = randomness
        self._files = files
        self._pool = pool
        self._thread = thread
        self._health = DiskHealth(str(directory))
        self._space = Space(directory, total_max=settings.total_bytes_max, files=files, pool=pool)
        self._bodies = Bodies(directory / "bodies", files=files, pool=pool, health=self._health, space=self._space)
        self._records = Records(file, file.seals, self._bodies, self._ask)
        self._alive = Alive(directory / "alive", files, randomness)
        self._boot = boot_id(files, randomness)
        self._process: bytes | None = None
        self._stored_packs: dict[Digest, int] = {}
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._flush: asyncio.Task[None] | None = None
        self._adding = 0
        self._added_all = asyncio.Event()
        self._closing = False
        self._closed = False

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

        queue = cls(
            directory,
            await thread.run(make),
            clock=clock,
            randomness=randomness,
            files=files,
            pool=pool,
            thread=thread,
            settings=settings,
        )
        names = await thread.run(queue._start)
        await queue._bodies.remove(names)
        return queue

    def _start(self) -> list[str]:
        """Frees what dead processes had claimed and forgets their moderate entries; returns files to remove."""
        names: list[str] = []
        self._release()
        moderate = self._file.moderate_of(self._alive.dead)
        for start in range(0, len(moderate), GROUP_MAX):
            with self._file.change():
                for sequence in moderate[start : start + GROUP_MAX]:
                    names += self._file.remove(sequence)
        if moderate:
            _log.warning("outbox_moderate_forgotten", entries=len(moderate), directory=str(self.directory))
        self._count()
        return names

    def _release(self) -> int:
        with self._file.change(durable=False):
            return self._file.release(
                dead=self._alive.dead, process=self._process or b"", boot=self._boot, now=self._clock.monotonic()
            )

    async def rewrap(self, old: bytes, new: bytes) -> None:
        """The secret that wraps the queue key is another one from now on; Denied if ``old`` was not it."""
        await self._write(lambda: self._file.rewrap(old, new, self._randomness))

    async def close(self) -> None:
        """Lets what is being added end; claims of this process are free again. May be called twice."""
        if self._closing:
            return
        self._closing = True
        if self._adding:
            self._added_all.clear()
            await self._added_all.wait()
        while self._flush is not None:
            await asyncio.wait([self._flush])
        self._closed = True

        def stop() -> None:
            self._alive.close()
            self._file.close()

        await self._thread.run(stop)

    # --- adding -------------------------------------------------------------------------------------------------------

    async def add(self, new: NewEntry, body: Buffer | AsyncIterable[Buffer] | None = None) -> int:
        """Queues one entry; when this returns its sequence, it survives a power cut.

        BadRequest for what may not be queued, TooLarge, NoSpace when the outbox or the disk is full (nothing else is
        touched), StorePoisoned after a failed sync.
        """
        delivery_class = new.delivery_class()
        self._health.check()
        with self._counted():
            return await self._add(new, delivery_class, body)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Something is being added: ``close`` waits for it."""
        if self._closing:
            raise Unavailable("the outbox is closed")
        self._adding += 1
        try:
            yield
        finally:
            self._adding -= 1
            if not self._adding:
                self._added_all.set()

    async def _add(
        self, new: NewEntry, delivery_class: DeliveryClass, body: Buffer | AsyncIterable[Buffer] | None
    ) -> int:
        process = await self._token()
        id_ = self._randomness.bytes(ENTRY_ID_BYTES)
        critical = delivery_class is DeliveryClass.CRITICAL
        stored: StoredBody | None = None
        name = f"{process.hex()}-{id_.hex()}"
        if body is not None:
            source = body if isinstance(body, AsyncIterable) else pieces(body)
            stored = await self._bodies.store(
                name,
                id_,
                self._seals.cipher(id_, "body"),
                source,
                size_max=self.settings.body_bytes_max,
                critical=critical,
            )
        try:
            return await self._added(new, delivery_class, id_, stored, process)
        except BaseException:
            if stored is not None and stored.inline is None:
                await self._bodies.remove([name])
            raise

    async def _added(
        self, new: NewEntry, delivery_class: DeliveryClass, id_: bytes, stored: StoredBody | None, process: bytes
    ) -> int:
        size = 0 if stored is None else stored.size
        sealed = self._records.sealed_record(
            id_,
            new,
            delivery_class=delivery_class,
            size=size,
            created=self._clock.now(),
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
            target=self._seals.tag("target", new.target),
            keys=tuple(self._seals.tag("key", key) for key in new.keys),
            needs=new.needs,
            sealed=sealed,
            body=None if stored is None else stored.inline,
        )
        packs = [(digest, self._stored_packs[digest]) for digest in new.needs if digest in self._stored_packs]
        await self._space.reserve(fresh.stored, critical=delivery_class is DeliveryClass.CRITICAL)

        def write() -> int:
            sequence = self._file.add(fresh, process, packs)
            self._recall(sequence, fresh.keys, new)
            self._count()
            return sequence

        try:
            sequence = await self._write(write)
        finally:
            self._space.release(fresh.stored)
        for digest, _ in packs:
            self._stored_packs.pop(digest, None)
        return sequence

    async def add_pack(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> None:
        """Keeps a sealed pack, durable when this returns; entries queued after it may need it.

        It goes with the last entry that needs it; one that nobody ever needs goes at a later start. May be called
        again for a pack that is there. DigestMismatch, NoSpace, StorePoisoned, TooLarge.
        """
        if size > self.settings.body_bytes_max:
            raise BadRequest(f"a pack in the outbox has at most {self.settings.body_bytes_max} bytes")
        if digest in self._stored_packs or await self._ask(lambda: self._file.pack(digest)) is not None:
            return
        with self._counted():
            await self._bodies.store_raw(pack_name(await self._token(), digest), digest, size, source)
        self._stored_packs[digest] = size

    async def pack(self, digest: Digest) -> PackRow | None:
        """What is known of a pack, None if the outbox does not hold it."""
        return await self._ask(lambda: self._file.pack(digest))

    async def read_pack(self, digest: Digest, start: int = 0, stop: int | None = None) -> AsyncIterator[Buffer]:
        """Bytes of a pack in pieces of at most 1 MiB, not hashed; NotFound, Corrupt."""
        row = await self.pack(digest)
        size = self._stored_packs.get(digest) if row is None else row.size
        if size is None:
            raise NotFound(f"the outbox does not hold the pack {digest}")
        name = pack_name(await self._token(), digest) if row is None else row.file_name()
        stop = size if stop is None else min(stop, size)
        while start < stop:
            end = min(start + (1 << 20), stop)
            yield await self._bodies.read_raw(name, start, end)
            start = end

    async def pack_sent(self, digest: Digest, facts: bytes) -> None:
        """The pack is on its nodes; ``facts`` (receipts, say) are kept sealed for the other entries that need it."""
        sealed = self._seals.seal(bytes(digest), "pack", facts, b"")
        await self._write(lambda: self._file.set_pack_facts(digest, sealed))

    async def pack_facts(self, digest: Digest) -> bytes | None:
        """What ``pack_sent`` was told, None if the pack still has to be sent."""
        row = await self.pack(digest)
        if row is None or row.facts is None:
            return None
        found = self._seals.open(bytes(digest), "pack", row.facts, b"")
        return found if isinstance(found, bytes) else None

    # --- delivering ---------------------------------------------------------------------------------------------------

    async def lanes(self, kinds: Iterable[str], most: int) -> dict[Lane, LaneView]:
        """The targets that have entries of these kinds which nothing stands before."""
        return await self._ask(lambda: self._file.lanes(tuple(kinds), self._clock.now(), most))

    async def claim(self, lane: Lane, limit: int) -> list[Entry]:
        """Up to ``limit`` due entries of a lane, claimed for this process; damaged ones are put aside."""
        process = await self._token()

        def write() -> list[tuple[Row, bytes | None]]:
            with self._file.change(durable=False):
                return self._file.claim(
                    lane,
                    limit,
                    process=process,
                    boot=self._boot,
                    now=self._clock.now(),
                    until=self._clock.monotonic() + self.settings.lease_s,
                )

        def opened() -> tuple[list[Entry], list[int]]:
            entries, damaged = [], []
            for row, inline in write():
                try:
                    entries.append(self._records.entry(row, inline))
                except Corrupt:
                    damaged.append(row.sequence)
            return entries, damaged

        entries, damaged = await self._ask(opened)
        if damaged:
            _log.error("outbox_entries_damaged", sequences=damaged, directory=str(self.directory))
            await self._write(lambda: self._file.damage(damaged))
        return entries

    async def renew(self, sequences: Sequence[int]) -> None:
        """This process is still at work on these."""
        process = await self._token()

        def write() -> None:
            with self._file.change(durable=False):
                until = self._clock.monotonic() + self.settings.lease_s
                self._file.renew(sequences, process=process, until=until)

        if sequences:
            await self._thread.run(write)

    async def release_dead(self) -> int:
        """Frees what processes had claimed that died or fell silent; how many entries."""
        return await self._thread.run(self._release)

    async def unclaim(self, sequences: Sequence[int]) -> None:
        """Gives entries back untried."""
        process = await self._token()

        def write() -> None:
            with self._file.change(durable=False):
                for sequence in sequences:
                    self._file.unclaim(sequence, process)

        if sequences:
            await self._thread.run(write)

    async def settle(self, entry: Entry, lane: Lane, settled: Settled, outcome: Outcome) -> bool:
        """Writes down what came of a try, durable; False if the claim was lost meanwhile, and then nothing is."""
        process = await self._token()
        theirs: StoredBody | None = None
        theirs_file: list[str] = []
        if isinstance(outcome, Conflicted) and outcome.content is not None:
            theirs = await self._keep_theirs(entry, outcome, process)
            theirs_file = [theirs_name(process, entry.id)]
        reason = "" if isinstance(outcome, Delivered) else outcome.reason

        def write() -> list[str] | None:
            file = self._file
            if not file.held_by(entry.sequence, process):
                return None
            row = file.row(entry.sequence)
            names: list[str] = []
            notes = self._records.notes(row)
            notes["reason"] = reason
            if settled.change is Change.REMOVE:
                left = outcome.left if isinstance(outcome, Delivered) else None
                self._hand_on(row, left, replace=True)
                if left is not None:
                    self._remember(entry, left)
                names = file.remove(entry.sequence)
            elif settled.change is Change.DEFER:
                file.defer(
                    entry.sequence,
                    next_try=self._clock.now() + settled.delay_s,
                    reached=settled.reached,
                    patient=settled.patient,
                    progress=self._records.sealed_notes(row, notes),
                )
            else:
                if isinstance(outcome, Conflicted):
                    notes["theirs"] = {
                        "facts": dict(outcome.facts),
                        "absent": outcome.absent,
                        "size": None if theirs is None else theirs.size,
                        "digest": None if theirs is None else bytes(theirs.digest),
                    }
                else:
                    self._hand_on(row, notes.get("left"), replace=False)
                file.park(
                    entry.sequence,
                    PARKED[settled.change],
                    tried=True,
                    reached=settled.reached,
                    progress=self._records.sealed_notes(row, notes),
                    theirs=0 if theirs is None else stored_size(theirs.size),
                    process=process,
                )
            if settled.wake:
                file.wake(lane, self._clock.now())
            self._count()
            return names

        try:
            names = await self._write(write)
        except BaseException:
            await self._bodies.remove(theirs_file)
            raise
        await self._bodies.remove(theirs_file if names is None else names)
        return names is not None

    async def _keep_theirs(self, entry: Entry, outcome: Conflicted, process: bytes) -> StoredBody:
        assert outcome.content is not None, "asked only for a conflict with content"
        name = theirs_name(process, entry.id)
        await self._bodies.remove([name])
        return await self._bodies.store(
            name,
            entry.id,
            self._seals.cipher(entry.id, "theirs"),
            outcome.content(),
            size_max=self.settings.body_bytes_max,
            critical=True,
            inline_max=-1,
        )

    def _hand_on(self, row: Row, left: Any, *, replace: bool) -> None:
        """The next entries of its keys learn what the target holds now; else they keep what they know."""
        if left is None:
            return
        for next_ in self._file.successors(row.sequence):
            if next_.kind != row.kind:
                continue
            notes = self._records.notes(next_)
            if replace or "left" not in notes:
                notes["left"] = left
                self._file.set_progress(next_.sequence, self._records.sealed_notes(next_, notes))

    def _remember(self, entry: Entry, left: Any) -> None:
        """For entries that come later and do not know yet what this one has left."""
        key = self._seals.tag("key", entry.keys[0])
        note = {"kind": entry.kind, "base": entry.payload.get("base"), "left": left}
        self._file.remember(key, entry.sequence, self._seals.seal(key, "last", note, b""))

    def _recall(self, sequence: int, keys: Sequence[bytes], new: NewEntry) -> None:
        """A write made against the very state that an earlier one, delivered meanwhile, was made against follows it."""
        if len(keys) != 1 or "base" not in new.payload:
            return
        sealed = self._file.last(keys[0])
        if sealed is None or not self._file.is_first(sequence):
            return
        try:
            note = self._seals.open(keys[0], "last", sealed, b"")
        except Corrupt:
            return
        if note["kind"] == new.kind and note["base"] and note["base"] == new.payload["base"]:
            notes = self._records.sealed_notes(self._file.row(sequence), {"left": note["left"]})
            self._file.set_progress(sequence, notes)

    # --- a person's wishes --------------------------------------------------------------------------------------------

    async def retry(self, sequence: int) -> Entry:
        """Again, now; from any state but a conflict. NotFound, BadRequest."""

        def write() -> Entry:
            row = self._free_row(sequence)
            if row.state == State.CONFLICT:
                raise BadRequest(f"entry {sequence} is a conflict: resolve it, keeping mine, theirs or both")
            entry = self._records.entry(row)  # Corrupt for a damaged one
            self._file.set_waiting(sequence)
            if row.state not in (State.WAITING, State.DEFERRED):
                self._file.re_enter(sequence, [self._seals.tag("key", key) for key in entry.keys])
            return self._records.entry(self._file.row(sequence))

        return await self._write(write)

    async def drop(self, sequence: int) -> None:
        """Gives the entry up for good; the next of its keys moves up. NotFound, Unavailable while it is under way."""

        def write() -> list[str]:
            row = self._free_row(sequence)
            self._hand_on(row, self._records.notes(row).get("left"), replace=False)
            names = self._file.remove(sequence)
            self._count()
            return names

        await self._bodies.remove(await self._write(write))

    async def resolve_mine(self, sequence: int, left: Any) -> Entry:
        """A conflict goes out again, over the state ``left`` (what was found there)."""

        def write() -> tuple[Entry, list[str]]:
            row = self._conflict(sequence)
            names = self._file.drop_theirs(sequence)
            self._file.set_progress(sequence, self._records.sealed_notes(row, {"left": left}))
            self._file.set_waiting(sequence)
            self._count()
            return self._records.entry(self._file.row(sequence)), names

        entry, names = await self._write(write)
        await self._bodies.remove(names)
        return entry

    async def resolve_elsewhere(self, sequence: int, new: NewEntry) -> Entry:
        """A conflict goes out under other keys, with its body; what is at the old name stays."""
        delivery_class = new.delivery_class()

        def write() -> tuple[Entry, list[str]]:
            row = self._conflict(sequence)
            entry = self._records.entry(row)
            if new.kind != row.kind or delivery_class != row.delivery_class or new.needs != entry.needs:
                raise BadRequest("a conflict keeps its kind, class and packs when it gets another name")
            names = self._file.drop_theirs(sequence)
            sealed = self._records.sealed_record(
                row.id,
                new,
                delivery_class=delivery_class,
                size=row.size,
                created=entry.created,
                digest=entry.digest,
            )
            self._file.set_record(sequence, sealed, self._seals.tag("target", new.target))
            self._file.set_progress(sequence, None)
            self._file.set_waiting(sequence)
            self._file.re_enter(sequence, [self._seals.tag("key", key) for key in new.keys])
            self._count()
            return self._records.entry(self._file.row(sequence)), names

        entry, names = await self._write(write)
        await self._bodies.remove(names)
        return entry

    def _free_row(self, sequence: int) -> Row:
        row = self._file.row(sequence)
        if row.claim is not None:
            raise Unavailable(f"entry {sequence} is being delivered just now; try again in a moment")
        return row

    def _conflict(self, sequence: int) -> Row:
        row = self._free_row(sequence)
        if row.state != State.CONFLICT:
            raise BadRequest(f"entry {sequence} is no conflict, it is {State(row.state).label}")
        return row

    # --- asked --------------------------------------------------------------------------------------------------------

    async def page(self, after: int = 0, limit: int = 100, states: Sequence[State] | None = None) -> list[Entry]:
        """Entries above sequence ``after``, ascending, at most ``limit``; damaged ones without what was sealed."""

        def read() -> list[Entry]:
            return [self._records.entry_or_damaged(row) for row in self._file.page(after, limit, states)]

        return await self._ask(read)

    async def find(self, sequence: int) -> Entry:
        """NotFound if there is none."""
        return await self._ask(lambda: self._records.entry_or_damaged(self._file.row(sequence)))

    async def of_key(self, key: str) -> list[Entry]:
        """What waits for a key, in order; conflicts with it. The last one is what the key will hold."""

        def read() -> list[Entry]:
            rows = self._file.of_key(self._seals.tag("key", key))
            return [self._records.entry_or_damaged(row) for row in rows]

        return await self._ask(read)

    async def totals(self) -> list[Total]:
        """Entries and bytes by state and class; packs are a row without them."""
        return await self._ask(self._file.totals)

    async def oldest(self) -> Entry | None:
        """The first entry that is still to be delivered."""

        def read() -> Entry | None:
            row = self._file.oldest()
            return None if row is None else self._records.entry_or_damaged(row)

        return await self._ask(read)

    async def sweep(self) -> int:
        """Removes bodies that no row names, left by processes that died; how many."""
        names = await self._pool.run(self._files.list, self._bodies.directory)
        removed = 0
        dead: dict[str, bool] = {}

        def orphans(some: Sequence[str]) -> list[str]:
            found = []
            for name in some:
                process = name.partition("-")[0]
                if process not in dead:
                    try:
                        dead[process] = self._alive.dead(bytes.fromhex(process))
                    except ValueError:
                        dead[process] = False  # not ours
                if dead[process] and not self._file.is_named(name):
                    found.append(name)
            return found

        for start in range(0, len(names), SWEEP_NAMES):
            lost = await self._ask(lambda start=start: orphans(names[start : start + SWEEP_NAMES]))  # type: ignore[misc]
            await self._bodies.remove(lost)
            removed += len(lost)
        await self._thread.run(self._alive.sweep)
        return removed

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _token(self) -> bytes:
        if self._process is None:
            self._process = await self._thread.run(self._alive.token)
        return self._process

    async def _ask(self, question: Callable[[], T]) -> T:
        if self._closed:
            raise Unavailable("the outbox is closed")
        return await self._thread.run(self._file.asked, question)

    async def _write(self, operation: Callable[[], T]) -> T:
        """``operation`` in a durable transaction that others may share; undone alone if it raises one of our errors."""
        if self._closed:
            raise Unavailable("the outbox is closed")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, done))
        if self._flush is None:
            self._flush = asyncio.get_running_loop().create_task(self._flush_all(), name="outbox")
        return await done

    async def _flush_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
                try:
                    results = await self._thread.run(self._apply, [operation for operation, _ in group])
                except Exception as error:
                    results = [error] * len(group)
                for (_, done), result in zip(group, results, strict=True):
                    if done.done():
                        continue
                    if isinstance(result, Exception):
                        done.set_exception(result)
                    else:
                        done.set_result(result)
        finally:
            self._flush = None

    def _apply(self, operations: Sequence[Callable[[], Any]]) -> list[Any]:
        results: list[Any] = []
        with self._file.change():
            for operation in operations:
                try:
                    with self._file.part():
                        results.append(operation())
                except HoldfastError as error:
                    if self._file.ended():
                        raise
                    results.append(error)
        return results

    def _count(self) -> None:
        self._space.held = sum(total.stored for total in self._file.totals())
