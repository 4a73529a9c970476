"""How a file becomes a blob that survives a power cut: sync the file, link it, sync the directories, in this order.

Writers that arrive together share what can be shared. Each writes and syncs its own file in its own thread, so that
the file system's journal commits them together; while a directory is being synced, later comers wait for the next
sync, which one of them does for all. Nobody lingers for company: alone, a put pays nothing for it. (A barrier over a
whole group, all files first and then all directories, was slower in a prototype: docs/design.md, Durable.)
"""

from __future__ import annotations

import contextlib
import threading

from holdfast.blob import Digest
from holdfast.errors import HoldfastError, Unavailable
from holdfast.files import AnyPath, Files
from holdfast.stores.disk.health import DiskHealth
from holdfast.stores.disk.layout import Layout


class _Turn:
    """One directory sync that is still to begin; whoever made it does it."""

    def __init__(self) -> None:
        self.ended = False
        self.failed = False


class DirectorySyncs:
    """Directory syncs shared by threads."""

    def __init__(self, files: Files, health: DiskHealth) -> None:
        self._files = files
        self._health = health
        self._changed = threading.Condition()
        self._running: set[AnyPath] = set()
        self._next: dict[AnyPath, _Turn] = {}

    def sync(self, path: AnyPath) -> None:
        """Returns after a sync of ``path`` that began after this call. Blocks.

        StorePoisoned if it failed, or anything on this store did before: nothing is synced again after that.
        """
        mine: _Turn | None = None  # what others may be waiting for
        with self._changed:
            if path in self._running:
                turn = self._next.get(path)
                if turn is not None:
                    return self._follow(path, turn)
                mine = self._next[path] = _Turn()
                while path in self._running:
                    self._changed.wait()
                del self._next[path]  # whoever comes from here on may have changed something after the sync began
            self._running.add(path)
        failed = True
        try:
            self._health.check()
            with self._health.syncing("the sync of a directory"):
                self._files.sync_directory(path)
            failed = False
        finally:
            with self._changed:
                self._running.discard(path)
                if mine is not None:
                    mine.ended, mine.failed = True, failed
                self._changed.notify_all()
        return None

    def _follow(self, path: AnyPath, turn: _Turn) -> None:
        """With the lock held: waits until another thread has done the sync for us."""
        while not turn.ended:
            self._changed.wait()
        if turn.failed:
            self._health.check()
            raise Unavailable(f"the sync of directory {path} failed")


class Commit:
    """Gives synced files their final names. Every method blocks; all may be called from any thread.

    It knows which directories this process has synced since it started: a name found in another one may still be lost
    in a power cut, so it is synced before anybody is told that the blob is there.
    """

    def __init__(self, files: Files, paths: Layout, health: DiskHealth) -> None:
        self.syncs = DirectorySyncs(files, health)
        self.unsettled: set[Digest] = set()
        """Blobs that have their name but are not durable yet."""
        self._files = files
        self._paths = paths
        self._health = health
        self._settled: set[int] = set()  # first bytes of digests: directories synced since the start

    def link(self, temporary: AnyPath, digest: Digest) -> bool:
        """The file's final name, not yet durable; False if the name is taken."""
        with self._health.changing("making a name"):
            return self._files.link(temporary, self._paths.blob(digest))

    def settle(self, digest: Digest) -> None:
        """Makes the name of ``digest`` durable."""
        self.syncs.sync(self._paths.directory(digest))
        self._settled.add(digest[0])

    def settled(self, digest: Digest) -> None:
        """Like ``settle``, for a name found: nothing to do where this process has synced since its start."""
        if digest[0] not in self._settled:
            self.settle(digest)

    def discard(self, temporary: AnyPath) -> None:
        """Removes a temporary file. What refuses is swept at the next start; a broken disk poisons, nothing raises."""
        with contextlib.suppress(HoldfastError), self._health.changing("removing a temporary file"):
            self._files.unlink(temporary)
