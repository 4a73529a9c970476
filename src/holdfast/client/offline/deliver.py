"""Delivers entries of kind ``ref``: the packs they need to their nodes, then the change of names as one commit.

What is sent is what an online put sends. A commit that says "conflict" is believed only after the present state was
read: ours already there (an answer was lost), equal bytes, or a state that the change was made over, are no conflict
(docs/design.md, Outbox). A record is made anew only over such a state.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast import logs
from holdfast.auth.documents import canonical, uncanonical
from holdfast.auth.identity import Id, Identity
from holdfast.blob import Buffer, Digest
from holdfast.client.device.coordinators import Coordinators
from holdfast.client.names.drafts import KnownRecipe
from holdfast.client.names.index import Index
from holdfast.client.names.index_file import Batch, NodeRow, SeenRef
from holdfast.client.names.names import Found, Names
from holdfast.client.offline.outbox_door import OutboxDoor
from holdfast.client.offline.rebase import Prepared, SmallPack, prepare
from holdfast.client.offline.ref_entry import NameState, RefEntry, decode, fingerprint, left_of, state_of, states_left
from holdfast.client.reading.content import ContentReader
from holdfast.client.writing.commit_request import commit_request
from holdfast.client.writing.plans import Plans
from holdfast.client.writing.shards import ShardSender
from holdfast.codec import refs
from holdfast.codec.keys import VaultKeys
from holdfast.codec.refs import Ref, RefKind
from holdfast.errors import Corrupt, HoldfastError, NotFound
from holdfast.outbox.entry import Entry
from holdfast.outbox.outcomes import (
    Conflicted,
    Deferred,
    Delivered,
    Next,
    Outcome,
    verdict_of_error,
)
from holdfast.pool import Pool
from holdfast.wire import messages as m
from holdfast.wire import routes

ROUNDS_MAX = 4
"""Commits in one try: each but the first over a state that was read just before."""
PACKS_IN_MEMORY = 2
REGISTER_PACKS = 32
"""So many packs of one entry are registered before the next are sent: their receipts would not fit one commit."""

_log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Present:
    """A name as the coordinator has it now; ``kept``: all its states that it still has, with their records."""

    found: Found | None
    kept: tuple[tuple[Ref, bytes], ...] = ()

    @property
    def etags(self) -> set[Digest]:
        return {ref.etag for ref, _ in self.kept}

    @property
    def state(self) -> NameState:
        return state_of(None if self.found is None else self.found.ref)


@dataclass(slots=True)
class _Try:
    """One entry under way. ``over``: the states it goes out over; ``left``: what is there of names that are done.

    ``nodes`` and ``places``: who holds its packs.
    """

    entry: Entry
    said: RefEntry
    over: dict[str, NameState]
    left: dict[str, NameState] = field(default_factory=dict)
    nodes: dict[Digest, list[NodeRow]] = field(default_factory=dict)
    places: Batch = field(default_factory=Batch)


class RefDelivery:
    """The delivery function of kind ``ref``, for one vault and device. Any number at once, in one event loop."""

    def __init__(
        self,
        *,
        keys: VaultKeys,
        device: Identity,
        coordinators: Coordinators,
        names: Names,
        content: ContentReader,
        sender: ShardSender,
        plans: Callable[[int | None, bool], Plans],
        index: Index,
        pool: Pool,
        heard: Callable[[], tuple[int, int]],
        door: OutboxDoor,
        content_bytes_max: int,
        commit_s: float,
    ) -> None:
        """``plans``: places for so many copies (None: as the policy says), or for fewer. ``content_bytes_max``: the
        largest content of the other side that is kept with a conflict."""
        self._keys = keys
        self._device = device
        self._coordinators = coordinators
        self._names = names
        self._content = content
        self._sender = sender
        self._plans = plans
        self._index = index
        self._pool = pool
        self._heard = heard
        self._door = door
        self._content_bytes_max = content_bytes_max
        self._commit_s = commit_s
        self._sending: dict[Digest, asyncio.Lock] = {}
        self._memory = asyncio.Semaphore(PACKS_IN_MEMORY)

    async def __call__(self, entry: Entry) -> Outcome:
        said = decode(entry.payload)
        trial = _Try(entry, said, states_left(entry.left))
        try:
            return await self._deliver(trial)
        except _Lied as error:
            return Deferred(str(error), target=True)
        except Corrupt:
            raise  # our own bytes
        except HoldfastError as error:
            found = verdict_of_error(error)
            return Deferred(error.detail) if isinstance(found, Next | Delivered) else found

    async def _deliver(self, trial: _Try) -> Outcome:
        gone_before = False
        for _ in range(ROUNDS_MAX):
            changes = [change for change in trial.said.changes if change.path not in trial.left]
            if not any(not change.ancestor for change in changes):
                return Delivered(left_of(trial.left))
            prepared, pack = await self._pool.run(prepare, self._keys, self._device, changes, trial.over)
            results = await self._commit(trial, prepared, pack)
            if all(_stands(one, result) for one, result in zip(prepared, results, strict=True)):
                await self._remember(prepared, trial.places)
                done = {one.change.path: state_of(one.ref) for one in prepared if not one.change.ancestor}
                return Delivered(left_of({**trial.left, **done}))
            if any(result.state == "packs-gone" for result in results):
                gone = {digest for result in results for digest in result.packs}
                if gone_before or gone.isdisjoint(trial.entry.needs):
                    return Deferred(f"the network does not have enough copies of {len(gone)} packs that it needs")
                gone_before = True
                await self._forget(gone & set(trial.entry.needs))
                continue
            conflict = await self._compare(trial, prepared, results)
            if conflict is not None:
                return conflict
        return Deferred("changed by others again and again")

    # --- packs --------------------------------------------------------------------------------------------------------

    async def _commit(self, trial: _Try, prepared: Sequence[Prepared], pack: SmallPack | None) -> list[m.RefResult]:
        said = trial.said
        needed = {digest for one in prepared for digest in refs.parse_keep_list(one.keep)}
        queued = [digest for digest in trial.entry.needs if digest in needed]
        registered: list[Digest] = []
        new: list[m.PackReceipts] = []
        for number, digest in enumerate(queued):
            receipts = await self._sent(digest, trial)
            if receipts is None:
                registered.append(digest)
                continue
            new.append(receipts)
            if len(new) >= REGISTER_PACKS and number + 1 < len(queued):
                await self._register(new, trial)
                registered += [one.digest for one in new]
                new.clear()
        if pack is not None:
            sent = await self._sender.send(pack.digest, pack.data, self._plans(said.copies, said.allow_degraded))
            self._places(trial, sent.digest, sent.size, [NodeRow(one.id, one.name, one.url) for one in sent.nodes])
            new.append(m.PackReceipts(digest=sent.digest, size=sent.size, receipts=list(sent.receipts)))
        answer = await self._coordinators.ask(
            routes.COMMIT,
            commit_request(
                self._keys.vault,
                self._device,
                [[m.RefChange(record=one.record, ancestor=one.change.ancestor) for one in prepared]],
                new=new,
                known=registered,
                keeps=list(dict.fromkeys(one.keep for one in prepared)),
                allow_degraded=said.allow_degraded,
                heard=self._heard(),
            ),
            first_byte_s=self._commit_s,
        )
        if [len(results) for results in answer.groups] != [len(prepared)]:
            raise _Lied("the coordinator's answer to a commit has another shape than the commit")
        return answer.groups[0]

    async def _sent(self, digest: Digest, trial: _Try) -> m.PackReceipts | None:
        """The receipts of a queued pack, which is sent if it was not yet; None if it is registered already."""
        queue, said = (await self._door.open()).queue, trial.said
        async with self._sending.setdefault(digest, asyncio.Lock()):
            facts = await queue.pack_facts(digest)
            if not facts:
                async with self._memory:
                    data = bytearray()
                    async for piece in queue.read_pack(digest):
                        data += piece
                    if await self._pool.run(Digest.of, data) != digest:
                        raise Corrupt(f"the pack {digest} in the outbox fails its check: the disk changed it")
                    sent = await self._sender.send(digest, data, self._plans(said.copies, said.allow_degraded))
                nodes = [[bytes(node.id), node.name, node.url] for node in sent.nodes]
                facts = canonical([False, sent.size, list(sent.receipts), nodes])
                await queue.pack_sent(digest, facts)
        self._sending.pop(digest, None)
        registered, size, receipts, nodes = uncanonical(facts, "what is known of a queued pack")
        self._places(trial, digest, size, [NodeRow(Id(id_), name, url) for id_, name, url in nodes])
        return None if registered else m.PackReceipts(digest=digest, size=size, receipts=receipts)

    def _places(self, trial: _Try, digest: Digest, size: int, nodes: list[NodeRow]) -> None:
        """For reads when the coordinator does not answer."""
        trial.nodes[digest] = nodes
        trial.places.packs[digest] = (size, [row.id for row in nodes])
        trial.places.nodes.update({row.id: row for row in nodes})

    async def _register(self, packs: Sequence[m.PackReceipts], trial: _Try) -> None:
        queue, said = (await self._door.open()).queue, trial.said
        await self._coordinators.ask(
            routes.REGISTER,
            m.RegisterRequest(
                vault=self._keys.vault, packs=list(packs), copies=said.copies, allow_degraded=said.allow_degraded
            ),
        )
        for pack in packs:
            nodes = [[bytes(row.id), row.name, row.url] for row in trial.nodes[pack.digest]]
            await queue.pack_sent(pack.digest, canonical([True, pack.size, [], nodes]))

    async def _forget(self, gone: Iterable[Digest]) -> None:
        """These packs must be sent again."""
        queue = (await self._door.open()).queue
        for digest in gone:
            await queue.pack_sent(digest, b"")

    # --- what is there ------------------------------------------------------------------------------------------------

    async def _compare(
        self, trial: _Try, prepared: Sequence[Prepared], results: Sequence[m.RefResult]
    ) -> Conflicted | None:
        """After a refusal. None: nothing of others is in the way, and ``trial`` knows more than before."""
        conflicts: list[tuple[Prepared, Present]] = []
        for one, result in zip(prepared, results, strict=True):
            if result.state != "conflict":
                continue
            present = await self._present(one.change.path)
            if one.change.ancestor:
                kind = None if present.found is None else present.found.ref.clear.kind
                if kind in (RefKind.FILE, RefKind.LINK):
                    conflicts.append((one, present))
                trial.over[one.change.path] = present.state
                continue
            if one.ref.etag in present.etags:  # it arrived; who came after it is the next entry's business
                trial.left[one.change.path] = state_of(one.ref)
            elif one.ref.clear.kind is not RefKind.DIRECTORY and fingerprint(one.ref) == present.state.fingerprint:
                trial.left[one.change.path] = present.state
            elif self._is_base(one, present, trial):
                trial.over[one.change.path] = present.state
            elif await self._is_same(one, present):
                trial.left[one.change.path] = present.state
            elif (done := await self._done_before(one, present)) is not None:
                trial.left[one.change.path] = state_of(done)
            else:
                conflicts.append((one, present))
        if not conflicts:
            return None
        return self._conflict(conflicts)

    async def _present(self, path: str) -> Present:
        try:
            found = await self._names.find_any(path, fresh=True)
            if found is None:
                return Present(None)
            versions = await self._names.history(path)
        except NotFound:
            return Present(None)
        except Corrupt as error:  # the coordinator's bytes, not ours
            raise _Lied(error.detail) from error
        return Present(found, ((found.ref, found.record), *((ref, version.record) for ref, version in versions)))

    async def _is_same(self, one: Prepared, present: Present) -> bool:
        """Does what is there hold the same bytes, whoever wrote them? A directory is like any other."""
        if present.found is None or present.found.ref.clear.kind is not one.ref.clear.kind:
            return False
        theirs = present.found.ref
        if theirs.clear.kind is RefKind.DIRECTORY:
            return True
        ours, said = one.ref.sealed.attributes, theirs.sealed.attributes
        if theirs.clear.kind is RefKind.LINK:
            return ours.target == said.target
        if theirs.clear.kind is not RefKind.FILE or ours.size != said.size or not one.change.content:
            return False
        try:
            opened = await self._content.open(present.found, with_data=False)
        except Corrupt:
            return False  # nobody can read it: that is no delivery
        return opened.recipe.content_id == one.change.content

    async def _done_before(self, one: Prepared, present: Present) -> Ref | None:
        """The same write by this device, not older than what it was made over: an online one whose answer was lost, so
        that it was queued, too."""
        for ref, record in present.kept:
            said, ours = ref.sealed.attributes, one.ref.sealed.attributes
            if ref.clear.author != self._device.id or ref.clear.version < one.ref.clear.version:
                continue
            if ref.clear.kind is not one.ref.clear.kind:
                continue
            if ref.clear.kind is RefKind.TOMBSTONE:
                return ref
            if said != ours or not one.change.content:
                continue
            try:
                opened = await self._content.open(Found(ref, record, b"", {}), with_data=False)
            except Corrupt:
                continue
            if opened.recipe.content_id == one.change.content:
                return ref
        return None

    def _is_base(self, one: Prepared, present: Present, trial: _Try) -> bool:
        """May the change go out over the present state, because nobody else has changed anything since?"""
        state = present.state
        expected = trial.over.get(one.change.path)
        if expected is not None:
            return state.fingerprint == expected.fingerprint
        if state.fingerprint in one.change.chain:
            return True
        theirs = None if present.found is None else present.found.ref
        return (
            theirs is not None
            and theirs.clear.kind is one.ref.clear.kind is RefKind.DIRECTORY
            and theirs.clear.author == self._device.id  # made on the way by another change of this device
        )

    def _conflict(self, conflicts: Sequence[tuple[Prepared, Present]]) -> Conflicted:
        one, present = conflicts[0]
        path, found = one.change.path, present.found
        base = left_of({other.change.path: state.state for other, state in conflicts})
        facts: dict[str, Any] = {"base": base, "name": path}
        if found is None or found.ref.clear.kind is RefKind.TOMBSTONE:
            return Conflicted(f"{path}: somebody else deleted it", facts, absent=True)
        ref, said = found.ref, found.ref.sealed.attributes
        kind = ref.clear.kind.name.lower()
        facts |= {
            "kind": kind,
            "size": said.size,
            "mtime_ns": said.mtime_ns,
            "mode": said.mode,
            "version": ref.clear.version,
            "etag": str(ref.etag),
            "author": str(ref.clear.author),
        }
        if said.target is not None:
            facts["target"] = said.target
        reason = f"{path}: somebody else changed it"
        if (ref.clear.kind is RefKind.DIRECTORY) != (one.ref.clear.kind is RefKind.DIRECTORY):
            reason = f"{path} is a {kind} by now"
        if ref.clear.kind is not RefKind.FILE:
            return Conflicted(reason, facts)
        if said.size > self._content_bytes_max:
            return Conflicted(f"{reason}; their {said.size} bytes are too many to keep here", facts)

        async def content() -> AsyncIterator[Buffer]:
            async for piece in self._content.stream(found, 0, None):
                yield piece

        return Conflicted(reason, facts, content=content)

    async def _remember(self, prepared: Sequence[Prepared], batch: Batch) -> None:
        """What is committed now, for reads and for the next put; written before the entry leaves the queue.

        ``batch``: who holds the packs.
        """
        for one in prepared:
            change, ref = one.change, one.ref
            version = 0 if change.ancestor else ref.clear.version  # another directory may stand there
            seen = SeenRef(version, ref.etag, one.record, one.keep, change.mark)
            batch.refs[ref.clear.name_tag] = (ref.clear.parent_tag, seen)
            place = ref.sealed.recipe
            if change.content and place is not None and place.pack is not None:
                known = KnownRecipe(
                    ref.sealed.attributes.size, place.pack, place.offset, place.length, place.id, ref.sealed.run_start,
                    change.packs,
                )  # fmt: skip
                batch.contents.append((change.content, place.pack, known.encode()))
        await self._index.write(batch)


class _Lied(Exception):
    """The coordinator's answer makes no sense: its trouble, not the entry's."""


def _stands(one: Prepared, result: m.RefResult) -> bool:
    return result.state == "committed" or (result.state == "conflict" and result.record == one.record)
