"""Commits again what a coordinator lost: names come back from the ref chunks in packs that it has adopted.

After a recovery the coordinator may not know the names of its last minute. Their packs are on nodes, and each pack
carries its refs, sealed; only a device of the vault can read them. From a ref chunk the record is made again byte for
byte (docs/formats.md, Ref), so that doing this twice, or on two devices at once, changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from holdfast import logs
from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.client.device.coordinators import Coordinators
from holdfast.client.names.names import Found, Names, places
from holdfast.client.reading.content import ContentReader
from holdfast.client.reading.fetch import PackReader
from holdfast.client.reading.index_rebuild import read_index
from holdfast.clock import Clock
from holdfast.codec import refs
from holdfast.codec.keys import GENERATION_FIRST, VaultKeys
from holdfast.codec.pack_layout import IndexEntry
from holdfast.codec.refs import Ref, RefChunk
from holdfast.codec.sealer import Kind, open_chunk
from holdfast.errors import Corrupt, Denied, HoldfastError, Unavailable
from holdfast.pool import Pool
from holdfast.stores.side_by_side import side_by_side
from holdfast.wire import messages as m
from holdfast.wire import routes

AT_ONCE = 8
"""Packs read side by side."""

SPAN_BYTES_MAX = 4 << 20
"""Ref chunks of a pack that lie within so many bytes are read together."""

COMMIT_REFS = 250
COMMIT_BYTES = 384 << 10
WAIT_S = 30.0
"""How long a question waits for the names that are being brought back; then it is answered without them."""

AGAIN_S = 600.0
"""What could not be brought back is tried again after this."""

_log = logs.get_logger(__name__)


class Recommitted(NamedTuple):
    """``refs`` were committed again (or were known), ``packs`` were read, ``missed`` could not be read now."""

    refs: int = 0
    packs: int = 0
    missed: int = 0


class _Change(NamedTuple):
    """One record made again from the ref chunk in ``pack``."""

    pack: Digest
    record: bytes
    keep: bytes


class Recommit:
    """For one vault on one device. One pass at a time."""

    def __init__(
        self,
        keys: VaultKeys,
        device: Identity,
        coordinators: Coordinators,
        names: Names,
        reader: PackReader,
        content: ContentReader,
        pool: Pool,
        clock: Clock,
        heard: Callable[[], tuple[int, int]],
    ) -> None:
        """``heard``: the highest epoch and commit number that this device knows of."""
        self._keys = keys
        self._device = device
        self._coordinators = coordinators
        self._names = names
        self._reader = reader
        self._content = content
        self._pool = pool
        self._clock = clock
        self._heard = heard
        self._task: asyncio.Task[Recommitted] | None = None
        self._ended: float | None = None

    async def catch_up(self, wait: bool) -> bool:
        """Begins a pass unless there was one a moment ago; with ``wait``, True if it brought something back."""
        now = self._clock.monotonic()
        if self._task is None or (self._ended is not None and now - self._ended >= AGAIN_S):
            self._ended = None
            self._task = asyncio.create_task(self._behind())
        elif self._task.done():
            return False
        if not wait:
            return False
        await asyncio.wait({self._task}, timeout=WAIT_S)
        return self._task.done() and not self._task.cancelled() and self._task.result().refs > 0

    async def close(self) -> None:
        """Stops the pass under way. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run(self) -> Recommitted:
        """Reads every adopted pack and commits what refs it brings. Unavailable when the coordinator does not answer,
        Denied for a device that may not write.
        """
        done = Recommitted()
        async for page in self._names.vault_packs(unread=True):
            held = places(page.packs, page.nodes)
            for at in range(0, len(page.packs), m.PLAN_ITEMS_MAX):
                some = page.packs[at : at + m.PLAN_ITEMS_MAX]
                found = await self._read_all(some, held)
                unsettled = await self._commit_all([change for changes in found.values() for change in changes])
                read = [digest for digest in found if digest not in unsettled]
                if read:
                    await self._coordinators.ask(
                        routes.PACKS_READ, m.PacksRead(digests=read), path={"vault": str(self._keys.vault)}
                    )
                done = Recommitted(
                    done.refs + sum(len(found[digest]) for digest in read),
                    done.packs + len(read),
                    done.missed + len(some) - len(read),
                )
        return done

    async def _behind(self) -> Recommitted:
        done = Recommitted()
        try:
            done = await self.run()
            _log.info("names_brought_back", refs=done.refs, packs=done.packs, missed=done.missed)
        except Denied as error:
            _log.info("names_not_brought_back", reason=error.detail)
        except HoldfastError as error:
            _log.warning("names_not_brought_back", reason=error.detail)
        finally:
            self._ended = self._clock.monotonic()
        return done

    # --- reading ---

    async def _read_all(
        self, packs: Sequence[m.PackPlaces], held: dict[Digest, list[m.NodeAddress]]
    ) -> dict[Digest, list[_Change]]:
        """Pack -> the records of its refs; packs that cannot be read now are left out."""
        found: dict[Digest, list[_Change]] = {}

        async def read(pack: m.PackPlaces) -> None:
            try:
                found[pack.digest] = await self._read(pack, held)
            except (Unavailable, Corrupt) as error:
                _log.info("refs_not_read", pack=str(pack.digest), reason=error.detail)

        await side_by_side(AT_ONCE, packs, read)
        return found

    async def _read(self, pack: m.PackPlaces, held: dict[Digest, list[m.NodeAddress]]) -> list[_Change]:
        holders = held[pack.digest]
        entries = await read_index(self._keys, self._reader, self._pool, pack.digest, pack.size, holders)
        changes = []
        for span in _spans([entry for entry in entries if entry.kind is Kind.REF]):
            for chunk in await self._chunks(pack.digest, span, holders):
                changes.append(await self._change(pack.digest, chunk, held))
        return changes

    async def _chunks(self, pack: Digest, span: Sequence[IndexEntry], holders: Sequence[m.NodeAddress]) -> list[bytes]:
        start, stop = span[0].offset, span[-1].offset + span[-1].length
        keys = self._keys.generation(GENERATION_FIRST)

        def open_all(view: memoryview) -> list[bytes]:
            return [
                open_chunk(keys, Kind.REF, one.id, view[one.offset - start : one.offset - start + one.length])
                for one in span
            ]

        async def opened(view: memoryview) -> list[bytes]:
            return await self._pool.run(open_all, view)

        return await self._reader.read(pack, start, stop, holders, opened)

    async def _change(self, pack: Digest, chunk: bytes, held: dict[Digest, list[m.NodeAddress]]) -> _Change:
        """The record of one ref, with the keep list that its recipe asks for."""
        ref = refs.decode_ref_chunk(chunk)
        table: Sequence[Digest] = ()
        if ref.sealed.recipe is not None:
            opened = await self._content.open(_found(ref, pack, held), with_data=False)
            table = opened.recipe.packs
        record, keep = refs.rebuild_record(self._keys, chunk, pack, table)
        return _Change(pack, record, keep)

    # --- committing ---

    async def _commit_all(self, changes: Sequence[_Change]) -> set[Digest]:
        """Commits in portions; the packs of changes that were not taken, because packs they need are not there."""
        unsettled: set[Digest] = set()
        some: list[_Change] = []
        size = 0
        for change in sorted(changes, key=lambda change: refs.parse_record(change.record).clear.version):
            more = len(change.record) + len(change.keep)
            if some and (len(some) >= COMMIT_REFS or size + more > COMMIT_BYTES):
                unsettled |= await self._commit(some)
                some, size = [], 0
            some.append(change)
            size += more
        return unsettled | (await self._commit(some) if some else set())

    async def _commit(self, changes: Sequence[_Change]) -> set[Digest]:
        etags = b"".join(refs.etag(change.record) for change in changes)
        epoch, commit = self._heard()
        answer = await self._coordinators.ask(
            routes.COMMIT,
            m.CommitRequest(
                vault=self._keys.vault,
                keeps=list(dict.fromkeys(change.keep for change in changes)),
                groups=[[m.RefChange(record=change.record)] for change in changes],
                signature=self._device.sign(hashlib.sha256(etags).digest()),
                again=True,
                epoch=epoch,
                commit=commit,
            ),
        )
        if [len(group) for group in answer.groups] != [1] * len(changes):
            raise Unavailable("the coordinator's answer to a commit has another shape than the commit")
        return {
            change.pack for change, (result,) in zip(changes, answer.groups, strict=True) if result.state != "committed"
        }


def _found(chunk: RefChunk, pack: Digest, held: dict[Digest, list[m.NodeAddress]]) -> Found:
    """The ref as a reader of its content knows it; its etag and keep list follow from what is read."""
    nothing = Digest(bytes(32))
    return Found(Ref(chunk.clear, nothing, chunk.sealed.in_pack(pack), nothing), b"", b"", held)


def _spans(entries: Sequence[IndexEntry]) -> list[list[IndexEntry]]:
    """Chunks in order, those close together in one list."""
    spans: list[list[IndexEntry]] = []
    for entry in entries:
        if spans and entry.offset + entry.length - spans[-1][0].offset <= SPAN_BYTES_MAX:
            spans[-1].append(entry)
        else:
            spans.append([entry])
    return spans
