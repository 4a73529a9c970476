"""Getting: files, links and directories from the vault onto this machine's disk.

A file is written as ``.NAME.holdfast-part`` and appears by rename; a get that was stopped goes on from the chunks that
are there and right. In a directory, small files that lie side by side in a pack come in one read and are written in
batches; they are synced together at the end, large ones each before they appear.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from holdfast.blob import Buffer, Digest
from holdfast.client.device.local import (
    PartFile,
    dress_directory,
    exists,
    make_directory,
    make_link,
)
from holdfast.client.names.names import Found, Names, places
from holdfast.client.reading.content import RUN_BYTES_MAX, ContentReader, known_content, open_run
from holdfast.codec import paths
from holdfast.codec.recipe import Recipe, RecipeList
from holdfast.codec.refs import Ref, RefKind
from holdfast.codec.sealer import chunk_id
from holdfast.errors import BadRequest, Corrupt, Exists, HoldfastError, PartlyDone
from holdfast.files import Files
from holdfast.pool import Pool
from holdfast.wire import messages as m

SMALL_BYTES_MAX = 256 << 10
"""Files up to this are read together with their neighbours."""
GROUP_BYTES_MAX = 2 << 20
GROUP_FILES_MAX = 256
GROUP_GAP_BYTES = 64 << 10
GROUPS_AHEAD = 4


class Small(NamedTuple):
    """A small file to be written, and the range of its pack that brings it."""

    ref: Ref
    target: Path
    start: int
    stop: int


class _Opened(NamedTuple):
    """A group that was read: what is to be read one by one, files with their bytes, and contents for the index."""

    left: list[Small]
    ready: list[tuple[Small, list[bytes]]]
    contents: list[tuple[bytes, Digest, bytes]]


class Getter:
    """One get under way; make a new one for each."""

    def __init__(
        self,
        names: Names,
        content: ContentReader,
        files: Files,
        pool: Pool,
        *,
        force: bool,
        progressed: Callable[[int, int, str], None],
    ) -> None:
        """``progressed(files, bytes, name)`` hears of each file done and of bytes as they are written."""
        self._names = names
        self._content = content
        self._files = files
        self._pool = pool
        self._force = force
        self._progressed = progressed
        self._failed: list[tuple[str, HoldfastError]] = []

    async def get(self, found: Found, target: Path) -> None:
        """Writes what ``found`` is to ``target``. Exists if it is there, PartlyDone if some of a tree failed."""
        kind = found.ref.clear.kind
        if kind is RefKind.DIRECTORY:
            await self._tree(found.ref, target)
        elif kind is RefKind.LINK:
            await self._pool.run(self._link, found.ref, target)
            self._progressed(1, 0, found.ref.sealed.path)
        else:
            await self.file(found, target)
        if self._failed:
            name, error = self._failed[0]
            if isinstance(error, Corrupt) and len(self._failed) == 1:
                raise error
            raise PartlyDone(
                f"{len(self._failed)} names could not be written; the first: {name}: {error.detail}",
                failed=[[name, error.detail] for name, error in self._failed[:1000]],
            )

    async def file(self, found: Found, target: Path) -> None:
        """One file; nothing is at ``target`` unless all of it was right."""
        if not self._force and await self._pool.run(exists, target):
            raise Exists(f"{target} exists already; --force replaces it")
        opened = await self._content.open(found, with_data=True)
        recipe, said, name = opened.recipe, found.ref.sealed.attributes, found.ref.sealed.path
        if len(opened.chunks) == len(recipe.entries):
            data = [opened.chunks[number] for number in range(len(recipe.entries))]
            await self._pool.run(self._write_whole, target, data, found.ref, True)
            self._progressed(1, recipe.size, name)
            return
        part = await self._pool.run(PartFile, self._files, target, recipe.size)
        try:
            there = await self._there(part, recipe, found) if part.there else frozenset()
            size = recipe.chunk_bytes
            self._progressed(0, sum(min(size, recipe.size - number * size) for number in there), name)

            def write(data: Buffer, offset: int) -> None:
                part.write(data, offset)

            await self._content.write(found, opened, write, there, lambda count: self._progressed(0, count, name))
            await self._pool.run(lambda: part.finish(recipe.size, said.mode, said.mtime_ns, replace=self._force))
        except Corrupt:
            await self._pool.run(part.remove)
            raise
        finally:
            await self._pool.run(part.close)
        self._progressed(1, 0, name)

    async def _there(self, part: PartFile, recipe: Recipe, found: Found) -> frozenset[int]:
        """The chunks that an earlier get wrote whole: read again and compared with their ids."""
        keys = self._content.keys.generation(recipe.generation)
        size = recipe.chunk_bytes

        def check(number: int) -> bool:
            data = part.read(min(size, recipe.size - number * size), number * size)
            return chunk_id(keys, data, recipe.salt) == recipe.entries[number].id if data else False

        right = []
        for number in range(min(len(recipe.entries), -(-part.there // size))):
            if await self._pool.run(check, number):
                right.append(number)
        return frozenset(right)

    def _write_whole(self, target: Path, data: Sequence[bytes], ref: Ref, durable: bool) -> None:
        part = PartFile(self._files, target, 0)
        try:
            at = 0
            for piece in data:
                part.write(piece, at)
                at += len(piece)
            said = ref.sealed.attributes
            part.finish(at, said.mode, said.mtime_ns, replace=self._force, durable=durable)
        finally:
            part.close()

    def _link(self, ref: Ref, target: Path) -> None:
        assert ref.sealed.attributes.target is not None
        make_link(self._files, ref.sealed.attributes.target, target, replace=self._force)

    # --- directories --------------------------------------------------------------------------------------------------

    async def _tree(self, top: Ref, target: Path) -> None:
        waiting = [(top, target)]
        made: list[tuple[Ref, Path]] = []
        under_way: set[asyncio.Task[None]] = set()
        try:
            while waiting:
                ref, path = waiting.pop()
                name = ref.sealed.path
                try:
                    await self._pool.run(make_directory, self._files, path)
                except HoldfastError as error:
                    self._failed.append((name, error))
                    continue
                made.append((ref, path))
                async for entries, page in self._names.listing(name):
                    smalls, others = await self._pool.run(self._sort, name, path, [one for one, _ in entries])
                    held = places(page.packs, page.nodes)
                    for group in _grouped(smalls):
                        if len(under_way) >= GROUPS_AHEAD:
                            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                            for task in done:
                                task.result()
                        under_way.add(asyncio.create_task(self._group(group, held)))
                    for other, below in others:
                        if other.clear.kind is RefKind.DIRECTORY:
                            waiting.append((other, below))
                        else:
                            await self._one(other, below, held)
            while under_way:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        await self._pool.run(self._dress, made)

    def _dress(self, made: list[tuple[Ref, Path]]) -> None:
        """Directories get mode and time when nothing is written in them any more; then all is on the disk."""
        for ref, path in reversed(made):
            said = ref.sealed.attributes
            try:
                dress_directory(path, said.mode, said.mtime_ns)
            except HoldfastError as error:
                self._failed.append((ref.sealed.path, error))
        os.sync()

    def _sort(self, directory: str, path: Path, entries: Sequence[Ref]) -> tuple[list[Small], list[tuple[Ref, Path]]]:
        """In the pool: (small files, all else); names that are there already are left out or refused."""
        smalls: list[Small] = []
        others: list[tuple[Ref, Path]] = []
        for ref in entries:
            name = ref.sealed.path
            try:
                base = _base(directory, name)
                below = path / base
                if ref.clear.kind is RefKind.FILE and not self._force and self._there_already(ref, below):
                    continue
            except HoldfastError as error:
                self._failed.append((name, error))
                continue
            place = ref.sealed.recipe
            size = ref.sealed.attributes.size
            if place is not None and size <= SMALL_BYTES_MAX:
                stop = place.offset + place.length
                if stop - ref.sealed.run_start <= RUN_BYTES_MAX:
                    smalls.append(Small(ref, below, ref.sealed.run_start, stop))
                    continue
            others.append((ref, below))
        smalls.sort(key=_position)
        return smalls, others

    def _there_already(self, ref: Ref, below: Path) -> bool:
        """Is exactly this file there, from an earlier get? Exists if something else is."""
        try:
            state = os.lstat(below)
        except FileNotFoundError:
            return False
        said = ref.sealed.attributes
        if state.st_size == said.size and state.st_mtime_ns == said.mtime_ns:
            self._progressed(1, said.size, ref.sealed.path)
            return True
        raise Exists(f"{below} exists already; --force replaces it")

    async def _one(self, ref: Ref, below: Path, held: dict[Digest, list[m.NodeAddress]]) -> None:
        try:
            if ref.clear.kind is RefKind.LINK:
                await self._pool.run(self._link, ref, below)
                self._progressed(1, 0, ref.sealed.path)
            elif ref.clear.kind is RefKind.FILE:
                await self.file(await self._whole(ref, held), below)
        except HoldfastError as error:
            self._failed.append((ref.sealed.path, error))

    async def _whole(self, ref: Ref, held: dict[Digest, list[m.NodeAddress]]) -> Found:
        """A large file's other packs are not in the listing: the name itself is asked."""
        if ref.sealed.attributes.size <= RUN_BYTES_MAX:
            return Found(ref, b"", b"", dict(held))
        found = await self._names.find(ref.sealed.path)
        return found if found.ref.etag == ref.etag else Found(ref, b"", b"", dict(held))

    async def _group(self, group: list[Small], held: dict[Digest, list[m.NodeAddress]]) -> None:
        """Neighbours in one pack: one read, one visit to the pool; what does not open here is tried one by one."""
        place = group[0].ref.sealed.recipe
        assert place is not None
        assert place.pack is not None
        start, stop = group[0].start, max(one.stop for one in group)
        content = self._content

        def open_all(view: memoryview) -> _Opened:
            left, ready, contents = [], [], []
            for one in group:
                at = one.ref.sealed.recipe
                assert at is not None
                generation = content.keys.generation(one.ref.clear.generation)
                run = view[one.start - start : one.stop - start]
                recipe, chunks = open_run(generation, content.keys, at.id, at.length, run, one.start)
                if isinstance(recipe, RecipeList) or len(chunks) != len(recipe.entries):
                    left.append(one)
                elif recipe.size != one.ref.sealed.attributes.size:
                    raise Corrupt(f"{one.ref.sealed.path!r}: its recipe makes a file of another size than it says")
                else:
                    ready.append((one, [chunks[number] for number in range(len(recipe.entries))]))
                    known = known_content(one.ref, recipe)
                    if known is not None:
                        contents.append(known)
            return _Opened(left, ready, contents)

        def write_all(ready: list[tuple[Small, list[bytes]]]) -> None:
            for one, data in ready:
                try:
                    self._write_whole(one.target, data, one.ref, False)
                except HoldfastError as error:
                    self._failed.append((one.ref.sealed.path, error))

        async def checked(view: memoryview) -> _Opened:
            return await self._pool.run(open_all, view)

        try:
            holders = await content.holders(held, place.pack)
            # A hedged read checks twice; what was read is written once.
            left, ready, contents = await content.reader.read(place.pack, start, stop, holders, checked)
            await content.remember(contents)
            await self._pool.run(write_all, ready)
        except HoldfastError as error:
            if len(group) == 1:
                self._failed.append((group[0].ref.sealed.path, error))
                return
            left = group
        untouched = {id(one) for one in left}
        for one in group:
            if id(one) not in untouched:
                self._progressed(1, one.ref.sealed.attributes.size, one.ref.sealed.path)
        for one in left:
            await self._one(one.ref, one.target, held)


def _base(directory: str, name: str) -> str:
    """The last part of ``name``, which lies in ``directory``; checked again, because it becomes a name on this disk."""
    paths.normalise(name)
    base = name.rpartition("/")[2]
    if paths.parent(name) != directory or base in ("", ".", "..") or os.sep in base or "\0" in base:
        raise BadRequest(f"{name!r} cannot be a name on this machine")
    return base


def _position(small: Small) -> tuple[bytes, int]:
    recipe = small.ref.sealed.recipe
    return (b"" if recipe is None else recipe.pack or b""), small.start


def _grouped(smalls: Sequence[Small]) -> list[list[Small]]:
    """Neighbours in a pack, ascending, into groups that are read at once."""
    groups: list[list[Small]] = []
    pack: Digest | None = None
    for one in smalls:
        assert one.ref.sealed.recipe is not None
        if (
            groups
            and one.ref.sealed.recipe.pack == pack
            and len(groups[-1]) < GROUP_FILES_MAX
            and one.start - groups[-1][-1].stop <= GROUP_GAP_BYTES
            and one.stop - groups[-1][0].start <= GROUP_BYTES_MAX
        ):
            groups[-1].append(one)
        else:
            groups.append([one])
            pack = one.ref.sealed.recipe.pack
    return groups
