"""Names and their records: asked of the coordinator, or remembered when it does not answer; never older than seen.

A record is believed because the vault's keys open it, not because the coordinator sent it. What the coordinator could
still do is serve an old one: so the highest version of each name that this device has seen is kept, and a lower one
is Corrupt (docs/formats.md, Ref).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.client.device.coordinators import Coordinators
from holdfast.client.names.drafts import KnownRecipe, Present
from holdfast.client.names.index import Index
from holdfast.client.names.index_file import Batch, IndexFile, NodeRow, SeenRef
from holdfast.client.names.questions import RefQuestions
from holdfast.codec import paths, refs
from holdfast.codec.keys import VaultKeys
from holdfast.codec.refs import Ref, RefKind
from holdfast.errors import BadRequest, Corrupt, NotFound, Unavailable
from holdfast.pool import Pool
from holdfast.wire import messages as m
from holdfast.wire import routes

PLACES_IN_MEMORY = 4096
RECORDS_INLINE_MAX = 8
SEEN_AGAIN_S = 60.0
"""A record that is still the present one is written down as seen again after so long."""


@dataclass(frozen=True, slots=True)
class Found:
    """A name's record, opened, and who holds the packs that it is known to need. ``cached``: not asked just now."""

    ref: Ref
    record: bytes
    keep: bytes
    places: dict[Digest, list[m.NodeAddress]]
    cached: bool = False
    seen: float = 0.0
    """When a cached one was last known to be the present one, seconds since 1970."""
    queued: int = 0
    """Its sequence in the outbox, while it is there only."""
    conflict: bool = False
    """It is queued, and the network has something else."""


@dataclass(frozen=True, slots=True)
class Thrown:
    """A deleted name of which a version is kept: the newest, with its record; ``deleted``: seconds since 1970."""

    tombstone: Ref
    kept: Ref
    record: bytes
    deleted: float
    until_s: float


class Names:
    """The refs of one vault. Any number of calls at once."""

    def __init__(self, keys: VaultKeys, coordinators: Coordinators, index: Index, pool: Pool) -> None:
        self._keys = keys
        self._coordinators = coordinators
        self._index = index
        self._pool = pool
        self._questions = RefQuestions(coordinators, keys.vault)
        self._written: OrderedDict[Digest, tuple[Id, ...]] = OrderedDict()

    async def find(self, path: str, *, fresh: bool = False) -> Found:
        """The present record of ``path``; NotFound if there is none or it was deleted.

        When the coordinator does not answer, the record that this device saw last, unless ``fresh``.
        """
        found = await self.find_any(path, fresh=fresh)
        if found is None or found.ref.clear.kind is RefKind.TOMBSTONE:
            raise NotFound(f"no {path!r} in this vault")
        return found

    async def find_any(self, path: str, *, fresh: bool = False) -> Found | None:
        """As ``find``, tombstones too; None for a name that never was."""
        tag = paths.name_tag(self._keys.name, path)
        try:
            answer = await self._questions.ask(tag)
        except NotFound:
            seen = await self._index.ref(tag)
            if seen is not None and refs.parse_record(seen.record).clear.kind is not RefKind.TOMBSTONE:
                raise Corrupt(
                    f"the coordinator does not know {path!r}, but this device has seen version {seen.version} of it"
                ) from None
            return None
        except Unavailable:
            seen = None if fresh else await self._index.ref(tag)
            if seen is None:
                raise
            return await self._remembered(path, seen)
        if not answer.record:  # deleted so long ago that nothing else is left of it
            seen = await self._index.ref(tag)
            if seen is not None and seen.version > answer.version:
                raise Corrupt(
                    f"the coordinator says that {path!r} was deleted as version {answer.version}, but this device has "
                    f"seen version {seen.version} of it"
                )
            return None
        ref = refs.open_record(self._keys, answer.record, path)
        if Digest.of(answer.keep) != ref.keep:
            raise Corrupt(f"the keep list of {path!r} is not the one that its record names")
        held = places(answer.packs, answer.nodes)
        await self._check(((tag, ref, answer.record, answer.keep),))
        await self.remember_places(answer.packs, answer.nodes)
        return Found(ref, answer.record, answer.keep, held)

    def recent(self, path: str) -> bool:
        """Whether this process has seen ``path`` lately. Never blocks."""
        return self._index.recent(paths.name_tag(self._keys.name, path))

    async def remembered(self, path: str) -> Found | None:
        """The record that this device saw last; nobody is asked."""
        seen = await self._index.ref(paths.name_tag(self._keys.name, path))
        return None if seen is None else await self._remembered(path, seen)

    async def listing(self, directory: str) -> AsyncIterator[tuple[list[tuple[Ref, bytes]], m.RefPage]]:
        """Pages of (opened record, its bytes) in ``directory`` (``""``: the root), with the places of their recipes."""
        parent = paths.parent_tag(self._keys.name, directory)
        async for page in self._pages(parent.hex()):
            if len(page.records) <= RECORDS_INLINE_MAX:
                opened = self._open_all(page.records)
            else:
                opened = await self._pool.run(self._open_all, page.records)
            for ref, _ in opened:
                if ref.clear.parent_tag != parent:
                    raise Corrupt("the coordinator listed a name of another directory")
            await self._check([(ref.clear.name_tag, ref, record, b"") for ref, record in opened])
            await self.remember_places(page.packs, page.nodes)
            yield opened, page

    async def clear_listing(self, directory: str) -> dict[bytes, Present]:
        """name tag -> what is there, of a directory, without opening the records: to find what is unchanged."""
        parent = paths.parent_tag(self._keys.name, directory)
        found: dict[bytes, Present] = {}

        def read(records: Sequence[bytes]) -> None:
            for record in records:
                try:
                    clear = refs.parse_record(record).clear
                except BadRequest as error:
                    raise Corrupt(f"the coordinator listed something that is no record: {error.detail}") from error
                found[clear.name_tag] = Present(clear.version, refs.etag(record), clear.kind)

        async for page in self._pages(parent.hex()):
            await self._pool.run(read, page.records)
        return found

    def tag(self, path: str) -> bytes:
        return paths.name_tag(self._keys.name, path)

    async def is_empty(self, directory: str) -> bool:
        """Is nothing in it?"""
        parent = paths.parent_tag(self._keys.name, directory).hex()
        page = await self._coordinators.ask(
            routes.REFS, m.RefQuery(parent=parent, limit=1), path={"vault": str(self._keys.vault)}
        )
        return not page.records

    async def trash(self, directory: str) -> AsyncIterator[Thrown]:
        """Names that were deleted in ``directory``, in no order, as long as a version is kept."""
        parent = paths.parent_tag(self._keys.name, directory)
        async for page in self._pages(parent.hex(), trash=True):
            if len(page.kept) != len(page.records):
                raise Unavailable("the coordinator's answer about the trash has another shape than it should")
            gone = await self._pool.run(self._open_all, page.records)
            kept = await self._pool.run(self._open_all, [version.record for version in page.kept])
            for (tombstone, _), (ref, record), version in zip(gone, kept, page.kept, strict=True):
                if tombstone.clear.parent_tag != parent or tombstone.sealed.path != ref.sealed.path:
                    raise Corrupt("the coordinator listed a name of another directory")
                if ref.clear.kind is not RefKind.TOMBSTONE:
                    yield Thrown(tombstone, ref, record, version.committed, version.until or 0.0)

    async def history(self, path: str) -> list[tuple[Ref, m.RefVersion]]:
        """All states of a name that are kept, newest first; NotFound if there never was one."""
        tag = paths.name_tag(self._keys.name, path)
        answer = await self._coordinators.ask(
            routes.REF_HISTORY, path={"vault": str(self._keys.vault), "tag": tag.hex()}
        )
        found = [(refs.open_record(self._keys, version.record, path), version) for version in answer.versions]
        found.sort(key=lambda one: one[0].clear.version, reverse=True)
        return found

    async def at_version(self, path: str, version: int) -> Found:
        """A state of a name that is still kept; NotFound if it is not, or the name was deleted there."""
        present = await self.find_any(path)
        if present is not None and present.ref.clear.version == version:
            found = present
        else:
            for ref, old in await self.history(path):
                if ref.clear.version == version:
                    found = Found(ref, old.record, b"", {})
                    break
            else:
                raise NotFound(f"version {version} of {path!r} is not kept (holdfast log {path} shows those that are)")
        if found.ref.clear.kind is RefKind.TOMBSTONE:
            raise NotFound(f"version {version} of {path!r} is a deletion")
        return found

    async def places_of(self, packs: Sequence[Digest]) -> dict[Digest, list[m.NodeAddress]]:
        """Who holds these packs now: asked, or remembered when the coordinator does not answer.

        An empty list is the coordinator's word that nobody does; a pack that is left out is not known.
        """
        found: dict[Digest, list[m.NodeAddress]] = {}
        try:
            for digest in packs:
                before = (int.from_bytes(digest) - 1).to_bytes(32) if any(digest) else None
                page = await self._coordinators.ask(
                    routes.VAULT_PACKS,
                    m.VaultPacksQuery(after=None if before is None else before.hex(), limit=1),
                    path={"vault": str(self._keys.vault)},
                )
                found.update(places(page.packs, page.nodes))
                await self.remember_places(page.packs, page.nodes)
        except Unavailable:
            rows = await self._index.places(packs)
            for digest, holders in rows.items():
                if holders:  # an empty list would say that nobody has it, which only the coordinator knows
                    found.setdefault(digest, [m.NodeAddress(id=row.id, name=row.name, url=row.url) for row in holders])
        return found

    async def vault_packs(self, *, unread: bool = False) -> AsyncIterator[m.VaultPacks]:
        """Pages of all packs of the vault, with their places, which are remembered; ``unread``: of the adopted ones."""
        after: str | None = None
        while True:
            page = await self._coordinators.ask(
                routes.VAULT_PACKS, m.VaultPacksQuery(after=after, unread=unread), path={"vault": str(self._keys.vault)}
            )
            await self.remember_places(page.packs, page.nodes)
            yield page
            if page.after is None:
                return
            if after is not None and page.after <= after:
                raise Unavailable("the coordinator's pages do not go on")
            after = page.after

    async def known_content(self, content: bytes) -> KnownRecipe | None:
        """Where this device knows the recipe of a content id to lie."""
        place = (await self._index.run(lambda file: file.contents((content,)))).get(content) if content else None
        return None if place is None else KnownRecipe.decode(place)

    async def mark(self, ref: Ref) -> bytes:
        """The mark that this device gave this very state of a name; empty if another device made it."""
        seen = await self._index.ref(ref.clear.name_tag)
        return seen.mark if seen is not None and seen.etag == ref.etag else b""

    async def remember_contents(self, contents: Sequence[tuple[bytes, Digest, bytes]]) -> None:
        """Writes down where the recipes of known contents lie: (content id, the recipe's pack, its encoded place)."""
        batch = Batch()
        batch.contents.extend(contents)
        await self._index.later(batch)

    async def remember_places(self, packs: Sequence[m.PackPlaces], nodes: Sequence[m.NodeAddress]) -> None:
        """Writes down who holds what, where that is news."""
        batch = Batch()
        for pack in packs:
            holders = tuple(nodes[number].id for number in pack.nodes if number < len(nodes))
            if self._written.get(pack.digest) == holders:
                continue
            self._written[pack.digest] = holders
            batch.packs[pack.digest] = (pack.size, list(holders))
        if batch.packs:
            for node in nodes:
                batch.nodes[node.id] = NodeRow(node.id, node.name, node.url)
            while len(self._written) > PLACES_IN_MEMORY:
                self._written.popitem(last=False)
            await self._index.later(batch)

    async def _pages(self, parent: str | None, *, trash: bool = False) -> AsyncIterator[m.RefPage]:
        """Page after page; the next one is on its way while one is being read."""

        def ask(after: str | None) -> asyncio.Task[m.RefPage]:
            query = m.RefQuery(parent=parent, after=after, trash=trash)
            work = self._coordinators.ask(routes.REFS, query, path={"vault": str(self._keys.vault)})
            task = asyncio.create_task(work, name="next page")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may come for it
            return task

        after: str | None = None
        coming = ask(None)
        try:
            while True:
                page = await coming
                if page.after is not None:
                    if after is not None and page.after <= after:
                        raise Unavailable("the coordinator's pages do not go on")
                    after = page.after
                    coming = ask(after)
                yield page
                if page.after is None:
                    return
        finally:
            coming.cancel()

    def _open_all(self, records: Sequence[bytes]) -> list[tuple[Ref, bytes]]:
        return [(refs.open_record(self._keys, record, None), record) for record in records]

    async def _check(self, given: Sequence[tuple[bytes, Ref, bytes, bytes]]) -> None:
        """Compares records with the highest versions seen, and remembers those that are newer."""
        if len(given) == 1:
            found = await self._index.ref(given[0][0])
            known = {} if found is None else {given[0][0]: found}
        else:
            tags = [one[0] for one in given]
            known = await self._index.run(lambda file: file.refs(tags))
        batch = Batch()
        for tag, ref, record, keep in given:
            seen, version = known.get(tag), ref.clear.version
            if seen is not None and version < seen.version:
                raise Corrupt(
                    f"{ref.sealed.path!r}: the coordinator gave version {version}, but this device has seen "
                    f"{seen.version}: an old state is being served"
                )
            if seen is not None and version == seen.version and ref.etag != seen.etag:
                await self._index.run(partial(IndexFile.add_fork, tag=tag, etag=ref.etag, record=record))
                raise Corrupt(
                    f"{ref.sealed.path!r}: there are two versions {version}; both are kept, and a new put decides"
                )
            if seen is None or version > seen.version or (keep and not seen.keep):
                mark = b"" if seen is None or seen.etag != ref.etag else seen.mark
                batch.refs[tag] = (ref.clear.parent_tag, SeenRef(version, ref.etag, record, keep, mark))
            elif self._index.now() - seen.at > SEEN_AGAIN_S:
                batch.refs[tag] = (ref.clear.parent_tag, seen._replace(at=0.0))
        if batch.refs:
            await self._index.later(batch)

    async def _remembered(self, path: str, seen: SeenRef) -> Found:
        ref = refs.open_record(self._keys, seen.record, path)
        packs = refs.parse_keep_list(seen.keep) if seen.keep else []
        if not packs and ref.sealed.recipe is not None and ref.sealed.recipe.pack is not None:
            packs = [ref.sealed.recipe.pack]
        rows = await self._index.places(packs)
        held = {
            digest: [m.NodeAddress(id=row.id, name=row.name, url=row.url) for row in holders]
            for digest, holders in rows.items()
            if holders
        }
        return Found(ref, seen.record, seen.keep, held, cached=True, seen=seen.at)


def places(packs: Sequence[m.PackPlaces], nodes: Sequence[m.NodeAddress]) -> dict[Digest, list[m.NodeAddress]]:
    """Pack -> holders; numbers that name no node are left out."""
    return {pack.digest: [nodes[number] for number in pack.nodes if number < len(nodes)] for pack in packs}
