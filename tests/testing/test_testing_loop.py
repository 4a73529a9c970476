"""The virtual loop: time, order, repetition, and the reports when nothing can go on."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

import holdfast.testing.loop
from holdfast.testing.loop import Deadlock, Livelock, Overrun, VirtualLoop, run


def test_time_passes_only_in_the_simulation() -> None:
    async def main(loop: VirtualLoop) -> float:
        await asyncio.sleep(30 * 24 * 3600)
        return loop.time()

    began = time.monotonic()
    assert run(main, seed=1) == pytest.approx(30 * 24 * 3600)
    assert time.monotonic() - began < 5


def test_timers_fire_in_order_and_ready_callbacks_first_in_first_out() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        seen: list[str] = []
        loop.call_later(2, seen.append, "late")
        loop.call_later(1, seen.append, "early")
        loop.call_soon(seen.append, "a")
        loop.call_soon(seen.append, "b")
        await asyncio.sleep(3)
        return seen

    assert run(main, seed=1) == ["a", "b", "early", "late"]


def test_timers_still_fire_after_many_virtual_years() -> None:
    async def main(loop: VirtualLoop) -> None:
        await asyncio.sleep(20 * 365 * 24 * 3600)
        for _ in range(100):
            await asyncio.sleep(0.001)

    run(main, seed=1)


def test_a_timeout_is_virtual() -> None:
    async def main(loop: VirtualLoop) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        return loop.time()

    assert run(main, seed=1) == pytest.approx(60)


def test_an_executor_runs_inline_in_a_later_turn() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        seen: list[str] = []
        future = loop.run_in_executor(None, seen.append, "function")
        seen.append("caller")
        await future
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)
        return seen

    assert run(main, seed=1) == ["caller", "function"]


def test_deadlock_names_who_waits_and_where() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def main(loop: VirtualLoop) -> None:
        task = loop.create_task(waits_for_ever(), name="the sleeper")
        await asyncio.sleep(5)
        await task

    with pytest.raises(Deadlock) as caught:
        run(main, seed=1)
    report = str(caught.value)
    assert "at 5.000000 s; 2 tasks" in report
    assert "the sleeper" in report
    assert "waits_for_ever" in report
    assert "locks.py" in report


def test_callbacks_that_never_rest_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdfast.testing.loop, "TURNS_AT_ONE_MOMENT_MAX", 1000)

    async def main(loop: VirtualLoop) -> None:
        await asyncio.sleep(1)
        for _ in range(10_000):
            await asyncio.sleep(0)

    with pytest.raises(Livelock, match="1000 turns without any time passing"):
        run(main, seed=1)


def test_a_simulation_over_its_limit_is_stopped() -> None:
    async def main(loop: VirtualLoop) -> None:
        for _ in range(100):
            await asyncio.sleep(1)

    with pytest.raises(Overrun, match="10 virtual seconds"):
        run(main, seed=1, limit_s=10)


def test_what_is_left_is_cancelled_and_may_clean_up_in_virtual_time() -> None:
    ended: list[float] = []

    async def lingers(loop: VirtualLoop) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(5)
            ended.append(loop.time())

    async def main(loop: VirtualLoop) -> None:
        loop.create_task(lingers(loop))
        await asyncio.sleep(1)

    run(main, seed=1)
    assert ended == [pytest.approx(6)]


def test_an_error_of_main_comes_out_and_nothing_is_left_running() -> None:
    cancelled: list[bool] = []

    async def other() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main(loop: VirtualLoop) -> None:
        loop.create_task(other())
        await asyncio.sleep(0)
        raise LookupError("main failed")

    with pytest.raises(LookupError, match="main failed"):
        run(main, seed=1)
    assert cancelled == [True]


def test_sets_of_tasks_iterate_in_the_order_of_their_making() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        tasks = {loop.create_task(asyncio.sleep(1)) for _ in range(50)}
        done, _ = await asyncio.wait(tasks)
        return [task.get_name() for task in done]

    first = run(main, seed=1)
    kept = [object() for _ in range(1000)]  # other addresses for the second run's tasks
    assert run(main, seed=1) == first
    assert first == sorted(first, key=lambda name: int(name.removeprefix("task-")))
    assert kept


def test_random_of_libraries_follows_the_seed_and_is_put_back() -> None:
    async def main(loop: VirtualLoop) -> tuple[float, float]:
        return random.random(), loop.randomness("part").random()

    random.seed(99)
    before = random.getstate()
    assert run(main, seed=1) == run(main, seed=1)
    assert run(main, seed=1) != run(main, seed=2)
    assert random.getstate() == before


def test_streams_of_randomness_do_not_disturb_each_other() -> None:
    first, second = VirtualLoop(7), VirtualLoop(7)
    try:
        first.randomness("a").bytes(100)
        assert first.randomness("b").bytes(8) == second.randomness("b").bytes(8)
        assert first.randomness("a").bytes(8) != first.randomness("b").bytes(8)
    finally:
        first.close()
        second.close()


def test_real_sockets_are_refused_with_a_reason() -> None:
    async def main(loop: VirtualLoop) -> None:
        with pytest.raises(NotImplementedError, match="MemoryNetwork"):
            await asyncio.open_connection("localhost", 1)
        with pytest.raises(NotImplementedError, match="MemoryNetwork"):
            await asyncio.start_server(lambda reader, writer: None, "localhost", 0)

    run(main, seed=1)


def test_failures_of_callbacks_are_kept() -> None:
    async def main(loop: VirtualLoop) -> list[object]:
        loop.call_soon(divmod, 1, 0)
        await asyncio.sleep(0)
        return [context["exception"] for context in loop.unhandled]

    (error,) = run(main, seed=1)
    assert isinstance(error, ZeroDivisionError)


def test_the_trace_digest_follows_kind_values_time_and_order() -> None:
    async def main(loop: VirtualLoop) -> str:
        loop.trace.record("one", 1)
        await asyncio.sleep(2)
        loop.trace.record("two", "x", None)
        assert list(loop.trace.lines) == ["0.000000000 one 1", "2.000000000 two x None"]
        return loop.trace.digest()

    assert run(main, seed=1) == run(main, seed=2)
