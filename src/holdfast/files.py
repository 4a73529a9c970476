"""The disk: the only file that writes paths, so that a simulation can break it.

Every call blocks and belongs in a pool. What must survive a power cut goes: ``create`` -> write -> ``sync`` ->
``link`` or ``rename`` -> ``sync_directory`` (restic's local backend; docs/design.md, Durable).
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias, cast

from holdfast.blob import Buffer
from holdfast.errors import BadConfig

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600

AnyPath: TypeAlias = Path | str
"""What is done for every blob takes text, too: a ``Path`` costs more to make than some system calls."""

_SYNC_FILE_RANGE_WRITE = 2


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Linux's call, which Python does not offer; None elsewhere. It looks at no error, so the sync still hears them."""
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return cast("Callable[[int, int, int, int], int]", call)


_sync_file_range = _find_sync_file_range()


@dataclass(frozen=True)
class Space:
    """Bytes of the file system that holds a path."""

    total: int
    free: int


class Files(Protocol):
    """What holdfast asks of a file system. Every method raises OSError when the system refuses."""

    def create(self, path: AnyPath) -> int:
        """A new file for writing, which must not exist; its descriptor. Follows no symbolic link."""
        ...

    def open(self, path: AnyPath) -> int:
        """An existing regular file for reading; its descriptor. Follows no symbolic link."""
        ...

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer only at the end of the file."""
        ...

    def write(self, descriptor: int, data: Buffer) -> None:
        """All of ``data`` at the current position; a short write is continued."""
        ...

    def allocate(self, descriptor: int, size: int) -> None:
        """A new file gets ``size`` bytes of its own on the disk, zeros when read."""
        ...

    def write_back(self, descriptor: int, offset: int, size: int) -> None:
        """A hint: the disk may begin with these bytes, which will be synced. Promises nothing, reports nothing."""
        ...

    def sync(self, descriptor: int) -> None:
        """The file's bytes and length are on the disk when this returns. Never call it again after it failed."""
        ...

    def forget(self, descriptor: int) -> None:
        """A hint: what is cached of this file is dropped, so that the next read asks the disk."""
        ...

    def close(self, descriptor: int) -> None: ...

    def link(self, source: AnyPath, target: AnyPath) -> bool:
        """Gives the file a second name; False if ``target`` exists already."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Replaces ``target`` atomically."""
        ...

    def unlink(self, path: AnyPath) -> bool:
        """False if there was nothing."""
        ...

    def sync_directory(self, path: AnyPath) -> None: ...

    def make_directory(self, path: Path, *, durable: bool = True) -> bool:
        """With its parents, each new one synced into its parent; False if it existed.

        With ``durable`` False nothing is synced: the caller syncs the parents itself, with other changes.
        """
        ...

    def remove_directory(self, path: Path) -> None: ...

    def list(self, path: Path) -> list[str]:
        """The names in a directory, ascending; empty if it does not exist."""
        ...

    def size(self, path: AnyPath) -> int | None:
        """Bytes of a regular file, None if there is none."""
        ...

    def sizes(self, path: Path, names: Sequence[str]) -> builtins.list[int | None]:
        """As ``size``, of many files in one directory: no path is made for each."""
        ...

    def space(self, path: Path) -> Space: ...

    def reader(self, path: AnyPath) -> BinaryIO:
        """An existing regular file as an object with a descriptor of its own, for sendfile; the caller closes it."""
        ...

    def lock(self, path: Path) -> AbstractContextManager[None]:
        """Holds an exclusive lock on the file ``path`` (made if needed); BadConfig if somebody else has it."""
        ...


class OsFiles:
    """The operating system's files."""

    def create(self, path: AnyPath) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)

    def open(self, path: AnyPath) -> int:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        parts = []
        while size > 0:
            part = os.pread(descriptor, size, offset)
            if not part:
                break
            parts.append(part)
            size -= len(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, descriptor: int, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def allocate(self, descriptor: int, size: int) -> None:
        os.posix_fallocate(descriptor, 0, size)

    def write_back(self, descriptor: int, offset: int, size: int) -> None:
        if _sync_file_range is not None:
            _sync_file_range(descriptor, offset, size, _SYNC_FILE_RANGE_WRITE)

    def sync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def forget(self, descriptor: int) -> None:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def link(self, source: AnyPath, target: AnyPath) -> bool:
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            return False
        return True

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: AnyPath) -> bool:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        return True

    def sync_directory(self, path: AnyPath) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_directory(self, path: Path, *, durable: bool = True) -> bool:
        if path.is_dir():
            return False
        if path.parent != path:
            self.make_directory(path.parent, durable=durable)
        try:
            os.mkdir(path, DIRECTORY_MODE)
        except FileExistsError:
            if not path.is_dir():
                raise
            return False
        if durable:
            self.sync_directory(path.parent)
        return True

    def remove_directory(self, path: Path) -> None:
        os.rmdir(path)

    def list(self, path: Path) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def size(self, path: AnyPath) -> int | None:
        try:
            return os.stat(path, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None

    def sizes(self, path: Path, names: Sequence[str]) -> builtins.list[int | None]:
        try:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return [None] * len(names)
        try:
            return [_size_in(directory, name) for name in names]
        finally:
            os.close(directory)

    def space(self, path: Path) -> Space:
        found = os.statvfs(path)
        return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    def reader(self, path: AnyPath) -> BinaryIO:
        return os.fdopen(self.open(path), "rb")

    def lock(self, path: Path) -> AbstractContextManager[None]:
        return locked(path)


def _size_in(directory: int, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
    except FileNotFoundError:
        return None


def read_file(files: Files, path: Path, size_max: int) -> bytes | None:
    """All of a small file, None if there is none; BadConfig if it is larger than ``size_max`` bytes."""
    try:
        descriptor = files.open(path)
    except FileNotFoundError:
        return None
    try:
        data = files.read(descriptor, size_max + 1, 0)
    finally:
        files.close(descriptor)
    if len(data) > size_max:
        raise BadConfig(f"{path}: larger than {size_max} bytes; is it the right file?")
    return data


def write_file(files: Files, path: Path, data: Buffer, *, replace: bool = True) -> None:
    """A small file, durable and all or nothing; FileExistsError if it exists and ``replace`` is false."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    files.unlink(temporary)
    descriptor = files.create(temporary)
    try:
        try:
            files.write(descriptor, data)
            files.sync(descriptor)
        finally:
            files.close(descriptor)
        if replace:
            files.rename(temporary, path)
        elif not files.link(temporary, path):
            raise FileExistsError(errno.EEXIST, "exists already", str(path))
    finally:
        files.unlink(temporary)
    files.sync_directory(path.parent)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file ``path`` (made if needed); BadConfig if another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadConfig(f"{path.parent} is in use by another holdfast process") from None
        yield
    finally:
        os.close(descriptor)
