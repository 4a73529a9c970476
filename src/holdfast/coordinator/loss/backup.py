"""A coordinator's backup: its database as of one moment and its key, in one private file; and back.

The file is a SQLite database: the coordinator's own, with one table more, ``backup``. It is written while the
coordinator runs. A backup restored later than it was made is an old copy: the network has gone on without it, nodes say
so, and ``holdfast coordinator recover`` brings it up to date.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw

from holdfast.auth.identity import SEED_BYTES, Id, Identity
from holdfast.clock import Clock
from holdfast.coordinator.setup import KEY_FILE, database_path, load_identity
from holdfast.errors import BadConfig, Exists, NotFound
from holdfast.files import Files, write_file

VERSION = 1
BUSY_MS = 30_000

_TABLE = "CREATE TABLE backup (version INTEGER NOT NULL, made REAL NOT NULL, identity BLOB NOT NULL) STRICT"


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """``made``: seconds since 1970; ``epoch`` and ``commit``: where the coordinator stood then."""

    coordinator: Id
    made: float
    epoch: int
    commit: int
    size: int


def write_backup(directory: Path, target: Path, *, files: Files, clock: Clock) -> BackupFacts:
    """Writes the coordinator in ``directory``, running or not, to ``target``; durable when it returns. Blocks.

    Exists if ``target`` is there, BadConfig if there is no coordinator or the disk refuses.
    """
    if files.size(target) is not None:
        raise Exists(f"{target} is there already and was not replaced")
    identity = load_identity(directory, files)
    path = database_path(directory)
    if files.size(path) is None:
        raise BadConfig(f"there is no database in {directory}")
    part = target.with_name(f".{target.name}.part")
    try:
        files.unlink(part)
        descriptor = files.create(part)  # empty, and private from its first byte on
        try:
            with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as source:
                source.set_busy_timeout(BUSY_MS)
                source.execute("VACUUM INTO ?", (str(part),))
            made = clock.now()
            with closing(apsw.Connection(str(part))) as copy:
                copy.execute("PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL")
                with copy:
                    copy.execute(_TABLE)
                    copy.execute("INSERT INTO backup VALUES (?, ?, ?)", (VERSION, made, identity.seed()))
                facts = _facts(copy, part, files)
            files.sync(descriptor)
        finally:
            files.close(descriptor)
        files.rename(part, target)
        files.sync_directory(target.parent)
    except apsw.Error as error:
        raise BadConfig(f"the database in {directory} cannot be copied: {error}") from error
    except OSError as error:
        raise BadConfig(f"{target} cannot be written: {error.strerror or error}") from error
    return facts


def restore_backup(source: Path, directory: Path, *, files: Files) -> BackupFacts:
    """Makes the coordinator of a backup again in ``directory``. Blocks; may be run again after a failure.

    NotFound without the file; BadConfig if it is no backup, or ``directory`` holds a database or another coordinator.
    """
    if files.size(source) is None:
        raise NotFound(f"there is no file {source}")
    path = database_path(directory)
    if files.size(path) is not None:
        raise BadConfig(f"{path} is there already: move it away if this backup is to replace it")
    part = path.with_name(f".{path.name}.part")
    try:
        with closing(apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY)) as backup:
            facts = _facts(backup, source, files)
            (seed,) = backup.execute("SELECT identity FROM backup").fetchone() or (b"",)
            files.make_directory(directory)
            _restore_key(directory, bytes(seed), files)
            files.unlink(part)
            descriptor = files.create(part)
            try:
                backup.execute("VACUUM INTO ?", (str(part),))
                with closing(apsw.Connection(str(part))) as copy:
                    copy.execute("PRAGMA synchronous = FULL; DROP TABLE backup")
                files.sync(descriptor)
            finally:
                files.close(descriptor)
        files.rename(part, path)
        files.sync_directory(directory)
    except apsw.Error as error:
        raise BadConfig(f"{source} is no backup of a coordinator, or damaged: {error}") from error
    except OSError as error:
        raise BadConfig(f"{directory} cannot be written: {error.strerror or error}") from error
    return facts


def _restore_key(directory: Path, seed: bytes, files: Files) -> None:
    path = directory / KEY_FILE
    if files.size(path) is None:
        write_file(files, path, seed.hex().encode() + b"\n", replace=False)
    elif load_identity(directory, files).seed() != seed:
        raise BadConfig(f"{path} is the key of another coordinator than the backup's")


def _facts(connection: apsw.Connection, path: Path, files: Files) -> BackupFacts:
    row = connection.execute("SELECT version, made, identity FROM backup").fetchone()
    if row is None or row[0] != VERSION or not isinstance(row[2], bytes) or len(row[2]) != SEED_BYTES:
        raise BadConfig(f"{path} is a backup of another version, or damaged")
    position = connection.execute("SELECT epoch, commit_number FROM meta").fetchone()
    if position is None:
        raise BadConfig(f"{path} holds no network: its coordinator was never initialised")
    return BackupFacts(
        coordinator=Identity(row[2]).id,
        made=float(row[1]),
        epoch=int(position[0]),
        commit=int(position[1]),
        size=files.size(path) or 0,
    )
