"""Tries: entries are claimed, delivered by somebody, and what came of it is written down.

What is delivered goes by one transaction that also hands its result to the next entry of its key; files go after that,
so that a crash leaves at most an orphan, which a later start removes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from holdfast import logs
from holdfast.errors import Corrupt
from holdfast.outbox.entry import Entry, NewEntry
from holdfast.outbox.next_step import PARKED, Change, Lane, LaneView, Settled
from holdfast.outbox.outcomes import Conflicted, Delivered, Outcome
from holdfast.outbox.queue.bodies import StoredBody, stored_size
from holdfast.outbox.queue.core import QueueCore
from holdfast.outbox.queue.rows import Row, theirs_name

_log = logs.get_logger(__name__)


class Tries:
    """Use from one event loop; any number of calls at once."""

    def __init__(self, core: QueueCore) -> None:
        self._core = core

    async def lanes(self, kinds: Iterable[str], most: int) -> dict[Lane, LaneView]:
        """The targets that have entries of these kinds which nothing stands before."""
        core = self._core
        return await core.ask(lambda: core.file.claims.lanes(tuple(kinds), core.clock.now(), most))

    async def hasten(self, kinds: Iterable[str]) -> None:
        """A person asks: what was deferred is due now, but for what its target asked to wait."""
        core = self._core

        def write() -> None:
            now = core.clock.now()
            with core.file.change(durable=False):
                for lane in core.file.claims.lanes(tuple(kinds), now, 1):
                    core.file.claims.wake(lane, now)

        await core.ask(write)

    async def claim(self, lane: Lane, limit: int) -> list[Entry]:
        """Up to ``limit`` due entries of a lane, claimed for this process; damaged ones are put aside."""
        core, process = self._core, await self._core.token()

        def opened() -> tuple[list[Entry], list[int]]:
            entries, damaged = [], []
            with core.file.change(durable=False):
                rows = core.file.claims.claim(
                    lane,
                    limit,
                    process=process,
                    boot=core.boot,
                    now=core.clock.now(),
                    until=core.clock.monotonic() + core.settings.lease_s,
                )
            for row, inline in rows:
                try:
                    entries.append(core.records.entry(row, inline))
                except Corrupt:
                    damaged.append(row.sequence)
            return entries, damaged

        entries, damaged = await core.ask(opened)
        if damaged:
            _log.error("outbox_entries_damaged", sequences=damaged, directory=str(core.directory))
            await core.write(lambda: core.file.entries.damage(damaged))
        return entries

    async def renew(self, sequences: Sequence[int]) -> None:
        """This process is still at work on these."""
        core, process = self._core, await self._core.token()
        if sequences:
            until = core.clock.monotonic() + core.settings.lease_s
            await core.note(lambda: core.file.claims.renew(sequences, process=process, until=until))

    async def release_dead(self) -> int:
        """Frees what processes had claimed that died or fell silent; how many entries."""
        return await self._core.note(self.release)

    def release(self) -> int:
        """As ``release_dead``, in the queue's thread and inside a change."""
        core = self._core
        return core.file.claims.release(
            dead=core.alive.dead, process=core.process or b"", boot=core.boot, now=core.clock.monotonic()
        )

    async def unclaim(self, sequences: Sequence[int]) -> None:
        """Gives entries back untried."""
        core, process = self._core, await self._core.token()

        def give_back() -> None:
            for sequence in sequences:
                core.file.claims.unclaim(sequence, process)

        if sequences:
            await core.note(give_back)

    async def settle(self, entry: Entry, lane: Lane, settled: Settled, outcome: Outcome) -> bool:
        """Writes down what came of a try, durable; False if the claim was lost meanwhile, and then nothing is."""
        core, process = self._core, await self._core.token()
        theirs: StoredBody | None = None
        theirs_file: list[str] = []
        if isinstance(outcome, Conflicted) and outcome.content is not None:
            theirs = await self._keep_theirs(entry, outcome, process)
            theirs_file = [theirs_name(process, entry.id)]

        def write() -> list[str] | None:
            row = core.file.entries.held_row(entry.sequence, process)
            if row is None:
                return None
            names = self._settled(row, entry, settled, outcome, theirs, process)
            if settled.wake:
                core.file.claims.wake(lane, core.clock.now())
            return names

        try:
            names = await core.write(write)
        except BaseException:
            await core.bodies.remove(theirs_file)
            raise
        await core.bodies.remove(theirs_file if names is None else names)
        return names is not None

    def _settled(
        self, row: Row, entry: Entry, settled: Settled, outcome: Outcome, theirs: StoredBody | None, process: bytes
    ) -> list[str]:
        """In the queue's thread; the files that nobody needs any more."""
        core = self._core
        if settled.change is Change.REMOVE:
            left = outcome.left if isinstance(outcome, Delivered) else None
            if left is not None:
                self.hand_on(row, left, replace=True)
                self._remember(entry, left)
            return core.file.entries.remove(row)
        notes = core.records.notes(row)
        notes["reason"] = "" if isinstance(outcome, Delivered) else outcome.reason
        if settled.change is Change.DEFER:
            core.file.entries.defer(
                row.sequence,
                next_try=core.clock.now() + settled.delay_s,
                reached=settled.reached,
                patient=settled.patient,
                progress=core.records.sealed_notes(row, notes),
            )
            return []
        if isinstance(outcome, Conflicted):
            notes["theirs"] = {
                "facts": dict(outcome.facts),
                "absent": outcome.absent,
                "size": None if theirs is None else theirs.size,
                "digest": None if theirs is None else bytes(theirs.digest),
            }
        else:
            self.hand_on(row, notes.get("left"), replace=False)
        core.file.entries.park(
            row.sequence,
            PARKED[settled.change],
            tried=True,
            reached=settled.reached,
            progress=core.records.sealed_notes(row, notes),
            theirs=0 if theirs is None else stored_size(theirs.size),
            process=process,
        )
        return []

    async def _keep_theirs(self, entry: Entry, outcome: Conflicted, process: bytes) -> StoredBody:
        assert outcome.content is not None, "asked only for a conflict with content"
        core, name = self._core, theirs_name(process, entry.id)
        await core.bodies.remove([name])
        return await core.bodies.store(
            name,
            entry.id,
            core.seals.cipher(entry.id, "theirs"),
            outcome.content(),
            size_max=core.settings.body_bytes_max,
            critical=True,
            inline_max=-1,
        )

    # --- what one delivery leaves for the next ------------------------------------------------------------------------

    def hand_on(self, row: Row, left: Any, *, replace: bool) -> None:
        """The next entries of its keys learn what the target holds now; else they keep what they know.

        In the queue's thread and inside a change.
        """
        if left is None:
            return
        file, records = self._core.file, self._core.records
        for sequence in file.order.successors(row):
            next_ = file.entries.row(sequence)
            if next_.kind != row.kind:
                continue
            notes = records.notes(next_)
            if replace or "left" not in notes:
                notes["left"] = left
                file.entries.set_progress(sequence, records.sealed_notes(next_, notes))

    def _remember(self, entry: Entry, left: Any) -> None:
        """For entries that come later and do not know yet what this one has left."""
        seals = self._core.seals
        key = seals.tag("key", entry.keys[0])
        note = {"kind": entry.kind, "base": entry.payload.get("base"), "left": left}
        self._core.file.order.remember(key, entry.sequence, seals.seal(key, "last", note, b""))

    def recall(self, sequence: int, keys: Sequence[bytes], new: NewEntry) -> None:
        """A write made against the very state that an earlier one, delivered meanwhile, was made against follows it.

        In the queue's thread and inside the change that adds it.
        """
        file = self._core.file
        if len(keys) != 1 or not new.payload.get("base"):
            return
        sealed = file.order.last(keys[0])
        if sealed is None or file.order.first(keys[0]) != sequence:
            return
        try:
            note = self._core.seals.open(keys[0], "last", sealed, b"")
        except Corrupt:
            return
        if note["kind"] == new.kind and note["base"] == new.payload["base"]:
            notes = self._core.records.sealed_notes(file.entries.row(sequence), {"left": note["left"]})
            file.entries.set_progress(sequence, notes)
