"""The user's own files: read by put, written by get. Blocking; every function runs in a pool.

A file is read between two looks at its state, so that one that changed meanwhile is noticed. A file is written as
``.NAME.holdfast-part`` beside its target and appears by rename; so nobody ever sees half of it.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from holdfast.blob import Buffer
from holdfast.errors import BadRequest, Denied, Exists, HoldfastError, NoSpace, NotFound, Unavailable
from holdfast.files import Files

PART_SUFFIX = ".holdfast-part"
RACY_S = 0.02
"""A file with a younger stamp may change again without getting a new one: clocks of file systems tick slowly."""


class FileStat(NamedTuple):
    """A file as it was when it was read; ``content`` is its content id."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    content: bytes


class LocalEntry(NamedTuple):
    """One thing found in a directory of this machine. ``target``: where a link points."""

    name: str
    path: str
    stat: os.stat_result
    target: str | None = None


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A whole small file. ``settled``: its stamp is old enough to tell a later change."""

    data: bytes
    stat: os.stat_result
    settled: bool


class Excludes:
    """Patterns of names to leave out: ``*.tmp`` such names, ``a/b*`` paths below the source, ``old/`` directories."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._names: list[re.Pattern[str]] = []
        self._paths: list[re.Pattern[str]] = []
        self._directories: list[re.Pattern[str]] = []
        for pattern in patterns:
            text = pattern.rstrip("/")
            compiled = re.compile(fnmatch.translate(text.lstrip("/")))
            if pattern.endswith("/"):
                self._directories.append(compiled)
            elif "/" in text:
                self._paths.append(compiled)
            else:
                self._names.append(compiled)

    def __call__(self, name: str, below: str, directory: bool) -> bool:
        """Is the entry ``name``, at the path ``below`` relative to the source, left out?"""
        return (
            any(pattern.match(name) for pattern in self._names)
            or any(pattern.match(below) for pattern in self._paths)
            or (directory and any(pattern.match(name) or pattern.match(below) for pattern in self._directories))
        )


@contextmanager
def local_errors(path: str | Path) -> Iterator[None]:
    """Errors of the operating system as ours, naming the file."""
    try:
        yield
    except HoldfastError:
        raise
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file or directory") from error
    except PermissionError as error:
        raise Denied(f"{path}: permission denied") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{path}: the disk is full") from error
        if error.errno == errno.ELOOP:
            raise BadRequest(f"{path}: a symbolic link stands where a file was expected") from error
        raise Unavailable(f"{path}: {error.strerror or error}") from error


def scan(directory: str) -> list[LocalEntry]:
    """What lies in a directory, ascending by name; links are not followed."""
    found = []
    with local_errors(directory), os.scandir(directory) as entries:
        for entry in entries:
            target = None
            try:
                state = entry.stat(follow_symlinks=False)
                if stat.S_ISLNK(state.st_mode):
                    target = os.readlink(entry.path)
            except FileNotFoundError:
                continue  # gone since it was listed
            found.append(LocalEntry(entry.name, entry.path, state, target))
    found.sort(key=lambda one: one.name)
    return found


def look(path: Path) -> LocalEntry:
    """One path, a link not followed."""
    with local_errors(path):
        state = os.lstat(path)
        target = os.readlink(path) if stat.S_ISLNK(state.st_mode) else None
    return LocalEntry(path.name, os.fspath(path), state, target)


def file_stat(state: os.stat_result, content: bytes) -> FileStat:
    """For the index."""
    return FileStat(state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, content)


def same(state: os.stat_result, seen: FileStat) -> bool:
    """Is the file as it was when it was read?"""
    return (
        state.st_size == seen.size
        and state.st_mtime_ns == seen.mtime_ns
        and state.st_ctime_ns == seen.ctime_ns
        and state.st_ino == seen.inode
    )


def is_settled(state: os.stat_result, now: float) -> bool:
    """May this stamp stand for the content from now on?"""
    return now - max(state.st_mtime, state.st_ctime) > RACY_S


def read_small(files: Files, path: str, size_max: int, now: Callable[[], float]) -> ReadFile | None:
    """The whole file; None if it has become larger than ``size_max``. Unavailable if it changes again and again."""
    with local_errors(path):
        for _ in range(2):
            descriptor = files.open(Path(path))
            try:
                before = os.fstat(descriptor)
                if not stat.S_ISREG(before.st_mode):
                    raise BadRequest(f"{path}: not a regular file")
                if before.st_size > size_max:
                    return None
                data = files.read(descriptor, size_max + 1, 0)
                after = os.fstat(descriptor)
            finally:
                files.close(descriptor)
            if len(data) == after.st_size and _stamp(before) == _stamp(after):
                return ReadFile(data, after, is_settled(after, now()))
    raise Unavailable(f"{path}: changed while it was read, twice; it was not stored")


class OpenedFile:
    """A large file being read from its start."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self.path = path
        with local_errors(path):
            self._descriptor = files.open(Path(path))
            self.before = os.fstat(self._descriptor)
            if not stat.S_ISREG(self.before.st_mode):
                self.close()
                raise BadRequest(f"{path}: not a regular file")

    def read_into(self, target: memoryview, offset: int) -> int:
        """Fills ``target`` from ``offset``; fewer bytes only at the end of the file."""
        filled = 0
        with local_errors(self.path):
            while filled < len(target):
                count = os.preadv(self._descriptor, [target[filled:]], offset + filled)
                if not count:
                    break
                filled += count
        return filled

    def unchanged(self) -> os.stat_result | None:
        """The file's state, None if it is another than when reading began."""
        with local_errors(self.path):
            after = os.fstat(self._descriptor)
        return after if _stamp(self.before) == _stamp(after) else None

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._files.close(descriptor)


class PartFile:
    """A file being written beside its target; ``finish`` makes it appear, ``close`` leaves it to be resumed."""

    def __init__(self, files: Files, target: Path, size: int) -> None:
        """Opens what an earlier get left, or begins. ``size``: bytes that it will have."""
        self.target = target
        self.path = target.with_name(f".{target.name}{PART_SUFFIX}")
        if len(os.fsencode(self.path.name)) > 255:
            self.path = target.with_name(f".{target.name[:60]}{PART_SUFFIX}")
        self._files = files
        with local_errors(target):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o600)
            self.there = min(os.fstat(self._descriptor).st_size, size)
            """Bytes that an earlier get may have written."""

    def write(self, data: Buffer, offset: int) -> None:
        """May be called from several threads at once."""
        view = memoryview(data)
        with local_errors(self.target):
            while view:
                count = os.pwrite(self._descriptor, view, offset)
                view, offset = view[count:], offset + count

    def read(self, size: int, offset: int) -> bytes:
        with local_errors(self.target):
            return self._files.read(self._descriptor, size, offset)

    def finish(self, size: int, mode: int, mtime_ns: int, *, replace: bool, durable: bool = True) -> None:
        """Length, mode and time set, synced, renamed. Exists if the target appeared and may not be replaced."""
        with local_errors(self.target):
            os.ftruncate(self._descriptor, size)
            os.fchmod(self._descriptor, mode & 0o7777)
            os.utime(self._descriptor, ns=(mtime_ns, mtime_ns))
            if durable:
                self._files.sync(self._descriptor)
            self.close()
            if replace:
                self._files.rename(self.path, self.target)
            else:
                if not self._files.link(self.path, self.target):
                    raise Exists(f"{self.target} exists already; --force replaces it")
                self._files.unlink(self.path)
            if durable:
                self._files.sync_directory(self.target.parent)

    def remove(self) -> None:
        """Gives up: nothing is left."""
        self.close()
        with contextlib.suppress(OSError):
            self._files.unlink(self.path)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                self._files.close(descriptor)


def make_directory(files: Files, path: Path) -> None:
    """A real directory at ``path``, with its parents; never through a link that stands there itself."""
    with local_errors(path):
        if os.path.islink(path) or (os.path.exists(path) and not os.path.isdir(path)):
            raise Exists(f"{path} exists already and is not a directory")
        if not os.path.isdir(path):
            os.makedirs(path, 0o777, exist_ok=True)  # noqa: TID251 - the user's directories, with the user's umask


def dress_directory(path: Path, mode: int, mtime_ns: int) -> None:
    """Mode and time, once everything in it is written."""
    with local_errors(path):
        os.chmod(path, mode & 0o7777)
        os.utime(path, ns=(mtime_ns, mtime_ns))


def make_link(files: Files, target: str, path: Path, *, replace: bool) -> None:
    """A symbolic link; Exists if something is there and may not be replaced."""
    with local_errors(path):
        if replace and (os.path.islink(path) or os.path.isfile(path)):
            temporary = path.with_name(f".{path.name[:60]}{PART_SUFFIX}")
            files.unlink(temporary)
            os.symlink(target, temporary)
            files.rename(temporary, path)
            return
        try:
            os.symlink(target, path)
        except FileExistsError as error:
            if os.path.islink(path) and os.readlink(path) == target:
                return
            raise Exists(f"{path} exists already; --force replaces it") from error


def exists(path: Path) -> bool:
    return os.path.lexists(path)


def _stamp(state: os.stat_result) -> Sequence[int]:
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
