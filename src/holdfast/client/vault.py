"""The SDK's face: a vault that is open. Everything it needs is handed in; ``assemble.py`` does that.

All methods may be called at once from one event loop. Names are paths in the vault, ``""`` its root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from holdfast.auth.identity import Identity
from holdfast.blob import Buffer, Digest
from holdfast.client.ahead import ReadAhead
from holdfast.client.content import ContentReader
from holdfast.client.content_here import ContentHere
from holdfast.client.coordinators import Coordinators
from holdfast.client.deliver import RefDelivery
from holdfast.client.drafts import Draft, Rule
from holdfast.client.entries import (
    Entry,
    MoveSummary,
    Progress,
    PutSummary,
    RestoreSummary,
    TrashEntry,
    Version,
    entry_of,
    kind_of,
)
from holdfast.client.fallback import Fallback, QueuedCallback
from holdfast.client.fetch import PackReader
from holdfast.client.get import Getter
from holdfast.client.index import Index
from holdfast.client.index_file import SeenRef
from holdfast.client.index_rebuild import IndexRebuild, IndexRebuilt
from holdfast.client.latency import Latency
from holdfast.client.local import Excludes, look
from holdfast.client.move import Mover
from holdfast.client.names import Found, Names
from holdfast.client.names_here import NamesHere
from holdfast.client.offline import OfflineWrites
from holdfast.client.outbox_door import OutboxDoor
from holdfast.client.plans import Plans
from holdfast.client.put import FILE_MODE, FilePutter, PutOptions
from holdfast.client.put_tree import TreePutter
from holdfast.client.queued_names import QueuedNames
from holdfast.client.queueing import QueueingUploader, UnsentIndex
from holdfast.client.recommit import Recommit
from holdfast.client.remove import Remover
from holdfast.client.resolve import Resolver
from holdfast.client.restore import Restorer, trash_below
from holdfast.client.settings import ClientSettings
from holdfast.client.shards import ShardSender
from holdfast.client.uploader import Uploader
from holdfast.client.verify import Defect, Verifier, VerifySummary
from holdfast.clock import Clock, Randomness
from holdfast.codec import paths, refs
from holdfast.codec.keys import VaultKeys
from holdfast.codec.pack import PACK_BYTES_MAX, padded_size
from holdfast.codec.refs import RefKind
from holdfast.errors import BadRequest, Conflict, HoldfastError, NotFound, TooLarge, Unavailable
from holdfast.files import Files
from holdfast.outbox.delivery import Done, Summary
from holdfast.outbox.outbox import Outbox
from holdfast.pool import Pool
from holdfast.wire import routes
from holdfast.wire.http import HttpClient

READ_BYTES_MAX = 1 << 30
POLICY_S = 60.0
DIRECTORIES_KNOWN_MAX = 10_000
DIRECTORIES_KNOWN_S = 60.0
UPLOADERS_MAX = 4
LARGE_BYTES = 1 << 20
"""A put of more than this is worth a moment's waiting for the index."""

ProgressCallback = Callable[[Progress], None]


class Vault:
    """One owner's names and files, on one device."""

    def __init__(
        self,
        *,
        keys: VaultKeys,
        device: Identity,
        certificate: bytes,
        http: HttpClient,
        coordinators: Coordinators,
        index: Index,
        pool: Pool,
        clock: Clock,
        randomness: Randomness,
        files: Files,
        settings: ClientSettings | None = None,
        outbox: OutboxDoor | None = None,
    ) -> None:
        """``certificate``: the device's, countersigned. ``outbox``: where writes go that the network does not take;
        without it they are errors. It is closed with the vault, and so are ``http``, ``index`` and ``pool``.
        """
        self.id = keys.vault
        self.settings = settings or ClientSettings()
        self.coordinators = coordinators
        self._keys = keys
        self._device = device
        self._certificate = certificate
        self._http = http
        self._index = index
        self._pool = pool
        self._clock = clock
        self._randomness = randomness
        self._files = files
        self._latency = Latency()
        self._sender = ShardSender(http, self._latency, clock)
        self._names = Names(keys, coordinators, index, pool)
        self._reader = PackReader(
            http, self._latency, clock, certificate, self._names.places_of, hedge_s_min=self.settings.hedge_s_min
        )
        self._content = ContentReader(keys, self._reader, self._names, pool, self.settings)
        self._rebuild = IndexRebuild(keys, self._names, self._reader, index, pool, clock)
        self._queued = QueuedNames(keys, outbox)
        self._here = NamesHere(keys, coordinators, index, pool, self._queued)
        self._content_here = ContentHere(keys, self._reader, self._here, pool, self.settings, self._queued)
        self._fallback = Fallback(outbox, self._queued, None if outbox is None else self._wired(outbox))
        self._plans: dict[tuple[int | None, bool], Plans] = {}
        self._recommit = Recommit(
            keys, device, coordinators, self._names, self._reader, self._content, pool, clock, lambda: http.epoch
        )
        coordinators.catch_up = self._recommit.catch_up
        self._uploaders: dict[tuple[int | None, bool, int], Uploader] = {}
        self._policy: tuple[float, int] | None = None
        self._directories: dict[str, float] = {}
        self._closed = False

    async def __aenter__(self) -> Vault:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends what is under way and writes the index. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._fallback.door is not None:
            await self._fallback.door.close()
        for uploader in self._uploaders.values():
            await uploader.close()
        for plans in self._plans.values():
            await plans.close()
        await self._rebuild.close()
        await self._recommit.close()
        await self._reader.close()
        await self._index.close()
        await self._http.close()
        self._pool.close()

    # --- put ----------------------------------------------------------------------------------------------------------

    async def put(
        self,
        source: Path | Buffer | AsyncIterable[Buffer],
        name: str,
        *,
        survive: int | None = None,
        allow_degraded: bool = False,
        no_clobber: bool = False,
        if_match: Digest | None = None,
        meta: Mapping[str, str] | None = None,
        dedup: bool = True,
        reread: bool = False,
        chunk_bytes: int | None = None,
        mode: int = FILE_MODE,
        mtime_ns: int | None = None,
        offline: bool | None = None,
        on_queued: QueuedCallback | None = None,
        progress: ProgressCallback | None = None,
    ) -> Entry:
        """Stores one file; returns when it is durable on ``survive + 1`` nodes and its name is committed.

        Or when it is durable in the outbox, which delivers it later: if the network does not answer, or with
        ``offline`` at once, and never with ``offline`` False (then Unavailable). The entry's ``queued`` says so, and
        ``on_queued`` hears of it. A stream that the network took a part of cannot be queued any more.

        A path gives its own mode and time; ``mode`` and ``mtime_ns`` (default: now) are for other sources. Exists with
        ``no_clobber``, Conflict with ``if_match``, TooFewNodes when the network has fewer nodes than copies asked.
        """
        path = paths.normalise(name)
        stamp = int(self._clock.now() * 1e9) if mtime_ns is None else mtime_ns
        total: int | None = None
        read = 0
        begun = False

        async def watched(stream: AsyncIterable[Buffer]) -> AsyncIterator[Buffer]:
            nonlocal begun
            async for piece in stream:
                begun = True
                yield piece

        def counted(count: int, name: str) -> None:
            nonlocal read
            read += count
            if progress is not None:
                progress(Progress(0, 1, read, total, name))

        if isinstance(source, Path):
            local = await self._pool.run(look, source.resolve())
            if stat.S_ISDIR(local.stat.st_mode):
                raise BadRequest(f"{source} is a directory; put_tree stores directories")
            total = local.stat.st_size
            source = source.resolve()
        elif isinstance(source, bytes | bytearray | memoryview):
            total = len(source)
        else:
            source = watched(source)

        async def options(ask: bool) -> PutOptions:
            return await self._options(
                survive=survive, no_clobber=no_clobber, if_match=if_match, meta=meta, dedup=dedup, reread=reread,
                chunk_bytes=chunk_bytes, ask=ask,
            )  # fmt: skip

        async def online() -> Draft:
            how = await options(True)
            uploader = await self._uploader(survive, allow_degraded, how.chunk_bytes)
            putter = FilePutter(uploader, self._files, self._pool, self._clock, self._randomness, counted, self._seen)
            above = self._missing_directories(path)
            uploader.active += 1
            try:
                await self._index_rebuilt(large=total is None or total > LARGE_BYTES)
                if isinstance(source, Path):
                    draft = await putter.put_path(source, path, how, above)
                else:
                    draft = await putter.put_stream(source, path, how, above, mode=mode, mtime_ns=stamp)
            finally:
                uploader.active -= 1
            self._know_directories(above)
            return draft

        async def queue(writes: OfflineWrites) -> Draft:
            nonlocal read
            read = 0
            return await writes.put(
                source, path, await options(False), allow_degraded=allow_degraded, mode=mode, mtime_ns=stamp,
                counted=counted,
            )  # fmt: skip

        draft = await self._fallback.write([path], offline, online, queue, on_queued, lambda: not begun, below=False)
        if progress is not None:
            progress(Progress(1, 1, read, total if total is not None else read, path))
        return _entry(draft)

    async def put_tree(
        self,
        sources: Sequence[Path],
        name: str | None = None,
        *,
        survive: int | None = None,
        allow_degraded: bool = False,
        no_clobber: bool = False,
        if_match: Digest | None = None,
        meta: Mapping[str, str] | None = None,
        dedup: bool = True,
        reread: bool = False,
        chunk_bytes: int | None = None,
        exclude: Sequence[str] = (),
        dry_run: bool = False,
        offline: bool | None = None,
        on_queued: QueuedCallback | None = None,
        progress: ProgressCallback | None = None,
    ) -> PutSummary:
        """Stores files, directories with all in them, and links as links.

        One source is stored as ``name`` (default: its base name); several into the directory ``name`` (default: the
        root). What fails is in the summary and does not stop the rest. ``dry_run`` only says what would be stored.
        ``offline`` and ``on_queued`` as for ``put``: what the network did not take is queued.
        """
        if if_match is not None and len(sources) != 1:
            raise BadRequest("if_match is for one file")
        if if_match is not None and await self._pool.run(os.path.isdir, sources[0]):
            raise BadRequest("if_match is for one file, not for a directory")
        given = _named(sources, name)
        if if_match is not None:
            entry = await self.put(
                sources[0], given[0][1], survive=survive, allow_degraded=allow_degraded, if_match=if_match, meta=meta,
                dedup=dedup, reread=reread, chunk_bytes=chunk_bytes, offline=offline, on_queued=on_queued,
                progress=progress,
            )  # fmt: skip
            return PutSummary(files=1, bytes=entry.size, queued=int(entry.queued > 0), entry=entry)
        excludes = Excludes((*self.settings.excludes, *exclude))
        files = read = 0

        def say(name: str) -> None:
            if progress is not None:
                progress(Progress(files, None, read, None, name))

        def counted(count: int, name: str) -> None:
            nonlocal read
            read += count
            say(name)

        def done(name: str) -> None:
            nonlocal files
            files += 1
            say(name)

        async def options(ask: bool) -> PutOptions:
            return await self._options(
                survive=survive, no_clobber=no_clobber, if_match=None, meta=meta, dedup=dedup, reread=reread,
                chunk_bytes=chunk_bytes, ask=ask,
            )  # fmt: skip

        async def online() -> PutSummary:
            how = await options(not dry_run)
            uploader = await self._uploader(survive, allow_degraded, how.chunk_bytes)
            putter = FilePutter(uploader, self._files, self._pool, self._clock, self._randomness, counted, self._seen)
            tree = TreePutter(putter, self._files, self._pool, self._clock.now, self._names.clear_listing, done)
            if not dry_run:
                await self._index_rebuilt(large=await self._pool.run(_is_large, sources))
            before = uploader.new_bytes
            uploader.active += 1
            try:
                summary = await tree.put(given, how, excludes, dry_run=dry_run)
            finally:
                uploader.active -= 1
            summary.new_bytes = uploader.new_bytes - before
            return summary

        async def queue(writes: OfflineWrites) -> PutSummary:
            return await writes.put_tree(
                given, await options(False), excludes, allow_degraded=allow_degraded, counted=counted, done=done
            )

        if dry_run:
            return await online()
        summary = await self._fallback.write([path for _, path in given], offline, online, queue, on_queued)
        away = [error for _, error in summary.failed if isinstance(error, Unavailable)]
        writes = self._fallback.writes
        if summary.queued or not away or offline is False or writes is None:
            return summary
        rest = await queue(writes)  # what stands already is unchanged now
        if rest.queued and on_queued is not None:
            on_queued(away[0])
        failed = [one for one in summary.failed if not isinstance(one[1], Unavailable)]
        return _joined(summary, rest, failed)

    # --- get ----------------------------------------------------------------------------------------------------------

    async def get(
        self,
        name: str,
        target: Path,
        *,
        version: int | None = None,
        force: bool = False,
        fresh: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Entry:
        """Writes a file, a link or a directory with all in it to ``target``.

        NotFound; Exists if ``target`` is there and not ``force``; Corrupt when every copy is wrong (then nothing is at
        ``target``); Unavailable when no holder answers. ``fresh``: not from what this device remembers.
        """
        files = size = 0
        total: int | None = None

        def progressed(more_files: int, more_bytes: int, at: str) -> None:
            nonlocal files, size
            files += more_files
            size += more_bytes
            if progress is not None:
                progress(Progress(files, None if total is None else 1, size, total, at))

        found = await self._find(name, version, fresh)
        if found.ref.clear.kind is RefKind.FILE:
            total = found.ref.sealed.attributes.size
        names, content = (self._names, self._content) if fresh else (self._here, self._content_here)
        getter = Getter(names, content, self._files, self._pool, force=force, progressed=progressed)
        await getter.get(found, target)
        return _entry_found(found)

    async def stream(
        self,
        name: str,
        start: int = 0,
        stop: int | None = None,
        *,
        version: int | None = None,
        fresh: bool = False,
        on_found: Callable[[Entry], None] | None = None,
    ) -> AsyncIterator[Buffer]:
        """A file's bytes ``start`` up to ``stop`` in order; each buffer is valid until the next is asked for.

        A stream that fails raises; it never ends early. ``on_found`` hears first what is read, with its marks.
        """
        if start < 0 or (stop is not None and stop < start):
            raise BadRequest(f"bytes {start} to {stop} make no range")
        async with self._ahead(name, start, stop, version) as early:
            found = await self._find_file(name, version, fresh)
            if on_found is not None:
                on_found(_entry_found(found))
            whole = await early(found)
        if whole is not None:
            for part in whole:
                yield part
            return
        async for piece in self._content_here.stream(found, start, stop):
            yield piece

    async def read(
        self, name: str, start: int = 0, stop: int | None = None, *, version: int | None = None, fresh: bool = False
    ) -> bytes:
        """As ``stream``, in one piece of at most 1 GiB (TooLarge)."""
        if start < 0 or (stop is not None and stop < start):
            raise BadRequest(f"bytes {start} to {stop} make no range")
        async with self._ahead(name, start, stop, version) as early:
            found = await self._find_file(name, version, fresh)
            size = found.ref.sealed.attributes.size
            if min(size, size if stop is None else stop) - start > READ_BYTES_MAX:
                raise TooLarge(f"more than {READ_BYTES_MAX} bytes at once; stream() has no limit")
            parts = await early(found)
        if parts is None:
            parts = [bytes(piece) async for piece in self._content_here.stream(found, start, stop)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # --- names --------------------------------------------------------------------------------------------------------

    async def list(self, directory: str = "", *, recursive: bool = False, fresh: bool = False) -> AsyncIterator[Entry]:
        """The entries of a directory, by name within each page of 1,000; NotFound if there is no such directory.

        When the coordinator does not answer, those that this device has seen, unless ``fresh``.
        """
        top = paths.normalise(directory) if directory else ""
        if top:
            found = await self._find(top, None, fresh)
            if found.ref.clear.kind is not RefKind.DIRECTORY:
                raise BadRequest(f"{top!r} is a {found.ref.clear.kind.name.lower()}, not a directory")
        waiting = [top]
        while waiting:
            inside = waiting.pop()
            folders: list[str] = []
            try:
                async for page in self._marked(inside, fresh):
                    for entry in sorted(page, key=lambda entry: entry.name):
                        if entry.kind == "directory":
                            folders.append(entry.name)
                        yield entry
            except Unavailable:
                if fresh or inside == top:
                    raise
            if recursive:
                waiting.extend(sorted(folders, reverse=True))

    async def _marked(self, inside: str, fresh: bool) -> AsyncIterator[Sequence[Entry]]:
        if fresh:
            async for found, _ in self._names.listing(inside):
                yield [entry_of(ref) for ref, _ in found]
            return
        async for page in self._here.marked(inside):
            yield [entry_of(one.ref, queued=one.queued, conflict=one.conflict, seen=one.seen) for one in page]

    async def stat(self, name: str, *, version: int | None = None, fresh: bool = False) -> Entry:
        """What the vault says of a name; NotFound."""
        return _entry_found(await self._find(name, version, fresh))

    async def delete(
        self,
        name: str,
        *,
        recursive: bool = False,
        if_match: Digest | None = None,
        offline: bool | None = None,
        on_queued: QueuedCallback | None = None,
    ) -> int:
        """Removes a name (with ``recursive`` all below it); returns how many. History keeps them for a while.

        NotFound; Conflict for a directory that is not empty, or with ``if_match``. May be repeated after a failure.
        ``offline`` and ``on_queued`` as for ``put``; offline only what this device knows can be removed.
        """
        path = paths.normalise(name)

        async def online() -> int:
            options = await self._options(if_match=if_match)
            uploader = await self._uploader(None, True, options.chunk_bytes)
            uploader.active += 1
            try:
                return await Remover(self._names, uploader, self._clock.now).remove(
                    path, recursive=recursive, if_match=if_match, survive=options.survive
                )
            finally:
                uploader.active -= 1

        async def queue(writes: OfflineWrites) -> int:
            options = await self._options(if_match=if_match, ask=False)
            return await writes.delete(path, options, recursive=recursive, if_match=if_match)

        removed = await self._fallback.write([path], offline, online, queue, on_queued)
        self._directories.clear()
        return removed

    async def move(
        self,
        old: str,
        new: str,
        *,
        no_clobber: bool = False,
        if_match: Digest | None = None,
        allow_degraded: bool = False,
        offline: bool | None = None,
        on_queued: QueuedCallback | None = None,
        progress: ProgressCallback | None = None,
    ) -> MoveSummary:
        """Gives a name, and all below it, another name; nothing is sent but the names. Version and history stay behind.

        A file or link moves in one step, a directory name by name: after a failure call it again. What is there under
        the new name is replaced as ``put`` replaces it: Exists with ``no_clobber``, Conflict with ``if_match`` or where
        one is a directory and the other is not. NotFound; Conflict when the old name is changed meanwhile.
        ``offline`` and ``on_queued`` as for ``put``; offline only what this device knows can be moved.
        """
        source, target = paths.normalise(old), paths.normalise(new)
        moved = 0

        def count(name: str) -> None:
            nonlocal moved
            moved += 1
            if progress is not None:
                progress(Progress(moved, None, 0, None, name))

        async def online() -> int:
            options = await self._options(no_clobber=no_clobber, if_match=if_match)
            uploader = await self._uploader(None, allow_degraded, options.chunk_bytes)
            uploader.active += 1
            try:
                mover = Mover(self._names, self._content, uploader, options, self._clock.now, count)
                return await mover.move(source, target, self._missing_directories(target))
            finally:
                uploader.active -= 1
                self._directories.clear()

        async def queue(writes: OfflineWrites) -> int:
            options = await self._options(no_clobber=no_clobber, if_match=if_match, ask=False)
            return await writes.move(source, target, options, allow_degraded=allow_degraded, moved=count)

        names = await self._fallback.write([source, target], offline, online, queue, on_queued)
        return MoveSummary(names, await self.stat(target))

    async def restore(
        self,
        name: str,
        *,
        version: int | None = None,
        new: str | None = None,
        no_clobber: bool = False,
        allow_degraded: bool = False,
        progress: ProgressCallback | None = None,
    ) -> RestoreSummary:
        """Brings back a deleted name, or an older version of one that is there, as its next version; or as ``new``.

        A directory comes back with all that was deleted in it and is still kept. What is there is replaced as ``put``
        replaces it. NotFound when nothing of it is kept any more (history keeps it for 7 days); BadRequest for a file
        that is not deleted, without a version. May be called again after a failure.
        """
        source = paths.normalise(name)
        target = source if new is None else paths.normalise(new)
        options = await self._options(no_clobber=no_clobber)
        uploader = await self._uploader(None, allow_degraded, options.chunk_bytes)
        above = self._missing_directories(target)
        back = 0

        def count(name: str) -> None:
            nonlocal back
            back += 1
            if progress is not None:
                progress(Progress(back, None, 0, None, name))

        uploader.active += 1
        try:
            restorer = Restorer(self._names, self._content, uploader, options, self._clock.now, count)
            names = await restorer.restore(source, version, target, above)
        finally:
            uploader.active -= 1
        return RestoreSummary(names, await self.stat(target))

    async def trash(self, directory: str = "", *, recursive: bool = False) -> AsyncIterator[TrashEntry]:
        """What was deleted in a directory, itself deleted or not, as long as ``restore`` can bring it back."""
        top = paths.normalise(directory) if directory else ""
        async for thrown in trash_below(self._names, top, recursive=recursive):
            yield TrashEntry(entry_of(thrown.kept), thrown.deleted, thrown.until_s)

    async def log(self, name: str) -> Sequence[Version]:
        """The states of a name that are kept, newest first; NotFound if there never was one."""
        found = []
        for ref, version in await self._names.history(paths.normalise(name)):
            said = ref.sealed.attributes
            found.append(
                Version(
                    version=ref.clear.version,
                    kind=kind_of(ref.clear.kind),
                    size=said.size,
                    mtime_ns=said.mtime_ns,
                    etag=ref.etag,
                    committed=version.committed,
                    until_s=version.until,
                )
            )
        if not found:
            raise NotFound(f"no {name!r} in this vault")
        return found

    async def verify(
        self,
        names: Sequence[str] = (),
        *,
        sample: float = 1.0,
        all_copies: bool = False,
        found: Callable[[Defect], None] = lambda _: None,
        progress: ProgressCallback | None = None,
    ) -> VerifySummary:
        """Reads and checks what ``names`` (default: all) and the names below them say; ``found`` hears each defect.

        ``sample``: the share that is read, from above 0 to 1. ``all_copies``: beside that, every node re-reads every
        copy that these names need. Wrong copies are set aside by their nodes, and repaired. NotFound for a name that
        is not there; all else that is wrong is a defect.
        """

        def looked(name: str) -> None:
            if progress is not None:
                seen = verifier.summary
                progress(Progress(seen.names, None, seen.bytes, None, name))

        verifier = Verifier(
            self._names, self._content, self._http, self._certificate, self._clock, self._randomness, sample=sample,
            all_copies=all_copies, found=found, looked=looked,
        )  # fmt: skip
        summary = await verifier.run([paths.normalise(name) for name in names] or [""])
        await self._reader.reported()
        return summary

    async def rebuild_index(self, progress: Callable[[IndexRebuilt], None] | None = None) -> IndexRebuilt:
        """Learns what the vault holds, so that nothing of it is sent again; reads about 4 KiB of each pack.

        Only packs are read that this device has not listed. A put on a device without an index does it by itself;
        this is for what other devices have stored since. May be called at any time, stopped and called again;
        ``progress`` hears of what is done. Unavailable when the coordinator does not answer.
        """
        return await self._rebuild.run(progress or (lambda _: None))

    # --- outbox -------------------------------------------------------------------------------------------------------

    async def outbox(self) -> Outbox | None:
        """What waits to be delivered, None if this home never had to queue anything."""
        return await self._fallback.outbox()

    async def open_outbox(self) -> Outbox:
        """The outbox, made if there is none. Unavailable for a vault without one."""
        return await self._fallback.open()

    async def flush(self, progress: Callable[[Done], None] | None = None) -> Summary:
        """Tries to deliver all that waits, once; see ``Outbox.flush``. Nothing to do without an outbox."""
        return await self._fallback.flush(progress)

    async def watch(self, progress: Callable[[Done], None] | None = None) -> None:
        """Delivers until it is cancelled; see ``Outbox.watch``. Unavailable for a vault without an outbox."""
        await (await self._fallback.open()).watch(progress)

    async def resolver(self) -> Resolver:
        """For settling conflicts. NotFound if this home has no outbox."""
        outbox = await self.outbox()
        if outbox is None:
            raise NotFound("nothing was ever queued in this home")
        return Resolver(self._keys, outbox, self._here, self._content_here, self._files, self._pool)

    def _wired(self, door: OutboxDoor) -> OfflineWrites:
        """The outbox delivers refs with the parts of this vault."""
        delivery = RefDelivery(
            keys=self._keys,
            device=self._device,
            coordinators=self.coordinators,
            names=self._names,
            content=self._content,
            sender=self._sender,
            plans=self._plans_for,
            index=self._index,
            pool=self._pool,
            heard=self._heard,
            door=door,
            content_bytes_max=door.body_bytes_max,
            commit_s=self.settings.coordinator_s,
        )
        door.deliver("ref", delivery)

        async def make(
            outbox: Outbox, index: UnsentIndex, options: PutOptions, allow_degraded: bool
        ) -> QueueingUploader:
            copies = None if options.asked_survive is None else options.asked_survive + 1
            return QueueingUploader(
                outbox, names, **self._uploader_words(copies, allow_degraded, options.chunk_bytes) | {"index": index}
            )

        names = NamesHere(self._keys, self.coordinators, self._index, self._pool, self._queued, offline=True)
        return OfflineWrites(
            keys=self._keys,
            door=door,
            names=names,
            content=self._content_here,
            index=self._index,
            make=make,
            files=self._files,
            pool=self._pool,
            clock=self._clock,
            randomness=self._randomness,
        )

    def _plans_for(self, copies: int | None, allow_degraded: bool) -> Plans:
        """Places for packs of the outbox."""
        found = self._plans.get((copies, allow_degraded))
        if found is None:
            found = self._plans[copies, allow_degraded] = self._make_plans(copies, allow_degraded, PACK_BYTES_MAX)
        return found

    # --- within -------------------------------------------------------------------------------------------------------

    async def _find(self, name: str, version: int | None, fresh: bool) -> Found:
        path = paths.normalise(name)
        if version is not None:
            return await self._names.at_version(path, version)
        return await (self._names if fresh else self._here).find(path, fresh=fresh)

    def _ahead(self, name: str, start: int, stop: int | None, version: int | None) -> ReadAhead:
        path = paths.normalise(name) if version is None else None
        return ReadAhead(self._names, self._content, path, start, stop)

    async def _find_file(self, name: str, version: int | None, fresh: bool) -> Found:
        found = await self._find(name, version, fresh)
        if found.ref.clear.kind is not RefKind.FILE:
            raise BadRequest(f"{name!r} is a {found.ref.clear.kind.name.lower()}, not a file")
        return found

    async def _seen(self, path: str) -> SeenRef | None:
        """The present record of a name as the coordinator has it, None if there never was one."""
        found = await self._names.find_any(path, fresh=True)
        return (
            None if found is None else SeenRef(found.ref.clear.version, found.ref.etag, found.record, found.keep, b"")
        )

    async def _options(
        self,
        *,
        survive: int | None = None,
        no_clobber: bool = False,
        if_match: Digest | None = None,
        meta: Mapping[str, str] | None = None,
        dedup: bool = True,
        reread: bool = False,
        chunk_bytes: int | None = None,
        ask: bool = True,
    ) -> PutOptions:
        rule: Rule = "if-match" if if_match is not None else "no-clobber" if no_clobber else "replace"
        if no_clobber and if_match is not None:
            raise BadRequest("no_clobber and if_match exclude each other")
        if survive is not None and not 0 <= survive <= 64:
            raise BadRequest(f"survive is a number from 0 to 64, not {survive}")
        return PutOptions(
            survive=survive if survive is not None else await self._policy_survive(ask),
            asked_survive=survive,
            rule=rule,
            if_match=if_match,
            meta=meta,
            dedup=dedup,
            reread=reread,
            chunk_bytes=chunk_bytes or self.settings.chunk_bytes,
        )

    async def _policy_survive(self, ask: bool) -> int:
        """The network's ``survive``; asked once a minute at most, or what was heard last (0: the network decides)."""
        if not ask:
            return await self._index.run(lambda file: file.survive()) or 0
        now = self._clock.monotonic()
        if self._policy is None or now - self._policy[0] > POLICY_S:
            survive = (await self.coordinators.ask(routes.POLICY)).survive
            if self._policy is None or self._policy[1] != survive:
                await self._index.run(lambda file: file.set_survive(survive))
            self._policy = (now, survive)
        return self._policy[1]

    async def _uploader(self, survive: int | None, allow_degraded: bool, chunk_bytes: int) -> Uploader:
        if self._closed:
            raise Unavailable("the vault is closed")
        copies = None if survive is None else survive + 1
        key = (copies, allow_degraded, max(chunk_bytes, self.settings.chunk_bytes))
        found = self._uploaders.get(key)
        if found is not None and not found.broken:
            return found
        idle = [other for other, uploader in self._uploaders.items() if not uploader.active]
        for other in idle if len(self._uploaders) >= UPLOADERS_MAX or found is not None else ():
            if other == key or len(self._uploaders) >= UPLOADERS_MAX:
                await self._uploaders.pop(other).close()
        made = self._uploaders[key] = Uploader(**self._uploader_words(copies, allow_degraded, key[2]))
        return made

    def _uploader_words(self, copies: int | None, allow_degraded: bool, chunk_bytes: int) -> dict[str, Any]:
        """What every uploader of this vault is made of."""
        chunk_bytes = max(chunk_bytes, self.settings.chunk_bytes)
        size_max = min(padded_size(self.settings.pack_bytes + chunk_bytes + (4 << 20)), PACK_BYTES_MAX)
        return {
            "keys": self._keys,
            "device": self._device,
            "coordinators": self.coordinators,
            "sender": self._sender,
            "plans": self._make_plans(copies, allow_degraded, size_max),
            "index": self._index,
            "pool": self._pool,
            "clock": self._clock,
            "randomness": self._randomness,
            "settings": self.settings,
            "allow_degraded": allow_degraded,
            "copies": copies,
            "heard": self._heard,
            "chunk_bytes_max": chunk_bytes,
        }

    def _make_plans(self, copies: int | None, allow_degraded: bool, size_max: int) -> Plans:
        return Plans(
            self.coordinators,
            self._keys.vault,
            self._http.time,
            size_max=size_max,
            copies=copies,
            allow_degraded=allow_degraded,
            heard=self._heard,
        )

    async def _index_rebuilt(self, *, large: bool) -> None:
        """A device without an index reads it back behind its first put; a large put waits for it for a moment."""
        self._rebuild.begin()
        if large:
            await self._rebuild.wait(self.settings.rebuild_wait_s)

    def _heard(self) -> tuple[int, int]:
        return self._http.epoch

    def _missing_directories(self, path: str) -> Sequence[str]:
        """The directories above a name that this process has not made or seen within the last minute."""
        now = self._clock.monotonic()
        return [
            directory
            for directory in paths.ancestors(path)
            if now - self._directories.get(directory, -1e9) > DIRECTORIES_KNOWN_S
        ]

    def _know_directories(self, directories: Sequence[str]) -> None:
        if len(self._directories) > DIRECTORIES_KNOWN_MAX:
            self._directories.clear()
        now = self._clock.monotonic()
        self._directories.update(dict.fromkeys(directories, now))


def _named(sources: Sequence[Path], name: str | None) -> list[tuple[Path, str]]:
    """Each source with its name in the vault."""
    if not sources:
        raise BadRequest("nothing to put")
    if len(sources) == 1:
        base = name if name is not None else sources[0].name or sources[0].resolve().name
        if not base:
            raise BadRequest(f"{sources[0]} has no name of its own; say one with --as")
        return [(sources[0], paths.normalise(base))]
    inside = paths.normalise(name) + "/" if name else ""
    found = [(source, paths.normalise(inside + (source.name or source.resolve().name))) for source in sources]
    if len({path for _, path in found}) != len(found):
        raise Conflict("two of these paths have the same name; put them one by one")
    return found


def _is_large(sources: Sequence[Path]) -> bool:
    """Is there a directory among them, or a large file? What is not there is for the put to say."""
    for source in sources:
        try:
            state = os.stat(source)
        except OSError:
            continue
        if stat.S_ISDIR(state.st_mode) or state.st_size > LARGE_BYTES:
            return True
    return False


def _joined(one: PutSummary, other: PutSummary, failed: list[tuple[str, HoldfastError]]) -> PutSummary:
    """A tree put that went to the network in part, and the rest of it to the outbox."""
    return PutSummary(
        files=one.files + other.files,
        directories=one.directories + other.directories,
        links=one.links + other.links,
        bytes=one.bytes + other.bytes,
        new_bytes=one.new_bytes + other.new_bytes,
        unchanged=one.unchanged,
        queued=other.queued,
        failed=failed + [found for found in other.failed if found[0] not in {name for name, _ in failed}],
    )


def _entry_found(found: Found) -> Entry:
    return entry_of(found.ref, queued=found.queued, conflict=found.conflict, seen=found.seen)


def _entry(draft: Draft) -> Entry:
    assert draft.clear is not None
    kind = kind_of(draft.kind)
    assert kind is not None
    return Entry(
        name=draft.path,
        kind=kind,
        size=draft.attributes.size,
        mtime_ns=draft.attributes.mtime_ns,
        mode=draft.attributes.mode,
        etag=refs.etag(draft.record),
        version=draft.clear.version,
        target=draft.attributes.target,
        meta=dict(draft.attributes.meta),
        survive=draft.survive,
        queued=draft.queued,
    )


__all__ = [
    "Defect", "Entry", "IndexRebuilt", "MoveSummary", "Progress", "PutSummary", "QueuedCallback", "RestoreSummary",
    "TrashEntry", "Vault", "VerifySummary", "Version",
]  # fmt: skip
