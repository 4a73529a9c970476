"""The index as the rest of the client sees it: asynchronous, with a small memory in front, and never fatal.

Reads and writes run in the index's own thread. What is remembered ``later`` is in memory at once and on disk with the
next batch. An error of the database is logged, the file is set aside and a new one begun (docs/formats.md, Files).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import apsw

from holdfast import logs
from holdfast.blob import Digest
from holdfast.client.names.index_file import Batch, ChunkPlace, IndexFile, NodeRow, SeenRef
from holdfast.files import Files
from holdfast.pool import Pool

BATCH_ROWS_MAX = 2000
REFS_IN_MEMORY = 4096
PLACES_IN_MEMORY = 4096

T = TypeVar("T")

_log = logs.get_logger(__name__)


class Index:
    """One per vault and process; other processes may have the same file open. Use from one event loop."""

    def __init__(self, path: Path | None, files: Files, pool: Pool, now: Callable[[], float] = lambda: 0.0) -> None:
        """``pool`` has one worker, for this index alone; it is closed with the index. Nothing is opened yet.

        ``now``: seconds since 1970.
        """
        self.now = now
        self._path = path
        self._files = files
        self._pool = pool
        self._file: IndexFile | None = None
        self._pending = Batch()
        self._refs: OrderedDict[bytes, SeenRef] = OrderedDict()
        self._places: OrderedDict[Digest, list[NodeRow]] = OrderedDict()
        self._closed = False

    @property
    def begun(self) -> int:
        """How often it has begun anew in this process, because the database failed."""
        return 0 if self._file is None else self._file.begun

    async def run(self, question: Callable[[IndexFile], T]) -> T:
        """``question(file)`` in the index's thread, after what is pending is written."""
        batch, self._pending = self._pending, Batch()
        return await self._pool.run(self._ask, question, batch)

    async def chunks(self, ids: Sequence[bytes]) -> dict[bytes, ChunkPlace]:
        """The places of the data chunks that are known."""
        return await self.run(lambda file: file.chunks(ids))

    async def ref(self, tag: bytes) -> SeenRef | None:
        """The newest record of a name that this device has seen."""
        found = self._refs.get(tag)
        if found is not None:
            self._refs.move_to_end(tag)
            return found
        found = (await self.run(lambda file: file.refs((tag,)))).get(tag)
        if found is not None:
            self._hold(tag, found)
        return found

    def held(self, tag: bytes) -> SeenRef | None:
        """What ``ref`` would find in memory. Never blocks."""
        return self._refs.get(tag)

    def recent(self, tag: bytes) -> bool:
        """Whether ``ref`` would find it in memory. Never blocks."""
        return tag in self._refs

    async def places(self, packs: Sequence[Digest]) -> dict[Digest, list[NodeRow]]:
        """Who held these packs when it was last heard."""
        if all(pack in self._places for pack in packs):
            return {pack: self._places[pack] for pack in packs}
        return await self.run(lambda file: file.places(packs))

    async def write(self, batch: Batch) -> None:
        """Returns when the rows are written (and everything remembered before)."""
        self._remember(batch)
        self._pending.merge(batch)
        await self.run(lambda file: None)

    async def later(self, batch: Batch) -> None:
        """Remembers the rows; they are written with the next question, or when there are enough of them."""
        self._remember(batch)
        self._pending.merge(batch)
        if len(self._pending) >= BATCH_ROWS_MAX:
            await self.run(lambda file: None)

    async def forget_packs(self, digests: Sequence[Digest]) -> None:
        """These packs are gone: nothing is deduplicated against them any more."""
        for digest in digests:
            self._places.pop(digest, None)
        await self.run(lambda file: file.forget_packs(digests))

    async def close(self) -> None:
        """Writes what is pending. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if len(self._pending) or self._file is not None:
            await self.run(lambda file: None)
        if self._file is not None:
            await self._pool.run(self._file.close)
        self._pool.close()

    def _remember(self, batch: Batch) -> None:
        now = self.now()
        batch.refs = {
            tag: (parent, ref if ref.at else ref._replace(at=now)) for tag, (parent, ref) in batch.refs.items()
        }
        for tag, (_, ref) in batch.refs.items():
            held = self._refs.get(tag)
            if held is None or held.version <= ref.version:
                self._hold(tag, ref)

        for pack, (_, holders) in batch.packs.items():
            self._places.pop(pack, None)
            if all(id_ in batch.nodes for id_ in holders):
                self._places[pack] = [batch.nodes[id_] for id_ in holders]
        while len(self._places) > PLACES_IN_MEMORY:
            self._places.popitem(last=False)

    def _hold(self, tag: bytes, ref: SeenRef) -> None:
        self._refs[tag] = ref
        self._refs.move_to_end(tag)
        while len(self._refs) > REFS_IN_MEMORY:
            self._refs.popitem(last=False)

    def _ask(self, question: Callable[[IndexFile], T], batch: Batch) -> T:
        if self._file is None:
            self._file = IndexFile(self._path, self._files)
        for _ in range(2):
            try:
                if len(batch) or batch.nodes:
                    self._file.write(batch)
                    batch = Batch()
                return question(self._file)
            except apsw.BusyError as error:
                _log.warning("index_busy", path=str(self._path), reason=str(error))
            except apsw.Error as error:
                _log.warning("index_failed", path=str(self._path), reason=str(error))
                self._file.recover()
        return question(IndexFile(None, self._files))  # as if nothing was known
