"""What a person may wish of an entry: again, never, or the end of a conflict."""

from __future__ import annotations

from typing import Any

from holdfast.errors import BadRequest, Unavailable
from holdfast.outbox.entry import Entry, NewEntry, State
from holdfast.outbox.queue.core import QueueCore
from holdfast.outbox.queue.rows import Row
from holdfast.outbox.queue.tries import Tries


class Wishes:
    """Use from one event loop; any number of calls at once. Each is durable when it returns."""

    def __init__(self, core: QueueCore, tries: Tries) -> None:
        self._core = core
        self._tries = tries

    async def retry(self, sequence: int) -> Entry:
        """Again, now; from any state but a conflict. NotFound, BadRequest."""
        core = self._core

        def write() -> Entry:
            row = self._free_row(sequence)
            if row.state == State.CONFLICT:
                raise BadRequest(f"entry {sequence} is a conflict: resolve it, keeping mine, theirs or both")
            entry = core.records.entry(row)  # Corrupt for a damaged one
            core.file.entries.set_waiting(sequence)
            if row.state not in (State.WAITING, State.DEFERRED):
                core.file.order.re_enter(row, [core.seals.tag("key", key) for key in entry.keys])
            return core.records.entry(core.file.entries.row(sequence))

        return await core.write(write)

    async def drop(self, sequence: int) -> None:
        """Gives the entry up for good; the next of its keys moves up. NotFound, Unavailable while it is under way."""
        core = self._core

        def write() -> list[str]:
            row = self._free_row(sequence)
            self._tries.hand_on(row, core.records.notes(row).get("left"), replace=False)
            return core.file.entries.remove(row)

        await core.bodies.remove(await core.write(write))

    async def resolve_mine(self, sequence: int, left: Any) -> Entry:
        """A conflict goes out again, over the state ``left`` (what was found there)."""
        core = self._core

        def write() -> tuple[Entry, list[str]]:
            row = self._conflict(sequence)
            names = core.file.entries.drop_theirs(row)
            core.file.entries.set_progress(sequence, core.records.sealed_notes(row, {"left": left}))
            core.file.entries.set_waiting(sequence)
            return core.records.entry(core.file.entries.row(sequence)), names

        entry, names = await core.write(write)
        await core.bodies.remove(names)
        return entry

    async def resolve_elsewhere(self, sequence: int, new: NewEntry) -> Entry:
        """A conflict goes out under other keys, with its body; what is at the old name stays."""
        core, delivery_class = self._core, new.delivery_class()

        def write() -> tuple[Entry, list[str]]:
            row = self._conflict(sequence)
            entry = core.records.entry(row)
            if new.kind != row.kind or delivery_class != row.delivery_class or new.needs != entry.needs:
                raise BadRequest("a conflict keeps its kind, class and packs when it gets another name")
            names = core.file.entries.drop_theirs(row)
            sealed = core.records.sealed_record(
                row.id,
                new,
                delivery_class=delivery_class,
                size=row.size,
                created=entry.created,
                digest=entry.digest,
            )
            core.file.entries.set_record(sequence, sealed, core.seals.tag("target", new.target))
            core.file.entries.set_progress(sequence, None)
            core.file.entries.set_waiting(sequence)
            core.file.order.re_enter(row, [core.seals.tag("key", key) for key in new.keys])
            return core.records.entry(core.file.entries.row(sequence)), names

        entry, names = await core.write(write)
        await core.bodies.remove(names)
        return entry

    def _free_row(self, sequence: int) -> Row:
        row = self._core.file.entries.row(sequence)
        if row.claim is not None:
            raise Unavailable(f"entry {sequence} is being delivered just now; try again in a moment")
        return row

    def _conflict(self, sequence: int) -> Row:
        row = self._free_row(sequence)
        if row.state != State.CONFLICT:
            raise BadRequest(f"entry {sequence} is no conflict, it is {State(row.state).label}")
        return row
