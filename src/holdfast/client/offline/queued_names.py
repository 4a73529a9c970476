"""What the outbox holds of names: the newest waiting change of each, for reads and for the next write."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from holdfast.blob import Digest
from holdfast.client.offline.outbox_door import OutboxDoor
from holdfast.client.offline.queued_places import Places, Role
from holdfast.client.offline.ref_entry import KIND, Change, decode
from holdfast.codec import paths
from holdfast.codec.keys import VaultKeys
from holdfast.codec.refs import Ref, RefKind
from holdfast.errors import Corrupt, NotFound, Unavailable
from holdfast.outbox.entry import KEYS_MAX, Entry, State
from holdfast.outbox.outbox import Outbox

WAITING = (State.WAITING, State.DEFERRED, State.CONFLICT)
PAGE = 200
"""Entries in memory at a time."""


class Waiting(NamedTuple):
    """A queued change. ``conflict``: it, or one before it, waits for a person: the network has something else."""

    entry: Entry
    change: Change
    ref: Ref
    conflict: bool


class QueuedNames:
    """Reads one home's outbox, if there is one. Any number of calls at once.

    Listing reads the queue page by page; all that stays in memory is where to look for a directory.
    """

    def __init__(self, keys: VaultKeys, door: OutboxDoor | None) -> None:
        self._keys = keys
        self._door = door
        self._places = Places()

    async def outbox(self) -> Outbox | None:
        return None if self._door is None else await self._door.found()

    async def newest(self, path: str) -> Waiting | None:
        """The last queued change of a name; None if nothing waits for it.

        A directory made on the way counts only where it comes after its deletion; see ``on_the_way``.
        """
        outbox = await self.outbox()
        if outbox is None:
            return None
        found: Waiting | None = None
        conflict = False
        for entry in await outbox.waiting_for(path):
            conflict = conflict or entry.state is State.CONFLICT
            opened = self._opened(entry, path) or self._opened(entry, path, above=gone(found))
            found = found if opened is None else opened
        return None if found is None else found._replace(conflict=conflict)

    async def changes(self, path: str) -> list[Waiting]:
        """The queued changes of a name, in order; directories made on the way are left out."""
        outbox = await self.outbox()
        entries = [] if outbox is None else await outbox.waiting_for(path)
        return [found for entry in entries if (found := self._opened(entry, path)) is not None]

    async def waits(self, path: str) -> int:
        """Entries that stand in the order of a name."""
        outbox = await self.outbox()
        return 0 if outbox is None else len(await outbox.waiting_for(path))

    async def on_the_way(self, path: str) -> Waiting | None:
        """The directory ``path`` that a queued change makes on its way."""
        outbox = await self._looked()
        newest: Entry | None = None
        last = self._places.newest(Role.MADE, path)
        if outbox is None or last is None:
            return None
        with contextlib.suppress(NotFound):
            entry = await outbox.queue.find(last)
            if entry.state in WAITING and (found := self._opened(entry, path, above=True)) is not None:
                return found
        async for entry, changes in self._entries(Role.MADE, path):  # the newest is gone: perhaps an older one waits
            if any(change.ancestor and change.path == path for change in changes):
                newest = entry
        return None if newest is None else self._opened(newest, path, above=True)

    async def inside(self, directory: str) -> AsyncIterator[Waiting]:
        """The newest queued changes of names in a directory, deletions too, in the order of the queue; few at a time
        are in memory. Each once, unless something is delivered meanwhile."""
        made: dict[str, int] = {}  # made on the way, mostly by each entry below it -> by which one at last
        async for entry, changes in self._entries(Role.IN, directory):
            for change in changes:
                if paths.parent(change.path) != directory or made.get(change.path, entry.sequence) != entry.sequence:
                    continue
                found = await self.newest(change.path) or await self.on_the_way(change.path)
                sequence = 0 if found is None else found.entry.sequence
                if change.ancestor:
                    made[change.path] = sequence
                if found is not None and sequence == entry.sequence:
                    yield found

    async def any_below(self, directory: str) -> bool:
        """Does a name below a directory wait?"""
        return bool(await self._below(directory, 1))

    async def below(self, directory: str) -> list[str]:
        """Names that wait below a directory. Unavailable if they are too many to be waited for by one entry."""
        found = await self._below(directory, KEYS_MAX)
        if len(found) >= KEYS_MAX:
            raise Unavailable(
                f"{KEYS_MAX} writes or more below {directory} wait in the outbox; deliver them first "
                "(holdfast outbox flush)"
            )
        return found

    async def _below(self, directory: str, most: int) -> list[str]:
        prefix, found = directory + "/", dict[str, None]()
        async for _, changes in self._entries(Role.BELOW, directory):
            found.update(
                (change.path, None) for change in changes if not change.ancestor and change.path.startswith(prefix)
            )
            if len(found) >= most:
                break
        return list(found)

    async def packs_of(self, changes: Sequence[Change]) -> set[Digest]:
        """The packs of the outbox among those that ``changes`` need: a moved file may still be queued itself."""
        outbox = await self.outbox()
        found: set[Digest] = set()
        if outbox is not None:
            for change in changes:
                for digest in change.packs_kept():
                    if digest not in found and await outbox.queue.pack(digest) is not None:
                        found.add(digest)
        return found

    async def holds(self, pack: Digest) -> bool:
        """Does the outbox hold this pack?"""
        outbox = await self.outbox()
        return outbox is not None and await outbox.queue.pack(pack) is not None

    async def _entries(self, role: Role, directory: str) -> AsyncIterator[tuple[Entry, Sequence[Change]]]:
        """Waiting entries that may have such a change, in order, read in pages."""
        outbox = await self._looked()
        if outbox is None:
            return
        for first, last in self._places.ranges(role, directory):
            after, limit = first - 1, PAGE
            while limit == PAGE and after < last:
                limit = min(PAGE, last - after)
                page = await outbox.queue.page(after, limit, WAITING)
                for entry in page:
                    if entry.sequence <= last and (changes := _changes(entry)):
                        yield entry, changes
                if len(page) < limit:
                    break
                after = page[-1].sequence

    async def _looked(self) -> Outbox | None:
        """Brings the places of queued names up to date; entries of any state, because a person may retry them."""
        outbox = await self.outbox()
        if outbox is None:
            return None
        if not any(total.entries for total in await outbox.totals() if total.state in WAITING):
            self._places = Places()
            return outbox
        places = self._places
        async for entry in outbox.entries(after=places.last, page=PAGE):
            for change in _changes(entry):
                places.add(Role.IN, paths.parent(change.path), entry.sequence)
                if change.ancestor:
                    places.add(Role.MADE, change.path, entry.sequence)
                else:
                    for directory in paths.ancestors(change.path):
                        places.add(Role.BELOW, directory, entry.sequence)
            places.last = max(places.last, entry.sequence)
        return outbox

    def _opened(self, entry: Entry, path: str, *, above: bool = False) -> Waiting | None:
        try:
            for change in _changes(entry):
                if change.path == path and change.ancestor is above:
                    return Waiting(entry, change, change.open(self._keys), entry.state is State.CONFLICT)
        except Corrupt:
            return None  # outbox ls shows it
        return None


def _changes(entry: Entry) -> Sequence[Change]:
    """Of a queued group; nothing of what cannot be read, which ``outbox ls`` shows."""
    if entry.kind != KIND or not entry.payload:
        return ()
    try:
        return decode(entry.payload).changes
    except Corrupt:
        return ()


def gone(waiting: Waiting | None) -> bool:
    """Is it a deletion?"""
    return waiting is not None and waiting.ref.clear.kind is RefKind.TOMBSTONE
