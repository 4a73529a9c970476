"""Looking at every pack there is, in many short transactions, so that no commit waits for longer than one of them.

What changes meanwhile is seen or not: for counts and for sweeps, which follow changes by other means, that is enough.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from holdfast.metadata import queries_status
from holdfast.metadata.database import Database

T = TypeVar("T")

PORTION = 10_000
"""Packs in one transaction: some tens of milliseconds."""


async def every_pack(database: Database, query: Callable[..., T]) -> AsyncIterator[T]:
    """``query(connection, span=...)`` for one span of pack numbers after another, up to the highest there is now.

    At least once. A query that is wanted in one piece has no place here.
    """
    after, last = 0, await database.run(queries_status.highest_pack)
    while True:
        yield await database.run(query, span=(after, after + PORTION))
        after += PORTION
        if after >= last:
            return
