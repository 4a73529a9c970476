"""What a node keeps and why: one row for each blob, in ``ledger.db`` beside the store (docs/formats.md, Files on disk).

A row is written after its blob is durable and says "not here" before or as its blob goes, so the ledger may claim too
little and never too much; ``reconcile`` finds what it missed. Rows that arrive together share one transaction and one
sync; alone, nobody waits for company, and the thread that made a blob durable writes the row, too.
What one row is stands in ``rows``, the file in ``file``, the sums in ``totals``.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import apsw

from holdfast.auth.identity import Id
from holdfast.blob import DIGEST_BYTES, Digest
from holdfast.errors import HoldfastError, StorePoisoned, Unavailable
from holdfast.files import Files
from holdfast.inventory import Roots, inner_roots
from holdfast.node.ledger.file import LedgerFile, Written
from holdfast.node.ledger.rows import COLUMNS, Change, Entry, Kept, bytes_of, entry_of, span_of
from holdfast.pool import Pool

CACHE_ENTRIES_MAX = 32_768
GROUP_MAX = 512
"""Changes in one transaction: more than ever wait in practice, and few enough for a short one."""

_ROOTED = "here = 1 AND kept NOT IN ('manifest', 'cache', 'reflog')"

T = TypeVar("T")


class _Waiting(NamedTuple):
    """A change on its way, in the order of arrival."""

    change: Change
    done: asyncio.Future[Entry | None]


class Ledger:
    """Use from one event loop; any number of calls at once. Make one with ``open``."""

    def __init__(self, path: Path, *, files: Files, writer: Pool, reader: Pool, ballast_bytes: int = 0) -> None:
        """``start`` first. ``writer`` and ``reader`` have one thread each and serve nothing else; they stay the
        caller's. ``ballast_bytes`` of the disk are held, so that a removal finds room where others left none."""
        self._file = LedgerFile(path, files, ballast_bytes)
        self._writer = writer
        self._reader = reader
        self._cache: OrderedDict[Digest, Entry] = OrderedDict()
        self._commits = 0
        self._early: dict[int, tuple[list[_Waiting], Written]] = {}
        """Written, but not shown yet: an earlier transaction's thread is still on its way back."""
        self._waiting: list[_Waiting] = []
        self._flush: asyncio.Task[None] | None = None
        self._counting: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, directory: Path, *, files: Files, writer: Pool, reader: Pool, ballast_bytes: int = 0) -> Ledger:
        """The ledger in ``directory``, started."""
        ledger = cls(directory / "ledger.db", files=files, writer=writer, reader=reader, ballast_bytes=ballast_bytes)
        await ledger.start()
        return ledger

    async def start(self) -> None:
        """Reads the file or makes it; one that cannot be read is set aside and begun anew.

        BadConfig if it was written by a newer holdfast or the directory refuses.
        """
        await self._writer.run(self._file.start)
        await self._reader.run(self._file.start_reading)
        if not self._file.all_counted:
            self._counting = asyncio.get_running_loop().create_task(self._count(), name="ledger count")

    # -- how it stands

    @property
    def roots(self) -> Roots:
        """Of what is here for vaults. Too small until ``counted``."""
        return self._file.totals.roots

    @property
    def held_bytes(self) -> int:
        """Bytes of the blobs that are here. Too small until ``counted``."""
        return self._file.totals.held_bytes

    @property
    def shared(self) -> dict[Kept, tuple[int, int]]:
        """How many blobs are here for manifests and in the cache, and their bytes. Too small until ``counted``."""
        return self._file.totals.shared

    @property
    def sequence(self) -> int:
        """The highest sequence in a durable row."""
        return self._file.sequence

    @property
    def clean(self) -> bool:
        """Whether the last stop was clean, so that store and ledger agree."""
        return self._file.clean

    @property
    def broken(self) -> str | None:
        """Why nothing more can be written, None while it can."""
        return self._file.broken

    async def counted(self) -> None:
        """Returns when the sums are whole: at once, but after an unclean stop with many rows."""
        if self._counting is not None:
            await asyncio.shield(self._counting)

    async def _count(self) -> None:
        totals = self._file.totals
        while not self._file.all_counted:
            for digest, size, kept in await self._writer.run(self._file.count):
                totals.add(digest, size, kept)

    # -- changes

    async def record(self, digest: Digest, size: int, vault: Id | None, kept: Kept = "vault") -> int:
        """The blob is here, durably in the store; returns its new write sequence once the row is durable, too."""
        return await self._recorded(Change(digest, size, kept, vault, True, None))

    async def _recorded(self, change: Change) -> int:
        entry = await self._change(change)
        assert entry is not None, "a recorded blob has a row"
        return entry.sequence

    async def record_with(
        self,
        digest: Digest,
        size: int,
        vault: Id | None,
        kept: Kept,
        work: Callable[[Callable[[], None]], Awaitable[T]],
    ) -> tuple[T, int]:
        """As ``record``, of a blob that ``work`` makes durable; (what it returned, sequence).

        ``work`` is given a function that it may call, once and in any thread, when the blob is durable: that writes the
        row there, unless somebody else is writing. Otherwise the row is written when ``work`` has ended.
        """
        self._check()
        change = Change(digest, size, kept, vault, True, None)
        waiting = _Waiting(change, asyncio.get_running_loop().create_future())
        early: list[Written | HoldfastError] = []
        counted = self._counting is None or self._counting.done()

        def write() -> None:
            if not counted:  # the sums are counted in the writer's thread, and its answers keep their order
                return
            try:
                written = self._file.write_if_free(change)
            except HoldfastError as error:
                early.append(error)
            else:
                early.extend([] if written is None else [written])

        try:
            result = await work(write)
        finally:  # what is written shows, though its caller may have been cancelled
            for outcome in early:
                if isinstance(outcome, Written):
                    self._adopt([waiting], outcome)
        if not early:
            return result, await self._recorded(change)
        if isinstance(early[0], HoldfastError):
            raise early[0]
        entry = await waiting.done
        assert entry is not None, "a recorded blob has a row"
        return result, entry.sequence

    async def release(self, digest: Digest, size: int) -> None:
        """No manifest names this blob any more: it is a part of the cache, unless a vault keeps it."""
        await self._change(Change(digest, size, "cache", None, True, None, release=True))

    async def remove(self, digest: Digest, *, trashed: float | None = None) -> Entry | None:
        """The blob is not here any more, or is about to go; its small row gets a new sequence. None if it has no row.

        ``trashed``: since when it lies in trash.
        """
        moment = None if trashed is None else int(trashed)
        return await self._change(Change(digest, 0, "unknown", None, False, moment))

    async def scrubbed(self, digest: Digest, moment: float) -> None:
        """The blob was re-read and right; no new sequence."""
        await self._change(Change(digest, 0, "unknown", None, None, int(moment)))

    async def _change(self, change: Change) -> Entry | None:
        self._check()
        done: asyncio.Future[Entry | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(change, done))
        if self._flush is None:
            self._flush = asyncio.get_running_loop().create_task(self._flush_all(), name="ledger")
        return await done

    async def _flush_all(self) -> None:
        """Writes what waits, group after group; whoever comes during a sync is in the next group."""
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
                try:
                    written = await self._writer.run(self._file.write, [change for change, _ in group])
                except Exception as error:
                    for _, done in group:
                        if not done.done():
                            done.set_exception(error)
                else:
                    self._adopt(group, written)
        finally:
            self._flush = None

    def _adopt(self, group: list[_Waiting], written: Written) -> None:
        """Back in the event loop: what is durable now shows, in the order in which it was written."""
        self._early[written.number] = (group, written)
        while (found := self._early.pop(self._commits + 1, None)) is not None:
            self._commits += 1
            self._show(*found)

    def _show(self, group: list[_Waiting], written: Written) -> None:
        for (_, done), (before, after, counts) in zip(group, written.rows, strict=True):
            if counts:
                self._file.totals.change(before, after)
            if after is not None:
                self._file.sequence = max(self._file.sequence, after.sequence)
                self._remember(after)
            if not done.done():
                done.set_result(after)

    # -- questions

    async def find(self, digest: Digest) -> Entry | None:
        """The row of a blob, also of one that is no longer here; None if there is none."""
        self._check_open()
        found = self._cache.get(digest)
        if found is not None:
            self._cache.move_to_end(digest)
            return found
        commits = self._commits
        entry = await self._ask(lambda: self._file.find(digest))
        newer = self._cache.get(digest)
        if newer is not None:
            return newer
        if entry is not None and commits == self._commits:
            self._remember(entry)
        return entry

    async def find_all(self, digests: Iterable[Digest]) -> dict[Digest, Entry]:
        """The rows of many blobs; those without one are left out."""
        self._check_open()
        found, missing = {}, []
        for digest in dict.fromkeys(digests):
            entry = self._cache.get(digest)
            if entry is None:
                missing.append(digest)
            else:
                found[digest] = entry
        if missing:

            def look() -> list[Entry | None]:
                return [self._file.find(digest) for digest in missing]

            found |= {entry.digest: entry for entry in await self._ask(look) if entry is not None}
        return found

    async def changes(self, after: int, limit: int) -> list[Entry]:
        """Rows with a sequence above ``after``, ascending, also of blobs that are gone: the inventory read onwards."""
        return await self._select("sequence > ? ORDER BY sequence LIMIT ?", (after, limit))

    async def under(self, prefixes: Sequence[bytes], past: Digest | None, limit: int) -> list[Entry]:
        """What is here for vaults under ``prefixes`` (ascending, none inside another), ascending by digest."""
        self._check_open()

        def rows() -> list[Entry]:
            found: list[Entry] = []
            for prefix in prefixes:
                low, high = span_of(prefix)
                if past is not None and high <= past:
                    continue
                found += map(
                    entry_of,
                    self._file.reading.execute(
                        f"SELECT {COLUMNS} FROM blobs WHERE digest >= ? AND digest <= ? AND digest > ? "  # noqa: S608
                        f"AND {_ROOTED} ORDER BY digest LIMIT ?",
                        (low, high, past or b"", limit - len(found)),
                    ),
                )
                if len(found) >= limit:
                    break
            return found

        return await self._ask(rows)

    async def inner_roots(self, prefix: int) -> bytes:
        """``inventory.inner_roots`` of what is here for vaults under the first byte ``prefix``."""
        self._check_open()

        def roots() -> bytes:
            question = f"SELECT digest FROM blobs WHERE digest >= ? AND digest <= ? AND {_ROOTED}"  # noqa: S608
            found = self._file.reading.execute(question, span_of(bytes([prefix])))
            return inner_roots(Digest(bytes_of(digest)) for (digest,) in found)

        return await self._ask(roots)

    async def kept_for(self, kept: Kept, after: int, limit: int) -> list[Entry]:
        """What is here for manifests, or in the cache: the oldest first, above sequence ``after``."""
        return await self._select(
            "kept = ? AND kept IN ('manifest', 'cache') AND here = 1 AND sequence > ? ORDER BY sequence LIMIT ?",
            (kept, after, limit),
        )

    async def trashed(self, before: float, limit: int) -> list[Entry]:
        """What lies in trash since before that second of the slow clock, the oldest first."""
        return await self._select(
            "here = 0 AND trashed IS NOT NULL AND trashed < ? ORDER BY trashed LIMIT ?", (int(before), limit)
        )

    async def reflogs(self, after: int, limit: int) -> list[Entry]:
        """Reflog blobs here, ascending by sequence, above sequence ``after``."""
        return await self._select(
            "kept = 'reflog' AND here = 1 AND sequence > ? ORDER BY sequence LIMIT ?", (after, limit)
        )

    async def span(self, after: Digest | None, last: Digest | None) -> list[Digest]:
        """Blobs here with ``after`` < digest <= ``last``, ascending; None is the end on that side."""
        self._check_open()

        def digests() -> list[Digest]:
            question = "SELECT digest FROM blobs WHERE digest > ? AND digest <= ? AND here = 1 ORDER BY digest"
            found = self._file.reading.execute(question, (after or b"", last or b"\xff" * DIGEST_BYTES))
            return [Digest(bytes_of(digest)) for (digest,) in found]

        return await self._ask(digests)

    async def close(self, *, clean: bool = True) -> None:
        """Writes what waits; with ``clean`` marks that store and ledger agree. May be called twice."""
        if self._closed:
            return
        while self._flush is not None:
            await asyncio.wait([self._flush])
        self._closed = True
        if self._counting is not None:
            clean = clean and self._counting.done()
            self._counting.cancel()
            await asyncio.wait([self._counting])
        await self._reader.run(self._file.reading.close)
        await self._writer.run(self._file.stop, clean)

    async def _select(self, condition: str, values: Sequence[apsw.SQLiteValue]) -> list[Entry]:
        self._check_open()
        return await self._ask(lambda: self._file.select(condition, values))

    async def _ask(self, question: Callable[[], T]) -> T:
        try:
            return await self._reader.run(question)
        except apsw.Error as error:
            raise Unavailable(f"the ledger cannot be read: {error}") from error

    def _remember(self, entry: Entry) -> None:
        self._cache[entry.digest] = entry
        self._cache.move_to_end(entry.digest)
        if len(self._cache) > CACHE_ENTRIES_MAX:
            self._cache.popitem(last=False)

    def _check(self) -> None:
        self._check_open()
        if self.broken is not None:
            raise StorePoisoned(self.broken)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the ledger is closed")
