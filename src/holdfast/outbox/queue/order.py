"""Who stands in which key, and who is next: the tables ``names`` and ``last`` of ``queue.db``.

``names`` holds, for each key, the sequences that wait in it; ``behind`` of an entry counts the keys in which another
one stands before it. Only entries with ``behind`` 0 may be claimed. All of it blocks; changes run inside
``QueueFile.change``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from holdfast.errors import Unavailable
from holdfast.outbox.queue.errors import as_bytes, as_int
from holdfast.outbox.queue.rows import Row, insert_rows

LAST_MAX = 100_000


class Order:
    """Use from the queue's one thread."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def enter(self, sequence: int, keys: Iterable[bytes]) -> None:
        """Stands in these keys, by its sequence; it stands in none yet."""
        for key in keys:
            head = self.first(key)
            self._db.execute("INSERT INTO names VALUES (?, ?)", (key, sequence))
            if head is None:
                continue
            later = max(sequence, head)
            self._db.execute("UPDATE entries SET behind = behind + 1 WHERE sequence = ?", (later,))

    def enter_new(self, places: Sequence[tuple[bytes, int]]) -> None:
        """Keys with the sequences of new entries, each behind all that stand there."""
        insert_rows(self._db, "INSERT INTO names VALUES ", "(?, ?)", places)

    def behind(self, sequence: int, keys: Iterable[bytes]) -> int:
        """In how many of these keys others stand before it."""
        return sum(self.first(key) != sequence for key in keys)

    def leave(self, sequence: int, keys: Iterable[bytes]) -> None:
        """Stands in none of its keys any more; whoever was next in one moves up. May be called twice."""
        for key in keys:
            ((head, next_),) = self._db.execute(
                "SELECT (SELECT min(sequence) FROM names WHERE key = ?1), "
                "(SELECT min(sequence) FROM names WHERE key = ?1 AND sequence > ?2)",
                (key, sequence),
            ).fetchall()
            self._db.execute("DELETE FROM names WHERE key = ? AND sequence = ?", (key, sequence))
            if head == sequence and next_ is not None:
                self._db.execute("UPDATE entries SET behind = behind - 1 WHERE sequence = ?", (next_,))

    def re_enter(self, row: Row, keys: Sequence[bytes]) -> None:
        """Leaves the keys it stands in and enters these, by its sequence; Unavailable while one of them is under way:
        two of a key never are."""
        for key in keys:
            if self._db.execute(
                "SELECT 1 FROM names n JOIN entries e USING (sequence) WHERE n.key = ? AND e.claim IS NOT NULL", (key,)
            ).fetchall():
                raise Unavailable("another entry for the same name is being delivered just now; try again in a moment")
        self.leave(row.sequence, row.tags())
        self._db.execute("UPDATE entries SET behind = 0, keys = ? WHERE sequence = ?", (b"".join(keys), row.sequence))
        self.enter(row.sequence, keys)

    def successors(self, row: Row) -> list[int]:
        """The entries that stand right behind it in one of its keys."""
        found: set[int] = set()
        for key in row.tags():
            ((next_,),) = self._db.execute(
                "SELECT min(sequence) FROM names WHERE key = ? AND sequence > ?", (key, row.sequence)
            ).fetchall()
            if next_ is not None:
                found.add(as_int(next_))
        return sorted(found)

    def first(self, key: bytes) -> int | None:
        """The entry that stands first in a key."""
        ((found,),) = self._db.execute("SELECT min(sequence) FROM names WHERE key = ?", (key,)).fetchall()
        return None if found is None else as_int(found)

    def of_key(self, key: bytes) -> list[int]:
        """The entries that stand in a key, in order."""
        found: Sequence[Any] = self._db.execute(
            "SELECT sequence FROM names WHERE key = ? ORDER BY sequence", (key,)
        ).fetchall()
        return [sequence for (sequence,) in found]

    def remember(self, key: bytes, sequence: int, sealed: bytes) -> None:
        """What the delivery of ``sequence`` left at a key; of about the newest ``LAST_MAX`` entries."""
        self._db.execute("INSERT OR REPLACE INTO last VALUES (?, ?, ?)", (key, sequence, sealed))
        self._db.execute(
            "DELETE FROM last WHERE sequence < (SELECT max(sequence) FROM last) - ? "
            "AND sequence = (SELECT min(sequence) FROM last)",
            (LAST_MAX,),
        )

    def last(self, key: bytes) -> bytes | None:
        """What the newest delivery left at a key, sealed."""
        found = self._db.execute("SELECT sealed FROM last WHERE key = ?", (key,)).fetchone()
        return None if found is None else as_bytes(found[0])
