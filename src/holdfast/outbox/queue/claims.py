"""Claims: which process delivers an entry now, and which targets have entries that nobody does.

A claim is (process, boot, lease): void when its process is dead, its machine was started anew, or it was not renewed.
All of it blocks; changes run inside ``QueueFile.change``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apsw

from holdfast.outbox.next_step import ENTRY_BACKOFF_S_MAX, Lane, LaneView
from holdfast.outbox.outcomes import RETRY_AFTER_S_MAX
from holdfast.outbox.queue.errors import as_bytes, as_int
from holdfast.outbox.queue.rows import COLUMNS, READY, Row, distinct

FUTURE_S = RETRY_AFTER_S_MAX + ENTRY_BACKOFF_S_MAX
"""No honest next try is further away: one that is was set by another clock, and is due."""
FREE = "claim = NULL, boot = NULL, claim_until = NULL"


class Claims:
    """Use from the queue's one thread."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def lanes(self, kinds: Iterable[str], now: float, most: int) -> dict[Lane, LaneView]:
        """The targets with entries that are not blocked: how many are due (up to ``most``), when the next one is."""
        found: dict[Lane, LaneView] = {}
        for kind in kinds:
            target = b""
            while True:
                ((target_found,),) = self._db.execute(
                    f"SELECT min(target) FROM entries WHERE kind = ? AND target > ? AND {READY}",  # noqa: S608
                    (kind, target),
                ).fetchall()
                if target_found is None:
                    break
                target = as_bytes(target_found)
                found[kind, target] = self._lane(kind, target, now, most)
        return found

    def _lane(self, kind: str, target: bytes, now: float, most: int) -> LaneView:
        due = 0
        soonest: float | None = None
        for condition, values in (("next_try <= ?", (now,)), ("next_try > ?", (now + FUTURE_S,))):
            ((count,),) = self._db.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM entries WHERE kind = ? AND target = ? AND {READY} "  # noqa: S608
                f"AND {condition} LIMIT ?)",
                (kind, target, *values, most),
            ).fetchall()
            due += as_int(count)
        ((next_,),) = self._db.execute(
            f"SELECT min(next_try) FROM entries WHERE kind = ? AND target = ? AND {READY} AND next_try > ?",  # noqa: S608
            (kind, target, now),
        ).fetchall()
        if isinstance(next_, float):
            soonest = min(next_ - now, FUTURE_S)
        return LaneView(min(due, most), soonest)

    def claim(
        self, lane: Lane, limit: int, *, process: bytes, boot: bytes, now: float, until: float
    ) -> list[tuple[Row, bytes | None]]:
        """Up to ``limit`` due entries of the lane, now this process's, with their inline bodies."""
        found: list[tuple[Row, bytes | None]] = []
        for condition, moment in (("next_try <= ?", now), ("next_try > ?", now + FUTURE_S)):
            left = limit - len(found)
            if left > 0:
                rows: Sequence[Any] = self._db.execute(
                    "UPDATE entries SET claim = ?, boot = ?, claim_until = ?, begun = begun + 1 WHERE sequence IN "  # noqa: S608
                    f"(SELECT sequence FROM entries WHERE kind = ? AND target = ? AND {READY} AND {condition} "
                    f"ORDER BY next_try, sequence LIMIT ?) RETURNING {COLUMNS}, body",
                    (process, boot, until, *lane, moment, left),
                ).fetchall()
                found += [(Row(*row[:-1]), row[-1]) for row in rows]
        return sorted(found, key=lambda one: (one[0].next_try, one[0].sequence))

    def renew(self, sequences: Iterable[int], *, process: bytes, until: float) -> None:
        self._db.executemany(
            "UPDATE entries SET claim_until = ? WHERE sequence = ? AND claim = ?",
            [(until, sequence, process) for sequence in sequences],
        )

    def release(self, *, dead: Callable[[bytes], bool], process: bytes, boot: bytes, now: float) -> int:
        """Frees entries whose claimer is dead, of another boot, or silent for its lease; how many."""
        freed = 0
        for claim in distinct(self._db, "claim", "claim IS NOT NULL"):
            if claim == process:
                continue
            rows: Sequence[Any] = self._db.execute(
                "SELECT sequence, boot, claim_until FROM entries WHERE claim = ?", (claim,)
            ).fetchall()
            gone = dead(claim)
            for sequence, its_boot, until in rows:
                if gone or its_boot != boot or until < now:
                    self.unclaim(sequence, claim)
                    freed += 1
        return freed

    def unclaim(self, sequence: int, process: bytes) -> None:
        """Gives an entry back untried."""
        self._db.execute(f"UPDATE entries SET {FREE} WHERE sequence = ? AND claim = ?", (sequence, process))  # noqa: S608

    def wake(self, lane: Lane, now: float) -> None:
        """All that was deferred on the lane is due now, but for what the target asked to wait."""
        self._db.execute(
            f"UPDATE entries SET next_try = ? WHERE kind = ? AND target = ? AND {READY} AND next_try > ? "  # noqa: S608
            "AND patient = 0",
            (now, *lane, now),
        )
