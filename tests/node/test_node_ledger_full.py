"""The ledger on a disk that is full, or fails: what goes is still written down there, and here no sync is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from tests.node.house import VAULT

from holdfast.blob import Digest
from holdfast.errors import NoSpace, StorePoisoned
from holdfast.files import OsFiles, Space
from holdfast.node.ledger.ledger import Ledger
from holdfast.pool import InlinePool
from holdfast.stores.ballast import BALLAST_BYTES

DIGESTS = [Digest.of(bytes([number])) for number in range(200)]


class _File(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], disk: Disk) -> None:
        super().__init__("unix", name, flags)
        self._path = name if isinstance(name, str) else name.filename() if name is not None else ""
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:
        if offset + len(data) > self.xFileSize() and self._disk.full(self._path):
            raise apsw.FullError("no room")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._disk.synced.append(self._path)
        if self._disk.broken:
            raise apsw.IOError("the sync failed")
        super().xSync(flags)


class Rooms(OsFiles):
    """Says how much room there is."""

    room = 10 * BALLAST_BYTES

    def space(self, path: Path) -> Space:
        return Space(self.room, self.room)


class Disk(apsw.VFS):
    """SQLite's way to the disk; ``full`` is asked before a file grows, ``broken`` fails every sync."""

    def __init__(self) -> None:
        super().__init__("filled", "unix")
        self.full: Callable[[str], bool] = lambda path: False
        self.broken = False
        self.synced: list[str] = []

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(name, flags, self)


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    apsw.set_default_vfs("filled")
    try:
        yield made
    finally:
        apsw.set_default_vfs("unix")
        made.unregister()


async def opened(path: Path, files: Rooms, ballast_bytes: int) -> Ledger:
    pool = InlinePool()
    ledger = await Ledger.open(path, files=files, writer=pool, reader=pool, ballast_bytes=ballast_bytes)
    await asyncio.gather(*(ledger.record(digest, 10, VAULT.id) for digest in DIGESTS))
    return ledger


async def test_removals_find_the_room_of_the_ballast(tmp_path: Path, disk: Disk) -> None:
    ballast, files = tmp_path / "ledger.ballast", Rooms()
    ledger = await opened(tmp_path, files, BALLAST_BYTES)
    assert ballast.stat().st_size == BALLAST_BYTES
    assert ballast.stat().st_blocks * 512 >= BALLAST_BYTES, "it takes up room"
    disk.full, files.room = lambda path: ballast.exists(), 0
    with pytest.raises(NoSpace):
        await ledger.record(Digest.of(b"new"), 10, VAULT.id)
    assert ballast.exists(), "a new row gets none of it"
    removed = await ledger.remove(DIGESTS[0], trashed=5)
    assert removed is not None
    assert not removed.here
    assert not ballast.exists()
    disk.full = lambda path: False
    files.room = BALLAST_BYTES
    await ledger.remove(DIGESTS[1], trashed=5)
    assert not ballast.exists(), "not where it would take all that is free"
    files.room = 10 * BALLAST_BYTES
    assert ledger.broken is None
    await ledger.record(Digest.of(b"new"), 10, VAULT.id)
    assert ballast.exists(), "made again where there is room"
    await ledger.close()


async def test_without_any_room_the_log_begins_anew(tmp_path: Path, disk: Disk) -> None:
    ledger = await opened(tmp_path, Rooms(), 0)
    disk.full = lambda path: path.endswith("-wal")
    for digest in DIGESTS:
        removed = await ledger.remove(digest, trashed=5)
        assert removed is not None
    assert ledger.roots.count == 0
    await ledger.close()


async def test_after_a_failed_sync_nothing_is_synced_however_the_process_ends(tmp_path: Path, disk: Disk) -> None:
    ledger = await opened(tmp_path, Rooms(), 0)
    disk.broken = True
    with pytest.raises(StorePoisoned):
        await ledger.remove(DIGESTS[0], trashed=5)
    disk.broken = False
    disk.synced.clear()
    with pytest.raises(StorePoisoned):
        await ledger.remove(DIGESTS[1], trashed=5)
    for connection in (ledger._file.reading, ledger._file._writing):  # as when the interpreter ends
        connection.close()
    assert disk.synced == []
