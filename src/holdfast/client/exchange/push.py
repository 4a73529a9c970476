"""Pushing to a node, or to its place in the outbox: blobs, a directory as a manifest, the removal of one.

A manifest is saved after its blobs; only those are sent that the node does not have.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from holdfast.blob import Buffer, Digest
from holdfast.client.device.local import local_errors, scan
from holdfast.client.exchange.away import AwayWrites
from holdfast.client.exchange.peers import NodeCalls
from holdfast.errors import BadRequest, NotFound, PacksGone, StorePoisoned, TooLarge, Unavailable
from holdfast.files import Files
from holdfast.peers import manifest as manifests
from holdfast.peers.manifest import Entry
from holdfast.pool import Pool
from holdfast.wire.exchange_messages import ManifestSaved

AT_ONCE = 8
READ_BYTES = 1 << 20
TRIES = 3

Progress: TypeAlias = Callable[[int, int], None]
"""Told (blobs done, blobs in all)."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did. ``sent``: blobs that the node did not have; ``stored``: bytes of the manifest's blobs.

    ``away``: why the node could not be reached; then all of it waits in the outbox, and ``new`` is not known.
    """

    name: str
    etag: Digest
    new: bool
    entries: int
    blobs: int
    sent: int
    stored: int
    away: str = ""


@dataclass(frozen=True, slots=True)
class PutFile:
    """A file as a blob. ``away``: why the node could not be reached; then it waits in the outbox."""

    digest: Digest
    size: int
    away: str = ""


class Pusher:
    """Changes through one node."""

    def __init__(self, node: NodeCalls, *, files: Files, pool: Pool, away: AwayWrites | None = None) -> None:
        """``away`` takes the changes that the node does not, because nobody answers."""
        self._node = node
        self._away = away
        self._files = files
        self._pool = pool

    async def push(self, directory: Path, name: str, progress: Progress | None = None) -> Pushed:
        """All regular files below ``directory`` as blobs, then the manifest in place of the one that is there now.

        BadRequest for links and other things that a manifest cannot name; Conflict if somebody was quicker;
        Unavailable if the node is away and nothing takes the push for it.
        """
        manifests.checked_name(name)
        before, reason = None, await self._behind(name)
        if not reason:
            try:
                before = await self._etag(name)
            except Unavailable as error:
                reason = self._reason(error)
        paths = await self._pool.run(_regular_files, directory)
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(path: str) -> tuple[str, Entry]:
            async with gate:
                return path, await self._pool.run(hashed, self._files, directory / path)

        found = manifests.make(name, await asyncio.gather(*(one(path) for path in paths)))
        sources = {entry.digest: (directory / path, entry) for path, entry in found.objects.items()}
        data = await self._pool.run(manifests.encode, found)
        sent: set[Digest] = set()
        if not reason:
            try:
                saved = await self._push(name, data, before, sources, sent, progress)
                return Pushed(name, saved.etag, saved.new, len(found.objects), len(sources), len(sent), found.size())
            except Unavailable as error:
                reason = self._reason(error)
        assert self._away is not None, "else it was raised"
        left = [digest for digest in sources if digest not in sent]
        for digest in sorted(left, key=lambda digest: _size(sources[digest][1]), reverse=True):
            path, entry = sources[digest]  # the largest first: what is too large is refused before anything is queued
            await self._away.blob(digest, _size(entry), self._pieces(path))
        await self._away.manifest(name, data)
        etag = manifests.etag(data)
        return Pushed(name, etag, False, len(found.objects), len(sources), len(sent), found.size(), reason)

    async def _push(
        self,
        name: str,
        data: bytes,
        before: Digest | None,
        sources: Mapping[Digest, tuple[Path, Entry]],
        sent: set[Digest],
        progress: Progress | None,
    ) -> ManifestSaved:
        for left in range(TRIES, 0, -1):
            missing = sorted(set(sources) - await self._node.has(list(sources)))
            await self._send([sources[digest] for digest in missing], len(sources), sent, progress)
            try:
                saved = await self._node.put_manifest(name, data, before=before)
            except PacksGone:
                if left == 1:
                    raise
                continue
            await self._saw(name, saved.etag)
            return saved
        raise AssertionError("unreachable")

    async def remove(self, name: str, *, before: Digest | None = None) -> str:
        """Removes the node's manifest; empty, or why the node could not be reached: then the removal waits.

        NotFound; Conflict unless it has the etag ``before``.
        """
        manifests.checked_name(name)
        reason = await self._behind(name)
        if not reason:
            try:
                await self._node.remove_manifest(name, before=before)
            except Unavailable as error:
                reason = self._reason(error)
            else:
                await self._saw(name, None)
                return ""
        assert self._away is not None, "else it was raised"
        await self._away.remove(name, before)
        return reason

    async def _behind(self, name: str) -> str:
        """Not empty if an earlier change of this manifest still waits."""
        if self._away is not None and await self._away.busy(name):
            return f"an earlier change of {name} still waits"
        return ""

    def _reason(self, error: Unavailable) -> str:
        """``error`` again unless its write may be queued."""
        if self._away is None or isinstance(error, StorePoisoned):
            raise error
        return error.detail

    async def _saw(self, name: str, etag: Digest | None) -> None:
        if self._away is not None:
            await self._away.saw(name, etag)

    async def _etag(self, name: str) -> Digest | None:
        try:
            found = await self._pool.run(manifests.etag, await self._node.manifest(name))
        except NotFound:
            found = None
        await self._saw(name, found)
        return found

    async def _send(
        self,
        missing: Sequence[tuple[Path, Entry]],
        total: int,
        sent: set[Digest],
        progress: Progress | None,
    ) -> None:
        done = total - len(missing)
        gate = asyncio.Semaphore(AT_ONCE)
        if progress is not None:
            progress(done, total)

        async def one(path: Path, entry: Entry) -> None:
            nonlocal done
            async with gate:
                await self._put(path, entry)
            sent.add(entry.digest)
            done += 1
            if progress is not None:
                progress(done, total)

        await run_all(one(path, entry) for path, entry in missing)

    async def _put(self, path: Path, entry: Entry) -> None:
        await self._node.http.put_blob(self._node.target, entry.digest, _size(entry), lambda: self._pieces(path))

    async def put_file(self, path: Path) -> PutFile:
        """One file as a blob. Unavailable if the node is away and nothing takes the blob for it."""
        entry = await self._pool.run(hashed, self._files, path)
        try:
            await self._put(path, entry)
        except Unavailable as error:
            reason = self._reason(error)
            assert self._away is not None, "else it was raised"
            await self._away.blob(entry.digest, _size(entry), self._pieces(path))
            return PutFile(entry.digest, _size(entry), reason)
        return PutFile(entry.digest, _size(entry))

    async def _pieces(self, path: Path) -> AsyncIterator[Buffer]:
        with local_errors(path):
            descriptor = await self._pool.run(self._files.open, path)
            try:
                offset = 0
                while piece := await self._pool.run(self._files.read, descriptor, READ_BYTES, offset):
                    offset += len(piece)
                    yield piece
            finally:
                self._files.close(descriptor)


def hashed(files: Files, path: Path) -> Entry:
    """Digest, size and permission bits of a file. Blocks."""
    with local_errors(path):
        descriptor = files.open(path)
        try:
            state, size, mode = hashlib.sha256(), 0, stat.S_IMODE(os.fstat(descriptor).st_mode)
            while piece := files.read(descriptor, READ_BYTES, size):
                state.update(piece)
                size += len(piece)
        finally:
            files.close(descriptor)
    return Entry(Digest(state.digest()), size, mode & 0o777)


def _size(entry: Entry) -> int:
    assert entry.size is not None, "it was just measured"
    return entry.size


def _regular_files(directory: Path) -> list[str]:
    """Paths below ``directory``, ascending; BadRequest for what is neither file nor directory."""
    found: list[str] = []
    waiting = [(str(directory), "")]
    while waiting:
        path, below = waiting.pop()
        for entry in scan(path):
            name = below + entry.name
            if stat.S_ISDIR(entry.stat.st_mode):
                waiting.append((entry.path, name + "/"))
            elif stat.S_ISREG(entry.stat.st_mode):
                found.append(manifests.checked_path(name))
                if len(found) > manifests.ENTRIES_MAX:
                    raise TooLarge(
                        f"{directory} holds more than the {manifests.ENTRIES_MAX} files that a manifest takes"
                    )
            else:
                raise BadRequest(f"{entry.path} is neither a file nor a directory; a manifest cannot name it")
    return sorted(found)


async def run_all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs all; the first failure ends the others and is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
