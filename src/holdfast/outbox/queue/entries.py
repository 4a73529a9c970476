"""The table ``entries`` of ``queue.db``: rows come, change their state and go; questions about them.

Each question has its index, and counts are kept by triggers. All of it blocks; changes run inside
``QueueFile.change``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apsw

from holdfast.blob import Digest
from holdfast.errors import BadRequest, NotFound
from holdfast.outbox.entry import DeliveryClass, State
from holdfast.outbox.queue.claims import FREE
from holdfast.outbox.queue.errors import as_bytes, as_int
from holdfast.outbox.queue.order import Order
from holdfast.outbox.queue.packs import Packs
from holdfast.outbox.queue.rows import COLUMNS, Fresh, Row, Total, distinct, insert_rows
from holdfast.outbox.queue.schema import COUNT, PACKS, UNCOUNTED_MAX

_NEWEST = "SELECT (SELECT ifnull(max(sequence), 0) FROM entries), newest FROM counted"
_INSERT = (
    "INSERT INTO entries (sequence, behind, id, state, class, kind, size, stored, filed, theirs, begun, tries, "
    "reached, next_try, patient, target, keys, process, sealed, body) VALUES "
)
_PLACES = (
    "(?, ? + EXISTS (SELECT 1 FROM names WHERE key = ? AND sequence < ?), ?, 0, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0.0, 0, "
    "?, ?, ?, ?, ?)"
)
_SEQUENCE_MAX = (1 << 63) - 1
_UNCOUNTED = "FROM entries WHERE sequence > (SELECT newest FROM counted)"
_BLOCKING = (State.WAITING, State.DEFERRED, State.CONFLICT)


def counts(sequences: range) -> bool:
    """Do new entries with these sequences bring all that are uncounted into the counts?"""
    return sequences[-1] % UNCOUNTED_MAX < len(sequences)


def _in(state: State) -> str:
    """The condition, in the words of the index ``entries_tried`` where it is in it."""
    return f"state = {state:d} AND state != 0" if state else "state = 0"


class Entries:
    """Use from the queue's one thread."""

    def __init__(self, db: apsw.Connection, order: Order, packs: Packs) -> None:
        self._db = db
        self._order = order
        self._packs = packs

    # --- changes ------------------------------------------------------------------------------------------------------

    def add(self, fresh: Sequence[Fresh], process: bytes, packs: Sequence[tuple[Digest, int]] = ()) -> range:
        """Their sequences. ``packs``: those of their needs that this process has just stored, with their
        sizes; NotFound for a need that is nowhere."""
        ((newest, counted),) = self._db.execute(_NEWEST).fetchall()
        first = max(as_int(newest), as_int(counted)) + 1
        numbered = list(enumerate(fresh, first))
        self._order.enter_new([(key, sequence) for sequence, one in numbered for key in one.keys])
        insert_rows(
            self._db,
            _INSERT,
            _PLACES,
            [
                (
                    sequence, self._order.behind(sequence, one.keys[1:]), one.keys[0], sequence, one.id,
                    one.delivery_class, one.kind, one.size, one.stored, one.filed, one.target, b"".join(one.keys),
                    process, one.sealed, one.body,
                )
                for sequence, one in numbered
            ],
        )  # fmt: skip
        if packs:
            self._packs.add(packs, process)
        for sequence, one in numbered:
            if one.needs:
                self._packs.need(sequence, one.needs)
        sequences = range(first, first + len(fresh))
        if counts(sequences):
            self._db.execute(COUNT)
        return sequences

    def defer(self, sequence: int, *, next_try: float, reached: bool, patient: bool, progress: bytes | None) -> None:
        self._db.execute(
            "UPDATE entries SET state = ?, tries = tries + 1, reached = reached + ?, next_try = ?, patient = ?, "  # noqa: S608
            f"progress = ?, {FREE} WHERE sequence = ?",
            (int(State.DEFERRED), int(reached), next_try, int(patient), progress, sequence),
        )

    def park(
        self, sequence: int, state: State, *, tried: bool, reached: bool, progress: bytes | None,
        theirs: int = 0, process: bytes | None = None,
    ) -> None:  # fmt: skip
        """To a state that only a person ends. All but conflicts let the next of their keys go on.

        ``theirs``: stored bytes of the other side's content, in a file of ``process``.
        """
        self._db.execute(
            "UPDATE entries SET state = ?, tries = tries + ?, reached = reached + ?, progress = ?, theirs = ?, "  # noqa: S608
            f"theirs_process = ?, stored = stored + ? - theirs, {FREE} WHERE sequence = ?",
            (int(state), int(tried), int(reached), progress, theirs, process, theirs, sequence),
        )
        if state not in _BLOCKING:
            self._stand_aside(sequence)

    def damage(self, sequences: Iterable[int]) -> None:
        """Their records cannot be opened: put aside as they are."""
        for sequence in sequences:
            self._db.execute(
                f"UPDATE entries SET state = ?, {FREE} WHERE sequence = ?",  # noqa: S608
                (int(State.DAMAGED), sequence),
            )
            self._stand_aside(sequence)

    def _stand_aside(self, sequence: int) -> None:
        self._order.leave(sequence, self.row(sequence).tags())
        self._db.execute("UPDATE entries SET behind = 0 WHERE sequence = ?", (sequence,))

    def remove(self, row: Row) -> list[str]:
        """The entry is delivered or dropped; returns the files that nobody needs any more."""
        names = [row.file_name()] * bool(row.filed) + [row.theirs_name()] * bool(row.theirs)
        self._order.leave(row.sequence, row.tags())
        names += self._packs.forget(row.sequence)
        self._db.execute("DELETE FROM entries WHERE sequence = ?", (row.sequence,))
        return names

    def set_waiting(self, sequence: int) -> None:
        """A person says: again, now. It takes its old place in its keys if it still stands in them."""
        self._db.execute(
            "UPDATE entries SET state = ?, next_try = 0.0, patient = 0 WHERE sequence = ?",
            (int(State.WAITING), sequence),
        )

    def set_record(self, sequence: int, sealed: bytes, target: bytes) -> None:
        self._db.execute("UPDATE entries SET sealed = ?, target = ? WHERE sequence = ?", (sealed, target, sequence))

    def set_progress(self, sequence: int, progress: bytes | None) -> None:
        self._db.execute("UPDATE entries SET progress = ? WHERE sequence = ?", (progress, sequence))

    def drop_theirs(self, row: Row) -> list[str]:
        """What was kept of the other side goes; returns its file."""
        if not row.theirs:
            return []
        self._db.execute("UPDATE entries SET stored = stored - theirs, theirs = 0 WHERE sequence = ?", (row.sequence,))
        return [row.theirs_name()]

    # --- questions ----------------------------------------------------------------------------------------------------

    def row(self, sequence: int) -> Row:
        """NotFound if there is none."""
        rows = self._select("sequence = ?", (sequence,))
        if not rows:
            raise NotFound(f"the outbox has no entry {sequence}")
        return rows[0]

    def held_row(self, sequence: int, process: bytes) -> Row | None:
        """The row if ``process`` still has the claim."""
        return next(iter(self._select("sequence = ? AND claim = ?", (sequence, process))), None)

    def body(self, sequence: int) -> bytes | None:
        """The inline body, sealed."""
        found = self._db.execute("SELECT body FROM entries WHERE sequence = ?", (sequence,)).fetchone()
        return None if found is None or found[0] is None else as_bytes(found[0])

    def page(self, after: int, limit: int, states: Sequence[State] | None) -> list[Row]:
        """Entries above sequence ``after``, ascending; of these states only, if given."""
        if states is None:
            return self._select("sequence > ? ORDER BY sequence LIMIT ?", (after, limit))
        rows = []
        for state in states:  # together they are at most a few pages
            rows += self._select(f"{_in(state)} AND sequence > ? ORDER BY sequence LIMIT ?", (after, limit))
        return sorted(rows)[:limit]

    def totals(self) -> list[Total]:
        rows: Sequence[Any] = self._db.execute(
            "SELECT state, class, sum(entries), sum(stored) FROM (SELECT state, class, entries, stored FROM counts "  # noqa: S608
            f"UNION ALL SELECT state, class, 1, stored {_UNCOUNTED}) GROUP BY state, class"
        ).fetchall()
        return [
            Total(
                None if state == PACKS else State(state),
                None if state == PACKS else DeliveryClass(class_),
                entries,
                stored,
            )
            for state, class_, entries, stored in rows
        ]

    def stored(self) -> int:
        """Bytes of all bodies and packs."""
        ((found,),) = self._db.execute(
            f"SELECT ifnull((SELECT sum(stored) FROM counts), 0) + ifnull((SELECT sum(stored) {_UNCOUNTED}), 0)"  # noqa: S608
        ).fetchall()
        return as_int(found)

    def oldest(self) -> Row | None:
        """Of those that are still to be delivered."""
        tried = self._select(f"{_in(State.DEFERRED)} ORDER BY sequence LIMIT 1", ())
        below = tried[0].sequence if tried else _SEQUENCE_MAX
        fresh = self._select(f"{_in(State.WAITING)} AND sequence < ? ORDER BY sequence LIMIT 1", (below,))
        return next(iter(fresh + tried), None)

    def moderate_of(self, dead: Callable[[bytes], bool]) -> list[int]:
        """Moderate entries of processes that are gone."""
        found: list[int] = []
        condition = f"class = {DeliveryClass.MODERATE:d}"
        for process in distinct(self._db, "process", condition):
            if dead(process):
                rows: Sequence[Any] = self._db.execute(
                    f"SELECT sequence FROM entries WHERE {condition} AND process = ?",  # noqa: S608
                    (process,),
                ).fetchall()
                found += [sequence for (sequence,) in rows]
        return found

    def is_named(self, name: str) -> bool:
        """Does a row name this file of the bodies?"""
        process, _, rest = name.partition("-")
        try:
            if rest.endswith(".pack"):
                pack = self._packs.find(Digest.parse(rest.removesuffix(".pack")))
                return pack is not None and pack.file_name() == name
            owner, size = ("theirs_process", "theirs") if rest.endswith(".theirs") else ("process", "filed")
            values = (bytes.fromhex(rest.removesuffix(".theirs")), bytes.fromhex(process))
        except (ValueError, BadRequest):
            return True  # not ours: leave it
        found = self._db.execute(
            f"SELECT 1 FROM entries WHERE id = ? AND {owner} = ? AND {size} != 0 AND (filed != 0 OR theirs != 0)",  # noqa: S608
            values,
        ).fetchone()
        return found is not None

    def _select(self, condition: str, values: tuple[Any, ...]) -> list[Row]:
        rows: Sequence[Any] = self._db.execute(
            f"SELECT {COLUMNS} FROM entries WHERE {condition}",  # noqa: S608
            values,
        ).fetchall()
        return [Row(*row) for row in rows]
