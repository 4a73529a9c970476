"""What SQLite says about ``queue.db``, as errors of ours and as the types that its STRICT tables keep."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import apsw

from holdfast.errors import BadConfig, Corrupt, HoldfastError, NoSpace, StorePoisoned, Unavailable

_BROKEN = (apsw.IOError, apsw.ReadOnlyError)


class translated:
    """NoSpace, Corrupt, StorePoisoned, BadConfig or Unavailable instead of SQLite's own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, apsw.Error):
            raise _ours(error, self._path) from error


def _ours(error: apsw.Error, path: Path) -> HoldfastError:
    if isinstance(error, apsw.FullError):
        return NoSpace(f"the disk of {path.parent} is full; earlier entries of the outbox are safe")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return Corrupt(f"{path} is damaged ({error}); nothing in it was deleted")
    if isinstance(error, _BROKEN):
        return StorePoisoned(f"{path} cannot be written ({error}); look at the disk, then start again")
    if isinstance(error, apsw.CantOpenError):
        return BadConfig(f"{path} cannot be opened: {error}")
    return Unavailable(f"the outbox {path} cannot be used now: {error}")


def as_bytes(value: object) -> bytes:
    assert isinstance(value, bytes), "STRICT tables keep their types"
    return value


def as_int(value: object) -> int:
    assert isinstance(value, int), "STRICT tables keep their types"
    return value
