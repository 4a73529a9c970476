"""The SDK's face: a vault that is open. Everything it needs is handed in; ``assemble.py`` does that.

All methods may be called at once from one event loop. Names are paths in the vault, ``""`` its root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from holdfast.blob import Buffer, Digest
from holdfast.client.device.local import Excludes, look
from holdfast.client.names.drafts import Draft
from holdfast.client.names.entries import (
    Entry,
    MoveSummary,
    Progress,
    PutSummary,
    RestoreSummary,
    TrashEntry,
    Version,
    kind_of,
)
from holdfast.client.offline.fallback import QueuedCallback
from holdfast.client.offline.resolve import Resolver
from holdfast.client.offline.writes import OfflineWrites
from holdfast.client.reading.get import Getter
from holdfast.client.reading.index_rebuild import IndexRebuilt
from holdfast.client.reading.verify import Defect, Verifier, VerifySummary
from holdfast.client.vault_names import ProgressCallback, VaultNames, entry_found
from holdfast.client.writing.put import FILE_MODE, FilePutter
from holdfast.client.writing.put_options import PutOptions
from holdfast.client.writing.put_tree import TreePutter
from holdfast.codec import paths, refs
from holdfast.codec.refs import RefKind
from holdfast.errors import BadRequest, Conflict, HoldfastError, NotFound, TooLarge, Unavailable
from holdfast.outbox.delivery import Done, Summary
from holdfast.outbox.outbox import Outbox

READ_BYTES_MAX = 1 << 30
LARGE_BYTES = 1 << 20
"""A put of more than this is worth a moment's waiting for the index."""


class Vault(VaultNames):
    """One owner's names and files, on one device."""

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
        return entry_found(found)

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
                on_found(entry_found(found))
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

    # --- looking after it ---------------------------------------------------------------------------------------------

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
