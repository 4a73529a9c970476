"""What each node is believed to hold, as sums in memory: placements and strangers (docs/design.md, 6, Heartbeat).

A node's sum is read from the database once and then follows every change of placements, so that comparing it with a
heartbeat's root costs nothing. A clean stop leaves the sums for the next start. A sum that went wrong is only ever a
reason to compare: the placements decide.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.coordinator.transaction import Moves
from holdfast.inventory import PREFIXES, ROOTS_BYTES, Roots

_COUNTS = struct.Struct(f">{PREFIXES + 1}Q")


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

    def encode(self) -> bytes:
        """The sums of what is on record, without the strangers."""
        roots = Roots.restored(self.roots.prefixes(), list(map(self.roots.prefix_count, range(PREFIXES))))
        for digest in self.strangers:
            roots.remove(digest)
        return roots.prefixes() + _COUNTS.pack(*map(roots.prefix_count, range(PREFIXES)), self.highest)

    @classmethod
    def decode(cls, saved: bytes) -> Belief:
        """ValueError if these are no sums."""
        if len(saved) != ROOTS_BYTES + _COUNTS.size:
            raise ValueError("these are not the sums of a node")
        *counts, highest = _COUNTS.unpack(saved[ROOTS_BYTES:])
        return cls(Roots.restored(saved[:ROOTS_BYTES], counts), highest)

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


class Reading:
    """A belief while its placements are read page by page, beside transactions that change them.

    A page shows some of these changes and not others, so all of them are noted, and at the end the last word counts.
    """

    def __init__(self) -> None:
        self.belief = Belief(Roots())
        self.placed: dict[Digest, int] = {}
        """Digest -> write sequence."""
        self._changed: dict[Digest, int | None] = {}

    def page(self, rows: Iterable[tuple[int, bytes, int]]) -> None:
        """(pack, digest, sequence) of the placements."""
        for _, raw, sequence in rows:
            digest = Digest(raw)
            self.placed[digest] = sequence
            self.belief.place(digest, sequence, new=True)

    def change(self, digest: Digest, sequence: int | None) -> None:
        """None: the copy went."""
        self._changed[digest] = sequence

    def end(self) -> Belief:
        for digest, sequence in self._changed.items():
            new = digest not in self.placed
            if sequence is not None:
                self.belief.place(digest, sequence, new)
                self.placed[digest] = sequence
            elif not new:
                self.belief.unplace(digest)
                del self.placed[digest]
        return self.belief


class Beliefs:
    """By node number, of those that were read. Used in the event loop, in the order of the transactions."""

    def __init__(self) -> None:
        self.of_node: dict[int, Belief] = {}
        self.reading: dict[int, Reading] = {}
        self.short: set[int] = set()
        """Packs that were left with fewer copies than they should have, until repair takes them."""
        self.moved = 0
        """Rises with every change."""

    def take(self, moves: Moves) -> None:
        """A transaction is durable."""
        self.short |= moves.short
        self.moved += bool(moves.placed or moves.gone)
        for node, digest, sequence, _ in moves.placed if self.reading else ():
            if node in self.reading:
                self.reading[node].change(digest, sequence)
        for node, digest in moves.gone if self.reading else ():
            if node in self.reading:
                self.reading[node].change(digest, None)
        for node, digest, sequence, new in moves.placed:
            belief = self.of_node.get(node)
            if belief is not None:
                belief.place(digest, sequence, new)
        for node, digest in moves.gone:
            belief = self.of_node.get(node)
            if belief is not None:
                belief.unplace(digest)
