"""What the outbox holds of names: the newest waiting change of each, for reads and for the next write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from holdfast.blob import Digest
from holdfast.client.offline.outbox_door import OutboxDoor
from holdfast.client.offline.ref_entry import KIND, Change, decode
from holdfast.codec import paths
from holdfast.codec.keys import VaultKeys
from holdfast.codec.refs import Ref, RefKind
from holdfast.errors import Corrupt, Unavailable
from holdfast.outbox.entry import KEYS_MAX, Entry, State
from holdfast.outbox.outbox import Outbox

WAITING = (State.WAITING, State.DEFERRED, State.CONFLICT)
PAGE = 1000


class Waiting(NamedTuple):
    """A queued change. ``conflict``: it, or one before it, waits for a person: the network has something else."""

    entry: Entry
    change: Change
    ref: Ref
    conflict: bool


class QueuedNames:
    """Reads one home's outbox, if there is one. Any number of calls at once.

    Listing needs all queued names: they are read once, and again when the queue is another one.
    """

    def __init__(self, keys: VaultKeys, door: OutboxDoor | None) -> None:
        self._keys = keys
        self._door = door
        self._signature: tuple[int, int] = (0, 0)  # (last sequence, entries)
        self._named: dict[str, int] = {}
        self._above: dict[str, int] = {}
        self._inside: dict[str, set[str]] = {}

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
        sequence = self._above.get(path)
        if outbox is None or sequence is None:
            return None
        entry = await outbox.queue.find(sequence)
        return self._opened(entry, path, above=True)

    async def inside(self, directory: str) -> dict[str, Waiting]:
        """The newest queued changes of names in a directory, deletions too, by path."""
        await self._looked()
        found: dict[str, Waiting] = {}
        for path in sorted(self._inside.get(directory, ())):
            waiting = await self.newest(path)
            if waiting is None:
                waiting = await self.on_the_way(path)
            if waiting is not None:
                found[path] = waiting
        return found

    async def below(self, directory: str) -> list[str]:
        """Names that wait below a directory. Unavailable if they are too many to be waited for by one entry."""
        await self._looked()
        prefix = directory + "/"
        found = [path for path in self._named if path.startswith(prefix)]
        if len(found) >= KEYS_MAX:
            raise Unavailable(
                f"{len(found)} writes below {directory} wait in the outbox; deliver them first (holdfast outbox flush)"
            )
        return found

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

    async def _looked(self) -> Outbox | None:
        """Brings the list of queued names up to date."""
        outbox = await self.outbox()
        if outbox is None:
            return None
        count = sum(total.entries for total in await outbox.totals() if total.state in WAITING)
        last, known = self._signature
        if count:
            fresh = [entry async for entry in outbox.entries(after=last, states=WAITING, page=PAGE)]
            if known + len(fresh) != count:
                self._forget()
                last, known = 0, 0
                fresh = [entry async for entry in outbox.entries(states=WAITING, page=PAGE)]
            for entry in fresh:
                self._take(entry)
                last = entry.sequence
            self._signature = (last, known + len(fresh))
        elif known:
            self._forget()
        return outbox

    def _forget(self) -> None:
        self._signature = (0, 0)
        self._named.clear()
        self._above.clear()
        self._inside.clear()

    def _take(self, entry: Entry) -> None:
        if entry.kind != KIND or not entry.payload:
            return
        for change in decode(entry.payload).changes:
            (self._above if change.ancestor else self._named)[change.path] = entry.sequence
            self._inside.setdefault(paths.parent(change.path), set()).add(change.path)

    def _opened(self, entry: Entry, path: str, *, above: bool = False) -> Waiting | None:
        if entry.kind != KIND or not entry.payload:
            return None
        try:
            for change in decode(entry.payload).changes:
                if change.path == path and change.ancestor is above:
                    return Waiting(entry, change, change.open(self._keys), entry.state is State.CONFLICT)
        except Corrupt:
            return None  # outbox ls shows it
        return None


def gone(waiting: Waiting | None) -> bool:
    """Is it a deletion?"""
    return waiting is not None and waiting.ref.clear.kind is RefKind.TOMBSTONE
