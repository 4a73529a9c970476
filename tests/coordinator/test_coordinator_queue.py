"""Group commit: many wait, one syncs; one that fails or goes away disturbs no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.coordinator.hall import Hall, digest_of

from holdfast.coordinator.commit import Change, NewPack
from holdfast.coordinator.transaction import run_batch
from holdfast.errors import BadRequest, QuotaExceeded, StorePoisoned, TooManyRequests, Unavailable
from holdfast.metadata import queries_packs


def change(hall: Hall, name: str, **changes: Any) -> Change:
    places = {node.number: 1 for node in hall.coordinator.state.registry.all()[:5]}
    facts: dict[str, Any] = {"vault": 1, "quota": None, "packs": [NewPack(digest_of(name), 10, places)], "lease": True}
    return Change(**(facts | changes))


class Counting:
    """A database that counts transactions, and may fail."""

    def __init__(self, hall: Hall) -> None:
        self.real = hall.coordinator.state.database
        self.batches: list[int] = []
        self.fail = 0
        hall.coordinator.state.queue._database = self  # type: ignore[assignment]

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        assert function is run_batch
        self.batches.append(len(args[0]))
        if self.fail:
            self.fail -= 1
            raise StorePoisoned("the disk says no")
        return await self.real.run(function, *args)


async def test_changes_that_wait_share_a_transaction(hall: Hall) -> None:
    queue, counting = hall.coordinator.state.queue, Counting(hall)
    await asyncio.gather(*(queue.submit(change(hall, str(number))) for number in range(100)))
    assert counting.batches == [64, 36]
    rows = await hall.run(queries_packs.packs_by_digest, [digest_of(str(number)) for number in range(100)])
    assert len(rows) == 100
    assert hall.coordinator.state.position.commit == 100


async def test_one_that_is_refused_leaves_nothing_and_the_others_stand(hall: Hall) -> None:
    queue = hall.coordinator.state.queue
    results = await asyncio.gather(
        queue.submit(change(hall, "a")),
        queue.submit(change(hall, "b", quota=5)),
        queue.submit(change(hall, "a", packs=[NewPack(digest_of("a"), 11, {1: 1})])),
        queue.submit(change(hall, "c")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [list, QuotaExceeded, BadRequest, list]
    rows = await hall.run(queries_packs.packs_by_digest, [digest_of(name) for name in "abc"])
    assert {row.digest for row in rows} == {digest_of("a"), digest_of("c")}


async def test_a_database_that_fails_fails_its_batch_only(hall: Hall) -> None:
    queue, counting = hall.coordinator.state.queue, Counting(hall)
    counting.fail = 1
    with pytest.raises(StorePoisoned):
        await queue.submit(change(hall, "a"))
    before = hall.coordinator.state.position.commit
    assert await queue.submit(change(hall, "a")) == []
    assert hall.coordinator.state.position.commit == before + 1


async def test_one_that_goes_away_before_its_turn_is_not_done(hall: Hall) -> None:
    queue, counting = hall.coordinator.state.queue, Counting(hall)
    tasks = [asyncio.ensure_future(queue.submit(change(hall, name))) for name in "ab"]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert await tasks[1] == []
    assert counting.batches == [1]


async def test_the_queue_is_bounded_and_ends(hall: Hall) -> None:
    queue = hall.coordinator.state.queue
    tasks = [asyncio.ensure_future(queue.submit(change(hall, "a"))) for _ in range(1030)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, TooManyRequests) for result in results) == 6
    await queue.close()
    await queue.close()
    with pytest.raises(Unavailable, match="stopping"):
        await queue.submit(change(hall, "b"))
