"""Putting files, directories and links by the thousand: scanned, compared in bulk, read in batches, committed together.

A directory costs one listing from the coordinator and one question to the index, whatever it holds; a file that is as
it was costs no await at all. A name is committed after the directory above it, so nothing is ever stored in what is no
directory. What fails is listed and does not stop the rest.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from holdfast.client.device.local import (
    Excludes,
    FileStat,
    LocalEntry,
    ReadFile,
    file_stat,
    look,
    read_small,
    same,
    scan,
)
from holdfast.client.names.drafts import Chunk, Draft, Group, KnownRecipe, Present, mark_of
from holdfast.client.names.entries import PutSummary
from holdfast.client.names.index_file import Batch, ChunkPlace, IndexFile
from holdfast.client.writing.put import SMALL_BYTES_MAX, Content, FilePutter, Known, stat_key
from holdfast.client.writing.put_options import PutOptions, directory_draft
from holdfast.codec import paths, recipe
from holdfast.codec.refs import Attributes, RefKind
from holdfast.codec.sealer import chunk_id
from holdfast.errors import BadRequest, Exists, HoldfastError, PacksGone
from holdfast.files import Files
from holdfast.pool import Pool

BATCH_FILES = 128
BATCH_BYTES = 4 << 20
GROUPS_MAX = 8000
"""Names under way at most: what has no pack yet must not fill the memory."""


class Wanted(NamedTuple):
    """A thing to be stored. ``content``: known without reading, by its stamp."""

    local: LocalEntry
    path: str
    kind: RefKind
    seen: Present | None
    content: tuple[bytes, KnownRecipe] | None


class Read(NamedTuple):
    """A small file that was read, with the ids of its chunks."""

    wanted: Wanted
    file: ReadFile
    chunks: list[memoryview]
    ids: list[bytes]
    content: bytes


@dataclass(slots=True)
class _Tree:
    """One put_tree under way."""

    summary: PutSummary
    options: PutOptions
    outstanding: int = 0
    retry: list[Wanted] = field(default_factory=list)
    above: list[str] = field(default_factory=list)
    """Directories over a source: they stand or fall with it, so that nothing is ever stored below a file."""
    tops: dict[str, list[str]] = field(default_factory=dict)
    directories: dict[str, Group] = field(default_factory=dict)
    """Those of this put that do not stand, yet or at all: what lies in them is committed after them."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def is_refused(self, directory: str) -> bool:
        """It is known already that nothing can be stored in it."""
        group = self.directories.get(directory)
        return group is not None and group.error is not None and not isinstance(group.error, PacksGone)


class TreePutter:
    """Puts trees through one uploader; one at a time per instance."""

    def __init__(
        self,
        putter: FilePutter,
        files: Files,
        pool: Pool,
        now: Callable[[], float],
        listing: Callable[[str], Awaitable[dict[bytes, Present]]],
        done: Callable[[str], None],
    ) -> None:
        """``listing``: what the coordinator has in a directory, by name tag. ``done`` hears of each name stored."""
        self._putter = putter
        self._uploader = putter.uploader
        self._keys = putter.uploader.keys
        self._files = files
        self._pool = pool
        self._now = now
        self._listing = listing
        self._done = done

    async def put(
        self, sources: Sequence[tuple[Path, str]], options: PutOptions, excludes: Excludes, *, dry_run: bool
    ) -> PutSummary:
        """Each source under its own name in the vault."""
        tree = _Tree(PutSummary(), options)
        for source, name in sources:
            try:
                local = await self._pool.run(look, source)
                tree.above = tree.tops[name] = list(paths.ancestors(name))
                await self._walk(tree, local, name, excludes, dry_run)
            except HoldfastError as error:
                tree.summary.failed.append((name, error))
        await self._settle(tree)
        if tree.retry:
            again, tree.retry = tree.retry, []
            for wanted in again:
                await self._store_again(tree, wanted)
            await self._settle(tree)
            for wanted in tree.retry:
                tree.summary.failed.append((wanted.path, PacksGone("packs that it needs are gone; put it once more")))
        return tree.summary

    async def _walk(self, tree: _Tree, local: LocalEntry, name: str, excludes: Excludes, dry_run: bool) -> None:
        """Depth first; one directory's entries are held at a time, and the folders still to be visited."""
        remote = await self._listing(paths.parent(name)) if not dry_run else {}
        waiting: list[tuple[LocalEntry, str, str]] = []
        refused = await self._take(tree, [(local, name)], remote, dry_run)
        if stat.S_ISDIR(local.stat.st_mode) and not refused:
            made_above = bool(tree.tops[name]) and not tree.above
            tree.above = []
            if made_above:
                await self._settle(tree)
            if all(failed != name for failed, _ in tree.summary.failed):
                waiting.append((local, name, ""))
        tree.above = []
        while waiting:
            directory, inside, below = waiting.pop()
            if tree.is_refused(inside):
                continue
            try:
                found, remote = await asyncio.gather(self._pool.run(scan, directory.path), self._listing(inside))
            except HoldfastError as error:
                tree.summary.failed.append((inside, error))
                continue
            entries, folders = [], []
            for entry in found:
                under = f"{below}/{entry.name}" if below else entry.name
                is_directory = stat.S_ISDIR(entry.stat.st_mode)
                if excludes(entry.name, under, is_directory):
                    continue
                entries.append((entry, f"{inside}/{entry.name}"))
                if is_directory:
                    folders.append((entry, f"{inside}/{entry.name}", under))
            refused = await self._take(tree, entries, remote, dry_run)
            waiting.extend(folder for folder in reversed(folders) if folder[1] not in refused)

    async def _take(
        self, tree: _Tree, entries: list[tuple[LocalEntry, str]], remote: dict[bytes, Present], dry_run: bool
    ) -> set[str]:
        """Compares one directory's entries and stores what is new; returns the paths that cannot be."""
        unchanged, wanted, refused = await self._uploader.index.run(
            lambda file: self._compare(file, entries, remote, tree.options)
        )
        summary = tree.summary
        summary.unchanged += unchanged
        summary.failed.extend(refused)
        if dry_run:
            for one in wanted:
                _count(summary, one.kind)
                summary.bytes += one.local.stat.st_size if one.kind is RefKind.FILE else 0
            return {path for path, _ in refused}
        large = min(SMALL_BYTES_MAX, tree.options.chunk_bytes)
        batch: list[Wanted] = []
        size = 0
        reading: asyncio.Task[list[Read | tuple[Wanted, HoldfastError | None]]] | None = None
        try:
            for one in wanted:
                if one.kind is not RefKind.FILE or one.content is not None:
                    await self._store_known(tree, one)
                elif one.local.stat.st_size > large:
                    await self._store_large(tree, one)
                else:
                    batch.append(one)
                    size += one.local.stat.st_size
                    if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
                        following = asyncio.create_task(self._pool.run(self._read, batch, tree.options))
                        batch, size = [], 0
                        previous, reading = reading, following
                        if previous is not None:
                            await self._store_small(tree, await previous)
            if reading is not None:
                previous, reading = reading, None
                await self._store_small(tree, await previous)
            if batch:
                await self._store_small(tree, await self._pool.run(self._read, batch, tree.options))
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        return {path for path, _ in refused}

    def _compare(
        self, file: IndexFile, entries: list[tuple[LocalEntry, str]], remote: dict[bytes, Present], options: PutOptions
    ) -> tuple[int, list[Wanted], list[tuple[str, HoldfastError]]]:
        """In the index's thread: (how many are as they were, what to store, what cannot be stored)."""
        wanted: list[Wanted] = []
        refused: list[tuple[str, HoldfastError]] = []
        unchanged = 0
        if not entries:
            return 0, wanted, refused
        directory = stat_key(entries[0][0].path)[0]
        stats: dict[bytes, FileStat] = {}
        if not options.reread and options.dedup:
            stats = file.stats(directory) if len(entries) > 1 else _one(file, directory, entries[0][0].name)
        meta = dict(options.meta or {})
        name_key = self._keys.name
        marks: dict[bytes, tuple[bytes, bytes]] | None = None
        for local, given in entries:
            mode = local.stat.st_mode
            try:
                path = paths.normalise(given)
            except BadRequest as error:
                refused.append((given.encode("utf-8", "backslashreplace").decode(), error))
                continue
            content = b""
            seen_stat = None
            if stat.S_ISREG(mode):
                kind = RefKind.FILE
                seen_stat = stats.get(os.fsencode(local.name))
                if seen_stat is not None and same(local.stat, seen_stat):
                    content = seen_stat.content
                else:
                    seen_stat = None
            elif stat.S_ISDIR(mode):
                kind = RefKind.DIRECTORY
            elif stat.S_ISLNK(mode):
                kind = RefKind.LINK
            else:
                refused.append((path, BadRequest(f"{local.path}: neither file, directory nor link; left out")))
                continue
            tag = paths.name_tag(name_key, path)
            seen = remote.get(tag)
            if seen is not None:
                if (seen.kind is RefKind.DIRECTORY) != (kind is RefKind.DIRECTORY):
                    refused.append((path, _in_the_way(path, seen.kind, kind)))
                    continue
                if options.rule == "no-clobber" and kind is not RefKind.DIRECTORY:
                    refused.append((path, Exists(f"{path} exists already and was not replaced")))
                    continue
                if marks is None:
                    marks = file.marks_of(paths.parent_tag(name_key, paths.parent(path)))
                etag, mark = marks.get(tag, (b"", b""))
                if etag == seen.etag and (seen_stat is not None or kind is not RefKind.FILE):
                    attributes = _attributes(local, kind, meta)
                    if mark == mark_of(kind, attributes, content, options.asked_survive):
                        unchanged += 1
                        continue
            known = None
            if seen_stat is not None:
                place = file.contents((content,)).get(content)
                decoded = None if place is None else KnownRecipe.decode(place)
                known = None if decoded is None else (content, decoded)
            wanted.append(Wanted(local, path, kind, seen, known))
        return unchanged, wanted, refused

    def _read(self, batch: list[Wanted], options: PutOptions) -> list[Read | tuple[Wanted, HoldfastError | None]]:
        """In the pool: small files read and their ids computed. With None: it has become large."""
        keys = self._uploader.chunk_keys
        found: list[Read | tuple[Wanted, HoldfastError | None]] = []
        for wanted in batch:
            try:
                read = read_small(self._files, wanted.local.path, min(SMALL_BYTES_MAX, options.chunk_bytes), self._now)
            except HoldfastError as error:
                found.append((wanted, error))
                continue
            if read is None or not options.dedup:
                found.append((wanted, None))
                continue
            view = memoryview(read.data)
            chunks = [view] if view else []
            ids = [chunk_id(keys, chunk) for chunk in chunks]
            found.append(Read(wanted, read, chunks, ids, recipe.content_id(keys, ids)))
        return found

    async def _store_small(self, tree: _Tree, batch: list[Read | tuple[Wanted, HoldfastError | None]]) -> None:
        reads = [one for one in batch if isinstance(one, Read)]

        def ask(file: IndexFile) -> tuple[dict[bytes, bytes], dict[bytes, ChunkPlace]]:
            contents = file.contents([read.content for read in reads])
            return contents, file.chunks([id_ for read in reads if read.content not in contents for id_ in read.ids])

        contents, chunks = await self._uploader.index.run(ask)
        stats = Batch()
        for one in batch:
            if not isinstance(one, Read):
                wanted, error = one
                if error is None:
                    await self._store_large(tree, wanted)
                else:
                    tree.summary.failed.append((wanted.path, error))
                continue
            wanted, file, size = one.wanted, one.file, len(one.file.data)
            tree.summary.bytes += size
            self._putter._counted(size, wanted.path)
            known = KnownRecipe.decode(contents[one.content]) if one.content in contents else None
            try:
                if known is not None:
                    stored = Content(one.content, size, known)
                else:
                    placed: list[Chunk] = []
                    for id_, chunk in zip(one.ids, one.chunks, strict=True):
                        at = chunks.get(id_)
                        if at is not None:
                            placed.append(await self._putter.known_chunk(id_, chunk, at))
                        else:
                            placed.append(await self._uploader.chunk(id_, chunk))
                    made = await self._uploader.recipe(
                        size, tree.options.chunk_bytes, one.content, one.ids, placed, None
                    )
                    stored = Content(one.content, size, made)
            except HoldfastError as error:
                tree.summary.failed.append((wanted.path, error))
                continue
            if file.settled:
                stats.stats.append((*stat_key(wanted.local.path), file_stat(file.stat, one.content)))
            await self._submit_file(tree, wanted, stored, file.stat)
        await self._uploader.index.later(stats)

    async def _store_large(self, tree: _Tree, wanted: Wanted, *, trust: bool = True) -> None:
        try:
            stored, state = await self._putter.store_file(
                wanted.local, Known(None, None, None), tree.options, wanted.path, reread=True, trust=trust
            )
        except HoldfastError as error:
            tree.summary.failed.append((wanted.path, error))
            return
        tree.summary.bytes += stored.size
        await self._submit_file(tree, wanted, stored, state)

    async def _store_again(self, tree: _Tree, wanted: Wanted) -> None:
        """What relied on packs that are gone: everything is sent."""
        tree.above = tree.tops.get(wanted.path, [])
        if wanted.kind is RefKind.FILE:
            await self._store_large(tree, wanted, trust=False)
        else:
            await self._store_known(tree, wanted)
        tree.above = []

    async def _store_known(self, tree: _Tree, wanted: Wanted) -> None:
        """Directories, links, and files whose content is known by their stamp."""
        if wanted.kind is RefKind.FILE:
            assert wanted.content is not None
            content, known = wanted.content
            await self._submit_file(tree, wanted, Content(content, known.size, known), wanted.local.stat)
            return
        attributes = _attributes(wanted.local, wanted.kind, dict(tree.options.meta or {}))
        draft = Draft(
            wanted.path,
            wanted.kind,
            attributes,
            tree.options.survive,
            mark=mark_of(wanted.kind, attributes, b"", tree.options.asked_survive),
        )
        await self._submit(tree, draft, wanted)

    async def _submit_file(self, tree: _Tree, wanted: Wanted, stored: Content, state: os.stat_result) -> None:
        options = tree.options
        attributes = Attributes(stored.size, state.st_mtime_ns, state.st_mode & 0o7777, None, dict(options.meta or {}))
        draft = Draft(
            wanted.path,
            RefKind.FILE,
            attributes,
            options.survive,
            recipe=stored.recipe,
            content=stored.id if options.dedup else b"",
            mark=mark_of(RefKind.FILE, attributes, stored.id, options.asked_survive) if options.dedup else b"",
            rule=options.rule,
        )
        await self._submit(tree, draft, wanted)

    async def _submit(self, tree: _Tree, draft: Draft, wanted: Wanted) -> None:
        if wanted.seen is not None:
            draft.seen_version, draft.seen_etag = wanted.seen.version, wanted.seen.etag

        def settled(group: Group, error: HoldfastError | None) -> None:
            tree.outstanding -= 1
            if tree.outstanding == 0 or tree.outstanding == GROUPS_MAX // 2:
                tree.changed.set()
            if error is None:
                if wanted.kind is RefKind.DIRECTORY:
                    del tree.directories[wanted.path]
                _count(tree.summary, wanted.kind)
                self._done(wanted.path)
            elif isinstance(error, PacksGone):
                tree.retry.append(wanted)
            else:
                tree.summary.failed.append((wanted.path, error))

        now, above, tree.above = int(self._now() * 1e9), tree.above, []
        drafts = [*(directory_draft(path, tree.options.survive, now) for path in above), draft]
        tree.outstanding += 1
        group = Group(drafts, settled, after=tree.directories.get(paths.parent(wanted.path)))
        if wanted.kind is RefKind.DIRECTORY:
            tree.directories[wanted.path] = group
        await self._uploader.submit(group)
        if tree.outstanding >= GROUPS_MAX:
            self._uploader.finish()
            while tree.outstanding > GROUPS_MAX // 2:
                tree.changed.clear()
                await tree.changed.wait()

    async def _settle(self, tree: _Tree) -> None:
        self._uploader.finish()
        while tree.outstanding:
            tree.changed.clear()
            await tree.changed.wait()


def _in_the_way(path: str, there: RefKind, kind: RefKind) -> Exists:
    """What the vault has under this name is a directory and what is put is not, or the other way round."""
    return Exists(
        f"{path} is a {there.name.lower()} in the vault and a {kind.name.lower()} here; "
        f"remove it first (holdfast rm{' -r' if there is RefKind.DIRECTORY else ''}), or store this under another name"
    )


def _count(summary: PutSummary, kind: RefKind) -> None:
    if kind is RefKind.FILE:
        summary.files += 1
    elif kind is RefKind.DIRECTORY:
        summary.directories += 1
    else:
        summary.links += 1


def _attributes(local: LocalEntry, kind: RefKind, meta: dict[str, str]) -> Attributes:
    state = local.stat
    size = state.st_size if kind is RefKind.FILE else 0
    return Attributes(size, state.st_mtime_ns, state.st_mode & 0o7777, local.target, meta)


def _one(file: IndexFile, directory: bytes, name: str) -> dict[bytes, FileStat]:
    found = file.stat(directory, os.fsencode(name))
    return {} if found is None else {os.fsencode(name): found}
