"""A disk in memory whose power can be cut: what was not synced is kept, dropped or garbled, by a seeded choice.

The model is harsher than ext4 or XFS and within what POSIX allows. A file's bytes are durable up to its last ``sync``;
each page written since may survive, be lost (zeros, or what was there), or be garbage, and its length may be any
between. A directory's entries are durable as of its last ``sync_directory``; each change of an entry since may survive
or not, on its own: so the two halves of a rename across directories may part, and a name may point at a file none of
whose bytes arrived. A directory whose own entry was lost takes what is below with it. (Pillai et al., OSDI 2014, name
which of these real file systems do.)
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from holdfast.blob import Buffer
from holdfast.clock import Randomness
from holdfast.errors import BadConfig
from holdfast.files import AnyPath, Space

PAGE_BYTES = 4096


class _File:
    """An inode of bytes: what programs see, and what would be left."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.durable = b""
        self.holders = 0  # names and descriptors: without any, its bytes are free again

    def sync(self) -> None:
        self.durable = bytes(self.seen)

    def cut(self, randomness: Randomness) -> None:
        """Only what was synced is certain."""
        seen, durable = self.seen, self.durable
        if seen == durable:
            return
        low, high = sorted((len(durable), len(seen)))
        size = (low, high, low + randomness.below(high - low + 1))[randomness.below(3)]
        result = bytearray(size)
        for start in range(0, size, PAGE_BYTES):
            stop = min(start + PAGE_BYTES, size)
            old = durable[start:stop].ljust(stop - start, b"\0")
            new = bytes(seen[start:stop]).ljust(stop - start, b"\0")
            if old != new:
                new = (old, new, bytes(stop - start), randomness.bytes(stop - start))[randomness.below(4)]
            result[start:stop] = new
        self.seen, self.durable = result, bytes(result)


class _Directory:
    """An inode of names."""

    def __init__(self) -> None:
        self.seen: dict[str, _File | _Directory] = {}
        self.durable: dict[str, _File | _Directory] = {}

    def sync(self) -> None:
        self.durable = dict(self.seen)

    def cut(self, randomness: Randomness) -> None:
        for name in sorted(self.seen.keys() | self.durable.keys()):
            old, new = self.durable.get(name), self.seen.get(name)
            left = old if old is new or randomness.below(2) else new
            if left is None:
                self.seen.pop(name, None)
            else:
                self.seen[name] = left
        self.sync()


def _error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


class CrashDisk:
    """A ``Files`` in memory; absolute paths. May be used by several threads until the power is cut.

    ``ignore_sync`` and ``ignore_sync_directory`` make the disk lie, to show that a test would notice.
    """

    def __init__(self, randomness: Randomness, *, total_bytes: int = 1 << 40) -> None:
        self.ignore_sync = False
        self.ignore_sync_directory = False
        self._randomness = randomness
        self._total = total_bytes
        self._root = _Directory()
        self._lock = threading.RLock()
        self._open: dict[int, tuple[_File, bool]] = {}
        self._next = 1000
        self._held: dict[Path, object] = {}
        self._used = 0  # bytes of all files that anybody holds
        self._off = False
        self._cut_in: int | None = None

    # -- power

    def cut_power(self) -> None:
        """Everything not synced is decided; every descriptor and lock is gone. The disk is on again at once."""
        with self._lock:
            self._off, self._cut_in = False, None
            self._open.clear()
            self._held.clear()
            done: set[int] = set()
            waiting: list[_File | _Directory] = [self._root]
            while waiting:
                node = waiting.pop()
                if id(node) in done:
                    continue
                done.add(id(node))
                node.cut(self._randomness)
                if isinstance(node, _Directory):
                    waiting += [node.seen[name] for name in sorted(node.seen)]
            self._count()

    def kill_process(self) -> None:
        """Only the process dies: descriptors and locks are gone, what was written stays visible, synced or not."""
        with self._lock:
            self._off, self._cut_in = False, None
            self._open.clear()
            self._held.clear()
            self._count()

    def fail_in(self, calls: int) -> None:
        """After so many more changing calls the machine is dead: every call is EIO until it is cut or killed."""
        with self._lock:
            self._cut_in = calls

    def _alive(self, path: Path, *, changes: bool = False) -> None:
        if changes and self._cut_in is not None:
            self._cut_in -= 1
            if self._cut_in < 0:
                self._off = True
        if self._off:
            raise _error(errno.EIO, path)

    # -- walking

    def _node(self, path: Path) -> _File | _Directory | None:
        node: _File | _Directory | None = self._root
        for part in path.parts[1:]:
            if not isinstance(node, _Directory):
                return None
            node = node.seen.get(part)
        return node

    def _directory(self, path: Path) -> _Directory:
        node = self._node(path)
        if node is None:
            raise _error(errno.ENOENT, path)
        if not isinstance(node, _Directory):
            raise _error(errno.ENOTDIR, path)
        return node

    def _file(self, path: Path) -> _File:
        node = self._node(path)
        if node is None:
            raise _error(errno.ENOENT, path)
        if not isinstance(node, _File):
            raise _error(errno.EISDIR, path)
        return node

    def _hold(self, file: _File) -> None:
        file.holders += 1
        if file.holders == 1:
            self._used += len(file.seen)

    def _drop(self, file: _File | _Directory | None) -> None:
        if isinstance(file, _File):
            file.holders -= 1
            if file.holders == 0:
                self._used -= len(file.seen)

    def _count(self) -> None:
        """Holders and used bytes anew, from what a power cut left."""
        self._used = 0
        files: list[_File] = []
        waiting: list[_File | _Directory] = [self._root]
        while waiting:
            node = waiting.pop()
            if isinstance(node, _Directory):
                waiting += node.seen.values()
            else:
                node.holders = 0
                files.append(node)
        for file in files:
            self._hold(file)

    def _opened(self, file: _File, *, writes: bool) -> int:
        self._next += 1
        self._hold(file)
        self._open[self._next] = (file, writes)
        return self._next

    def _descriptor(self, descriptor: int) -> _File:
        if descriptor not in self._open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._open[descriptor][0]

    # -- Files

    def create(self, path: AnyPath) -> int:
        path = Path(path)
        with self._lock:
            self._alive(path, changes=True)
            parent = self._directory(path.parent)
            if path.name in parent.seen:
                raise _error(errno.EEXIST, path)
            file = parent.seen[path.name] = _File()
            self._hold(file)
            return self._opened(file, writes=True)

    def open(self, path: AnyPath) -> int:
        path = Path(path)
        with self._lock:
            self._alive(path)
            return self._opened(self._file(path), writes=False)

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        with self._lock:
            self._alive(Path("?"))
            return bytes(self._descriptor(descriptor).seen[offset : offset + size])

    def write(self, descriptor: int, data: Buffer) -> None:
        with self._lock:
            self._alive(Path("?"), changes=True)
            file = self._descriptor(descriptor)
            if not self._open[descriptor][1]:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if len(data) > self._total - self._used:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.seen += data
            self._used += len(data)

    def allocate(self, descriptor: int, size: int) -> None:
        self.write(descriptor, bytes(size))

    def write_back(self, descriptor: int, offset: int, size: int) -> None:
        pass

    def sync(self, descriptor: int) -> None:
        with self._lock:
            self._alive(Path("?"), changes=True)
            file = self._descriptor(descriptor)
            if not self.ignore_sync:
                file.sync()

    def forget(self, descriptor: int) -> None:
        pass

    def close(self, descriptor: int) -> None:
        with self._lock:
            opened = self._open.pop(descriptor, None)
            if opened is not None:
                self._drop(opened[0])

    def link(self, source: AnyPath, target: AnyPath) -> bool:
        source, target = Path(source), Path(target)
        with self._lock:
            self._alive(target, changes=True)
            file, parent = self._file(source), self._directory(target.parent)
            if target.name in parent.seen:
                return False
            parent.seen[target.name] = file
            self._hold(file)
            return True

    def rename(self, source: Path, target: Path) -> None:
        with self._lock:
            self._alive(target, changes=True)
            file, parent = self._file(source), self._directory(target.parent)
            del self._directory(source.parent).seen[source.name]
            self._drop(parent.seen.get(target.name))
            parent.seen[target.name] = file

    def unlink(self, path: AnyPath) -> bool:
        path = Path(path)
        with self._lock:
            self._alive(path, changes=True)
            parent = self._node(path.parent)
            if not isinstance(parent, _Directory) or path.name not in parent.seen:
                return False
            self._drop(parent.seen.pop(path.name))
            return True

    def sync_directory(self, path: AnyPath) -> None:
        path = Path(path)
        with self._lock:
            self._alive(path, changes=True)
            directory = self._directory(path)
            if not self.ignore_sync_directory:
                directory.sync()

    def make_directory(self, path: Path, *, durable: bool = True) -> bool:
        with self._lock:
            node = self._node(path)
            if isinstance(node, _Directory):
                return False
            if path.parent != path:
                self.make_directory(path.parent, durable=durable)
            self._alive(path, changes=True)
            parent = self._directory(path.parent)
            if path.name in parent.seen:
                raise _error(errno.EEXIST, path)
            parent.seen[path.name] = _Directory()
            if durable:
                self.sync_directory(path.parent)
            return True

    def remove_directory(self, path: Path) -> None:
        with self._lock:
            self._alive(path, changes=True)
            if self._directory(path).seen:
                raise _error(errno.ENOTEMPTY, path)
            del self._directory(path.parent).seen[path.name]

    def list(self, path: Path) -> list[str]:
        with self._lock:
            self._alive(path)
            return [] if self._node(path) is None else sorted(self._directory(path).seen)

    def size(self, path: AnyPath) -> int | None:
        path = Path(path)
        with self._lock:
            self._alive(path)
            node = self._node(path)
            return len(node.seen) if isinstance(node, _File) else None

    def sizes(self, path: Path, names: Sequence[str]) -> builtins.list[int | None]:
        return [self.size(path / name) for name in names]

    def space(self, path: Path) -> Space:
        with self._lock:
            self._alive(path)
            return Space(self._total, self._total - self._used)

    def reader(self, path: AnyPath) -> BinaryIO:
        """Has no descriptor: readable, but not for sendfile."""
        path = Path(path)
        with self._lock:
            self._alive(path)
            return io.BytesIO(bytes(self._file(path).seen))

    def lock(self, path: Path) -> AbstractContextManager[None]:
        return self._locked(path)

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        mine = object()
        with self._lock:
            self._directory(path.parent)
            if path in self._held:
                raise BadConfig(f"{path.parent} is in use by another holdfast process")
            self._held[path] = mine
        try:
            yield
        finally:
            with self._lock:
                if self._held.get(path) is mine:  # not if the power was cut and somebody else has it now
                    del self._held[path]
