"""Every change that a disk store makes to its disk. All of it blocks: ``disk`` calls it in a pool.

Order is what matters here. A blob: synced, linked, directories synced, then acknowledged. A delete: the second name in
the trash is durable before the first one goes. A crash between any two steps leaves the blob where it was, at worst
with a name too many, and the next start removes that one.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from holdfast import logs
from holdfast.blob import Buffer, Checker, Digest
from holdfast.errors import Corrupt, DigestMismatch, HoldfastError, NoSpace, NotFound, Unavailable
from holdfast.files import Files
from holdfast.stores.ballast import Ballast
from holdfast.stores.disk.aside import Aside
from holdfast.stores.disk.commit import Commit
from holdfast.stores.disk.health import DiskHealth
from holdfast.stores.disk.layout import Layout, make_directories, names
from holdfast.stores.disk.read import hash_file
from holdfast.stores.disk.space import SpaceBook
from holdfast.stores.disk.tally import Tally
from holdfast.stores.protocol import Info

_log = logs.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

EMPTY = Digest.of(b"")
COUNT_AT_START = 20_000
"""Blobs that a start after an unclean stop looks at before it serves; the others are counted meanwhile."""


class DiskChanges:
    """The blocking half of a disk store; its methods may run in several threads at once."""

    def __init__(
        self,
        files: Files,
        paths: Layout,
        *,
        capacity: int | None,
        reserve: int,
        ballast: int,
        trash_clock: Callable[[], float],
    ) -> None:
        self.health = DiskHealth(str(paths.root))
        self.space = SpaceBook(capacity=capacity, reserve=reserve, free=files.space(paths.root).free)
        self.trash = Aside(files, paths.trash)
        self.quarantine = Aside(files, paths.quarantine)
        self.commit = Commit(files, paths, self.health)
        self.tally = Tally(files, paths.clean)
        self._ballast = Ballast(files, paths.ballast, ballast)
        self._files = files
        self._paths = paths
        self._trash_clock = trash_clock
        self._names = itertools.count()
        self._moving = threading.Lock()  # one move to or from trash and quarantine at a time

    # -- start

    def recover(self) -> None:
        """Once, before anything else: sweeps what a crash left and counts what is there, or begins to."""
        self._ballast.start()
        used = self.tally.take()
        for name in self._files.list(self._paths.incoming):
            self._files.unlink(self._paths.incoming / name)
        self.space.move(trash=self.trash.scan(), quarantine=self.quarantine.scan())
        make_directories(self._files, self._paths)
        for entry in self.trash.entries():
            size = self._files.size(self._paths.blob(entry.digest))
            if size or (size == 0 and entry.digest == EMPTY):
                self._settle_both(entry.digest)
        if used is not None:
            self.space.move(used=used)
        seen = 0
        while not self.tally.whole and seen < COUNT_AT_START:
            seen += self.count()

    def count(self) -> int:
        """Counts the next directory; how many blobs are in it. Call it until ``tally.whole``, never twice at once."""
        used, empty = 0, []
        with self.tally.counting() as number:
            directory = self._paths.objects / f"{number:02x}"
            found = names(self._files, directory)
            for name, size in zip(found, self._files.sizes(directory, found), strict=True):
                if size == 0:
                    empty.append(Digest(bytes.fromhex(name)))
                used += size or 0
            self.space.move(used=used)
        for digest in empty:
            if digest != EMPTY:  # what some file systems leave of a file after a power cut
                self._set_aside_empty(digest)
        return len(found)

    def _set_aside_empty(self, digest: Digest) -> None:
        with self._moving:
            if self._files.size(self._paths.blob(digest)) == 0:  # nobody has put it anew meanwhile
                self._set_aside(digest, "empty at the start")

    def finish(self) -> None:
        """At a clean end: what the next start need not count. A disk that refuses is asked again by that start."""
        if self.health.poisoned is None:
            with contextlib.suppress(OSError):
                self.tally.leave(self.space.read().used)

    def _settle_both(self, digest: Digest) -> None:
        """A blob that is also in trash: a delete or a restore was cut short, or it was put again. The blob wins.

        Its name may come from a restore whose sync never ran, so the trash keeps its own until that is made up for.
        """
        with contextlib.suppress(HoldfastError):  # poisoned: both stay, and the store only reads
            self.commit.settle(digest)
            self.space.move(trash=-self.trash.drop(digest))

    def look_at_space(self) -> None:
        """Asks how much is free; a refusal leaves the last answer standing."""
        with contextlib.suppress(OSError):
            free = self._files.space(self._paths.root).free
            self.space.seen(free)
            if self.health.poisoned is None:
                self._ballast.restore(free)

    # -- put

    def look(self, digest: Digest, size: int) -> bool:
        """Is the blob there, and durable from now on? A copy of another size is hashed: never trust the name."""
        self.health.check()
        found = self._files.size(self._paths.blob(digest))
        if found is None:
            return False
        if found != size and not self._keep_if_right(digest, f"{found} bytes instead of {size}"):
            return False
        if found != size:
            raise DigestMismatch(f"{digest} has {found} bytes, {size} were announced")
        self.commit.settled(digest)
        return True

    def look_around(self, digest: Digest, size: int) -> bool:
        """As ``look``; if it is not there, the free space is looked at, too."""
        there = self.look(digest, size)
        if not there:
            self.look_at_space()
        return there

    def keep(self, digest: Digest, size: int, data: Sequence[Buffer]) -> bool:
        """All of a blob whose bytes have come, in one go; True if it is new.

        They are checked also where the blob is there already: whoever sends others has not shown to have it.
        """
        checker = Checker(digest, size)
        for piece in data:
            checker.update(piece)
        checker.finish()
        if self.look(digest, size):
            return False
        temporary = self.temporary()
        try:
            descriptor = self.create(temporary)
            try:
                self.write(descriptor, data[0] if len(data) == 1 else b"".join(data))
                self.sync(descriptor)
            finally:
                self.close(descriptor)
            return self.place(temporary, digest, size)
        finally:
            self.commit.discard(temporary)

    def temporary(self) -> str:
        """A name for a new file on the same file system; whoever asks ends with ``commit.discard``."""
        return self._paths.temporary(next(self._names))

    def create(self, temporary: str) -> int:
        self.health.check()
        with self.health.changing("creating a file"):
            return self._files.create(temporary)

    def write(self, descriptor: int, data: Buffer) -> None:
        with self.health.changing("a write"):
            self._files.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Of a file that nobody was promised yet."""
        self.health.check()
        with self.health.syncing("the sync of a file", disposable=True):
            self._files.sync(descriptor)

    def close(self, descriptor: int) -> None:
        with self.health.changing("closing a file"):
            self._files.close(descriptor)

    def place(self, temporary: str, digest: Digest, size: int) -> bool:
        """The checked and synced file ``temporary`` becomes the blob, durably; True if it is new."""
        self.health.check()
        self.commit.unsettled.add(digest)  # after a failed sync it stays: nobody shall count on this name
        linked = False
        try:
            new = self._name(temporary, digest, size)
            if not new and not self._keep_if_right(digest, "other bytes under its name"):
                new = self._name(temporary, digest, size)
                if not new:
                    raise Unavailable(f"{digest} changes under our hands; does somebody else write in this store?")
            linked = True
        finally:
            if not linked:
                self.commit.unsettled.discard(digest)
        self.commit.settle(digest)
        self.health.check()
        self.commit.unsettled.discard(digest)
        if self.trash.find(digest) is not None:
            with self._moving, self.health.changing("removing from trash"):
                if self._files.size(self._paths.blob(digest)) is not None:  # else a delete came, and it is all there is
                    self.space.move(trash=-self.trash.drop(digest))
        if self.space.stale():
            self.look_at_space()
        return new

    def _name(self, temporary: str, digest: Digest, size: int) -> bool:
        with self.tally.change(digest) as counted:
            new = self.commit.link(temporary, digest)
            if new:
                self.space.kept(size, counted=counted)
        return new

    def _keep_if_right(self, digest: Digest, suspicion: str) -> bool:
        """Hashes the copy that is there; a wrong one goes to quarantine."""
        try:
            right = hash_file(self._files, self._paths.blob(digest)) == digest
        except NotFound:
            return False
        except Corrupt as error:
            right, suspicion = False, error.detail
        if not right:
            self.set_aside(digest, suspicion)
        return right

    # -- trash and quarantine

    def delete(self, wanted: Sequence[Digest]) -> None:
        """Moves what is there to trash, durably."""
        self.health.check()
        with self._moving:
            self._freeing(self._delete, wanted)

    def _freeing(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What makes room in the end: on a full disk it is tried once more without the ballast."""
        try:
            return function(*args, **kwargs)
        except NoSpace:
            with self.health.changing("giving up the ballast"):
                if not self._ballast.give_up():
                    raise
            return function(*args, **kwargs)

    def _delete(self, wanted: Sequence[Digest]) -> None:
        now = self._trash_clock()
        found: list[Info] = []
        for digest in dict.fromkeys(wanted):
            path = self._paths.blob(digest)
            size = self._files.size(path)
            if size is None:
                continue
            with self.health.changing("a move to trash"):
                replaced = self.trash.link(path, digest, size, now)
            self.space.move(trash=size - replaced)
            found.append(Info(digest, size))
        if not found:
            return
        self.commit.syncs.sync(self._paths.trash)
        for digest, size in found:
            with self.health.changing("a move to trash"), self.tally.change(digest) as counted:
                self._files.unlink(self._paths.blob(digest))
                self.space.move(used=-size if counted else 0)
        for directory in dict.fromkeys(self._paths.directory(digest) for digest, _ in found):
            self.commit.syncs.sync(directory)

    def discard(self, wanted: Sequence[Digest]) -> None:
        """Removes for good. By way of the trash, so that a crash leaves each blob either whole or gone."""
        self.delete(wanted)
        with self._moving, self.health.changing("removing from trash"):
            for digest in wanted:
                self.space.move(trash=-self.trash.drop(digest))

    def restore(self, digest: Digest) -> Info:
        """Back from trash, durably; a blob that is not in trash but in the store is fine."""
        self.health.check()
        with self._moving:
            entry = self.trash.find(digest)
            source = self.trash.path(digest)
            if entry is None or source is None:
                size = self._files.size(self._paths.blob(digest))
                if size is None:
                    raise NotFound(f"{digest} is neither in this store nor in its trash")
                self.commit.settled(digest)
                return Info(digest, size)
            with self.tally.change(digest) as counted:
                if self.commit.link(source, digest):
                    self.space.move(used=entry.size if counted else 0)
            self.commit.settle(digest)
            with self.health.changing("removing from trash"):
                self.space.move(trash=-self.trash.drop(digest))
            return Info(digest, entry.size)

    def purge(self, before: float) -> tuple[int, int]:
        """Removes from trash, for good and durably, what was deleted before that second; (entries, bytes)."""
        self.health.check()
        count = size = 0
        with self._moving:
            for entry in self.trash.entries():
                if entry.since >= before:
                    break
                with self.health.changing("emptying the trash"):
                    self.space.move(trash=-self.trash.drop(entry.digest))
                count += 1
                size += entry.size
            if count:
                self.commit.syncs.sync(self._paths.trash)
        self.look_at_space()
        return count, size

    def set_aside(self, digest: Digest, reason: str) -> bool:
        """Moves the copy to quarantine; False if there is none."""
        self.health.check()
        with self._moving:
            return self._freeing(self._set_aside, digest, reason)

    def _set_aside(self, digest: Digest, reason: str) -> bool:
        path = self._paths.blob(digest)
        size = self._files.size(path)
        if size is None:
            return False
        with self.health.changing("a move to quarantine"):
            replaced = self.quarantine.link(path, digest, size, self._trash_clock())
            with self.tally.change(digest) as counted:
                self._files.unlink(path)
                self.space.move(used=-size if counted else 0, quarantine=size - replaced)
        _log.error("blob_quarantined", digest=str(digest), size=size, reason=reason)
        return True
