"""The put engine of a device that cannot reach its network: packs and refs go to the outbox, as they would go out.

Chunks and recipes that the network holds are not referred to: what lies in the outbox needs nothing outside of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from holdfast.blob import Digest, pieces
from holdfast.client.names.drafts import Draft, Group, Pending
from holdfast.client.names.index import Index
from holdfast.client.names.index_file import Batch, ChunkPlace, IndexFile, NodeRow, SeenRef
from holdfast.client.offline.names_here import NamesHere
from holdfast.client.offline.queued_names import gone
from holdfast.client.offline.ref_entry import ABSENT, RefEntry, change_of, fingerprint, new_entry
from holdfast.client.writing.put_options import directory_draft
from holdfast.client.writing.uploader import Uploader
from holdfast.codec import paths, refs
from holdfast.codec.refs import RefKind
from holdfast.errors import Conflict, HoldfastError, Unavailable
from holdfast.outbox.outbox import Outbox

T = TypeVar("T")


class UnsentIndex(Index):
    """The index as a put for the outbox sees it: what this machine's files were, but no chunk that lies elsewhere.

    ``over``: name tag -> what the put replaces, where the outbox has something newer than the index.
    """

    def __init__(self, index: Index) -> None:
        self.now = index.now
        self._below = index
        self.over: dict[bytes, SeenRef] = {}

    async def run(self, question: Callable[[IndexFile], T]) -> T:
        return await self._below.run(lambda file: question(cast(IndexFile, _Unsent(file, self.over))))

    async def ref(self, tag: bytes) -> SeenRef | None:
        return (await self.run(lambda file: file.refs((tag,)))).get(tag)

    def held(self, tag: bytes) -> SeenRef | None:
        return None

    async def places(self, packs: Sequence[Digest]) -> dict[Digest, list[NodeRow]]:
        return await self._below.places(packs)

    async def later(self, batch: Batch) -> None:
        await self._below.later(batch)

    async def forget_packs(self, digests: Sequence[Digest]) -> None:
        await self._below.forget_packs(digests)

    @property
    def begun(self) -> int:
        return self._below.begun

    async def close(self) -> None:
        """It belongs to the vault."""


class _Unsent:
    """An index file that knows no chunks and no contents, and newer refs."""

    def __init__(self, file: IndexFile, over: dict[bytes, SeenRef]) -> None:
        self._file = file
        self._over = over

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def chunks(self, ids: Iterable[bytes]) -> dict[bytes, ChunkPlace]:
        return {}

    def contents(self, ids: Iterable[bytes]) -> dict[bytes, bytes]:
        return {}

    def refs(self, tags: Iterable[bytes]) -> dict[bytes, SeenRef]:
        wanted = list(tags)
        found = self._file.refs([tag for tag in wanted if tag not in self._over])
        return found | {tag: self._over[tag] for tag in wanted if tag in self._over}


class QueueingUploader(Uploader):
    """As an uploader, for one operation; a group is settled when it is durable in the outbox."""

    def __init__(self, outbox: Outbox, names: NamesHere, **words: Any) -> None:
        """``names``: offline ones. ``words``: as for an uploader; its index must be an ``UnsentIndex``."""
        super().__init__(**words)
        self._outbox = outbox
        self._names = names
        self._there: set[str] = set()  # directories that the vault has, as far as is known

    def warm(self) -> None:
        """Nobody is asked for places."""

    async def _store(self, pending: Pending) -> None:
        await self._outbox.add_pack(pending.digest, len(pending.data), pieces(pending.data))
        state = self._state(pending)
        state.registered = True
        state.placed.clear()

    async def submit(self, group: Group) -> None:
        try:
            await self._complete(group)
        except HoldfastError as error:
            group.settle(error)
            return
        await super().submit(group)

    async def _complete(self, group: Group) -> None:
        """Adds the directories above that the vault may not have: nothing may come to lie below a file.

        A directory that is only to be there, too, has a place in the order of its name.
        """
        with_it = {draft.path for draft in group.drafts}
        above: list[Draft] = []
        if all(draft.ancestor for draft in group.drafts):
            group.drafts[-1].ancestor = False
        for draft in list(group.drafts):
            if draft.ancestor:
                await self._in_the_way(draft.path)
                continue
            if draft.kind is RefKind.TOMBSTONE:
                continue
            for path in paths.ancestors(draft.path):
                if path in with_it or path in self._there:
                    continue
                with_it.add(path)
                kind = await self._in_the_way(path)
                if kind is RefKind.DIRECTORY and not await self._names.queued.waits(path):
                    self._there.add(path)
                else:
                    above.append(directory_draft(path, draft.survive, draft.attributes.mtime_ns))
        group.drafts[:0] = above

    async def _in_the_way(self, path: str) -> RefKind | None:
        kind = await self._names.kind(path)
        if kind in (RefKind.FILE, RefKind.LINK):
            raise Conflict(f"{path} is a {kind.name.lower()}, not a directory")
        return kind

    async def _commit(self, groups: list[Group]) -> None:
        results = await asyncio.gather(*(self._enqueue(group) for group in groups), return_exceptions=True)
        for group, error in zip(groups, results, strict=True):
            if error is None or isinstance(error, HoldfastError):
                group.settle(error)
            elif isinstance(error, Exception):
                group.settle(Unavailable(f"the outbox failed: {type(error).__name__}: {error}"))
            else:
                raise error

    async def _enqueue(self, group: Group) -> None:
        changes, kinds, also = [], [], []
        for draft in group.drafts:
            chain: Sequence[bytes] = ()
            if not draft.ancestor:
                chain = await self._chain(draft)
                kinds.append(draft.kind)
                also += await self._before(draft)
            changes.append(change_of(draft, chain))
        needs = {pending.digest for pending in group.needs} | await self._names.queued.packs_of(changes)
        entry = RefEntry(tuple(changes), self._allow_degraded, self._copies)
        sequence = await self._outbox.enqueue(new_entry(self._coordinators.id, entry, kinds, sorted(needs), also))
        for draft in group.drafts:
            draft.queued = sequence

    async def _before(self, draft: Draft) -> list[str]:
        """Further names in whose order it stands: a directory goes after what waits in it, what is put into one that
        is being deleted after that."""
        if draft.kind is RefKind.TOMBSTONE:
            return await self._names.queued.below(draft.path)
        return [path for path in paths.ancestors(draft.path) if gone(await self._names.queued.newest(path))]

    async def _chain(self, draft: Draft) -> Sequence[bytes]:
        """The states over which it may go out: what it replaces, and what that was to replace if it waits itself."""
        if draft.seen_etag is None:
            return (ABSENT,)
        waiting = await self._names.queued.newest(draft.path)
        if waiting is not None and waiting.ref.etag == draft.seen_etag:
            return (*waiting.change.chain, fingerprint(waiting.ref))
        seen = await self._names.base(draft.path)
        if seen is None or seen.etag != draft.seen_etag:
            return ()
        return (fingerprint(refs.open_record(self.keys, seen.record, draft.path)),)
