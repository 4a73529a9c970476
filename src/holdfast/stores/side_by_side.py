"""One piece of work for each of many items, a bounded number of them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

A = TypeVar("A")
T = TypeVar("T")


async def side_by_side(at_once: int, items: Sequence[A], work: Callable[[A], Coroutine[Any, Any, T]]) -> list[T]:
    """``work`` on each, ``at_once`` at a time; results in order. The first failure cancels the rest."""
    if len(items) == 1:
        return [await work(items[0])]
    results: dict[int, T] = {}
    numbers = iter(range(len(items)))

    async def worker() -> None:
        for number in numbers:
            results[number] = await work(items[number])

    workers = [asyncio.ensure_future(worker()) for _ in range(min(at_once, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [results[number] for number in range(len(items))]
