"""Verifying: everything that names say is read and checked once, or a part of it; on request every copy on every node.

Nothing is changed by this device. A node that is told of a wrong copy re-reads it, sets it aside and tells the
coordinator, which has another made from a right one (docs/design.md, Who checks). Memory is bounded: names pass in
pages, and a few files and packs are looked at side by side.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from holdfast.blob import Digest
from holdfast.client.names.names import Found, Names, places
from holdfast.client.reading.content import RUN_BYTES_MAX, ContentReader
from holdfast.client.reading.fetch import bad_copies
from holdfast.clock import Clock, Randomness
from holdfast.codec import refs
from holdfast.codec.refs import RefKind
from holdfast.errors import BadRequest, Corrupt, HoldfastError, NotFound, TooManyRequests
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target
from holdfast.wire.messages import NodeAddress

FILES_AT_ONCE = 16
PACKS_AT_ONCE = 4
PIECE_BYTES = 32 << 20
"""Of a large file so many bytes are one choice of a sample."""
KNOWN_MAX = 100_000
BUSY_TRIES = 20
BUSY_S = 5.0
_MILLION = 1_000_000

DefectKind: TypeAlias = Literal["wrong", "missing", "unreached", "lost"]


@dataclass(frozen=True, slots=True)
class Defect:
    """What is wrong. ``wrong``: a copy has other bytes; ``missing``: a node does not have the copy that it should.

    ``unreached``: nobody could say; ``lost``: the name has no right copy left of something it needs. ``name``: one
    that needs ``pack``; ``node``: a node's name.
    """

    kind: DefectKind
    name: str
    detail: str
    pack: Digest | None = None
    node: str | None = None


@dataclass(slots=True)
class VerifySummary:
    """How much was looked at, and how many defects of each kind were found. ``copies``: re-read by their nodes."""

    names: int = 0
    bytes: int = 0
    copies: int = 0
    wrong: int = 0
    missing: int = 0
    unreached: int = 0
    lost: int = 0


class Verifier:
    """One verify under way."""

    def __init__(
        self,
        names: Names,
        content: ContentReader,
        http: HttpClient,
        certificate: bytes,
        clock: Clock,
        randomness: Randomness,
        *,
        sample: float,
        all_copies: bool,
        found: Callable[[Defect], None],
        looked: Callable[[str], None],
    ) -> None:
        """``found`` hears of each defect once, ``looked`` the name of each that was looked at."""
        if not 0 < sample <= 1:
            raise BadRequest("a sample is more than nothing and at most everything")
        self.summary = VerifySummary()
        self._names = names
        self._content = content
        self._http = http
        self._certificate = certificate
        self._clock = clock
        self._randomness = randomness
        self._sample = int(sample * _MILLION)
        self._all_copies = all_copies
        self._found = found
        self._looked = looked
        self._told: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._packs: OrderedDict[Digest, None] = OrderedDict()  # whose copies were looked at
        self._packs_at_once = asyncio.Semaphore(PACKS_AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self, tops: Sequence[str]) -> VerifySummary:
        """Looks at each of ``tops`` (``""``: all) with all below it; NotFound for a name that is not there."""
        begin = [await self._names.find(top, fresh=True) if top else None for top in tops]
        try:
            for found in begin:
                if found is None or found.ref.clear.kind is RefKind.DIRECTORY:
                    await self._tree("" if found is None else found.ref.sealed.path)
                if found is not None:
                    await self._begin(found)
            while self._under_way:
                await self._end_some()
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
        return self.summary

    async def _tree(self, top: str) -> None:
        waiting = [top]
        while waiting:
            directory = waiting.pop()
            try:
                async for entries, page in self._names.listing(directory):
                    held = places(page.packs, page.nodes)
                    for ref, record in entries:
                        if ref.clear.kind is RefKind.DIRECTORY:
                            waiting.append(ref.sealed.path)
                        await self._begin(Found(ref, record, b"", dict(held)))
            except Corrupt as error:  # of a record: the other directories are looked at all the same
                self._tell(Defect("lost", directory or "/", error.detail))

    async def _begin(self, found: Found) -> None:
        """Small files side by side; a large one, which is read in many parts at once, beside few others."""
        if len(self._under_way) >= FILES_AT_ONCE:
            await self._end_some()
        task = asyncio.create_task(self._one(found))
        self._under_way.add(task)
        if found.ref.sealed.attributes.size > RUN_BYTES_MAX:
            while not task.done():
                await self._end_some()

    async def _end_some(self) -> None:
        done, self._under_way = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _one(self, found: Found) -> None:
        name = found.ref.sealed.path
        bad_copies.set(lambda node, pack, kind, detail: self._tell(Defect(kind, name, detail, pack, node.name)))
        try:
            if self._all_copies:
                if not found.keep:
                    found = await self._names.find(name, fresh=True)
                await self._copies_of(found)
            if found.ref.clear.kind is RefKind.FILE:
                await self._read(found)
        except HoldfastError as error:
            if isinstance(error, NotFound):
                return  # it was deleted meanwhile
            text = error.extra.get("pack") if isinstance(error.extra.get("pack"), str) else None
            pack = None if text is None else Digest.parse(text)
            self._tell(Defect("lost" if isinstance(error, Corrupt) else "unreached", name, error.detail, pack))
        self.summary.names += 1
        self._looked(name)

    def _chosen(self) -> bool:
        return self._sample == _MILLION or self._randomness.below(_MILLION) < self._sample

    async def _read(self, found: Found) -> None:
        """Reads a file through the very path that a reader's bytes take; of a large one each piece by choice."""
        size = found.ref.sealed.attributes.size
        if size <= RUN_BYTES_MAX or self._sample == _MILLION:
            if self._chosen():
                await self._stream(found, 0, size)
            return
        for start in range(0, size, PIECE_BYTES):
            if self._chosen():
                await self._stream(found, start, min(start + PIECE_BYTES, size))

    async def _stream(self, found: Found, start: int, stop: int) -> None:
        if start == stop:
            await self._content.open(found, with_data=False)
        async for piece in self._content.stream(found, start, stop):
            self.summary.bytes += len(piece)

    async def _copies_of(self, found: Found) -> None:
        packs = [pack for pack in refs.parse_keep_list(found.keep) if pack not in self._packs]
        for pack in packs:
            self._packs[pack] = None
        while len(self._packs) > KNOWN_MAX:
            self._packs.popitem(last=False)
        for pack in packs:
            if self._chosen():
                async with self._packs_at_once:
                    await self._copies(found, pack)

    async def _copies(self, found: Found, pack: Digest) -> None:
        """Every node that should hold the pack re-reads its copy."""
        name = found.ref.sealed.path
        holders = await self._content.holders(found.places, pack)
        kinds = await asyncio.gather(*(self._copy(name, node, pack) for node in holders))
        if not any(kind is None or kind == "unreached" for kind in kinds):
            detail = f"no right copy of pack {pack} is left"
            self._tell(Defect("lost", name, detail, pack))

    async def _copy(self, name: str, node: NodeAddress, pack: Digest) -> DefectKind | None:
        kind: DefectKind | None = None
        detail = ""
        try:
            state = await self._verified(node, pack)
            if state == "quarantined":
                kind, detail = "wrong", "its copy had other bytes and was set aside"
            elif state == "missing":
                kind, detail = "missing", "it does not have the copy that it should have"
        except NotFound:
            kind, detail = "missing", "it does not have the copy that it should have"
        except HoldfastError as error:
            kind, detail = "unreached", error.detail
        self.summary.copies += 1
        if kind is not None:
            self._tell(Defect(kind, name, detail, pack, node.name))
        return kind

    async def _verified(self, node: NodeAddress, pack: Digest) -> str:
        tries = 0
        while True:
            try:
                answer = await self._http.call(
                    Target(node.id, node.url), routes.BLOB_VERIFY, path={"digest": str(pack)}, grant=self._certificate
                )
            except TooManyRequests as error:
                tries += 1
                if tries == BUSY_TRIES:
                    raise
                after = error.extra.get("retry_after")
                await self._clock.sleep(float(after) if isinstance(after, int | float) else BUSY_S)
            else:
                return answer.state

    def _tell(self, defect: Defect) -> None:
        what = (defect.node, defect.pack) if defect.node is not None else (defect.name,)
        if what in self._told:
            return
        self._told[what] = None
        if len(self._told) > KNOWN_MAX:
            self._told.popitem(last=False)
        setattr(self.summary, defect.kind, getattr(self.summary, defect.kind) + 1)
        self._found(defect)
