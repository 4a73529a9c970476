"""A node's manifests on disk: one file each, in the stored form, and an index of them in memory.

A manifest is there once its file is durable, and then all its blobs are here and held. Blobs that no manifest names any
more become a part of the cache.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast import logs
from holdfast.blob import Digest
from holdfast.clock import Clock
from holdfast.errors import BadConfig, Conflict, HoldfastError, NoSpace, NotFound, PacksGone
from holdfast.files import Files, read_file, write_file
from holdfast.node.keeper import Keeper
from holdfast.peers import manifest as manifests
from holdfast.peers.manifest import Manifest
from holdfast.pool import Pool

MANIFESTS_MAX = 10_000
ENTRIES_MAX = 2_000_000
"""Distinct blobs of all manifests together: their digests lie in memory."""
MISSING_SHOWN = 1000
HOLDS_AT_ONCE = 64

_SUFFIX = ".json"
_log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """One manifest. ``entries``: paths; ``blobs``, ``stored``: distinct blobs and their bytes; ``modified``: 1970."""

    name: str
    etag: Digest
    entries: int
    blobs: int
    stored: int
    modified: float


@dataclass(frozen=True, slots=True)
class Precondition:
    """What must hold before a change. ``match``: one of these etags, or any if it is empty; ``none``: no manifest there
    (True) or not this etag; ``unmodified_since``: seconds since 1970."""

    match: frozenset[Digest] | None = None
    none: bool | frozenset[Digest] = False
    unmodified_since: float | None = None

    def check(self, kept: Kept | None) -> None:
        """Conflict unless it holds; RFC 9110, 13.2.2."""
        found = {} if kept is None else {"etag": str(kept.etag)}
        if self.match is not None:
            if kept is None or (self.match and kept.etag not in self.match):
                raise Conflict("the manifest here is not the one that was to be changed (If-Match)", **found)
        elif self.unmodified_since is not None and kept is not None and kept.modified > self.unmodified_since:
            raise Conflict("the manifest here was changed since (If-Unmodified-Since)", **found)
        if self.none is True:
            if kept is not None:
                raise Conflict("a manifest of this name is here already (If-None-Match)", **found)
        elif self.none and kept is not None and kept.etag in self.none:
            raise Conflict("exactly this manifest is here already (If-None-Match)", **found)


class Manifests:
    """Use from one event loop; changes happen one after another."""

    def __init__(
        self,
        directory: Path,
        *,
        keeper: Keeper,
        files: Files,
        pool: Pool,
        clock: Clock,
        changed: Callable[[str, Digest | None], None] = lambda name, etag: None,
    ) -> None:
        """``directory``: the node's own. ``changed`` hears of every change, whoever made it: name, and etag or None."""
        self._changed = changed
        self._directory = directory / "manifests"
        self._keeper = keeper
        self._files = files
        self._pool = pool
        self._clock = clock
        self._kept: dict[str, Kept] = {}
        self._names: list[str] = []
        self._uses: Counter[Digest] = Counter()
        self._changing = asyncio.Lock()

    # -- questions

    def find(self, name: str) -> Kept | None:
        return self._kept.get(name)

    def all(self, after: str = "", limit: int = MANIFESTS_MAX) -> list[Kept]:
        """By name, above ``after``."""
        start = bisect.bisect_right(self._names, after) if after else 0
        return [self._kept[name] for name in self._names[start : start + limit]]

    def __len__(self) -> int:
        return len(self._kept)

    async def read(self, name: str) -> tuple[Kept, bytes]:
        """The manifest in its stored form; NotFound."""
        for _ in range(3):
            kept = self._kept.get(manifests.checked_name(name))
            if kept is None:
                break
            data = await self._pool.run(self._load, name)
            if data is not None and await self._pool.run(manifests.etag, data) == kept.etag:
                return kept, data
        raise NotFound(f"no manifest {name!r} is here")

    # -- changes

    async def put(self, name: str, data: bytes, condition: Precondition) -> tuple[Kept, bool]:
        """Keeps a manifest whose blobs are all here; (it, whether there was none of the name).

        BadRequest, TooLarge; Conflict; PacksGone with up to 1,000 digests (``packs``) that are missing; NoSpace.
        """
        found = await self._pool.run(manifests.decode, data, manifests.checked_name(name))
        async with self._changing:
            before = self._kept.get(name)
            condition.check(before)
            wanted = found.digests()
            if before is None and len(self._kept) >= MANIFESTS_MAX:
                raise NoSpace(f"this node keeps at most {MANIFESTS_MAX} manifests")
            if len(self._uses) + len(wanted) > ENTRIES_MAX:
                raise NoSpace(f"the manifests of this node name at most {ENTRIES_MAX} blobs")
            sizes = await self._hold(wanted)
            try:
                encoded = await self._pool.run(lambda: manifests.encode(found.completed(sizes)))
                kept = await self._pool.run(self._described, found.completed(sizes), encoded)
                if before is not None and before.etag == kept.etag:
                    return before, False
                old = set[Digest]() if before is None else await self._digests_of(name)
                await self._pool.run(self._save, name, encoded)
            except BaseException:
                await self._release([digest for digest in wanted if not self._uses[digest]])
                raise
            self._adopt(kept)
            self._count(wanted, old)
            await self._release([digest for digest in old - wanted if not self._uses[digest]])
        self._changed(name, kept.etag)
        return kept, before is None

    async def delete(self, name: str, condition: Precondition) -> None:
        """NotFound if there is none; Conflict."""
        async with self._changing:
            before = self._kept.get(manifests.checked_name(name))
            condition.check(before)
            if before is None:
                raise NotFound(f"no manifest {name!r} is here")
            old = await self._digests_of(name)
            await self._pool.run(self._unlink, name)
            del self._kept[name]
            self._names.remove(name)
            self._count(set(), old)
            await self._release([digest for digest in old if not self._uses[digest]])
        self._changed(name, None)

    def names(self, digest: Digest) -> bool:
        """Does a manifest here name it?"""
        return self._uses[digest] > 0

    # -- start

    async def start(self) -> None:
        """Reads what is there. A file that cannot be read is left as it is, logged and not served."""
        for name, kept, digests in await self._pool.run(self._scan):
            self._adopt(kept)
            self._count(digests, set())
            _log.debug("manifest_found", name=name, blobs=kept.blobs)

    async def settle(self) -> None:
        """Makes the ledger say what the manifests say: after a lost ledger, or a sync that was given up."""
        after = 0
        while page := await self._keeper.ledger.kept_for("manifest", after, 256):
            after = page[-1].sequence
            await self._release([entry.digest for entry in page if not self._uses[entry.digest]])
        missing = 0
        for digest in list(self._uses):
            if self._uses[digest] and await self._keeper.hold(digest) is None:
                missing += 1
        if missing:
            _log.warning("manifest_blobs_missing", count=missing)

    # -- inside

    async def _hold(self, digests: set[Digest]) -> dict[Digest, int]:
        """Sizes of all, which stay from now on; PacksGone, and nothing more is held than before."""
        gate = asyncio.Semaphore(HOLDS_AT_ONCE)

        async def one(digest: Digest) -> tuple[Digest, int | None]:
            async with gate:
                return digest, await self._keeper.hold(digest)

        held = await asyncio.gather(*(one(digest) for digest in sorted(digests)))
        missing = [digest for digest, size in held if size is None]
        if missing:
            await self._release([digest for digest, size in held if size is not None and not self._uses[digest]])
            raise PacksGone(
                f"{len(missing)} of the manifest's {len(digests)} blobs are not here; put them first",
                packs=[str(digest) for digest in missing[:MISSING_SHOWN]],
            )
        return {digest: size for digest, size in held if size is not None}

    async def _release(self, digests: list[Digest]) -> None:
        for digest in digests:
            await self._keeper.release(digest)

    async def _digests_of(self, name: str) -> set[Digest]:
        data = await self._pool.run(self._load, name)
        return set() if data is None else (await self._pool.run(manifests.decode, data, name)).digests()

    def _adopt(self, kept: Kept) -> None:
        if kept.name not in self._kept:
            bisect.insort(self._names, kept.name)
        self._kept[kept.name] = kept

    def _count(self, new: set[Digest], old: set[Digest]) -> None:
        for digest in new - old:
            self._uses[digest] += 1
        for digest in old - new:
            self._uses[digest] -= 1
            if self._uses[digest] <= 0:
                del self._uses[digest]

    # -- in the pool

    def _path(self, name: str) -> Path:
        return self._directory / (name + _SUFFIX)

    def _described(self, found: Manifest, data: bytes, modified: float | None = None) -> Kept:
        return Kept(
            found.name,
            manifests.etag(data),
            len(found.objects),
            len(found.digests()),
            found.size(),
            self._clock.now() if modified is None else modified,
        )

    def _translated(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            raise NoSpace(f"the manifest cannot be written: {error.strerror or error}") from error

    def _save(self, name: str, data: bytes) -> None:
        def work() -> None:
            self._files.make_directory(self._directory)
            write_file(self._files, self._path(name), data)

        self._translated(work)

    def _unlink(self, name: str) -> None:
        def work() -> None:
            self._files.unlink(self._path(name))
            self._files.sync_directory(self._directory)

        self._translated(work)

    def _load(self, name: str) -> bytes | None:
        try:
            return read_file(self._files, self._path(name), manifests.BYTES_MAX)
        except (OSError, BadConfig) as error:
            raise NotFound(f"the manifest {name!r} cannot be read: {error}") from error

    def _scan(self) -> list[tuple[str, Kept, set[Digest]]]:
        found = []
        for file in self._files.list(self._directory):
            name = file.removesuffix(_SUFFIX)
            if name == file or file.startswith("."):
                continue
            try:
                data = self._load(manifests.checked_name(name))
                if data is None:
                    continue
                one = manifests.stored(data, name)
            except HoldfastError as error:
                _log.error("manifest_damaged", name=name, reason=error.detail)
                continue
            found.append((name, self._described(one, data, _modified(self._path(name))), one.digests()))
        return found


def _modified(path: Path) -> float | None:
    """Seconds since 1970, None where the file system does not say."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None
