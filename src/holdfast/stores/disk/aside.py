"""Files set aside, by digest and moment: the trash and the quarantine of a disk store.

A name is ``<seconds>-<digest>``, seconds with twelve digits on the clock that the store was given; one entry for a
digest, the newest. The index lies in memory, one object for each entry, and is read from the names at start.
Every function blocks and belongs in a pool; callers hold no two operations on one digest at once.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import NamedTuple

from holdfast.blob import Digest
from holdfast.files import AnyPath, Files

_NAME = re.compile(r"([0-9]{12})-([0-9a-f]{64})", re.ASCII)
_SECONDS_MAX = 10**12 - 1


class AsideEntry(NamedTuple):
    """One blob set aside ``since`` that many seconds on the store's slow clock; ``size`` in bytes."""

    digest: Digest
    size: int
    since: int


class Aside:
    """One directory of files set aside."""

    def __init__(self, files: Files, directory: Path) -> None:
        self.directory = directory
        self._files = files
        self._lock = threading.Lock()
        self._entries: dict[Digest, AsideEntry] = {}

    def scan(self) -> int:
        """Reads the directory once; the bytes in it. Of two entries for a digest the older one is removed."""
        for name in self._files.list(self.directory):
            match = _NAME.fullmatch(name)
            size = self._files.size(self.directory / name) if match else None
            if match is None or size is None:
                continue
            digest = Digest(bytes.fromhex(match[2]))
            older = self._entries.get(digest)
            if older is not None:
                self._files.unlink(self._path(older))
            self._entries[digest] = AsideEntry(digest, size, int(match[1]))
        return sum(entry.size for entry in self._entries.values())

    def find(self, digest: Digest) -> AsideEntry | None:
        with self._lock:
            return self._entries.get(digest)

    def entries(self) -> list[AsideEntry]:
        """All, the oldest first."""
        with self._lock:
            return sorted(self._entries.values(), key=lambda entry: (entry.since, entry.digest))

    def path(self, digest: Digest) -> Path | None:
        entry = self.find(digest)
        return None if entry is None else self._path(entry)

    def link(self, source: AnyPath, digest: Digest, size: int, now: float) -> int:
        """Gives ``source`` a name here; returns the bytes of an older entry that it replaced. Syncs nothing."""
        entry = AsideEntry(digest, size, min(max(int(now), 0), _SECONDS_MAX))
        older = self.find(digest)
        target = self._path(entry)
        if not self._files.link(source, target):
            self._files.unlink(target)
            self._files.link(source, target)
        if older is not None and older.since != entry.since:
            self._files.unlink(self._path(older))
        with self._lock:
            self._entries[digest] = entry
        return 0 if older is None else older.size

    def drop(self, digest: Digest) -> int:
        """Removes an entry for good; its bytes, 0 if there was none. Syncs nothing: at worst it shows again."""
        entry = self.find(digest)
        if entry is None:
            return 0
        self._files.unlink(self._path(entry))
        with self._lock:
            self._entries.pop(digest, None)
        return entry.size

    def _path(self, entry: AsideEntry) -> Path:
        return self.directory / f"{entry.since:012d}-{entry.digest}"
