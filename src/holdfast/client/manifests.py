"""Pushing a directory as a manifest, and bringing one here: only what is missing, several at a time, resumable.

A manifest is saved after its blobs. Blobs are brought in a random order, so that nodes that sync the same manifest have
something for each other.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from holdfast.blob import Buffer, Digest
from holdfast.client.exchange import NodeCalls, choose
from holdfast.client.local import PartFile, local_errors, make_directory, scan
from holdfast.clock import Randomness, shuffled
from holdfast.errors import (
    BadRequest,
    Corrupt,
    HoldfastError,
    NotFound,
    PacksGone,
    PartlyDone,
    TooLarge,
    Unavailable,
)  # fmt: skip
from holdfast.files import Files
from holdfast.peers import manifest as manifests
from holdfast.peers.manifest import Entry, Manifest
from holdfast.pool import Pool
from holdfast.wire.messages import HAS_DIGESTS_MAX

AT_ONCE = 8
READ_BYTES = 1 << 20
PULL_WAIT_S = 2.0
IDLE_ROUNDS_MAX = 30
"""Rounds in which nothing came before a sync gives up; each waits ``PULL_WAIT_S``."""
TRIES = 3

Progress: TypeAlias = Callable[[int, int], None]
"""Told (blobs done, blobs in all)."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did. ``sent``: blobs that the node did not have; ``stored``: bytes of the manifest's blobs."""

    name: str
    etag: Digest
    new: bool
    entries: int
    blobs: int
    sent: int
    stored: int


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync did. ``brought``: blobs that were missing; ``holder``: whose manifest it is."""

    name: str
    etag: Digest
    entries: int
    blobs: int
    brought: int
    stored: int
    holder: str


class ManifestWork:
    """Push and sync through one node."""

    def __init__(self, node: NodeCalls, *, files: Files, pool: Pool, randomness: Randomness) -> None:
        self._node = node
        self._files = files
        self._pool = pool
        self._randomness = randomness

    # -- push

    async def push(self, directory: Path, name: str, progress: Progress | None = None) -> Pushed:
        """All regular files below ``directory`` as blobs, then the manifest in place of the one that is there now.

        BadRequest for links and other things that a manifest cannot name; Conflict if somebody was quicker.
        """
        manifests.checked_name(name)
        before = await self._etag(name)
        paths = await self._pool.run(_regular_files, directory)
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(path: str) -> tuple[str, Entry]:
            async with gate:
                return path, await self._pool.run(self._hash, directory / path)

        found = manifests.make(name, await asyncio.gather(*(one(path) for path in paths)))
        sources = {entry.digest: (directory / path, entry) for path, entry in found.objects.items()}
        data = await self._pool.run(manifests.encode, found)
        sent = 0
        for left in range(TRIES, 0, -1):
            missing = sorted(set(sources) - await self._node.has(list(sources)))
            sent += await self._send([sources[digest] for digest in missing], len(sources), progress)
            try:
                saved = await self._node.put_manifest(name, data, before=before)
            except PacksGone:
                if left == 1:
                    raise
                continue
            return Pushed(name, saved.etag, saved.new, len(found.objects), len(sources), sent, found.size())
        raise AssertionError("unreachable")

    async def _etag(self, name: str) -> Digest | None:
        try:
            return await self._pool.run(manifests.etag, await self._node.manifest(name))
        except NotFound:
            return None

    async def _send(self, missing: Sequence[tuple[Path, Entry]], total: int, progress: Progress | None) -> int:
        done = total - len(missing)
        gate = asyncio.Semaphore(AT_ONCE)
        if progress is not None:
            progress(done, total)

        async def one(path: Path, entry: Entry) -> None:
            nonlocal done
            assert entry.size is not None, "it was just measured"
            async with gate:
                await self._node.http.put_blob(self._node.target, entry.digest, entry.size, lambda: self._pieces(path))
            done += 1
            if progress is not None:
                progress(done, total)

        await _all(one(path, entry) for path, entry in missing)
        return len(missing)

    async def put_file(self, path: Path) -> tuple[Digest, int]:
        """One file as a blob; its digest and size."""
        entry = await self._pool.run(self._hash, path)
        assert entry.size is not None, "it was just measured"
        await self._node.http.put_blob(self._node.target, entry.digest, entry.size, lambda: self._pieces(path))
        return entry.digest, entry.size

    async def get_file(self, digest: Digest, target: Path) -> int:
        """A blob as a file, all or nothing; its size. What is there is replaced."""
        await self._write_blob(Entry(digest, None), target, 0o644)
        return (await self._pool.run(os.lstat, target)).st_size

    def _hash(self, path: Path) -> Entry:
        with local_errors(path):
            descriptor = self._files.open(path)
            try:
                state, size, mode = hashlib.sha256(), 0, stat.S_IMODE(os.fstat(descriptor).st_mode)
                while piece := self._files.read(descriptor, READ_BYTES, size):
                    state.update(piece)
                    size += len(piece)
            finally:
                self._files.close(descriptor)
        return Entry(Digest(state.digest()), size, mode & 0o777)

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

    # -- sync

    async def sync(
        self, name: str, *, source: str | None = None, directory: Path | None = None, progress: Progress | None = None
    ) -> Synced:
        """Brings a manifest of the cluster to the node, or with ``directory`` its files there.

        NotFound; Conflict if nodes keep different ones and no ``source`` was named. May be called again after a
        failure: what has come stays.
        """
        listed = (await self._node.manifests(cluster=True)).manifests
        info, holder = choose(listed, manifests.checked_name(name), source)
        data = await self._node.manifest(name, holder.id, etag=info.etag)
        found = await self._pool.run(manifests.decode, data, name)
        if directory is not None:
            brought = await self._write_all(found, directory, progress)
        else:
            brought = await self._bring(found, progress)
            mine = next(
                (one for one in listed if one.name == name and self._node.target.id in {by.id for by in one.holders}),
                None,
            )
            if mine is None or mine.etag != info.etag:
                await self._node.put_manifest(name, data, before=None if mine is None else mine.etag)
        return Synced(name, info.etag, len(found.objects), len(found.digests()), brought, found.size(), holder.name)

    async def _bring(self, found: Manifest, progress: Progress | None) -> int:
        wanted = shuffled(sorted(found.digests()), self._randomness)
        total, had, idle = len(wanted), None, 0
        while wanted:
            page = wanted[:HAS_DIGESTS_MAX]
            here, answer = await self._node.pull(page, hold=True, wait_s=0.0 if had is None else PULL_WAIT_S)
            wanted = [digest for digest in wanted if digest not in here]
            if had is None and len(wanted) + len(here) == total:
                had = len(here)
            idle = 0 if here else idle + 1
            if progress is not None:
                progress(total - len(wanted), total)
            if answer.nobody:
                raise NotFound(f"nobody has {answer.nobody[0]} and {len(answer.nobody) - 1} other blobs of it")
            if idle > IDLE_ROUNDS_MAX:
                raise Unavailable(answer.reason or "nothing came for a minute; sync again to go on")
        return total - (had or 0)

    async def _write_all(self, found: Manifest, directory: Path, progress: Progress | None) -> int:
        """Every file, those that are there and right untouched; PartlyDone if some could not be had."""
        await self._pool.run(make_directory, self._files, directory)
        order = shuffled(list(found.objects.items()), self._randomness)
        done = brought = 0
        failed: list[tuple[str, HoldfastError]] = []
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(path: str, entry: Entry) -> None:
            nonlocal done, brought
            async with gate:
                try:
                    new = await self._write(directory, path, entry)
                except HoldfastError as error:
                    failed.append((path, error))
                    return
            done += 1
            brought += new
            if progress is not None:
                progress(done, len(order))

        await _all(one(path, entry) for path, entry in order)
        if failed:
            path, error = failed[0]
            if len(failed) == len(order):
                raise error
            raise PartlyDone(f"{len(failed)} of {len(order)} files could not be had; first {path}: {error.detail}")
        return brought

    async def _write(self, directory: Path, path: str, entry: Entry) -> bool:
        target = await self._pool.run(_place, self._files, directory, path)
        if await self._pool.run(self._is_right, target, entry):
            return False
        await self._write_blob(entry, target, entry.mode & 0o777)
        return True

    async def _write_blob(self, entry: Entry, target: Path, mode: int) -> None:
        for left in range(TRIES, 0, -1):
            part = await self._pool.run(PartFile, self._files, target, 0)
            try:
                async with self._node.read(entry.digest) as body:
                    if entry.size is not None and body.size != entry.size:
                        raise Corrupt(f"{entry.digest} came with {body.size} bytes, the manifest says {entry.size}")
                    at = 0
                    async for piece in body:
                        await self._pool.run(part.write, piece, at)
                        at += len(piece)
                await self._pool.run(finish_part, part, at, mode)
                return
            except (Corrupt, Unavailable):
                if left == 1:
                    raise
            finally:
                await self._pool.run(part.remove)

    def _is_right(self, target: Path, entry: Entry) -> bool:
        try:
            state = os.lstat(target)
        except OSError:
            return False
        if not stat.S_ISREG(state.st_mode) or state.st_size != entry.size:
            return False
        return self._hash(target).digest == entry.digest


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


def _place(files: Files, directory: Path, path: str) -> Path:
    """Where a path of a manifest lies below ``directory``, its directories made; never through a link."""
    parts = manifests.checked_path(path).split("/")
    at = directory
    for part in parts[:-1]:
        at = at / part
        make_directory(files, at)
    return at / parts[-1]


def finish_part(part: PartFile, size: int, mode: int) -> None:
    """Appears under its name; its time is that of its coming."""
    with local_errors(part.path):
        moment = os.lstat(part.path).st_mtime_ns
    part.finish(size, mode, moment, replace=True)


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs all; the first failure ends the others and is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
