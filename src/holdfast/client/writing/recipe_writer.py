"""A file's recipe on its way into a pack: one chunk, or for files of very many chunks a list of recipe chunks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from holdfast.blob import Digest
from holdfast.client.names.drafts import Chunk, NewRecipe, PackState, Pending, build_recipe, run_start_of
from holdfast.client.names.index_file import ChunkPlace
from holdfast.codec import recipe as recipes
from holdfast.codec.pipeline import Packer, Placed
from holdfast.codec.sealer import CHUNK_BYTES_MAX, Kind


class FileChunks(NamedTuple):
    """What a recipe says: the file's size, how it was cut, its content id, and its chunks with their ids, in order."""

    size: int
    chunk_bytes: int
    content_id: bytes
    ids: Sequence[bytes]
    chunks: Sequence[Chunk]
    salt: bytes | None

    def recipe(self, carrier: Pending | None) -> recipes.Recipe:
        """As it is written into ``carrier``."""
        return build_recipe(*self, carrier)


class RecipeWriter:
    """Used by one uploader. ``add`` awaits what is added to ``packer``, and hears of it when that breaks."""

    def __init__(
        self, packer: Packer[PackState], add: Callable[[Awaitable[Placed[PackState]]], Awaitable[Placed[PackState]]]
    ) -> None:
        self._packer = packer
        self._add = add

    async def write(self, file: FileChunks, needs: set[Pending]) -> NewRecipe:
        """Where the recipe lies. ``needs``: the packs of this upload that hold the file's chunks."""
        packs = {chunk.pack if isinstance(chunk, ChunkPlace) else chunk.pending for chunk in file.chunks}
        size_max = recipes.encoded_bytes(len(file.chunks), len(packs))
        if size_max > recipes.RECIPE_BYTES:
            return await self._write_list(file, needs)
        table: tuple[Digest, ...] = ()

        def build(carrier: Pending) -> bytes:
            nonlocal table
            made = file.recipe(carrier)
            table = made.packs
            return recipes.encode(made)

        placed = await self._add(self._packer.add_built(Kind.RECIPE, size_max, build, needs=needs))
        start = run_start_of(file.chunks, placed)
        return NewRecipe(file.size, placed, start, table, frozenset(needs | {placed.pending}))

    async def _write_list(self, file: FileChunks, needs: set[Pending]) -> NewRecipe:
        await self._packer.flush()
        whole = file.recipe(None)
        parts = []
        for part in recipes.encode_parts(whole):
            parts.append(await self._add(self._packer.add(Kind.RECIPE, part)))
        holders = {part.pending for part in parts}
        packs: tuple[Digest, ...] = ()

        def build(carrier: Pending) -> bytes:
            nonlocal packs
            numbers = {digest: number for number, digest in enumerate(whole.packs, 1)}
            entries = []
            for part in parts:
                if part.pending is carrier:
                    entries.append(part.entry(0))
                else:
                    entries.append(part.entry(numbers.setdefault(part.pending.digest, len(numbers) + 1)))
            packs = tuple(numbers)
            return recipes.encode_list(whole, entries, packs)

        size_max = recipes.encoded_bytes(len(parts), len(whole.packs) + len(holders))
        placed = await self._add(
            self._packer.add_built(Kind.RECIPE, min(size_max, CHUNK_BYTES_MAX), build, needs=holders)
        )
        everything = frozenset(needs | holders | {placed.pending})
        return NewRecipe(file.size, placed, placed.offset, packs, everything)
