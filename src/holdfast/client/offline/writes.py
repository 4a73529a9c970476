"""Writes of a device that cannot reach its network: the same work, but packs and refs end in the outbox.

Nothing here asks anybody. What is not known on this device cannot be decided here and is an error.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from holdfast.blob import Buffer, Digest
from holdfast.client.device.local import Excludes
from holdfast.client.names.drafts import Draft
from holdfast.client.names.entries import PutSummary
from holdfast.client.names.index import Index
from holdfast.client.offline.names_here import NamesHere
from holdfast.client.offline.outbox_door import OutboxDoor
from holdfast.client.offline.queueing import QueueingUploader, UnsentIndex
from holdfast.client.reading.content import ContentReader
from holdfast.client.writing.move import Mover
from holdfast.client.writing.put import FilePutter
from holdfast.client.writing.put_options import PutOptions
from holdfast.client.writing.put_tree import TreePutter
from holdfast.client.writing.remove import Remover
from holdfast.client.writing.restore import Restorer
from holdfast.clock import Clock, Randomness
from holdfast.codec import paths
from holdfast.codec.keys import VaultKeys
from holdfast.errors import NotFound, Unavailable
from holdfast.files import Files
from holdfast.outbox.outbox import Outbox
from holdfast.pool import Pool

MakeUploader: TypeAlias = Callable[[Outbox, UnsentIndex, PutOptions, bool], Awaitable[QueueingUploader]]


class OfflineWrites:
    """One vault's. Calls may run at once."""

    def __init__(
        self,
        *,
        keys: VaultKeys,
        door: OutboxDoor,
        names: NamesHere,
        content: ContentReader,
        index: Index,
        make: MakeUploader,
        files: Files,
        pool: Pool,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        """``names``: offline ones. ``make``: an uploader for (outbox, index, options, allow_degraded)."""
        self.names = names
        self._keys = keys
        self._door = door
        self._content = content
        self._index = index
        self._make = make
        self._files = files
        self._pool = pool
        self._clock = clock
        self._randomness = randomness

    async def put(
        self,
        source: Path | Buffer | AsyncIterable[Buffer],
        path: str,
        options: PutOptions,
        *,
        allow_degraded: bool,
        mode: int,
        mtime_ns: int,
        counted: Callable[[int, str], None],
    ) -> Draft:
        """One file; its draft, queued. Errors as ``Vault.put``, and those of ``Outbox.enqueue``."""
        async with self._uploader(options, allow_degraded) as (uploader, index):
            base = await self.names.base(path)
            if base is not None:
                index.over[paths.name_tag(self._keys.name, path)] = base
            putter = self._putter(uploader, counted)
            if isinstance(source, Path):
                return await putter.put_path(source, path, options, ())
            return await putter.put_stream(source, path, options, (), mode=mode, mtime_ns=mtime_ns)

    async def put_tree(
        self,
        given: Sequence[tuple[Path, str]],
        options: PutOptions,
        excludes: Excludes,
        *,
        allow_degraded: bool,
        counted: Callable[[int, str], None],
        done: Callable[[str], None],
    ) -> PutSummary:
        """Trees; what this device has seen in the vault as it is now is not queued."""

        async with self._uploader(options, allow_degraded) as (uploader, _):
            putter = self._putter(uploader, counted)
            tree = TreePutter(putter, self._files, self._pool, self._clock.now, self.names.clear_listing, done)
            summary = await tree.put(given, options, excludes, dry_run=False)
            summary.queued = summary.files + summary.directories + summary.links
            summary.new_bytes = uploader.new_bytes
            return summary

    async def delete(self, path: str, options: PutOptions, *, recursive: bool, if_match: Digest | None) -> int:
        """Deletes what this device knows; how many names. Errors as ``Vault.delete``."""
        async with self._uploader(options, True) as (uploader, _):
            return await Remover(self.names, uploader, self._clock.now).remove(
                path, recursive=recursive, if_match=if_match, survive=options.survive
            )

    async def move(
        self, source: str, target: str, options: PutOptions, *, allow_degraded: bool, moved: Callable[[str], None]
    ) -> int:
        """Gives names new ones; how many. Errors as ``Vault.move``."""
        async with self._uploader(options, allow_degraded) as (uploader, _):
            mover = Mover(self.names, self._content, uploader, options, self._clock.now, moved)
            return await mover.move(source, target, ())

    async def restore(
        self,
        source: str,
        version: int | None,
        target: str,
        options: PutOptions,
        *,
        allow_degraded: bool,
        restored: Callable[[str], None],
    ) -> int:
        """Brings back what this device still knows of a name, mostly what it has deleted itself; how many names.

        Errors as ``Vault.restore``, and Unavailable where only the network knows what the name was.
        """
        async with self._uploader(options, allow_degraded) as (uploader, _):
            restorer = Restorer(self.names, self._content, uploader, options, self._clock.now, restored)
            try:
                return await restorer.restore(source, version, target, ())
            except NotFound as error:
                which = "what it was" if version is None else f"its version {version}"
                raise Unavailable(
                    f"{source} can only be brought back once the network answers: this device does not know {which}, "
                    "and nothing was queued"
                ) from error

    def _putter(self, uploader: QueueingUploader, counted: Callable[[int, str], None]) -> FilePutter:
        return FilePutter(uploader, self._files, self._pool, self._clock, self._randomness, counted, self.names.base)

    @asynccontextmanager
    async def _uploader(
        self, options: PutOptions, allow_degraded: bool
    ) -> AsyncIterator[tuple[QueueingUploader, UnsentIndex]]:
        index = UnsentIndex(self._index)
        uploader = await self._make(await self._door.open(), index, options, allow_degraded)
        uploader.active += 1
        try:
            yield uploader, index
        finally:
            await uploader.close()
