"""Deleting names: tombstones, deepest first, so that an interrupted delete leaves a smaller tree and never an orphan.

Nothing is deleted for good here: history keeps records and packs for a while (docs/design.md, History).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from holdfast.blob import Digest
from holdfast.client.drafts import Draft, Group
from holdfast.client.names import Names
from holdfast.client.uploader import Uploader
from holdfast.codec.refs import Attributes, Ref, RefKind
from holdfast.errors import Conflict, HoldfastError, NotFound, PartlyDone

GROUPS_MAX = 4000


class _Doomed(NamedTuple):
    path: str
    version: int
    etag: Digest


class Remover:
    """One delete under way."""

    def __init__(self, names: Names, uploader: Uploader, now: Callable[[], float]) -> None:
        self._names = names
        self._uploader = uploader
        self._now = now
        self._outstanding = 0
        self._changed = asyncio.Event()
        self._failed: list[tuple[str, HoldfastError]] = []
        self._removed = 0

    async def remove(self, path: str, *, recursive: bool, if_match: Digest | None, survive: int) -> int:
        """How many names were removed. Errors as ``Vault.delete``."""
        found = await self._names.find_any(path, fresh=True)
        if found is None or found.ref.clear.kind is RefKind.TOMBSTONE:
            if not recursive or await self._is_empty(path):
                raise NotFound(f"no {path!r} in this vault")
        elif if_match is not None and found.ref.etag != if_match:
            raise Conflict(f"{path} was changed: its etag is {found.ref.etag}", etag=str(found.ref.etag))
        elif found.ref.clear.kind is RefKind.DIRECTORY and not recursive and not await self._is_empty(path):
            raise Conflict(f"{path} is a directory and not empty; remove it with all in it: rm -r")
        if recursive:
            await self._below(path, survive)
        if not self._failed and found is not None and found.ref.clear.kind is not RefKind.TOMBSTONE:
            await self._submit(_doomed(found.ref), survive, exact=if_match is not None)
            await self._settle()
        if self._failed:
            name, error = self._failed[0]
            if len(self._failed) == 1 and self._removed == 0:
                raise error
            raise PartlyDone(
                f"{self._removed} names were removed, {len(self._failed)} were not; the first: {name}: {error.detail}"
            )
        return self._removed

    async def _is_empty(self, directory: str) -> bool:
        async for entries, _ in self._names.listing(directory):
            if entries:
                return False
        return True

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
            await self._settle()
            if self._failed:
                return

    async def _submit(self, doomed: _Doomed, survive: int, *, exact: bool) -> None:
        draft = Draft(
            doomed.path,
            RefKind.TOMBSTONE,
            Attributes(0, int(self._now() * 1e9), 0),
            survive,
            rule="if-match" if exact else "replace",
            seen_version=doomed.version,
            seen_etag=doomed.etag,
        )

        def settled(group: Group, error: HoldfastError | None) -> None:
            self._outstanding -= 1
            if error is None:
                self._removed += 1
            else:
                self._failed.append((doomed.path, error))
            self._changed.set()

        self._outstanding += 1
        await self._uploader.submit(Group([draft], settled))
        if self._outstanding >= GROUPS_MAX:
            await self._settle()

    async def _settle(self) -> None:
        self._uploader.finish()
        while self._outstanding:
            self._changed.clear()
            await self._changed.wait()


def _doomed(ref: Ref) -> _Doomed:
    return _Doomed(ref.sealed.path, ref.clear.version, ref.etag)
