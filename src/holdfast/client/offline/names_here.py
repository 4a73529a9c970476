"""Names as this device knows them: what the coordinator says, under what waits in the outbox, over what was seen last.

Somebody who has put a file offline finds it under its name at once. A queued change that is in conflict shows only
while the coordinator does not answer: the network has something else there, and a person decides (``outbox show``).
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from typing import NamedTuple

from holdfast.blob import Digest
from holdfast.client.device.coordinators import Coordinators
from holdfast.client.names.drafts import Present
from holdfast.client.names.index import Index
from holdfast.client.names.index_file import SeenRef
from holdfast.client.names.names import Found, Names, Thrown
from holdfast.client.offline.queued_names import QueuedNames, Waiting, gone
from holdfast.codec import paths, refs
from holdfast.codec.keys import VaultKeys
from holdfast.codec.refs import Ref, RefKind
from holdfast.errors import NotFound, Unavailable
from holdfast.pool import Pool
from holdfast.wire import messages as m

HELD_MAX = 1000
"""Queued changes of a directory in memory while it is listed."""


class Marked(NamedTuple):
    """An entry of a directory. ``seen``: when, if it was not asked just now; ``queued``: its sequence in the outbox."""

    ref: Ref
    record: bytes
    seen: float = 0.0
    queued: int = 0
    conflict: bool = False


class NamesHere(Names):
    """For reading, and with ``offline`` for writes that go to the outbox: then nobody is asked."""

    def __init__(
        self,
        keys: VaultKeys,
        coordinators: Coordinators,
        index: Index,
        pool: Pool,
        queued: QueuedNames,
        *,
        offline: bool = False,
    ) -> None:
        super().__init__(keys, coordinators, index, pool)
        self.queued = queued
        self._offline = offline

    async def find_any(self, path: str, *, fresh: bool = False) -> Found | None:
        """As this device knows it; ``fresh`` asks the coordinator alone, unless this is offline."""
        if fresh and not self._offline:
            return await super().find_any(path, fresh=True)
        waiting = await self.queued.newest(path)
        if waiting is not None and (self._offline or not waiting.conflict):
            return _found(waiting)
        trouble: Unavailable | None = None
        found: Found | None = None
        if self._offline:
            seen = await self.base(path)
            found = None if seen is None else await self._remembered(path, seen)
        else:
            try:
                found = await super().find_any(path)
            except Unavailable as error:
                trouble = error
        if waiting is not None and (found is None or found.cached):
            return _found(waiting)
        if found is None or found.ref.clear.kind is RefKind.TOMBSTONE:
            above = await self.queued.on_the_way(path)
            if above is not None:
                return _found(above)
        if trouble is not None:
            raise trouble
        return found

    async def base(self, path: str) -> SeenRef | None:
        """The record over which the next change of a name is made: the newest that waits, else the one seen last.

        The queue is asked first, and the index on disk after it: what leaves the queue is in the index by then.
        """
        waiting = await self.queued.newest(path)
        if waiting is not None:
            clear, change = waiting.ref.clear, waiting.change
            return SeenRef(clear.version, waiting.ref.etag, change.record, change.keep, change.mark)
        tag = paths.name_tag(self._keys.name, path)
        return (await self._index.run(lambda file: file.refs((tag,)))).get(tag)

    async def kind(self, path: str) -> RefKind | None:
        """What this device knows the name to be, without asking anybody; None for nothing."""
        seen = await self.base(path)
        return None if seen is None else refs.parse_record(seen.record).clear.kind

    async def marked(self, directory: str) -> AsyncIterator[list[Marked]]:
        """The entries of a directory, in pages; Unavailable if the coordinator does not answer and none is known."""
        async for entries, _ in self._pages_here(directory):
            yield entries

    async def listing(self, directory: str) -> AsyncIterator[tuple[list[tuple[Ref, bytes]], m.RefPage]]:
        """As ``Names.listing``; of what was not listed by the coordinator no places are brought."""
        async for entries, page in self._pages_here(directory):
            yield [(one.ref, one.record) for one in entries], page

    async def _pages_here(self, directory: str) -> AsyncIterator[tuple[list[Marked], m.RefPage]]:
        """Pages of ``marked``, each with that of the coordinator: it brings places, so nobody need ask for them."""
        nothing = m.RefPage(records=[])
        queued = _Queued(self._offline)
        async for one in self.queued.inside(directory):
            queued.add(one)
        begun = False
        try:
            if not self._offline:
                async for entries, page in super().listing(directory):
                    begun = True
                    yield queued.left_of([Marked(ref, record) for ref, record in entries]), page
        except Unavailable:
            if begun:
                raise
            queued.alone = True
            remembered = await self._seen_in(directory)
            if not remembered and not queued.kinds:
                raise
            yield queued.left_of(remembered), nothing
        if self._offline:
            yield queued.left_of(await self._seen_in(directory)), nothing
        of_queue: list[Marked] = []
        for path in queued.shown():
            found = _found(queued.held[path]) if path in queued.held else await self.find_any(path)
            if found is not None and found.ref.clear.kind is not RefKind.TOMBSTONE:
                of_queue.append(Marked(found.ref, found.record, found.seen, found.queued, found.conflict))
            if len(of_queue) == HELD_MAX:
                yield of_queue, nothing
                of_queue = []
        yield of_queue, nothing

    async def history(self, path: str) -> list[tuple[Ref, m.RefVersion]]:
        """As ``Names.history``; offline what was seen last and what waits, newest first, as far as that goes."""
        if not self._offline:
            return await super().history(path)
        tag = paths.name_tag(self._keys.name, path)
        seen = (await self._index.run(lambda file: file.refs((tag,)))).get(tag)
        found: dict[Digest, tuple[Ref, m.RefVersion]] = {}
        if seen is not None:
            ref = refs.open_record(self._keys, seen.record, path)
            found[ref.etag] = ref, m.RefVersion(record=seen.record, committed=seen.at)
        for one in await self.queued.changes(path):
            found[one.ref.etag] = one.ref, m.RefVersion(record=one.change.record, committed=one.entry.created)
        if not found:
            raise NotFound(f"this device has never seen {path!r}")
        return list(found.values())[::-1]

    async def trash(self, directory: str) -> AsyncIterator[Thrown]:
        """As ``Names.trash``; offline what was deleted here and not delivered yet, where this device knows what it
        was."""
        if not self._offline:
            async for thrown in super().trash(directory):
                yield thrown
            return
        async for waiting in self.queued.inside(directory):
            if gone(waiting):
                for ref, kept in await self.history(waiting.change.path):
                    if ref.clear.kind is not RefKind.TOMBSTONE:
                        yield Thrown(waiting.ref, ref, kept.record, waiting.entry.created, 0.0)
                        break

    async def _seen_in(self, directory: str) -> list[Marked]:
        parent = paths.parent_tag(self._keys.name, directory)
        rows = await self._index.run(lambda file: file.refs_of(parent))
        found = [Marked(refs.open_record(self._keys, row.record, None), row.record, row.at) for row in rows.values()]
        return [one for one in found if one.ref.clear.kind is not RefKind.TOMBSTONE]

    async def clear_listing(self, directory: str) -> dict[bytes, Present]:
        """As ``Names.clear_listing``."""
        found: dict[bytes, Present] = {}
        async for page in self.marked(directory):
            for one in page:
                clear = one.ref.clear
                found[clear.name_tag] = Present(clear.version, one.ref.etag, clear.kind)
        return found

    async def is_empty(self, directory: str) -> bool:
        """As ``Names.is_empty``."""
        async for page in self.marked(directory):
            if page:
                return False
        return True


def _found(waiting: Waiting) -> Found:
    change = waiting.change
    return Found(waiting.ref, change.record, change.keep, {}, queued=waiting.entry.sequence, conflict=waiting.conflict)


class _Kind(enum.IntFlag):
    """What a listing has to know of a queued change."""

    CONFLICT = 1
    MADE = 2  # a directory made on the way
    GONE = 4


class _Queued:
    """What is queued in one directory, while it is listed. Of all but the first ``HELD_MAX`` only names are held."""

    def __init__(self, alone: bool) -> None:
        """``alone``: the network says nothing, so that conflicts show, too."""
        self.alone = alone
        self.kinds: dict[str, _Kind] = {}
        self.held: dict[str, Waiting] = {}

    def add(self, one: Waiting) -> None:
        path = one.change.path
        kind = _Kind.CONFLICT if one.conflict else _Kind(0)
        if one.change.ancestor:
            kind |= _Kind.MADE
        self.kinds[path] = kind | _Kind.GONE if gone(one) else kind
        self.held.pop(path, None)
        if len(self.held) < HELD_MAX:
            self.held[path] = one

    def left_of(self, page: list[Marked]) -> list[Marked]:
        """Without what the queue has newer; a directory made on the way is nothing new where there is one."""
        left = []
        for one in page:
            path = one.ref.sealed.path
            if self._hides(path) and self.kinds[path] & _Kind.MADE:
                del self.kinds[path]
            if not self._hides(path):
                left.append(one)
        return left

    def shown(self) -> list[str]:
        return [path for path, kind in self.kinds.items() if self._hides(path) and not kind & _Kind.GONE]

    def _hides(self, path: str) -> bool:
        kind = self.kinds.get(path)
        return kind is not None and (self.alone or not kind & _Kind.CONFLICT)
