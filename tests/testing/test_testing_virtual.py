"""Clock, pool and gate of a simulated process."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.clock import Clock
from holdfast.pool import Pool
from holdfast.testing.loop import VirtualLoop, run
from holdfast.testing.virtual import Gate, SeededPool, VirtualClock


def test_a_clock_is_wrong_in_its_own_way() -> None:
    async def main(loop: VirtualLoop) -> None:
        right, ahead = VirtualClock(loop), VirtualClock(loop, skew_s=30, boot_s=1000)
        clocks: list[Clock] = [right, ahead]
        await clocks[0].sleep(5)
        assert right.now() == pytest.approx(50_005)
        assert ahead.now() == pytest.approx(50_035)
        ahead.step(-3600)
        assert ahead.now() == pytest.approx(46_435)
        assert right.monotonic() == pytest.approx(5)
        assert ahead.monotonic() == pytest.approx(1005)

    run(main, seed=1, start_wall=50_000)


def test_a_paused_process_neither_wakes_nor_works() -> None:
    async def main(loop: VirtualLoop) -> None:
        gate = Gate()
        clock = VirtualClock(loop, gate=gate)
        pool: Pool = SeededPool(loop, loop.randomness("pool"), gate=gate)
        ends: list[float] = []

        async def sleeps() -> None:
            await clock.sleep(1)
            ends.append(loop.time())

        async def works() -> None:
            await pool.run(int)
            ends.append(loop.time())

        gate.close()
        tasks = [loop.create_task(sleeps()), loop.create_task(works())]
        await asyncio.sleep(100)
        assert ends == []
        gate.open()
        await asyncio.gather(*tasks)
        assert ends == [pytest.approx(100), pytest.approx(100)]

    run(main, seed=1)


def test_the_order_of_pool_work_depends_on_the_seed_only() -> None:
    async def main(loop: VirtualLoop) -> list[int]:
        pool = SeededPool(loop, loop.randomness("pool"))
        order: list[int] = []
        await asyncio.gather(*(pool.run(order.append, number) for number in range(20)))
        assert 0 < loop.time() < 20 * pool.delay_s_max
        return order

    assert run(main, seed=3) == run(main, seed=3)
    assert len({tuple(run(main, seed=seed)) for seed in range(5)}) == 5


def test_one_worker_keeps_the_order() -> None:
    async def main(loop: VirtualLoop) -> list[int]:
        pool = SeededPool(loop, loop.randomness("pool"), workers=1)
        order: list[int] = []
        await asyncio.gather(*(pool.run(order.append, number) for number in range(20)))
        return order

    assert run(main, seed=3) == list(range(20))


def test_a_cancelled_caller_waits_for_the_function() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        pool = SeededPool(loop, loop.randomness("pool"))
        seen: list[str] = []

        async def caller() -> None:
            try:
                await pool.run(seen.append, "function")
            finally:
                seen.append("caller")

        task = loop.create_task(caller())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return seen

    assert run(main, seed=1) == ["function", "caller"]


def test_an_error_in_the_function_reaches_the_caller() -> None:
    async def main(loop: VirtualLoop) -> None:
        pool = SeededPool(loop, loop.randomness("pool"))
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)
        pool.close()
        pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            await pool.run(int)
        assert not loop.unhandled

    run(main, seed=1)
