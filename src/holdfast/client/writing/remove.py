"""Deleting names: tombstones, deepest first, so that an interrupted delete leaves a smaller tree and never an orphan.

Nothing is deleted for good here: history keeps records and packs for a while (docs/design.md, History).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from holdfast.blob import Digest
from holdfast.client.names.drafts import tombstone
from holdfast.client.names.names import Names
from holdfast.client.writing.changes import Changes
from holdfast.client.writing.uploader import Uploader
from holdfast.codec.refs import Ref, RefKind
from holdfast.errors import Conflict, NotFound


class _Doomed(NamedTuple):
    path: str
    version: int
    etag: Digest


class Remover:
    """One delete under way."""

    def __init__(self, names: Names, uploader: Uploader, now: Callable[[], float]) -> None:
        self._names = names
        self._now = now
        self._changes = Changes(uploader)

    async def remove(self, path: str, *, recursive: bool, if_match: Digest | None, survive: int) -> int:
        """How many names were removed. Errors as ``Vault.delete``."""
        found = await self._names.find_any(path, fresh=True)
        if found is None or found.ref.clear.kind is RefKind.TOMBSTONE:
            if not recursive or await self._names.is_empty(path):
                raise NotFound(f"no {path!r} in this vault")
        elif if_match is not None and found.ref.etag != if_match:
            raise Conflict(f"{path} was changed: its etag is {found.ref.etag}", etag=str(found.ref.etag))
        elif found.ref.clear.kind is RefKind.DIRECTORY and not recursive and not await self._names.is_empty(path):
            raise Conflict(f"{path} is a directory and not empty; remove it with all in it: rm -r")
        if recursive:
            await self._below(path, survive)
        if not self._changes.failed and found is not None and found.ref.clear.kind is not RefKind.TOMBSTONE:
            await self._submit(_doomed(found.ref), survive, exact=if_match is not None)
            await self._changes.settle()
        self._changes.check("removed")
        return self._changes.done

    async def _below(self, top: str, survive: int) -> None:
        """Lists directories on the way down, removes their entries on the way up."""
        levels: list[list[_Doomed]] = []
        level = [top]
        while level:
            doomed: list[_Doomed] = []
            following: list[str] = []
            for directory in level:
                async for entries, _ in self._names.listing(directory):
                    for ref, _ in entries:
                        doomed.append(_doomed(ref))
                        if ref.clear.kind is RefKind.DIRECTORY:
                            following.append(ref.sealed.path)
            levels.append(doomed)
            level = following
        for doomed in reversed(levels):
            for one in doomed:
                await self._submit(one, survive, exact=False)
            await self._changes.settle()
            if self._changes.failed:
                return

    async def _submit(self, doomed: _Doomed, survive: int, *, exact: bool) -> None:
        draft = tombstone(doomed.path, doomed.version, doomed.etag, survive, self._now(), exact=exact)
        await self._changes.add(doomed.path, [draft])


def _doomed(ref: Ref) -> _Doomed:
    return _Doomed(ref.sealed.path, ref.clear.version, ref.etag)
