"""Threads beside the event loop: results, errors, cancelled callers, the end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from holdfast.pool import ThreadPool


async def test_results_and_errors_come_back() -> None:
    pool = ThreadPool(2)
    assert await pool.run(divmod, 7, 2) == (3, 1)
    assert await pool.run(int, "ff", base=16) == 255
    with pytest.raises(ZeroDivisionError):
        await pool.run(divmod, 1, 0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await pool.run(next, iter(()))
    pool.close()


async def test_a_cancelled_caller_waits_until_the_function_has_ended() -> None:
    pool, begun, go = ThreadPool(1), threading.Event(), threading.Event()
    ended = False

    def work() -> None:
        nonlocal ended
        begun.set()
        go.wait()
        ended = True

    caller = asyncio.create_task(pool.run(work))
    await asyncio.to_thread(begun.wait)
    caller.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not caller.done(), "the buffers it handed over are still in use"
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended
    pool.close()


async def test_as_many_at_once_as_there_are_workers() -> None:
    pool = ThreadPool(3)
    together = threading.Barrier(3)
    await asyncio.gather(*(pool.run(together.wait, 10.0) for _ in range(3)))
    pool.close()


async def test_close_ends_what_was_begun_and_then_refuses() -> None:
    pool = ThreadPool(1)
    done: list[int] = []
    work = [asyncio.create_task(pool.run(done.append, number)) for number in range(5)]
    await asyncio.sleep(0)
    pool.close()
    pool.close()
    await asyncio.gather(*work)
    assert done == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="closed"):
        await pool.run(int)
