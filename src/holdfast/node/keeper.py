"""Store and ledger together: the one place where a blob comes, goes, or is looked at again.

The order makes the ledger's promise: a row is written after its blob is durable and says "gone" before the blob goes.
What happens to one digest between store and ledger happens one after another; bodies on their way in hold up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Literal

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import Buffer, Digest
from holdfast.codec import reflog
from holdfast.codec.pack import pack_vault
from holdfast.errors import BadRequest, Conflict, HoldfastError, NotFound, StorePoisoned, TooManyRequests, Unavailable
from holdfast.node.ledger.ledger import Ledger
from holdfast.node.ledger.rows import SHARED, Entry, Kept
from holdfast.node.store import NodeStore, SmallPuts
from holdfast.node.trash import TrashStore
from holdfast.stores.disk.intake import gather
from holdfast.stores.disk.read import SMALL_BYTES_MAX
from holdfast.stores.disk.store import Verdict
from holdfast.stores.protocol import Range, get_bytes

HEADER_BYTES = 64
OWNER_BYTES = reflog.HEADER_BYTES
"""So much of a blob says whose it is."""
VERIFIES_AT_ONCE = 2
VERIFIES_WAITING_MAX = 64

_log = logs.get_logger(__name__)


class Keeper:
    """What one node keeps. Use from one event loop; any number of calls at once."""

    def __init__(
        self, *, store: NodeStore, ledger: Ledger, slow_time: Callable[[], float], lost: Callable[[], None]
    ) -> None:
        """``slow_time``: seconds on the slow clock. ``lost`` is called when a blob turned out missing or wrong."""
        self.store = store
        self.ledger = ledger
        self._slow_time = slow_time
        self._lost = lost
        self._turns: dict[Digest, _Turn] = {}
        self._removals = 0
        self._small = store if isinstance(store, SmallPuts) else None
        self._verifying = asyncio.Semaphore(VERIFIES_AT_ONCE)
        self._verifies_waiting = 0
        self.reconciled = False
        """Whether store and ledger are known to agree; until then a blob without a row is looked for in the store."""
        self.leftovers = False
        """Whether a blob may lie in the store without its row, so that the next start has to look."""

    @property
    def asks_store(self) -> bool:
        """Whether what has no row may be in the store all the same; in one that others fill, always."""
        return not self.reconciled or not self.store.alone

    @property
    def rows_are_trash(self) -> bool:
        """Whether a deleted blob stays in the store, and only its row says that it is in trash."""
        return not isinstance(self.store, TrashStore)

    async def put(self, digest: Digest, size: int, vault: Id, body: AsyncIterable[Buffer]) -> tuple[int, bool]:
        """Keeps a pack of ``vault``, or a reflog of the coordinator ``vault``; (write sequence, new) once durable.

        BadRequest if its header names another owner, and nothing is kept; else what ``Store.put`` raises.
        """
        if size <= SMALL_BYTES_MAX and self._small is not None and self._small.fits(size):
            return await self._put_small(self._small, digest, size, vault, body)
        removals = self._removals
        kept: Kept | None = None

        async def source() -> AsyncIterator[Buffer]:
            nonlocal kept
            async for piece in _headed(body):
                if kept is None:
                    kept = _check_owner(bytes(memoryview(piece)[:OWNER_BYTES]), vault)
                yield piece
            if kept is None:
                raise BadRequest(f"a pack has at least {HEADER_BYTES} bytes")

        stored = await self.store.put(digest, size, source())
        if kept is None:
            kept = await self._kept_for(digest, vault)
        async with self._alone(digest):
            if self._removals != removals and (await self.store.stat([digest]))[0] is None:
                raise Unavailable("this blob was removed while it was being put; send it again")
            sequence = await self._record(digest, size, vault, kept)
        return sequence, stored.new

    async def _put_small(
        self, store: SmallPuts, digest: Digest, size: int, vault: Id, body: AsyncIterable[Buffer]
    ) -> tuple[int, bool]:
        """The body is read first, so that blob and row take one visit to a thread; no removal comes in between."""
        data = b"".join(await gather(digest, size, body))
        if len(data) < HEADER_BYTES:
            raise BadRequest(f"a pack has at least {HEADER_BYTES} bytes")
        kept = _check_owner(data[:OWNER_BYTES], vault)

        durable = False

        async def work(write_row: Callable[[], None]) -> bool:
            nonlocal durable
            stored = await store.put_small(digest, data, write_row)
            durable = True
            return stored.new

        async with self._alone(digest):
            try:
                new, sequence = await self.ledger.record_with(digest, size, vault, kept, work)
            except (HoldfastError, asyncio.CancelledError) as error:
                self.leftovers |= durable or isinstance(error, asyncio.CancelledError)
                raise
        return sequence, new

    async def put_shared(self, digest: Digest, size: int, body: AsyncIterable[Buffer], kept: Kept) -> bool:
        """Keeps a blob for a manifest or in the cache; True if it is new. What ``Store.put`` raises."""
        assert kept in SHARED, "a vault's packs come by grants"
        removals = self._removals
        stored = await self.store.put(digest, size, body)
        async with self._alone(digest):
            if self._removals != removals and (await self.store.stat([digest]))[0] is None:
                raise Unavailable("this blob was removed while it was being put; send it again")
            await self._record(digest, size, None, kept)
        return stored.new

    async def _record(self, digest: Digest, size: int, vault: Id | None, kept: Kept) -> int:
        try:
            return await self.ledger.record(digest, size, vault, kept)
        except HoldfastError:
            self.leftovers = True
            raise

    async def hold(self, digest: Digest) -> int | None:
        """A manifest names it: it stays from now on. Its size, None if it is not here."""
        entry = await self.find(digest)
        if entry is None:
            return None
        async with self._alone(digest):
            entry = await self.ledger.find(digest)
            if entry is None or not entry.here:
                return None
            if entry.kept in ("cache", "unknown"):
                await self.ledger.record(digest, entry.size, None, "manifest")
            return entry.size

    async def release(self, digest: Digest) -> None:
        """No manifest names it any more: it may go when the cache needs room."""
        async with self._alone(digest):
            entry = await self.ledger.find(digest)
            if entry is not None and entry.here and entry.kept == "manifest":
                await self.ledger.release(digest, entry.size)

    async def evict(self, digest: Digest) -> int:
        """Gives up a blob of the cache for good; the bytes freed, 0 if it is not in the cache any more."""
        async with self._alone(digest):
            entry = await self.ledger.find(digest)
            if entry is None or not entry.here or entry.kept != "cache" or not self.store.alone:
                return 0
            self._removals += 1
            await self.ledger.remove(digest)
            await self.store.discard([digest])
            return entry.size

    async def find(self, digest: Digest) -> Entry | None:
        """The row of a blob that is here, else None."""
        entry = await self.ledger.find(digest)
        if (entry is None or not entry.here) and self.asks_store:
            entry = await self.adopt(digest)
        return entry if entry is not None and entry.here else None

    async def holds(self, digest: Digest, vault: Id) -> bool:
        """Whether this pack of ``vault`` is here."""
        entry = await self.find(digest)
        return entry is not None and entry.vault == vault

    async def find_all(self, digests: Sequence[Digest]) -> dict[Digest, Entry]:
        """The rows of those that have one; before store and ledger agree, also of those that only the store has."""
        found = await self.ledger.find_all(digests)
        if self.asks_store:
            missing = [digest for digest in dict.fromkeys(digests) if digest not in found or not found[digest].here]
            for digest, info in zip(missing, await self.store.stat(missing), strict=True):
                if info is not None and (entry := await self.adopt(digest)) is not None:
                    found[digest] = entry
        return found

    async def adopt(self, digest: Digest) -> Entry | None:
        """A blob that may be in the store without a row gets one; None if the store has no such blob."""
        async with self._alone(digest):
            entry = await self.ledger.find(digest)
            if entry is not None and (entry.here or (self.rows_are_trash and entry.trashed is not None)):
                return entry
            info = (await self.store.stat([digest]))[0]
            if info is None:
                return entry
            try:
                vault, kept = await self._owner(digest, info.size)
                if self.store.alone:
                    # The store is asked to put what it has: it then makes sure that the name is durable, too.
                    async with self.store.get(digest) as body:
                        await self.store.put(digest, info.size, body)
            except NotFound:
                return entry
            # What others put beside us is theirs to give up.
            if kept == "unknown" and not self.store.alone:
                kept = "manifest"
            await self.ledger.record(digest, info.size, vault, kept)
            return await self.ledger.find(digest)

    async def forget(self, digest: Digest) -> bool:
        """The ledger says here; if the store has no such blob, the row says so, too. Whether it was so."""
        async with self._alone(digest):
            entry = await self.ledger.find(digest)
            if entry is None or not entry.here or (await self.store.stat([digest]))[0] is not None:
                return False
            await self._gone(digest)
            return True

    async def delete(self, digest: Digest, vault: Id, sequence: int, pace: Callable[[int], None]) -> None:
        """To trash, unless the copy is newer than ``sequence`` (Conflict). Fine if it is not here.

        ``pace`` is told the size and may raise.
        """
        if self.asks_store:
            await self.find(digest)  # without a row it would be taken for gone
        async with self._alone(digest):
            entry = await self.ledger.find(digest)
            if entry is None or entry.vault != vault:
                if self.store.poisoned is not None:  # what a failed sync left in doubt may be here after a start
                    raise StorePoisoned(f"this node is read-only since {self.store.poisoned}")
                return
            if not entry.here:  # an earlier try may have ended between row and store: what it left is made up for
                self._removals += 1
                await self.store.delete([digest])
                return
            if entry.sequence > sequence:
                raise Conflict(
                    f"this copy was put again since the grant was made (write sequence {entry.sequence}, "
                    f"the grant names {sequence})"
                )
            pace(entry.size)
            self._removals += 1
            await self.ledger.remove(digest, trashed=self._slow_time())
            await self.store.delete([digest])

    async def verify(self, digest: Digest) -> Literal["ok", "quarantined", "missing"]:
        """Reads the blob again and hashes it; a wrong copy goes to quarantine and the row says it is gone."""
        if self._verifies_waiting >= VERIFIES_WAITING_MAX:
            raise TooManyRequests("this node re-reads enough blobs already", retry_after=5)
        self._verifies_waiting += 1
        try:
            async with self._verifying, self._alone(digest):
                try:
                    verdict = await self.store.verify(digest)
                except NotFound:
                    await self._gone(digest)
                    return "missing"
                if verdict is Verdict.QUARANTINED:
                    await self._gone(digest, trashed=self._slow_time() if self.rows_are_trash else None)
                    return "quarantined"
                await self.ledger.scrubbed(digest, self._slow_time())
                return "ok"
        finally:
            self._verifies_waiting -= 1

    async def purge(self, digest: Digest, before: float) -> int:
        """Where rows are the trash: removes for good what went there before that second; the bytes, 0 if it did not."""
        async with self._alone(digest):
            entry = await self.ledger.find(digest)
            if entry is None or entry.here or entry.trashed is None or entry.trashed >= before:
                return 0
            self._removals += 1
            await self.store.discard([digest])
            await self.ledger.remove(digest)
            return entry.size

    async def _gone(self, digest: Digest, *, trashed: float | None = None) -> None:
        self._removals += 1
        entry = await self.ledger.remove(digest, trashed=trashed)
        if entry is not None:
            _log.warning("blob_lost", digest=str(digest), size=entry.size)
        self._lost()

    async def _kept_for(self, digest: Digest, vault: Id) -> Kept:
        """The bytes were there already, so their header did not come by."""
        entry = await self.ledger.find(digest)
        if entry is not None and entry.vault is not None:
            owner, kept = entry.vault, entry.kept
        else:
            info = (await self.store.stat([digest]))[0]
            found, kept = await self._owner(digest, 0 if info is None else info.size)
            owner = vault if found is None else found
        if owner != vault or kept not in ("vault", "reflog"):
            raise BadRequest("this is no pack of the vault that the grant names")
        return kept

    async def _owner(self, digest: Digest, size: int) -> tuple[Id | None, Kept]:
        """Whose a stored blob is and why it is kept."""
        if size < HEADER_BYTES:
            return None, "unknown"
        return _owner(await get_bytes(self.store, digest, Range(0, min(size, OWNER_BYTES))))

    def _alone(self, digest: Digest) -> _Turn:
        """One at a time for each digest."""
        turn = self._turns.get(digest)
        if turn is None:
            turn = self._turns[digest] = _Turn(self._turns, digest)
        return turn


class _Turn:
    """A lock that is gone with its last user; a class, because generators cost more and puts are many."""

    __slots__ = ("_digest", "_lock", "_turns", "_users")

    def __init__(self, turns: dict[Digest, _Turn], digest: Digest) -> None:
        self._turns = turns
        self._digest = digest
        self._lock = asyncio.Lock()
        self._users = 0

    async def __aenter__(self) -> None:
        self._users += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        if self._users == 0:
            del self._turns[self._digest]


def _owner(header: bytes) -> tuple[Id | None, Kept]:
    try:
        return pack_vault(header), "vault"
    except BadRequest:
        pass
    try:
        return reflog.reflog_coordinator(header), "reflog"
    except BadRequest:
        return None, "unknown"


def _check_owner(header: bytes, vault: Id) -> Kept:
    owner, kept = _owner(header)
    if owner != vault:
        raise BadRequest("this is no pack of the vault that the grant names")
    return kept


async def _headed(body: AsyncIterable[Buffer]) -> AsyncIterator[Buffer]:
    """The same bytes, the first piece long enough to say whose they are (if there are so many)."""
    first = bytearray()
    begun = False
    async for piece in body:
        if begun:
            yield piece
        elif not first and len(piece) >= OWNER_BYTES:
            begun = True
            yield piece
        else:
            first += piece
            if len(first) >= OWNER_BYTES:
                begun = True
                yield first
    if not begun and first:
        yield first
