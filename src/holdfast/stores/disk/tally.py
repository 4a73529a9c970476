"""How many bytes of blobs a disk store holds: known after a clean stop, else counted while the store serves.

A clean stop leaves the sum in ``clean.json``, which the next start takes away, durably, before it changes anything.
Without it one of the 256 directories is counted after the other; what changes in one that is not counted yet is left
to its count.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec

from holdfast import logs
from holdfast.blob import Digest
from holdfast.files import Files, read_file, write_file

DIRECTORIES = 256
_BYTES_MAX = 4096

_log = logs.get_logger(__name__)


class _Clean(msgspec.Struct, forbid_unknown_fields=True):
    """``clean.json``. ``used``: bytes of all blobs."""

    version: int
    used: int


class Tally:
    """Which directories are counted; every method may be called from any thread."""

    def __init__(self, files: Files, path: Path) -> None:
        """``path``: of ``clean.json``."""
        self._files = files
        self._path = path
        self._locks = [threading.Lock() for _ in range(DIRECTORIES)]
        self._counted = 0  # directories below this one

    @property
    def whole(self) -> bool:
        return self._counted == DIRECTORIES

    def change(self, digest: Digest) -> AbstractContextManager[bool]:
        """A name of ``digest`` comes or goes within; gives whether the account has to follow it."""
        return _Change(self, digest[0])

    @contextmanager
    def counting(self) -> Iterator[int]:
        """Nothing changes in the directory yielded, and afterwards it is counted."""
        number = self._counted
        with self._locks[number]:
            yield number
            self._counted = number + 1

    def begin(self, directory: int) -> bool:
        """For ``change``."""
        self._locks[directory].acquire()
        return directory < self._counted

    def end(self, directory: int) -> None:
        """For ``change``."""
        self._locks[directory].release()

    def take(self) -> int | None:
        """What the last clean stop left, which then is no more; None if it was not clean. OSError."""
        data = read_file(self._files, self._path, _BYTES_MAX)
        if data is None:
            return None
        self._files.unlink(self._path)
        self._files.sync_directory(self._path.parent)
        try:
            saved = msgspec.json.decode(data, type=_Clean)
        except msgspec.MsgspecError as error:
            _log.warning("clean_stop_not_believed", reason=str(error))
            return None
        if saved.version != 1 or saved.used < 0:
            return None
        self._counted = DIRECTORIES
        return saved.used

    def leave(self, used: int) -> None:
        """Nothing changes any more: the sum is left for the next start, if it is known. OSError."""
        if self.whole:
            write_file(self._files, self._path, msgspec.json.encode(_Clean(1, used)) + b"\n")


class _Change:
    """A class, because generators cost more and puts are many."""

    __slots__ = ("_directory", "_tally")

    def __init__(self, tally: Tally, directory: int) -> None:
        self._tally = tally
        self._directory = directory

    def __enter__(self) -> bool:
        return self._tally.begin(self._directory)

    def __exit__(self, *_: object) -> None:
        self._tally.end(self._directory)
