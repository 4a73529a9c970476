"""Sums over the ledger's rows of blobs that are here: the inventory's roots, bytes held, what lies there for whom."""

from __future__ import annotations

import msgspec

from holdfast.blob import Digest
from holdfast.inventory import PREFIXES, Roots
from holdfast.node.ledger.rows import SHARED, UNROOTED, Entry, Kept


class _Saved(msgspec.Struct, forbid_unknown_fields=True):
    """As a clean stop leaves them."""

    roots: bytes
    counts: list[int]
    held: int
    shared: dict[str, tuple[int, int]]


class Totals:
    """Plain state; the owner adds each row that came to be here and removes each that went."""

    def __init__(self) -> None:
        self.roots = Roots()
        self.held_bytes = 0
        self.shared: dict[Kept, tuple[int, int]] = {}

    def add(self, digest: Digest, size: int, kept: Kept) -> None:
        self._count(kept, 1, size)
        if kept not in UNROOTED:
            self.roots.add(digest)

    def remove(self, digest: Digest, size: int, kept: Kept) -> None:
        self._count(kept, -1, -size)
        if kept not in UNROOTED:
            self.roots.remove(digest)

    def change(self, before: Entry | None, after: Entry | None) -> None:
        """One row was replaced."""
        if before is not None and before.here:
            self.remove(before.digest, before.size, before.kept)
        if after is not None and after.here:
            self.add(after.digest, after.size, after.kept)

    def _count(self, kept: Kept, count: int, size: int) -> None:
        self.held_bytes += size
        if kept in SHARED:
            blobs, stored = self.shared.get(kept, (0, 0))
            self.shared[kept] = (blobs + count, stored + size)

    def encode(self) -> bytes:
        counts = [self.roots.prefix_count(prefix) for prefix in range(PREFIXES)]
        return msgspec.msgpack.encode(
            _Saved(
                self.roots.prefixes(), counts, self.held_bytes, {str(kept): sums for kept, sums in self.shared.items()}
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Totals:
        """ValueError for what ``encode`` did not write."""
        saved = msgspec.msgpack.decode(data, type=_Saved)
        totals = cls()
        totals.roots = Roots.restored(saved.roots, saved.counts)
        totals.held_bytes = saved.held
        for kept in SHARED:
            if kept in saved.shared:
                totals.shared[kept] = saved.shared[kept]
        return totals
