"""What each node is believed to hold, as sums in memory: placements and strangers (docs/design.md, 6, Heartbeat).

A node's sum is read from the database once and then follows every change of placements, so that comparing it with a
heartbeat's root costs nothing. A sum that went wrong is only ever a reason to compare: the placements decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.coordinator.transaction import Moves
from holdfast.inventory import Roots


class Stranger(NamedTuple):
    """A blob on a node that is on no record: no pack, or a pack that nobody committed (yet). ``since``: monotonic.

    ``late``: found when its node was read for the first time, in this network or since a recovery: what refs it brings
    may be known to nobody.
    """

    size: int
    sequence: int
    vault: Id | None
    since: float
    late: bool = False


@dataclass(slots=True)
class Belief:
    """One node's. ``highest``: the highest write sequence in it."""

    roots: Roots
    highest: int = 0
    strangers: dict[Digest, Stranger] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[tuple[bytes, int]]) -> Belief:
        """From (digest, sequence) of the placements."""
        made = cls(Roots())
        for digest, sequence in rows:
            made.roots.add(Digest(digest))
            made.highest = max(made.highest, sequence)
        return made

    def see(self, digest: Digest, stranger: Stranger) -> None:
        """A blob that is on no record is there."""
        known = self.strangers.get(digest)
        if known is None:
            self.roots.add(digest)
        self.strangers[digest] = stranger if known is None else stranger._replace(since=known.since, late=known.late)
        self.highest = max(self.highest, stranger.sequence)

    def lose(self, digest: Digest) -> None:
        """A stranger is there no more."""
        if self.strangers.pop(digest, None) is not None:
            self._remove(digest)

    def place(self, digest: Digest, sequence: int, new: bool) -> None:
        if self.strangers.pop(digest, None) is None and new:
            self.roots.add(digest)
        self.highest = max(self.highest, sequence)

    def _remove(self, digest: Digest) -> None:
        if self.roots.prefix_count(digest[0]):
            self.roots.remove(digest)

    def unplace(self, digest: Digest) -> None:
        self._remove(digest)


class Beliefs:
    """By node number, of those that were read. Used in the event loop, in the order of the transactions."""

    def __init__(self) -> None:
        self.of_node: dict[int, Belief] = {}
        self.short: set[int] = set()
        """Packs that were left with fewer copies than they should have, until repair takes them."""
        self.moved = 0
        """Rises with every change."""

    def take(self, moves: Moves) -> None:
        """A transaction is durable."""
        self.short |= moves.short
        self.moved += bool(moves.placed or moves.gone)
        for node, digest, sequence, new in moves.placed:
            belief = self.of_node.get(node)
            if belief is not None:
                belief.place(digest, sequence, new)
        for node, digest in moves.gone:
            belief = self.of_node.get(node)
            if belief is not None:
                belief.unplace(digest)
