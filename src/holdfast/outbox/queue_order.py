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
from holdfast.outbox.queue_errors import as_bytes

LAST_MAX = 100_000


class Order:
    """Use from the queue's one thread."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def enter(self, sequence: int, keys: Iterable[bytes]) -> None:
        """Stands in its keys, by sequence; may be called for one that stands there already."""
        for key in sorted(set(keys)):
            ((head,),) = self._db.execute("SELECT min(sequence) FROM names WHERE key = ?", (key,)).fetchall()
            self._db.execute("INSERT OR IGNORE INTO names VALUES (?, ?)", (key, sequence))
            if not self._db.changes() or head is None:
                continue
            later = max(sequence, head)
            self._db.execute("UPDATE entries SET behind = behind + 1 WHERE sequence = ?", (later,))

    def leave(self, sequence: int) -> None:
        """Stands in no key any more; whoever was next in one moves up."""
        for key, next_ in self._behind(sequence):
            self._db.execute("DELETE FROM names WHERE key = ? AND sequence = ?", (key, sequence))
            if next_ is not None:
                self._db.execute("UPDATE entries SET behind = behind - 1 WHERE sequence = ?", (next_,))

    def _behind(self, sequence: int) -> Sequence[Any]:
        """(key, who moves up in it when ``sequence`` goes): nobody where another one stands before it."""
        return self._db.execute(
            "SELECT key, CASE WHEN (SELECT min(a.sequence) FROM names a WHERE a.key = n.key) = n.sequence THEN "
            "(SELECT min(b.sequence) FROM names b WHERE b.key = n.key AND b.sequence > n.sequence) END "
            "FROM names n WHERE sequence = ?",
            (sequence,),
        ).fetchall()

    def re_enter(self, sequence: int, keys: Iterable[bytes]) -> None:
        """Leaves the keys it stands in and enters these, by its sequence; Unavailable while one of them is under way:
        two of a key never are."""
        keys = list(keys)
        for key in keys:
            if self._db.execute(
                "SELECT 1 FROM names n JOIN entries e USING (sequence) WHERE n.key = ? AND e.claim IS NOT NULL", (key,)
            ).fetchall():
                raise Unavailable("another entry for the same name is being delivered just now; try again in a moment")
        self.leave(sequence)
        self._db.execute("UPDATE entries SET behind = 0 WHERE sequence = ?", (sequence,))
        self.enter(sequence, keys)

    def successors(self, sequence: int) -> list[int]:
        """The entries that stand right behind it in one of its keys."""
        found: Sequence[Any] = self._db.execute(
            "SELECT (SELECT min(b.sequence) FROM names b WHERE b.key = n.key AND b.sequence > n.sequence) "
            "FROM names n WHERE n.sequence = ?",
            (sequence,),
        ).fetchall()
        return sorted({next_ for (next_,) in found if next_ is not None})

    def is_first(self, sequence: int) -> bool:
        """Does nothing stand before it in any of its keys?"""
        return bool(self._db.execute("SELECT 1 FROM entries WHERE sequence = ? AND behind = 0", (sequence,)).fetchall())

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
