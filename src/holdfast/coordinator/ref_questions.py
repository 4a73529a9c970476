"""Questions for single names: those that come up while one visit to the database is made share the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from holdfast.metadata import queries_refs
from holdfast.metadata.database import Database

NAMES_MAX = 64
"""In one visit: commits wait for it."""


class Found(NamedTuple):
    """``row``: of ``refs``, or of a tombstone of which only version and etag are left (then ``packs`` is None);
    ``packs``: rows number, digest, size, node (None: of a pack without a place), those of a pack in a row."""

    row: Any
    packs: list[Any] | None


class RefQuestions:
    """Used in the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[tuple[int, bytes, asyncio.Future[Found | None]]] = deque()
        self._runner: asyncio.Task[None] | None = None

    async def find(self, vault: int, tag: bytes) -> Found | None:
        """None if there never was such a name. Errors of ``Database.ask``."""
        return await self._asked(vault, tag)

    async def find_all(self, vault: int, tags: Sequence[bytes]) -> list[Found | None]:
        """As ``find``, of each tag in their order."""
        return list(await asyncio.gather(*[self._asked(vault, tag) for tag in tags]))

    def _asked(self, vault: int, tag: bytes) -> asyncio.Future[Found | None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Found | None] = loop.create_future()
        self._waiting.append((vault, tag, future))
        if self._runner is None or self._runner.done():
            self._runner = loop.create_task(self._run(), name="ref questions")
        return future

    async def _run(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), NAMES_MAX))]
            try:
                found = await self._read({(vault, tag) for vault, tag, _ in batch})
            except Exception as error:
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for vault, tag, future in batch:
                if not future.done():
                    future.set_result(found.get((vault, tag)))

    async def _read(self, names: set[tuple[int, bytes]]) -> dict[tuple[int, bytes], Found]:
        vaults: dict[int, list[bytes]] = {}
        for vault, tag in names:
            vaults.setdefault(vault, []).append(tag)
        answers = await self._database.ask(
            [question for vault, tags in vaults.items() for question in queries_refs.questions_of_reading(vault, tags)]
        )
        found: dict[tuple[int, bytes], Found] = {}
        for at, vault in enumerate(vaults):
            shrunk, present, places = answers[3 * at : 3 * at + 3]
            found |= {(vault, row.tag): Found(row, None) for row in shrunk}
            found |= {(vault, row.tag): Found(row, []) for row in present}
            for place in places:
                packs = found[vault, place.tag].packs
                assert packs is not None, "it has a keep list, so it is there"
                packs.append(place)
        return found
