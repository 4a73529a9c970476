"""Small blobs that were read lately, in memory: hashed once, given out again without a visit to the disk.

What lies here is the copy of one row of the ledger: it counts only while that row stands as it was, so whatever
replaces, moves or removes the blob takes it from here too.
"""

from __future__ import annotations

from collections import OrderedDict

from holdfast.blob import Digest
from holdfast.node.ledger.rows import Entry

SHELF_BYTES = 32 << 20


class Shelf:
    """Plain state. The least recently read go first."""

    def __init__(self, limit: int = SHELF_BYTES) -> None:
        """``limit``: bytes of blobs, all together."""
        self.stored = 0
        self._limit = limit
        self._blobs: OrderedDict[Digest, tuple[int, bytes]] = OrderedDict()

    def find(self, entry: Entry) -> bytes | None:
        """The blob that ``entry`` stands for, if it is here and was right when it came."""
        found = self._blobs.get(entry.digest)
        if found is None:
            return None
        sequence, data = found
        if sequence != entry.sequence or not entry.here:
            self.drop(entry.digest)
            return None
        self._blobs.move_to_end(entry.digest)
        return data

    def put(self, entry: Entry, data: bytes) -> None:
        """``data`` was just read for ``entry`` and has its digest."""
        self.drop(entry.digest)
        if len(data) > self._limit:
            return
        self._blobs[entry.digest] = (entry.sequence, data)
        self.stored += len(data)
        while self.stored > self._limit:
            self.drop(next(iter(self._blobs)))

    def drop(self, digest: Digest) -> None:
        """Fine if it is not here."""
        found = self._blobs.pop(digest, None)
        if found is not None:
            self.stored -= len(found[1])
