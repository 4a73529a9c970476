"""A disk that fails when it is told to: wraps any ``Files``, records every call and refuses the n-th of a kind.

Most catastrophic failures sit in error handlers that nobody ran, so tests walk through every call of an operation:
run it once without faults, count the calls, then once for each of them with a fault there.
"""

from __future__ import annotations

import builtins
import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from holdfast.blob import Buffer
from holdfast.files import AnyPath, Files, Space

SHORT_WRITE = -1
"""As ``error``: half of the bytes are written, then the disk is full."""


class Call(NamedTuple):
    """One call that reached the disk. ``paths``: as given, or the path that a descriptor was opened with."""

    method: str
    paths: tuple[Path, ...]
    error: int | None  # the fault it met


@dataclass(eq=False)
class Fault:
    """Refuses calls of ``method`` number ``first`` (from 0, counted from when it was set) to ``first + times - 1``."""

    method: str
    error: int = errno.EIO  # an errno, or SHORT_WRITE
    first: int = 0
    times: int = 1
    below: Path | None = None  # only paths in this directory count
    seen: int = 0
    hit: int = 0

    def meets(self, method: str, paths: tuple[Path, ...]) -> bool:
        if method != self.method:
            return False
        if self.below is not None and not any(path.is_relative_to(self.below) for path in paths):
            return False
        number, self.seen = self.seen, self.seen + 1
        if not self.first <= number < self.first + self.times:
            return False
        self.hit += 1
        return True


@dataclass
class FaultyFiles:
    """``inner`` with faults; may be used by several threads."""

    inner: Files
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Path] = {}

    def set(self, fault: Fault) -> Fault:
        """Adds a fault, which counts calls from now on; returns it."""
        with self._lock:
            self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """No more faults; the record begins anew."""
        with self._lock:
            self.faults.clear()
            self.calls.clear()

    def count(self, method: str) -> int:
        """Calls of ``method`` recorded."""
        return sum(call.method == method for call in self.calls)

    def _meet(self, method: str, *given: AnyPath) -> int | None:
        """Records the call; the error of the fault that it meets."""
        paths = tuple(map(Path, given))
        with self._lock:
            met = [fault for fault in self.faults if fault.meets(method, paths)]
            error = met[0].error if met else None
            self.calls.append(Call(method, paths, error))
        return error

    def _pass(self, method: str, *paths: AnyPath) -> None:
        error = self._meet(method, *paths)
        if error is not None:
            raise OSError(error, os.strerror(error), str(paths[0]))

    def _path(self, descriptor: int) -> Path:
        return self._open.get(descriptor, Path("?"))

    def create(self, path: AnyPath) -> int:
        self._pass("create", path)
        descriptor = self.inner.create(path)
        self._open[descriptor] = Path(path)
        return descriptor

    def open(self, path: AnyPath) -> int:
        self._pass("open", path)
        descriptor = self.inner.open(path)
        self._open[descriptor] = Path(path)
        return descriptor

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        self._pass("read", self._path(descriptor))
        return self.inner.read(descriptor, size, offset)

    def write(self, descriptor: int, data: Buffer) -> None:
        error = self._meet("write", self._path(descriptor))
        if error == SHORT_WRITE:
            self.inner.write(descriptor, memoryview(data)[: len(data) // 2])
            error = errno.ENOSPC
        if error is not None:
            raise OSError(error, os.strerror(error), str(self._path(descriptor)))
        self.inner.write(descriptor, data)

    def allocate(self, descriptor: int, size: int) -> None:
        self._pass("allocate", self._path(descriptor))
        self.inner.allocate(descriptor, size)

    def write_back(self, descriptor: int, offset: int, size: int) -> None:
        self.inner.write_back(descriptor, offset, size)

    def sync(self, descriptor: int) -> None:
        self._pass("sync", self._path(descriptor))
        self.inner.sync(descriptor)

    def forget(self, descriptor: int) -> None:
        self.inner.forget(descriptor)

    def close(self, descriptor: int) -> None:
        error = self._meet("close", self._path(descriptor))
        self._open.pop(descriptor, None)
        self.inner.close(descriptor)  # Linux closes the descriptor even when it reports an error
        if error is not None:
            raise OSError(error, os.strerror(error))

    def link(self, source: AnyPath, target: AnyPath) -> bool:
        self._pass("link", source, target)
        return self.inner.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        self._pass("rename", source, target)
        self.inner.rename(source, target)

    def unlink(self, path: AnyPath) -> bool:
        self._pass("unlink", path)
        return self.inner.unlink(path)

    def sync_directory(self, path: AnyPath) -> None:
        self._pass("sync_directory", path)
        self.inner.sync_directory(path)

    def make_directory(self, path: Path, *, durable: bool = True) -> bool:
        self._pass("make_directory", path)
        return self.inner.make_directory(path, durable=durable)

    def remove_directory(self, path: Path) -> None:
        self._pass("remove_directory", path)
        self.inner.remove_directory(path)

    def list(self, path: Path) -> list[str]:
        self._pass("list", path)
        return self.inner.list(path)

    def size(self, path: AnyPath) -> int | None:
        self._pass("size", path)
        return self.inner.size(path)

    def sizes(self, path: Path, names: Sequence[str]) -> builtins.list[int | None]:
        return [self.size(path / name) for name in names]

    def space(self, path: Path) -> Space:
        self._pass("space", path)
        return self.inner.space(path)

    def reader(self, path: AnyPath) -> BinaryIO:
        self._pass("reader", path)
        return self.inner.reader(path)

    def lock(self, path: Path) -> AbstractContextManager[None]:
        return self.inner.lock(path)

    def syncs_after_a_failure(self) -> Iterator[Call]:
        """Syncs of files or directories after one of them failed: what must never be done."""
        failed = False
        for call in self.calls:
            if call.method in ("sync", "sync_directory"):
                if failed:
                    yield call
                failed = failed or call.error is not None
