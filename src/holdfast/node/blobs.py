"""The routes of blobs: who asks is judged first, then the keeper does it (docs/interfaces.md, Node).

What a caller without a right learns: 403 before anything is looked up, if the credential is missing or wrong; 404 if a
right credential does not reach the blob, whether or not the blob is here.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AsyncExitStack

from holdfast.auth.documents import sign
from holdfast.auth.grants import Receipt
from holdfast.auth.identity import Id, Identity
from holdfast.auth.signing import content_digest
from holdfast.blob import Buffer, Digest, bounded
from holdfast.clock import Clock
from holdfast.errors import BadRequest, Corrupt, NotFound, StorePoisoned, TooLarge, Unavailable
from holdfast.node.exchange.routes import Exchange
from holdfast.node.keeper import Keeper
from holdfast.node.ledger.rows import UNROOTED, Entry
from holdfast.node.permits import Permits, Reader
from holdfast.node.quota import PutBudgets, TrashPace
from holdfast.node.settings import NodeSettings
from holdfast.node.shelf import Shelf
from holdfast.node.store import NodeFiles, SmallReads
from holdfast.node.tasks_pace import CopyPace
from holdfast.stores.protocol import Range, get_bytes
from holdfast.wire import messages as m
from holdfast.wire.serve import SHARED_BYTES_PER_S_MIN, BytesReply, Call, FileReply, Reply, StreamReply, parse_range

MEMORY_BYTES_MAX = 64 << 10
"""Answers up to this are read into memory; larger ones go from the file to the socket."""


class BlobRoutes:
    """Handlers for ``wire.serve``. ``now`` is the coordinator's time."""

    def __init__(
        self,
        *,
        identity: Identity,
        store_id: bytes,
        keeper: Keeper,
        permits: Permits,
        settings: NodeSettings,
        clock: Clock,
        now: Callable[[], float],
        pace: TrashPace,
        bwlimit_bytes: int | None,
        busy: Callable[[], int],
        exchange: Exchange,
    ) -> None:
        """``bwlimit_bytes``: a second, of what is read for repair; ``busy``: requests under way, its own too."""
        self._exchange = exchange
        self._identity = identity
        self._store_id = store_id
        self._keeper = keeper
        self._small = keeper.store if isinstance(keeper.store, SmallReads) else None
        self._permits = permits
        self._settings = settings
        self._clock = clock
        self._now = now
        self._budgets = PutBudgets()
        self._shelf = Shelf()
        self._pace = pace
        self._lent = 0
        self._lend_pace = CopyPace(clock, lambda: max(busy() - self._lent, 0), bwlimit_bytes)

    async def put(self, call: Call, message: None) -> Reply:
        """Keeps a pack; 201 if it is new, 200 if not, both with a receipt for a new write sequence.

        The server has checked name, length and Content-Digest. Nothing of the body is read before the grant and the
        space have been judged.
        """
        digest, caller, size = _digest(call), _caller(call), call.size
        assert size is not None, "the server refuses a put without its length"
        if call.grant is None:
            return await self._put_shared(call, digest, size)
        if size > self._settings.blob_bytes_max:
            raise TooLarge(f"this node takes blobs of at most {self._settings.blob_bytes_max} bytes")
        grant = self._permits.put(call.grant, caller)
        assert call.grant is not None, "a grant was found in it"
        if self._settings.read_only:
            raise StorePoisoned("this node is read-only, as its operator wishes")
        charged = size
        if size > self._budgets.left(call.grant, grant.budget) and await self._keeper.holds(digest, grant.vault):
            charged = 0  # tried again after a lost answer: nothing more is kept
        await self._exchange.cache.yield_space(charged)
        with self._budgets.reserved(call.grant, grant.budget, grant.expires, charged, self._now()) as hold:
            body = bounded(call.body(SHARED_BYTES_PER_S_MIN))
            sequence, new = await self._keeper.put(digest, size, grant.vault, body)
            hold.spent = new
        return Reply(m.BlobStored(receipt=self._receipt(digest, size, sequence)), 201 if new else 200)

    def _receipt(self, digest: Digest, size: int, sequence: int) -> bytes:
        """This node's word that the blob is durable; empty where the store cannot say so."""
        if not self._keeper.store.traits.durable:
            return b""
        receipt = Receipt(
            node=self._identity.id,
            store=self._store_id,
            digest=digest,
            size=size,
            sequence=sequence,
            time=int(self._now()),
        )
        return sign(receipt, self._identity)

    async def _put_shared(self, call: Call, digest: Digest, size: int) -> Reply:
        """A blob for a manifest, by somebody in authorized_keys."""
        if self._settings.read_only:
            self._exchange.trust.require_write(call)
            raise StorePoisoned("this node is read-only, as its operator wishes")
        new = await self._exchange.put(call, digest, size, bounded(call.body()))
        entry = await self._keeper.ledger.find(digest)
        sequence = 0 if entry is None else entry.sequence
        return Reply(m.BlobStored(receipt=self._receipt(digest, size, sequence)), 201 if new else 200)

    async def get(self, call: Call, message: None) -> BytesReply | FileReply | StreamReply:
        """A blob or one range of it. Small ones are hashed before they are sent, large ones checked by the reader.

        What is not here is looked for at peers and the origin, if the caller may have that done.
        """
        return await self.give(call, _digest(call), self._exchange.trust.reader(call))

    async def give(self, call: Call, digest: Digest, reader: Reader) -> BytesReply | FileReply | StreamReply:
        """As ``get``, for whoever may read what ``reader`` says."""
        entry = await self._keeper.find(digest)
        if entry is None or not reader.allows(entry):
            return await self._exchange.pulled(call, digest, reader)
        reply = await (self._local(call, entry) if reader.digests is None else self._lend(call, entry))
        start, stop = reply.range_ or (0, reply.total)
        self._exchange.served(call, entry, stop - start)
        return reply

    async def _local(self, call: Call, entry: Entry, paced: bool = False) -> BytesReply | FileReply | StreamReply:
        digest, size = entry.digest, entry.size
        range_ = parse_range(call.headers.get("range"), size)
        headers = {"repr-digest": content_digest(digest)}
        start, stop = range_ or (0, size)
        store = self._keeper.store
        try:
            if size <= MEMORY_BYTES_MAX:
                data: bytes | None = self._shelf.find(entry)
                if data is None:
                    data = await self._read(digest, 0, size, whole=True)
                    self._shelf.put(entry, data)
                return BytesReply(memoryview(data)[start:stop], size, range_, headers)
            if stop - start <= MEMORY_BYTES_MAX:
                return BytesReply(await self._read(digest, start, stop), size, range_, headers)
            if isinstance(store, NodeFiles) and not paced:
                return FileReply((await store.open_file(digest, size)).file, size, range_, headers)
            stack = AsyncExitStack()
            body = await stack.enter_async_context(store.get(digest, None if range_ is None else Range(*range_)))
            if paced:
                stack.callback(self._returned)
            return StreamReply(self._paced(body) if paced else aiter(body), size, range_, headers, done=stack.aclose)
        except NotFound:
            await self._keeper.forget(digest)
            raise
        except Corrupt as error:
            state = await self._keeper.verify(digest)
            if state == "ok":
                raise Unavailable(f"a read of {digest} went wrong once; the copy is right, ask again") from error
            raise Corrupt(f"this node's copy of {digest} was {state}: ask another node", state=state) from error

    async def _read(self, digest: Digest, start: int, stop: int, *, whole: bool = False) -> bytes:
        if self._small is not None:
            return await self._small.read_part(digest, start, stop, whole=whole)
        data = await get_bytes(self._keeper.store, digest, None if whole else Range(start, stop))
        if whole and Digest.of(data) != digest:
            raise Corrupt(f"this node's copy of {digest} is damaged")
        return data

    async def _lend(self, call: Call, entry: Entry) -> BytesReply | FileReply | StreamReply:
        """A pack for another node's copy, within the limit; it steps aside for everybody else."""
        self._lent += 1
        paced, reply = self._lend_pace.matters, None
        try:
            reply = await self._local(call, entry, paced)
        finally:
            if not (paced and isinstance(reply, StreamReply)):
                self._returned()
        return reply

    def _returned(self) -> None:
        self._lent -= 1

    async def _paced(self, body: AsyncIterable[Buffer]) -> AsyncIterator[Buffer]:
        size = self._lend_pace.slice_bytes
        async for piece in body:
            view = memoryview(piece)
            for start in range(0, len(view), size):
                part = view[start : start + size]
                await self._lend_pace.passed(len(part))
                yield part

    async def head(self, call: Call, message: None) -> Reply:
        """Length and digest, signed."""
        entry = await self._readable(call)
        return Reply(headers={"content-length": str(entry.size), "repr-digest": content_digest(entry.digest)})

    async def delete(self, call: Call, message: None) -> m.Empty:
        """To trash, by a grant for this very copy; 412 if it was put again since."""
        digest = _digest(call)
        grant = self._permits.delete(call.grant, _caller(call), digest)

        def pace(size: int) -> None:
            self._pace.take(size, self._keeper.ledger.held_bytes, self._clock.monotonic())

        await self._keeper.delete(digest, grant.vault, grant.sequence, pace)
        return m.Empty()

    async def verify(self, call: Call, message: None) -> m.Verified:
        """Reads the blob again; whoever may read it may ask. A right copy is answered with a fresh receipt."""
        digest = (await self._readable(call)).digest
        state = await self._keeper.verify(digest)
        entry = await self._keeper.find(digest)
        if state != "ok" or entry is None:
            return m.Verified(state=state if state != "ok" else "missing")
        return m.Verified(state=state, receipt=self._receipt(digest, entry.size, entry.sequence))

    async def has(self, call: Call, message: m.HasRequest) -> m.HasAnswer:
        """Which of these the caller could read here, or with ``cluster`` at a peer; of others' blobs it says no."""
        reader = self._exchange.trust.reader(call)
        found = await self._keeper.find_all(message.digests)
        bits = [
            _allows(reader, found.get(digest)) or self._exchange.passes(digest, reader) for digest in message.digests
        ]
        if message.cluster and not all(bits):
            self._exchange.trust.require_shared(call)
            missing = [digest for digest, bit in zip(message.digests, bits, strict=True) if not bit]
            elsewhere = await self._exchange.neighbours.anywhere(missing)
            bits = [bit or digest in elsewhere for digest, bit in zip(message.digests, bits, strict=True)]
        return m.HasAnswer(bitmap=m.bitmap(bits))

    async def inventory(self, call: Call, message: m.InventoryQuery) -> m.InventoryPage:
        """Rows after a sequence, also of blobs that are gone; or what is here under prefixes, or their inner roots.

        The first page of all brings the 256 prefix roots. The coordinator's reflog is not among them; it is listed
        when it is asked for.
        """
        self._permits.only_coordinator(_caller(call))
        if not self._keeper.reconciled:
            raise Unavailable("this node still compares its store with its ledger: what it would say now is too little")
        ledger, inner, rows = self._keeper.ledger, [], list[Entry]()
        first = message.prefix is None and message.inner is None and message.after == 0
        if message.reflog:
            rows = await ledger.reflogs(message.after, message.limit)
        elif message.inner is not None:
            inner = [await ledger.inner_roots(prefix[0]) for prefix in _prefixes(message.inner)]
        elif message.prefix is not None:
            rows = await ledger.under(_prefixes(message.prefix), message.past, message.limit)
        else:
            rows = await ledger.changes(message.after, message.limit)
        return m.InventoryPage(
            entries=[
                m.InventoryEntry(
                    sequence=row.sequence,
                    digest=row.digest,
                    size=row.size,
                    vault=row.vault,
                    here=row.here and (message.reflog or row.kept not in UNROOTED),  # what no vault owns is not its
                )
                for row in rows
            ],
            sequence=ledger.sequence,
            count=ledger.roots.count,
            root=ledger.roots.root,
            prefixes=ledger.roots.prefixes() if first else b"",
            inner=b"".join(inner),
        )

    async def _readable(self, call: Call) -> Entry:
        digest = _digest(call)
        reader = self._exchange.trust.reader(call)
        entry = await self._keeper.find(digest)
        if entry is None or not reader.allows(entry):
            raise NotFound(f"{digest} is not here, or not yours to read")
        return entry


def _allows(reader: Reader, entry: Entry | None) -> bool:
    return entry is not None and entry.here and reader.allows(entry)


def _digest(call: Call) -> Digest:
    return Digest.parse(call.path["digest"])


def _prefixes(text: str) -> list[bytes]:
    found = [bytes.fromhex(prefix) for prefix in text.split(".")]
    if any(right <= left or right.startswith(left) for left, right in itertools.pairwise(found)):
        raise BadRequest("the prefixes of an inventory ascend, and none is inside another")
    return found


def _caller(call: Call) -> Id:
    assert call.caller is not None, "all these routes are signed"
    return call.caller
