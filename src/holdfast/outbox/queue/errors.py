"""What SQLite says about ``queue.db``, as errors of ours and as the types that its STRICT tables keep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import apsw

from holdfast.errors import BadConfig, Corrupt, NoSpace, StorePoisoned, Unavailable

_BROKEN = (apsw.IOError, apsw.ReadOnlyError)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """NoSpace, Corrupt, StorePoisoned, BadConfig or Unavailable instead of SQLite's own."""
    try:
        yield
    except apsw.FullError as error:
        raise NoSpace(f"the disk of {path.parent} is full; earlier entries of the outbox are safe") from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise Corrupt(f"{path} is damaged ({error}); nothing in it was deleted") from error
    except _BROKEN as error:
        raise StorePoisoned(f"{path} cannot be written ({error}); look at the disk, then start again") from error
    except apsw.CantOpenError as error:
        raise BadConfig(f"{path} cannot be opened: {error}") from error
    except apsw.Error as error:
        raise Unavailable(f"the outbox {path} cannot be used now: {error}") from error


def as_bytes(value: object) -> bytes:
    assert isinstance(value, bytes), "STRICT tables keep their types"
    return value


def as_int(value: object) -> int:
    assert isinstance(value, int), "STRICT tables keep their types"
    return value
