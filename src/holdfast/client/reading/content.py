"""A file's bytes from its record: recipe, spans of packs, chunks opened and checked, in bounded memory.

No byte leaves before its chunk's seal and id were checked; a small file and its recipe come in one read.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from holdfast.blob import DIGEST_BYTES, Buffer, Digest
from holdfast.client.device.settings import ClientSettings
from holdfast.client.names.drafts import Draft, KnownRecipe, content_of
from holdfast.client.names.names import Found, Names
from holdfast.client.reading.fetch import PackReader
from holdfast.client.reading.spans import Part, Span, spans
from holdfast.codec import recipe as recipes
from holdfast.codec.keys import GENERATION_FIRST, GenerationKeys, VaultKeys
from holdfast.codec.pipeline import INLINE_BYTES
from holdfast.codec.recipe import Recipe, RecipeList
from holdfast.codec.refs import Ref
from holdfast.codec.sealer import SEAL_OVERHEAD, Kind, open_chunk, open_into
from holdfast.errors import Corrupt, Unavailable
from holdfast.pool import Pool
from holdfast.wire import messages as m

RUN_BYTES_MAX = 2 << 20
"""A run of this length or less is read together with its recipe."""
RECIPES_KEPT = 256
RECIPE_ENTRIES_KEPT_MAX = 4096


class Opened(NamedTuple):
    """A recipe with the pack that carries it, and the plaintexts of chunks that came along, by their number."""

    recipe: Recipe
    carrier: Digest
    chunks: dict[int, bytes]


class ContentReader:
    """Reads the files of one vault. Any number at once."""

    def __init__(self, keys: VaultKeys, reader: PackReader, names: Names, pool: Pool, settings: ClientSettings) -> None:
        self.keys = keys
        self.reader = reader
        self._names = names
        self._pool = pool
        self._settings = settings
        self._recipes: OrderedDict[tuple[Digest, int], Recipe] = OrderedDict()

    async def open(self, found: Found, *, with_data: bool) -> Opened:
        """The recipe of a file's record; ``with_data``: chunks that lie beside it may come along."""
        place = found.ref.sealed.recipe
        assert place is not None, "files have recipes"
        assert place.pack is not None, "records name the recipe's pack"
        generation = self.keys.generation(found.ref.clear.generation)
        cached = self._recipes.get((place.pack, place.offset))
        if cached is not None:
            self._recipes.move_to_end((place.pack, place.offset))
            return Opened(cached, place.pack, {})
        end = place.offset + place.length
        start = found.ref.sealed.run_start
        if not with_data or end - start > RUN_BYTES_MAX:
            start = place.offset

        def check(view: memoryview) -> tuple[Recipe | RecipeList, dict[int, bytes]]:
            return open_run(generation, self.keys, place.id, place.length, view, start)

        async def checked(view: memoryview) -> tuple[Recipe | RecipeList, dict[int, bytes]]:
            return check(view) if len(view) < INLINE_BYTES else await self._pool.run(check, view)

        holders = await self.holders(found.places, place.pack)
        decoded, chunks = await self.reader.read(place.pack, start, end, holders, checked)
        if isinstance(decoded, RecipeList):
            decoded = await self._join(decoded, place.pack, found, generation)
        if decoded.size != found.ref.sealed.attributes.size:
            raise Corrupt(f"{found.ref.sealed.path!r}: its recipe makes a file of another size than its record says")
        if len(decoded.entries) <= RECIPE_ENTRIES_KEPT_MAX:
            self._recipes[place.pack, place.offset] = decoded
            while len(self._recipes) > RECIPES_KEPT:
                self._recipes.popitem(last=False)
        known = known_content(found.ref, decoded)
        if known is not None:
            await self._names.remember_contents([known])
        return Opened(decoded, place.pack, chunks)

    async def draft(self, found: Found, path: str) -> Draft:
        """The same file, link or directory once more, as ``path``: nothing of a file is read or sent.

        Its recipe is read only if neither the keep list nor the index tells which packs it needs.
        """
        ref = found.ref
        draft = Draft(path, ref.clear.kind, ref.sealed.attributes, ref.clear.survive)
        place = ref.sealed.recipe
        if place is None or place.pack is None:
            return draft
        draft.mark = await self._names.mark(ref)
        packs: tuple[Digest, ...] = ()
        if len(found.keep) != DIGEST_BYTES:
            known = await self._names.known_content(content_of(draft.mark))
            if known is not None and (known.pack, known.offset, known.id) == (place.pack, place.offset, place.id):
                packs = known.packs
            else:
                packs = (await self.open(found, with_data=False)).recipe.packs
        size = ref.sealed.attributes.size
        draft.recipe = KnownRecipe(size, place.pack, place.offset, place.length, place.id, ref.sealed.run_start, packs)
        return draft

    async def stream(self, found: Found, start: int, stop: int | None) -> AsyncIterator[Buffer]:
        """Bytes ``start`` up to ``stop`` (None: the end) in order; a buffer is valid until the next is asked for."""
        size = found.ref.sealed.attributes.size
        stop = size if stop is None else min(stop, size)
        start = min(start, stop)
        opened = await self.open(found, with_data=stop > start)
        if len(opened.chunks) == len(opened.recipe.entries):  # a small file: all of it came along
            length = opened.recipe.chunk_bytes
            for number in range(start // length, -(-stop // length) if start < stop else 0):
                yield memoryview(opened.chunks[number])[max(start - number * length, 0) : stop - number * length]
            return
        ahead = max(1, self._settings.read_window_bytes // self._settings.read_span_bytes)
        coming: deque[asyncio.Task[list[tuple[bytearray, memoryview]]]] = deque()
        buffers = self.reader.buffers
        todo = spans(opened.recipe, opened.carrier, start, stop, self._settings.read_span_bytes)
        try:
            while True:
                while len(coming) < ahead:
                    span = next(todo, None)
                    if span is None:
                        break
                    coming.append(asyncio.create_task(self._load(found, opened, span)))
                if not coming:
                    return
                loaded = await coming.popleft()
                for buffer, view in loaded:
                    yield view
                    buffers.give(buffer)
        finally:
            for task in coming:
                task.cancel()
            await asyncio.gather(*coming, return_exceptions=True)

    async def write(
        self,
        found: Found,
        opened: Opened,
        write: Callable[[Buffer, int], None],
        skip: frozenset[int],
        counted: Callable[[int], None],
    ) -> None:
        """Hands all bytes but those of the chunks in ``skip`` to ``write(data, offset)``, in the pool, in any order."""
        ahead = max(1, self._settings.read_window_bytes // self._settings.read_span_bytes)
        recipe = opened.recipe
        size = recipe.chunk_bytes
        for number, data in opened.chunks.items():
            if number not in skip:
                if len(data) < INLINE_BYTES:
                    write(data, number * size)
                else:
                    await self._pool.run(write, data, number * size)
                counted(len(data))
        missing = _runs(len(recipe.entries), skip | opened.chunks.keys())
        todo = (
            span
            for first, last in missing
            for span in spans(
                recipe,
                opened.carrier,
                first * size,
                min(last * size, recipe.size),
                self._settings.read_span_bytes,
            )
        )
        under_way: set[asyncio.Task[int]] = set()
        try:
            for span in todo:
                if len(under_way) >= ahead:
                    done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        counted(task.result())
                under_way.add(asyncio.create_task(self._move(found, opened, span, write)))
            while under_way:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    counted(task.result())
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _move(self, found: Found, opened: Opened, span: Span, write: Callable[[Buffer, int], None]) -> int:
        keys = self.keys.generation(opened.recipe.generation)

        def open_and_write(view: memoryview, scratch: bytearray) -> int:
            total = 0
            out = memoryview(scratch)
            for part in span.parts:
                entry = part.piece.entry
                sealed = view[entry.offset - span.start : entry.offset - span.start + entry.length]
                open_into(keys, Kind.DATA, entry.id, sealed, out, opened.recipe.salt)
                write(out[part.piece.start : part.piece.stop], part.at)
                total += part.piece.stop - part.piece.start
            return total

        async def checked(view: memoryview) -> int:
            scratch = self.reader.buffers.take(opened.recipe.chunk_bytes)  # one each: hedged reads may both get here
            try:
                return await self._pool.run(open_and_write, view, scratch)
            finally:
                self.reader.buffers.give(scratch)

        holders = await self.holders(found.places, span.pack)
        return await self.reader.read(span.pack, span.start, span.stop, holders, checked)

    async def _load(self, found: Found, opened: Opened, span: Span) -> list[tuple[bytearray, memoryview]]:
        keys = self.keys.generation(opened.recipe.generation)
        ready = [
            (number, part) for part in span.parts if (number := part.at // opened.recipe.chunk_bytes) in opened.chunks
        ]
        if len(ready) == len(span.parts):
            return [_copied(opened.chunks[number], part) for number, part in ready]
        holders = await self.holders(found.places, span.pack)

        async def checked(view: memoryview) -> list[tuple[bytearray, memoryview]]:
            outs = [self.reader.buffers.take(part.piece.entry.length - SEAL_OVERHEAD) for part in span.parts]

            def open_all() -> None:
                for part, out in zip(span.parts, outs, strict=True):
                    entry = part.piece.entry
                    sealed = view[entry.offset - span.start : entry.offset - span.start + entry.length]
                    open_into(keys, Kind.DATA, entry.id, sealed, memoryview(out), opened.recipe.salt)

            if len(view) < INLINE_BYTES:
                open_all()
            else:
                await self._pool.run(open_all)
            return [
                (out, memoryview(out)[part.piece.start : part.piece.stop])
                for part, out in zip(span.parts, outs, strict=True)
            ]

        return await self.reader.read(span.pack, span.start, span.stop, holders, checked)

    async def remember(self, contents: Sequence[tuple[bytes, Digest, bytes]]) -> None:
        """Contents whose recipes were read elsewhere (``known_content``)."""
        await self._names.remember_contents(contents)

    async def holders(self, places: dict[Digest, list[m.NodeAddress]], pack: Digest) -> Sequence[m.NodeAddress]:
        """Who holds ``pack``, asked if ``places`` does not know (it is told).

        Corrupt if the coordinator knows that no copy is left, Unavailable if it does not answer or know.
        """
        holders = places.get(pack)
        if not holders:
            places.update(await self._names.places_of((pack,)))
            holders = places.get(pack)
        if holders is not None and not holders:
            raise Corrupt(
                f"no right copy of pack {pack} is left (all were found damaged, or their nodes are gone for good)",
                pack=str(pack),
            )
        if not holders:
            raise Unavailable(f"no node is known to hold pack {pack}")
        return holders

    async def _join(self, listed: RecipeList, carrier: Digest, found: Found, generation: GenerationKeys) -> Recipe:
        parts = []
        for entry in listed.parts:
            pack = carrier if entry.pack == 0 else listed.packs[entry.pack - 1]

            async def checked(view: memoryview, id_: bytes = entry.id) -> bytes:
                return await self._pool.run(open_chunk, generation, Kind.RECIPE, id_, view)

            holders = await self.holders(found.places, pack)
            parts.append(await self.reader.read(pack, entry.offset, entry.offset + entry.length, holders, checked))
        whole = recipes.join(listed, parts)
        recipes.check_content(self.keys.generation(whole.generation), whole)
        return whole


def open_run(
    generation: GenerationKeys, keys: VaultKeys, id_: bytes, length: int, view: memoryview, start: int
) -> tuple[Recipe | RecipeList, dict[int, bytes]]:
    """The recipe at the end of ``view``, which begins at byte ``start`` of its pack, and the file's chunks within.

    Corrupt if any of them is wrong.
    """
    recipe = recipes.decode(open_chunk(generation, Kind.RECIPE, id_, view[len(view) - length :]))
    if isinstance(recipe, RecipeList):
        return recipe, {}
    data_keys = keys.generation(recipe.generation)
    recipes.check_content(data_keys, recipe)
    chunks = {}
    if len(view) > length:
        for number, entry in enumerate(recipe.entries):
            at = entry.offset - start
            if entry.pack == 0 and at >= 0 and at + entry.length <= len(view) - length:
                chunks[number] = open_chunk(data_keys, Kind.DATA, entry.id, view[at : at + entry.length], recipe.salt)
    return recipe, chunks


def known_content(ref: Ref, recipe: Recipe) -> tuple[bytes, Digest, bytes] | None:
    """What the index keeps of a recipe that was read: a later put of the same content points at it.

    None for a file that is kept out of deduplication.
    """
    place = ref.sealed.recipe
    generations = {ref.clear.generation, recipe.generation}
    if recipe.salt is not None or place is None or place.pack is None or generations != {GENERATION_FIRST}:
        return None
    known = KnownRecipe(
        recipe.size, place.pack, place.offset, place.length, place.id, ref.sealed.run_start, recipe.packs
    )
    return recipe.content_id, place.pack, known.encode()


def _copied(data: bytes, part: Part) -> tuple[bytearray, memoryview]:
    return bytearray(), memoryview(data)[part.piece.start : part.piece.stop]


def _runs(count: int, there: frozenset[int] | set[int]) -> list[tuple[int, int]]:
    """(first, past the last) of each run of numbers below ``count`` that are not ``there``."""
    runs: list[tuple[int, int]] = []
    for number in range(count):
        if number in there:
            continue
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs
