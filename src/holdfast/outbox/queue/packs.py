"""The tables ``packs`` and ``needs`` of ``queue.db``: queued packs, and which entries wait for them.

All of it blocks; changes run inside ``QueueFile.change``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw

from holdfast.blob import Digest
from holdfast.errors import NotFound
from holdfast.outbox.queue.errors import as_bytes, as_int
from holdfast.outbox.queue.rows import PackRow


class Packs:
    """Use from the queue's one thread."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def add(self, packs: Sequence[tuple[Digest, int]], process: bytes) -> None:
        """Packs that ``process`` has stored, with their sizes; known ones are left as they are."""
        self._db.executemany(
            "INSERT OR IGNORE INTO packs (digest, size, process) VALUES (?, ?, ?)",
            [(bytes(digest), size, process) for digest, size in packs],
        )

    def need(self, sequence: int, digests: Iterable[Digest]) -> None:
        """The entry waits for these; NotFound for one that is not in the outbox."""
        for digest in digests:
            if not self._db.execute("SELECT 1 FROM packs WHERE digest = ?", (bytes(digest),)).fetchall():
                raise NotFound(f"the outbox does not hold the pack {digest}")
            self._db.execute("INSERT OR IGNORE INTO needs VALUES (?, ?)", (sequence, bytes(digest)))

    def forget(self, sequence: int) -> list[str]:
        """The entry waits for none any more; returns the files of packs that nobody needs now."""
        digests = self.needed_by(sequence)
        if not digests:
            return []
        names = []
        self._db.execute("DELETE FROM needs WHERE sequence = ?", (sequence,))
        for digest in digests:
            pack = self.find(digest)
            if pack is not None and not pack.needed:
                self._db.execute("DELETE FROM packs WHERE digest = ?", (bytes(digest),))
                names.append(pack.file_name())
        return names

    def needed_by(self, sequence: int) -> tuple[Digest, ...]:
        found = self._db.execute("SELECT digest FROM needs WHERE sequence = ?", (sequence,)).fetchall()
        return tuple(Digest(as_bytes(digest)) for (digest,) in found)

    def find(self, digest: Digest) -> PackRow | None:
        found = self._db.execute("SELECT size, process, facts FROM packs WHERE digest = ?", (bytes(digest),)).fetchone()
        if found is None:
            return None
        ((needed,),) = self._db.execute("SELECT count(*) FROM needs WHERE digest = ?", (bytes(digest),)).fetchall()
        size, process, facts = found
        return PackRow(
            digest, as_int(size), as_bytes(process), None if facts is None else as_bytes(facts), as_int(needed)
        )

    def set_facts(self, digest: Digest, facts: bytes) -> None:
        """What their sender left, sealed."""
        self._db.execute("UPDATE packs SET facts = ? WHERE digest = ?", (facts, bytes(digest)))
