"""A file that takes up room only to be given up: when others have filled a disk, what frees room still finds some.

To delete a blob takes a few blocks for a name in the trash and a row in the ledger. Puts leave a reserve to others, but
others need not, so a little of the disk is held for that moment. Once given up anybody may take it; it is made again
when the disk has room for several of its kind. No promise depends on it, so it is not synced.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from holdfast import logs
from holdfast.files import Files

BALLAST_BYTES = 1 << 20
ROOM_FACTOR = 4
"""It is made where so many of its size are free."""

_log = logs.get_logger(__name__)


class Ballast:
    """One such file; every method blocks and may be called from any thread."""

    def __init__(self, files: Files, path: Path, size: int) -> None:
        """``size`` in bytes; 0 means that there is none."""
        self._files = files
        self._path = path
        self._size = size
        self._lock = threading.Lock()
        self._held = False

    def start(self) -> None:
        """Once, before anything else: what an earlier process left counts, and goes at once if nothing is free."""
        if self._size == 0:
            return
        with self._lock:
            found = self._files.size(self._path)
            self._held = found == self._size
            if found is not None and not self._held:
                self._files.unlink(self._path)
        free = self._files.space(self._path.parent).free
        if free < self._size:
            self.give_up()
        else:
            self.restore(free)

    def give_up(self) -> bool:
        """Frees its room; False if it had been given up before. OSError."""
        with self._lock:
            if not self._held:
                return False
            self._files.unlink(self._path)
            self._held = False
        _log.warning("ballast_given_up", path=str(self._path), size=self._size)
        return True

    def restore(self, free: int | None = None) -> None:
        """Makes it again if there is room; ``free`` bytes were seen a moment ago. A disk that refuses has its way."""
        if self._held or self._size == 0:
            return
        with self._lock, contextlib.suppress(OSError):
            if self._held:
                return
            if free is None:
                free = self._files.space(self._path.parent).free
            if free < ROOM_FACTOR * self._size:
                return
            self._files.unlink(self._path)
            descriptor = self._files.create(self._path)
            try:
                self._files.allocate(descriptor, self._size)
                self._held = True
            finally:
                self._files.close(descriptor)
                if not self._held:
                    self._files.unlink(self._path)
