"""The put engine: chunks and refs of any number of puts go into shared packs, to their nodes, and into commits.

One uploader serves all puts that want the same number of copies. Memory is bounded by the packer's buffers: adding
waits while all of them are being sent. A name's change is committed once every pack that it needs is durable; commits
run one after another, while later packs are filled and sent, and take all that is ready (docs/design.md, section 3).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from holdfast import logs
from holdfast.auth.identity import Identity
from holdfast.blob import DIGEST_BYTES, Buffer, Digest
from holdfast.client.device import limits
from holdfast.client.device.coordinators import Coordinators
from holdfast.client.device.settings import ClientSettings
from holdfast.client.names.drafts import (
    Chunk,
    Draft,
    Group,
    KnownRecipe,
    NewRecipe,
    PackState,
    Pending,
)
from holdfast.client.names.index import Index
from holdfast.client.names.index_file import Batch, ChunkPlace, NodeRow, SeenRef
from holdfast.client.writing.commit_request import commit_request, receipts_of
from holdfast.client.writing.conflicts import rebase, stands
from holdfast.client.writing.plans import Plans
from holdfast.client.writing.recipe_writer import FileChunks, RecipeWriter
from holdfast.client.writing.shards import Sent, ShardSender
from holdfast.clock import Clock, Randomness
from holdfast.codec import recipe as recipes
from holdfast.codec import refs
from holdfast.codec.keys import GENERATION_FIRST, VaultKeys
from holdfast.codec.pipeline import Packer, Placed
from holdfast.codec.refs import RECORD_BYTES_MAX
from holdfast.codec.sealer import Kind
from holdfast.errors import Conflict, HoldfastError, PacksGone, TooLarge, Unavailable
from holdfast.pool import Pool
from holdfast.wire import messages as m
from holdfast.wire import routes

REGISTER_PACKS = 4
"""So many packs without a commit are registered: an interrupted put then finds them again."""
REBASES_MAX = 5
LINGERS_MAX = 8
"""So many times a pack may wait for more puts that run at the same time."""

_log = logs.get_logger(__name__)


class Uploader:
    """Shared by all puts of one vault that ask the same of the network. One event loop."""

    def __init__(
        self,
        *,
        keys: VaultKeys,
        device: Identity,
        coordinators: Coordinators,
        sender: ShardSender,
        plans: Plans,
        index: Index,
        pool: Pool,
        clock: Clock,
        randomness: Randomness,
        settings: ClientSettings,
        allow_degraded: bool,
        copies: int | None,
        heard: Callable[[], tuple[int, int]],
        chunk_bytes_max: int,
    ) -> None:
        self.keys = keys
        self.chunk_keys = keys.generation(GENERATION_FIRST)
        self.index = index
        self.new_bytes = 0
        """Sealed bytes sent so far, counted once for all copies."""
        self.broken = False
        """A new uploader is needed."""
        self.active = 0
        """Puts under way; those who use the uploader count themselves."""
        self._device = device
        self._coordinators = coordinators
        self._sender = sender
        self._plans = plans
        self._clock = clock
        self._randomness = randomness
        self._settings = settings
        self._allow_degraded = allow_degraded
        self._copies = copies
        self._heard = heard
        self._packer: Packer[PackState] = Packer(
            self.chunk_keys,
            keys.vault,
            device,
            pool,
            pack_bytes=settings.pack_bytes,
            buffers=settings.pack_buffers,
            emit=self._emit,
            chunk_bytes_max=max(chunk_bytes_max, recipes.RECIPE_BYTES),
        )
        self._recipes = RecipeWriter(self._packer, self._add)
        self._fresh: dict[bytes, asyncio.Future[Placed[PackState]]] = {}
        self._sent: dict[Digest, tuple[Pending, Sent]] = {}  # stored, not yet registered
        self._waiting: list[Group] = []
        self._ready: deque[Group] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._committing: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._finished = 0  # puts whose last bytes are in the pack under way
        self._registering: asyncio.Task[None] | None = None

    # --- what puts ask ------------------------------------------------------------------------------------------------

    async def chunk(self, id_: bytes, plaintext: Buffer, salt: bytes | None = None) -> Chunk:
        """A data chunk that the index does not know: sealed and packed, unless this upload has it already."""
        fresh = self._fresh.get(id_)
        if fresh is not None:
            placed = await asyncio.shield(fresh)
            if self._state(placed.pending).error is None:
                return placed
        future: asyncio.Future[Placed[PackState]] = asyncio.get_running_loop().create_future()
        self._fresh[id_] = future
        try:
            placed = await self._add(self._packer.add(Kind.DATA, plaintext, id=id_, salt=salt))
        except BaseException as error:
            self._fresh.pop(id_, None)
            future.set_exception(error if isinstance(error, HoldfastError) else Unavailable("another put was stopped"))
            future.exception()
            raise
        future.set_result(placed)
        self._state(placed.pending).placed.append(placed)
        return placed

    async def recipe(
        self,
        size: int,
        chunk_bytes: int,
        content_id: bytes,
        ids: Sequence[bytes],
        chunks: Sequence[Chunk],
        salt: bytes | None,
    ) -> NewRecipe:
        """Writes a file's recipe into a pack."""
        needs = {chunk.pending for chunk in chunks if isinstance(chunk, Placed)}
        self._check(needs)
        return await self._recipes.write(FileChunks(size, chunk_bytes, content_id, ids, chunks, salt), needs)

    def check_size(self, name: str, size: int, chunk_bytes: int) -> None:
        """TooLarge for a file of more bytes than one may have."""
        limits.check_size(name, size, chunk_bytes, self._settings.pack_bytes)

    async def submit(self, group: Group) -> None:
        """Puts the refs of ``group`` into packs; ``group.settled`` is called when they are committed or not.

        A group that it comes after was submitted before. ``finish`` must follow, at the end of a put: until then the
        last refs wait for their pack to be full.
        """
        if group.after is not None:
            group.after.awaited = True
            if group.after.error is not None:
                group.settle(group.after.error)
                return
        try:
            for draft in group.drafts:
                await self._add_ref(draft)
        except HoldfastError as error:
            self._fail(group, error)
            return
        group.needs = frozenset().union(*(draft.needs() for draft in group.drafts))
        self._waiting.append(group)
        if all(self._state(pending).sent for pending in group.needs):
            self._advance()

    def finish(self) -> None:
        """No more of this put will come: the pack under way is closed soon; at once if no other put is active."""
        self._finished += 1
        if self._flushing is None:
            self._flushing = self._spawn(self._flush())

    def warm(self) -> None:
        """A large put begins: its places are asked for at once."""
        self._plans.warm(self._settings.pack_bytes)

    async def close(self) -> None:
        """Stops everything under way; groups that wait fail. May be called twice."""
        self.broken = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._packer.close()
        await self._plans.close()
        error = Unavailable("the vault was closed")
        waiting, self._waiting = [*self._waiting, *self._ready], []
        self._ready.clear()
        for group in waiting:
            group.settle(error)

    # --- packs --------------------------------------------------------------------------------------------------------

    async def _add(self, adding: object) -> Placed[PackState]:
        try:
            return await adding  # type: ignore[misc, no-any-return]
        except HoldfastError:
            if self._packer._failed is not None:
                self.broken = True
            raise

    async def _add_ref(self, draft: Draft) -> None:
        needs: list[Pending] = []
        if isinstance(draft.recipe, NewRecipe):
            needs.append(draft.recipe.placed.pending)
            self._check(draft.recipe.needs)
        nonce = self._randomness.bytes(refs.NONCE_BYTES)

        def build(carrier: Pending) -> bytes:
            return draft.prepare(self.keys, self._device.id, nonce, carrier)

        await self._add(self._packer.add_built(Kind.REF, RECORD_BYTES_MAX, build, needs=needs))

    @staticmethod
    def _state(pending: Pending) -> PackState:
        if not pending.owners:
            pending.owners.append(PackState())
        return pending.owners[0]

    def _check(self, packs: frozenset[Pending] | set[Pending]) -> None:
        for pending in packs:
            error = self._state(pending).error
            if error is not None:
                raise error

    async def _flush(self) -> None:
        try:
            if self.active > 1:
                await self._linger()
        finally:
            self._flushing = None
            self._finished = 0
        try:
            await self._packer.flush(own=True)
        except HoldfastError as error:
            self.broken = True
            self._fail_waiting(error)

    async def _linger(self) -> None:
        """As long as puts go on to come, and are not all here: a pack costs its nodes and the coordinator the same
        whether it holds one of them or twenty."""
        for _ in range(LINGERS_MAX):
            finished = self._finished
            await self._clock.sleep(self._settings.linger_s)
            if self._finished == finished or self._finished >= self.active:
                return

    async def _emit(self, pending: Pending) -> None:
        self._spawn(self._deliver(pending))

    async def _deliver(self, pending: Pending) -> None:
        state = self._state(pending)
        try:
            await self._store(pending)
        except HoldfastError as error:
            state.error = error
            for placed in state.placed:
                self._fresh.pop(placed.id, None)
        else:
            state.sent = True
            self.new_bytes += len(pending.data)
        finally:
            pending.release()
        self._advance()
        if len(self._sent) >= REGISTER_PACKS and self._registering is None:
            self._registering = self._spawn(self._register())

    async def _store(self, pending: Pending) -> None:
        """Returns when the pack is where it belongs, durable."""
        sent = await self._sender.send(pending.digest, pending.data, self._plans)
        self._sent[sent.digest] = (pending, sent)

    async def _register(self) -> None:
        """Packs without a commit so far get a lease, so that nothing of a long put is lost when it is interrupted."""
        try:
            while len(self._sent) >= REGISTER_PACKS:
                some = list(self._sent.values())[: m.PLAN_ITEMS_MAX // 8]
                await self._coordinators.ask(
                    routes.REGISTER,
                    m.RegisterRequest(
                        vault=self.keys.vault,
                        packs=[receipts_of(sent) for _, sent in some],
                        copies=self._copies,
                        allow_degraded=self._allow_degraded,
                    ),
                )
                await self.index.later(self._registered(some))
        except HoldfastError as error:
            _log.info("register_failed", reason=error.detail)  # the commit brings the receipts again
        finally:
            self._registering = None

    def _registered(self, packs: Sequence[tuple[Pending, Sent]]) -> Batch:
        batch = Batch()
        for pending, sent in packs:
            if self._sent.pop(sent.digest, None) is None:
                continue
            state = self._state(pending)
            state.registered = True
            for node in sent.nodes:
                batch.nodes[node.id] = NodeRow(node.id, node.name, node.url)
            batch.packs[sent.digest] = (sent.size, [node.id for node in sent.nodes])
            batch.listed.add(sent.digest)
            for placed in state.placed:
                place = ChunkPlace(sent.digest, placed.offset, placed.length, placed.check)
                batch.chunks.append((placed.id, place))
                self._fresh.pop(placed.id, None)
            state.placed.clear()
        return batch

    # --- commits ------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Moves groups whose packs are stored to the commits, and fails those whose packs could not be stored.

        What comes after a group that failed fails with it.
        """
        waiting, self._waiting = self._waiting, []
        again = False
        for group in waiting:
            after = group.after
            states = [self._state(pending) for pending in group.needs]
            error = next((state.error for state in states if state.error is not None), None)
            if after is not None and after.error is not None:
                error = after.error
            if error is not None:
                group.settle(error)
                again |= group.awaited
            elif (after is None or after.stands) and all(state.sent for state in states):
                self._ready.append(group)
            else:
                self._waiting.append(group)
        if again:
            self._advance()
        elif self._ready and self._committing is None:
            self._committing = self._spawn(self._commit_all())

    def _fail_waiting(self, error: HoldfastError) -> None:
        waiting, self._waiting = self._waiting, []
        for group in waiting:
            group.settle(error)

    def _fail(self, group: Group, error: HoldfastError) -> None:
        """Also what comes after it."""
        group.settle(error)
        if group.awaited:
            self._advance()

    async def _commit_all(self) -> None:
        try:
            while self._ready:
                groups = self._take()
                if not groups:
                    continue
                try:
                    await self._commit(groups)
                except HoldfastError as error:
                    for group in groups:
                        group.settle(error)
                except BaseException as error:
                    failure = Unavailable(f"the commit was stopped: {error or type(error).__name__}")
                    for group in groups:
                        group.settle(failure)
                    raise
                finally:
                    if any(group.awaited for group in groups):
                        self._advance()
        finally:
            self._committing = None

    def _take(self) -> list[Group]:
        """As many ready groups as one commit holds."""
        groups: list[Group] = []
        records = size = 0
        packs: set[Digest] = set()
        keeps: set[bytes] = set()
        while self._ready:
            group = self._ready[0]
            for draft in group.drafts:
                if not draft.record:
                    draft.finish(self.keys)
            large = next((draft for draft in group.drafts if len(draft.keep) > limits.KEEP_BYTES_MAX), None)
            if large is not None:
                self._ready.popleft()
                group.settle(self._too_scattered(large))
                continue
            new = {pending.digest for pending in group.needs if not self._state(pending).registered}
            more = sum(len(draft.record) + 40 for draft in group.drafts)
            more += sum(len(draft.keep) for draft in group.drafts if draft.keep not in keeps)
            more += sum(len(receipt) + 40 for digest in new - packs for receipt in self._sent[digest][1].receipts)
            if groups and (
                records + len(group.drafts) > m.COMMIT_REFS_MAX
                or size + more > self._settings.commit_bytes
                or len(packs | new) > m.PLAN_ITEMS_MAX
            ):
                break
            groups.append(self._ready.popleft())
            records += len(group.drafts)
            size += more
            packs |= new
            keeps.update(draft.keep for draft in group.drafts)
        return groups

    async def _commit(self, groups: list[Group]) -> None:
        needed = {pending.digest for group in groups for pending in group.needs}
        new = {digest: self._sent[digest] for digest in sorted(needed) if digest in self._sent}
        drafts = [draft for group in groups for draft in group.drafts]
        keeps = list(dict.fromkeys(draft.keep for draft in drafts))
        large = sum(map(len, keeps)) > self._settings.commit_bytes // 2
        if large or len(new) > m.PLAN_ITEMS_MAX:  # one file of very many packs: its keep list alone fills the commit
            await self._register()
            new = {digest: found for digest, found in new.items() if digest in self._sent}
        known = {digest for keep in keeps for digest in refs.parse_keep_list(keep)} - new.keys()
        if large:
            known.clear()  # the keep list names them too
        answer = await self._coordinators.ask(
            routes.COMMIT,
            commit_request(
                self.keys.vault,
                self._device,
                [
                    [m.RefChange(record=draft.record, ancestor=draft.ancestor) for draft in group.drafts]
                    for group in groups
                ],
                new=[receipts_of(sent) for _, sent in new.values()],
                known=list(known),
                keeps=keeps,
                allow_degraded=self._allow_degraded,
                heard=self._heard(),
            ),
            first_byte_s=self._settings.coordinator_s,
        )
        if [len(results) for results in answer.groups] != [len(group.drafts) for group in groups]:
            raise Unavailable("the coordinator's answer to a commit has another shape than the commit")
        batch = self._registered(list(new.values()))
        done: list[Group] = []
        for group, results in zip(groups, answer.groups, strict=True):
            if all(stands(draft, result) for draft, result in zip(group.drafts, results, strict=True)):
                for draft in group.drafts:
                    self._remember(batch, draft)
                done.append(group)
            else:
                self._spawn(self._resolve(group, results))
        await self.index.later(batch)
        for group in done:
            group.settle(None)

    def _too_scattered(self, draft: Draft) -> TooLarge:
        return TooLarge(
            f"{draft.path} lies in {len(draft.keep) // DIGEST_BYTES:,} packs, because parts of it are known from other "
            f"files; a file may lie in {limits.KEEP_PACKS_MAX:,}: put it with --no-dedup"
        )

    def _remember(self, batch: Batch, draft: Draft) -> None:
        assert draft.clear is not None
        # of a directory made on the way, another record may stand there: anything that is seen replaces version 0
        version = 0 if draft.ancestor else draft.clear.version
        assert draft.etag is not None
        seen = SeenRef(version, draft.etag, draft.record, draft.keep, draft.mark)
        batch.refs[draft.clear.name_tag] = (draft.clear.parent_tag, seen)
        if isinstance(draft.recipe, NewRecipe) and draft.content:
            known = draft.recipe.known()
            batch.contents.append((draft.content, known.pack, known.encode()))

    async def _resolve(self, group: Group, results: Sequence[m.RefResult]) -> None:
        """A group that was not committed: what may be replaced is prepared anew, all else is the put's error."""
        try:
            gone = sorted({digest for result in results for digest in result.packs})
            if gone:
                await self._forget(gone, group)
                raise PacksGone("packs that this put relied on are gone", packs=[str(digest) for digest in gone])
            group.rebased += 1
            if group.rebased > REBASES_MAX:
                raise Conflict(f"{group.drafts[-1].path}: changed by others again and again; nothing was replaced")
            for draft, result in zip(list(group.drafts), results, strict=True):
                if result.state == "conflict":
                    rebase(self.keys, group, draft, result)
            for draft in group.drafts:
                await self._add_ref(draft)
        except HoldfastError as error:
            self._fail(group, error)
            return
        group.needs = frozenset().union(*(draft.needs() for draft in group.drafts))
        self._waiting.append(group)
        self.finish()

    async def _forget(self, gone: Sequence[Digest], group: Group) -> None:
        lost = set(gone)
        await self.index.forget_packs(gone)
        contents = [
            draft.content
            for draft in group.drafts
            if isinstance(draft.recipe, KnownRecipe) and lost.intersection((draft.recipe.pack, *draft.recipe.packs))
        ]
        if contents:
            await self.index.run(lambda file: file.forget_contents(contents))

    def _spawn(self, work: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
