"""Giving names new names: nothing of a file is moved or read, its new name points at the packs that it has.

A file or link moves in one group: the tombstone of the old name and the new name stand or fall together, each by
compare-and-set. A directory moves name by name: new directories first, then what is in them, then the old directories
are deleted, deepest first. So each name is at one of both places at any time, and the same command goes on after it
was stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from holdfast.client.names.drafts import Draft, Present, tombstone
from holdfast.client.names.names import Found, Names, places
from holdfast.client.reading.content import ContentReader
from holdfast.client.writing.changes import Changes
from holdfast.client.writing.new_name import AT_ONCE, NewNames, Step
from holdfast.client.writing.put_options import PutOptions
from holdfast.client.writing.uploader import Uploader
from holdfast.codec.refs import Ref, RefKind
from holdfast.errors import BadRequest, Conflict, HoldfastError, PacksGone, Unavailable


class Mover:
    """One move under way."""

    def __init__(
        self,
        names: Names,
        content: ContentReader,
        uploader: Uploader,
        options: PutOptions,
        now: Callable[[], float],
        moved: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``options``: what may be replaced at the new name. ``moved`` hears each old name that has moved."""
        self._names = names
        self._new = NewNames(content, options, now)
        self._made = Changes(uploader)
        self._moved = Changes(uploader, moved)

    async def move(self, old: str, new: str, ancestors: Sequence[str]) -> int:
        """How many names were moved. Errors as ``Vault.move``; ``ancestors`` of ``new`` are made where missing."""
        if old == new:
            raise BadRequest(f"{old} has this name already")
        if new.startswith(old + "/") or old.startswith(new + "/"):
            raise BadRequest(f"{old} and {new}: one lies in the other; move it to another place")
        found = await self._names.find(old, fresh=True)
        there = await self._names.find_any(new, fresh=True)
        step = Step(found, new, None if there is None else Present.of(there.ref))
        above = self._new.above(ancestors)
        if found.ref.clear.kind is RefKind.DIRECTORY:
            if self._new.options.if_match is not None:
                raise BadRequest("if_match is for a file, not for a directory")
            await self._tree(step, above)
        else:
            await self._move(step, above)
            await self._moved.settle()
        self._moved.failed = [(name, _clear(name, error)) for name, error in self._failed()]
        self._moved.check("moved")
        return self._moved.done

    def _failed(self) -> list[tuple[str, HoldfastError]]:
        return [*self._made.failed, *self._moved.failed]

    async def _draft(self, step: Step) -> Draft | None:
        """The new name's, ready to be sent; None if it may not be, which is kept as a failure."""
        try:
            return await self._new.draft(step)
        except HoldfastError as error:
            self._moved.failed.append((step.found.ref.sealed.path, error))
            return None

    async def _move(self, step: Step, above: Sequence[Draft] = ()) -> None:
        draft = await self._draft(step)
        if draft is not None:
            await self._moved.add(draft.path, [*above, draft, self._end_of(step.found.ref, exact=True)])

    def _end_of(self, ref: Ref, *, exact: bool) -> Draft:
        survive = self._new.options.survive
        return tombstone(ref.sealed.path, ref.clear.version, ref.etag, survive, self._new.now(), exact=exact)

    async def _tree(self, top: Step, above: Sequence[Draft]) -> None:
        old = top.found.ref.sealed.path
        level, levels = [top], list[list[Ref]]()
        while level:
            for step in level:
                await self._make(step, () if levels else above)
            await self._made.settle()
            refused = {name for name, _ in self._failed()}
            levels.append([step.found.ref for step in level])
            level = [step for step in level if step.found.ref.sealed.path not in refused]
            level = await self._inside(level, len(old), top.path)
        while levels and not self._failed():
            await self._end(levels.pop())

    async def _make(self, step: Step, above: Sequence[Draft]) -> None:
        """A directory at its new name; one that is there already is left as it is."""
        if step.there is not None and step.there.kind is RefKind.DIRECTORY:
            return
        draft = await self._draft(step)
        if draft is not None:
            draft.ancestor = True  # that somebody else makes it meanwhile is no conflict
            await self._made.add(step.found.ref.sealed.path, [*above, draft])

    async def _inside(self, level: Sequence[Step], cut: int, new: str) -> list[Step]:
        """Moves the files and links of a level's directories; the directories in them."""
        following: list[Step] = []
        for step in level:
            is_directory = step.there is not None and step.there.kind is RefKind.DIRECTORY
            remote = await self._names.clear_listing(step.path) if is_directory else {}
            async for entries, page in self._names.listing(step.found.ref.sealed.path):
                held = places(page.packs, page.nodes)
                steps: list[Step] = []
                for ref, record in entries:
                    path = new + ref.sealed.path[cut:]
                    there = remote.get(self._names.tag(path))
                    (following if ref.clear.kind is RefKind.DIRECTORY else steps).append(
                        Step(Found(ref, record, b"", held), path, there)
                    )
                for start in range(0, len(steps), AT_ONCE):
                    await asyncio.gather(*(self._move(one) for one in steps[start : start + AT_ONCE]))
        await self._moved.settle()
        return following

    async def _end(self, level: Sequence[Ref]) -> None:
        """Deletes directories whose contents have moved, if nothing was added to them meanwhile."""
        for start in range(0, len(level), AT_ONCE):
            some = level[start : start + AT_ONCE]
            empty = await asyncio.gather(*(self._names.is_empty(ref.sealed.path) for ref in some))
            for ref, is_empty in zip(some, empty, strict=True):
                if is_empty:
                    await self._moved.add(ref.sealed.path, [self._end_of(ref, exact=False)])
                else:
                    error = Conflict(f"something was put into {ref.sealed.path} while it was moved; move it once more")
                    self._moved.failed.append((ref.sealed.path, error))
        await self._moved.settle()


def _clear(name: str, error: HoldfastError) -> HoldfastError:
    if not isinstance(error, PacksGone):
        return error
    return Unavailable(
        f"{name} was not moved: too few machines hold {len(error.extra.get('packs', ()))} of its packs now; wait for "
        "repair (holdfast status), or say --allow-degraded"
    )
