"""How much: where the bytes are, what a put grant still allows, what may go to trash in an hour. Plain state, no I/O.

Budgets lie in memory, so a restart gives a grant its budget back: at most once more what the coordinator allowed,
within the grant's hour. Capacity and the disk's reserve are the store's account (``stores.disk_space``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from holdfast.errors import Denied, TooManyRequests
from holdfast.stores.disk.space import StoreSpace
from holdfast.wire import messages as m

BUDGETS_MAX = 65_536
TRASH_SHARE = 0.02
TRASH_BYTES_MIN = 1 << 30
HOUR_S = 3600.0
MINUTE_S = 60.0


def accounts(space: StoreSpace, cached: int) -> m.NodeSpace:
    """A store's account as the node tells it; ``cached``: bytes of those blobs that lie in the cache."""
    cached = min(cached, space.used)  # a blob that goes leaves the store a moment before or after the ledger
    return m.NodeSpace(
        used=space.used - cached,
        cached=cached,
        trash=space.trash,
        reclaimable=space.quarantine,
        incoming=space.incoming,
        reserve=space.reserve,
        free=space.available,
    )


@dataclass
class _Budget:
    left: int
    expires: int


@dataclass
class Hold:
    """Bytes reserved for one put; given back at its end unless ``spent``."""

    spent: bool = False


class PutBudgets:
    """What is left of each put grant, by its envelope."""

    def __init__(self) -> None:
        self._budgets: dict[bytes, _Budget] = {}

    def left(self, envelope: bytes, budget: int) -> int:
        """Bytes that a grant of ``budget`` still allows."""
        found = self._budgets.get(envelope)
        return budget if found is None else found.left

    @contextmanager
    def reserved(self, envelope: bytes, budget: int, expires: int, size: int, now: float) -> Iterator[Hold]:
        """Holds ``size`` bytes; Denied if the grant has less left, TooManyRequests if too many grants are open."""
        found = self._budgets.get(envelope)
        if found is None:
            self._make_room(now)
            found = self._budgets[envelope] = _Budget(budget, expires)
        if size > found.left:
            raise Denied(f"{size} bytes are more than the {found.left} that this grant has left; ask for a new plan")
        found.left -= size
        hold = Hold()
        try:
            yield hold
        finally:
            if not hold.spent:
                found.left += size

    def _make_room(self, now: float) -> None:
        if len(self._budgets) < BUDGETS_MAX:
            return
        self._budgets = {key: value for key, value in self._budgets.items() if value.expires >= now}
        if len(self._budgets) >= BUDGETS_MAX:
            raise TooManyRequests("too many put grants are in use at this node", retry_after=60)

    def __len__(self) -> int:
        return len(self._budgets)


class TrashPace:
    """At most 2 % of the bytes held, but at least 1 GiB, go to trash within any hour (docs/design.md, Deletes).

    So that a coordinator gone mad empties no node before its operator can notice. One blob larger than that goes when
    nothing else has gone for an hour. What went is counted by the minute, rounded to the safe side.
    """

    def __init__(self) -> None:
        self._minutes: dict[int, int] = {}  # minute on the monotonic clock -> bytes; at most 61 of them

    def take(self, size: int, held: int, now: float) -> None:
        """Counts ``size`` bytes of the ``held``; TooManyRequests if they must wait. ``now``: monotonic seconds."""
        limit = max(int(held * TRASH_SHARE), TRASH_BYTES_MIN)
        oldest = (now - HOUR_S) // MINUTE_S
        self._minutes = {minute: gone for minute, gone in self._minutes.items() if minute >= oldest}
        gone = sum(self._minutes.values())
        if gone and gone + size > limit:
            raise TooManyRequests(
                f"this node moves at most {limit} bytes to trash in an hour", retry_after=self._wait(size, limit, now)
            )
        minute = int(now // MINUTE_S)
        self._minutes[minute] = self._minutes.get(minute, 0) + size

    def _wait(self, size: int, limit: int, now: float) -> int:
        """Whole seconds until enough of what went is more than an hour ago."""
        gone = sum(self._minutes.values())
        for minute, part in sorted(self._minutes.items()):
            gone -= part
            if not gone or gone + size <= limit:
                return int((minute + 1) * MINUTE_S + HOUR_S - now) + 1
        return int(HOUR_S)
