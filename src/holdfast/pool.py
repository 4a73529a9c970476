"""Threads: the one seam through which blocking work (disk, hashing, sealing) leaves the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pool(Protocol):
    """Runs plain functions beside the event loop."""

    workers: int

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """``function(*args, **kwargs)`` in a worker. Waits when all are busy.

        A cancelled caller still waits until the function has ended: buffers handed to it may be reused afterwards.
        """
        ...

    def close(self) -> None:
        """Waits for what runs and ends the workers. May be called twice."""
        ...


class ThreadPool:
    """A pool of ``workers`` threads; by default one for each core, at least two."""

    def __init__(self, workers: int | None = None, name: str = "holdfast") -> None:
        self.workers = workers or max(2, os.cpu_count() or 2)
        self._executor = ThreadPoolExecutor(self.workers, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.done():
                await asyncio.wait([future])
            raise

    def close(self) -> None:
        self._executor.shutdown(wait=True)


class InlinePool:
    """Runs everything at once in the caller's thread: for simulations and short tests."""

    workers = 1

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    def close(self) -> None:
        pass
