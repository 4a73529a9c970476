"""How much: bytes that a put grant still allows, and bytes that may go to trash in an hour. Plain state, no I/O.

Budgets lie in memory, so a restart gives a grant its budget back: at most once more what the coordinator allowed,
within the grant's hour. Capacity and the disk's reserve are the store's account (``stores.disk_space``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from holdfast.errors import Denied, TooManyRequests

BUDGETS_MAX = 65_536
TRASH_SHARE = 0.02
TRASH_BYTES_MIN = 1 << 30
HOUR_S = 3600.0


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
    """At most 2 % of the bytes held, but at least 1 GiB, go to trash within an hour (docs/design.md, Deletes).

    A leaking bucket, so that a coordinator gone mad empties no node before its operator can notice. One blob larger
    than that goes when nothing else has gone for an hour.
    """

    def __init__(self) -> None:
        self._level = 0.0
        self._at = 0.0

    def take(self, size: int, held: int, now: float) -> None:
        """Counts ``size`` bytes of the ``held``; TooManyRequests if they must wait. ``now``: monotonic seconds."""
        limit = max(held * TRASH_SHARE, TRASH_BYTES_MIN)
        level = max(self._level - (now - self._at) * limit / HOUR_S, 0.0)
        if level and level + size > limit:
            wait = min((level + size - limit) * HOUR_S / limit, HOUR_S)
            raise TooManyRequests(
                f"this node moves at most {int(limit)} bytes to trash in an hour", retry_after=int(wait) + 1
            )
        self._level, self._at = level + size, now
