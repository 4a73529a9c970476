"""A vault's verbs about names: list, stat, delete, move, restore, and what history and trash keep."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from holdfast.blob import Digest
from holdfast.client.names.entries import (
    Entry,
    MoveSummary,
    Progress,
    RestoreSummary,
    TrashEntry,
    Version,
    entry_of,
    kind_of,
)
from holdfast.client.names.names import Found
from holdfast.client.offline.fallback import QueuedCallback
from holdfast.client.offline.writes import OfflineWrites
from holdfast.client.vault_parts import VaultParts
from holdfast.client.writing.move import Mover
from holdfast.client.writing.remove import Remover
from holdfast.client.writing.restore import Restorer, trash_below
from holdfast.codec import paths
from holdfast.codec.refs import RefKind
from holdfast.errors import BadRequest, NotFound, Unavailable

ProgressCallback = Callable[[Progress], None]


class VaultNames(VaultParts):
    """For ``Vault`` only."""

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
        return entry_found(await self._find(name, version, fresh))

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
        offline: bool | None = None,
        on_queued: QueuedCallback | None = None,
        progress: ProgressCallback | None = None,
    ) -> RestoreSummary:
        """Brings back a deleted name, or an older version of one that is there, as its next version; or as ``new``.

        A directory comes back with all that was deleted in it and is still kept. What is there is replaced as ``put``
        replaces it. NotFound when nothing of it is kept any more (history keeps it for 7 days); BadRequest for a file
        that is not deleted, without a version. May be called again after a failure. ``offline`` and ``on_queued`` as
        for ``put``; offline only what this device knows can be brought back, mostly what it has deleted offline itself:
        Unavailable for all else.
        """
        source = paths.normalise(name)
        target = source if new is None else paths.normalise(new)
        back = 0

        def count(name: str) -> None:
            nonlocal back
            back += 1
            if progress is not None:
                progress(Progress(back, None, 0, None, name))

        async def online() -> int:
            options = await self._options(no_clobber=no_clobber)
            uploader = await self._uploader(None, allow_degraded, options.chunk_bytes)
            above = self._missing_directories(target)
            uploader.active += 1
            try:
                restorer = Restorer(self._names, self._content, uploader, options, self._clock.now, count)
                return await restorer.restore(source, version, target, above)
            finally:
                uploader.active -= 1

        async def queue(writes: OfflineWrites) -> int:
            options = await self._options(no_clobber=no_clobber, ask=False)
            return await writes.restore(
                source, version, target, options, allow_degraded=allow_degraded, restored=count
            )  # fmt: skip

        names = await self._fallback.write([source, target], offline, online, queue, on_queued)
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


def entry_found(found: Found) -> Entry:
    """A name's entry, with what waits for it and when it was seen."""
    return entry_of(found.ref, queued=found.queued, conflict=found.conflict, seen=found.seen)
