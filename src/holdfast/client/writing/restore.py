"""Bringing back what was deleted or replaced, while history keeps it: a new version of the name points at the old data.

Nothing of a file is read or sent. A directory comes back with all that was deleted in it and is still kept, name by
name from the top; after a failure the same call goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from holdfast.blob import Digest
from holdfast.client.names.drafts import Draft, Present
from holdfast.client.names.names import Found, Names, Thrown
from holdfast.client.reading.content import ContentReader
from holdfast.client.writing.changes import Changes
from holdfast.client.writing.new_name import AT_ONCE, NewNames, Step
from holdfast.client.writing.put_options import PutOptions
from holdfast.client.writing.uploader import Uploader
from holdfast.codec.refs import RefKind
from holdfast.errors import BadRequest, HoldfastError, NotFound, PacksGone, Unavailable


class Restorer:
    """One restore under way."""

    def __init__(
        self,
        names: Names,
        content: ContentReader,
        uploader: Uploader,
        options: PutOptions,
        now: Callable[[], float],
        restored: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``options``: what may be replaced. ``restored`` hears each name that is back."""
        self._names = names
        self._new = NewNames(content, options, now)
        self._changes = Changes(uploader, restored)

    async def restore(self, old: str, version: int | None, new: str, ancestors: Sequence[str]) -> int:
        """How many names are back, 0 if nothing was missing below a directory. Errors as ``Vault.restore``."""
        present = await self._names.find_any(old, fresh=True)
        standing = present is not None and present.ref.clear.kind is not RefKind.TOMBSTONE
        if version is not None:
            found = await self._names.at_version(old, version)
        elif present is not None and standing:
            found = present
            if found.ref.clear.kind is not RefKind.DIRECTORY and old == new:
                raise BadRequest(f"{old} is not deleted; say which version to bring back (holdfast log {old})")
        else:
            found = await self._newest(old)
        there = present if old == new else await self._names.find_any(new, fresh=True)
        step = Step(found, new, None if there is None else Present.of(there.ref))
        above = self._new.above(ancestors)
        is_directory = found.ref.clear.kind is RefKind.DIRECTORY
        if not (is_directory and step.there is not None and step.there.kind is RefKind.DIRECTORY):
            await self._bring(step, above)
            await self._changes.settle()
        if is_directory and not self._changes.failed:
            await self._below(old, new)
        failed = self._changes.failed
        self._changes.failed = [(name, await self._clear(name, error)) for name, error in failed]
        self._changes.check("brought back")
        return self._changes.done

    async def _newest(self, path: str) -> Found:
        with contextlib.suppress(NotFound):
            for ref, kept in await self._names.history(path):
                if ref.clear.kind is not RefKind.TOMBSTONE:
                    return Found(ref, kept.record, b"", {})
        raise NotFound(f"nothing of {path!r} is kept any more: history keeps what was deleted for 7 days")

    async def _bring(self, step: Step, above: Sequence[Draft] = ()) -> None:
        try:
            draft = await self._new.draft(step)
        except HoldfastError as error:
            self._changes.failed.append((step.path, error))
            return
        await self._changes.add(step.path, [*above, draft])

    async def _below(self, old: str, new: str) -> None:
        """What was deleted in directory ``old``, level by level; directories that are there are looked into."""
        level = [old]
        while level:
            following: list[str] = []
            for directory in level:
                batch: list[Step] = []
                async for thrown in self._names.trash(directory):
                    path = thrown.kept.sealed.path
                    if thrown.kept.clear.kind is RefKind.DIRECTORY:
                        following.append(path)
                    there = Present.of(thrown.tombstone) if old == new else None
                    batch.append(Step(Found(thrown.kept, thrown.record, b"", {}), new + path[len(old) :], there))
                    if len(batch) == AT_ONCE:
                        await asyncio.gather(*(self._bring(step) for step in batch))
                        batch.clear()
                await asyncio.gather(*(self._bring(step) for step in batch))
                async for entries, _ in self._names.listing(directory):
                    following += [ref.sealed.path for ref, _ in entries if ref.clear.kind is RefKind.DIRECTORY]
            await self._changes.settle()
            if self._changes.failed:
                return
            level = sorted(set(following))

    async def _clear(self, name: str, error: HoldfastError) -> HoldfastError:
        """Packs that are gone for good, or too few machines for now?"""
        if not isinstance(error, PacksGone):
            return error
        packs = [Digest.parse(pack) for pack in error.extra.get("packs", ())]
        known = await self._names.places_of(packs)
        gone = [pack for pack in packs if pack not in known]
        if gone:
            return NotFound(
                f"{name} cannot be brought back: {len(gone)} of its packs were let go, because its time in the "
                "history is over"
            )
        return Unavailable(
            f"{name} was not brought back: too few machines hold {len(packs)} of its packs now; wait for repair "
            "(holdfast status), or say --allow-degraded"
        )


async def trash_below(names: Names, directory: str, *, recursive: bool) -> AsyncIterator[Thrown]:
    """What was deleted in a directory and is still kept; ``recursive``: in those below it too, deleted or not."""
    level = [directory]
    while level:
        following: list[str] = []
        for inside in level:
            async for thrown in names.trash(inside):
                if thrown.kept.clear.kind is RefKind.DIRECTORY:
                    following.append(thrown.kept.sealed.path)
                yield thrown
            if recursive:
                async for entries, _ in names.listing(inside):
                    following += [ref.sealed.path for ref, _ in entries if ref.clear.kind is RefKind.DIRECTORY]
        level = sorted(set(following)) if recursive else []
