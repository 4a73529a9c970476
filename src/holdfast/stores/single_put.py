"""Of several puts of one digest at once in this process, one works and the others wait for its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from holdfast.blob import Digest
from holdfast.errors import BadRequest, DigestMismatch
from holdfast.stores.protocol import Stored


class SinglePut:
    """The puts under way of one store."""

    def __init__(self) -> None:
        self._puts: dict[Digest, asyncio.Future[Stored | None]] = {}

    async def run(
        self, digest: Digest, size: int, work: Callable[[], Awaitable[Stored]], *, share: bool = True
    ) -> Stored:
        """``work()``, unless a put of this digest is under way: then its answer, ``new`` False.

        When that one fails, the next takes its place. DigestMismatch if the other put had another size. With ``share``
        false the others are only waited for.
        """
        if size < 0:
            raise BadRequest(f"a blob cannot have {size} bytes")
        while (other := self._puts.get(digest)) is not None:
            stored = await asyncio.shield(other)
            if stored is not None and share:
                check_size(stored, size)
                return stored._replace(new=False)
        mine = self._puts[digest] = asyncio.get_running_loop().create_future()
        stored = None
        try:
            stored = await work()
            return stored
        finally:
            del self._puts[digest]
            mine.set_result(stored)


def check_size(stored: Stored, size: int) -> None:
    """DigestMismatch unless a blob that is there has the announced size."""
    if stored.size != size:
        raise DigestMismatch(f"{stored.digest} has {stored.size} bytes, {size} were announced")
