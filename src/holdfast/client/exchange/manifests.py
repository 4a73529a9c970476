"""Bringing a manifest to a node, or its files to a directory: only what is missing, several at a time, resumable.

A manifest is saved after its blobs. Blobs are brought in a random order, so that nodes that sync the same manifest have
something for each other.
"""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from holdfast.blob import Digest
from holdfast.client.device.local import PartFile, local_errors, make_directory
from holdfast.client.exchange.peers import NodeCalls, choose
from holdfast.client.exchange.push import AT_ONCE, TRIES, Progress, hashed, run_all
from holdfast.clock import Randomness, shuffled
from holdfast.errors import (
    Corrupt,
    HoldfastError,
    NotFound,
    PartlyDone,
    Unavailable,
)  # fmt: skip
from holdfast.files import Files
from holdfast.peers import manifest as manifests
from holdfast.peers.manifest import Entry, Manifest
from holdfast.pool import Pool
from holdfast.wire.messages import HAS_DIGESTS_MAX

PULL_WAIT_S = 2.0
NOBODY_ROUNDS = 3
"""Times in a row that nobody has something before a sync believes it."""
IDLE_ROUNDS_MAX = 30
"""Rounds in which nothing came before a sync gives up; each waits ``PULL_WAIT_S``."""


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
    """What one node brings here, to itself or to a directory."""

    def __init__(self, node: NodeCalls, *, files: Files, pool: Pool, randomness: Randomness) -> None:
        self._node = node
        self._files = files
        self._pool = pool
        self._randomness = randomness

    async def get_file(self, digest: Digest, target: Path) -> int:
        """A blob as a file, all or nothing; its size. What is there is replaced."""
        await self._write_blob(Entry(digest, None), target, 0o644)
        return (await self._pool.run(os.lstat, target)).st_size

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
        total, had, idle, lost = len(wanted), None, 0, 0
        while wanted:
            page = wanted[:HAS_DIGESTS_MAX]
            here, answer = await self._node.pull(page, hold=True, wait_s=0.0 if had is None else PULL_WAIT_S)
            wanted = [digest for digest in wanted if digest not in here]
            if had is None and len(wanted) + len(here) == total:
                had = len(here)
            idle = 0 if here else idle + 1
            if progress is not None:
                progress(total - len(wanted), total)
            lost = lost + 1 if answer.nobody else 0
            if lost >= NOBODY_ROUNDS:
                raise NotFound(f"nobody has {answer.nobody[0]} and {len(answer.nobody) - 1} other blobs of it")
            if lost:
                await asyncio.sleep(PULL_WAIT_S)  # a peer that was busy or has just started is asked again
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

        await run_all(one(path, entry) for path, entry in order)
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
        return hashed(self._files, target).digest == entry.digest


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
