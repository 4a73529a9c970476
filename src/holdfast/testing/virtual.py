"""Clock and pool of one simulated process, and the gate that stops both while the process is paused."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from holdfast.clock import Randomness
from holdfast.testing.life import Killed, Life
from holdfast.testing.loop import VirtualLoop

P = ParamSpec("P")
T = TypeVar("T")

POOL_DELAY_S_MAX = 0.003


class Gate:
    """Open while its process runs, closed while it is paused."""

    def __init__(self) -> None:
        self.closed = False
        self._waiting: list[Callable[[], object]] = []

    def close(self) -> None:
        """May be called twice."""
        self.closed = True

    def open(self) -> None:
        """Lets everybody through, in the order of their coming. May be called twice."""
        self.closed = False
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    def when_open(self, callback: Callable[[], object]) -> None:
        """Calls at once, or as soon as the gate opens."""
        if self.closed:
            self._waiting.append(callback)
        else:
            callback()

    async def passed(self) -> None:
        """Returns while the gate is open."""
        while self.closed:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(lambda future=future: future.done() or future.set_result(None))  # type: ignore[misc]
            await future


class VirtualClock:
    """A ``Clock`` on the loop's time. Each process has its own, wrong in its own way.

    ``skew_s`` is how far its wall clock is ahead; set it, or call ``step``. ``boot_s`` is its monotonic clock at
    virtual time 0: monotonic clocks of two machines have nothing in common. A paused process does not wake up.
    """

    def __init__(
        self, loop: VirtualLoop, *, skew_s: float = 0.0, boot_s: float = 0.0, gate: Gate | None = None
    ) -> None:
        self._loop = loop
        self._gate = gate or Gate()
        self.skew_s = skew_s
        self.boot_s = boot_s

    def now(self) -> float:
        return self._loop.start_wall + self._loop.time() + self.skew_s

    def monotonic(self) -> float:
        return self._loop.time() + self.boot_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._gate.passed()

    def step(self, seconds: float) -> None:
        """Moves the wall clock, forward or back."""
        self.skew_s += seconds


class SeededPool:
    """A ``Pool`` without threads: a function runs whole, inline, after a seeded virtual delay of up to ``delay_s_max``.

    At most ``workers`` delays run side by side; the others queue. So the order in which callers go on differs from
    seed to seed.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        randomness: Randomness,
        *,
        workers: int = 4,
        delay_s_max: float = POOL_DELAY_S_MAX,
        gate: Gate | None = None,
        life: Life | None = None,
    ) -> None:
        """``life``: of the process whose threads these are."""
        self._loop = loop
        self._life = life or Life()
        self._randomness = randomness
        self._gate = gate or Gate()
        self._free_at = [0.0] * workers
        self._closed = False
        self.workers = workers
        self.delay_s_max = delay_s_max

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``Pool.run``: a cancelled caller still waits until the function has run."""
        if self._closed:
            raise RuntimeError("the pool is closed")
        future: asyncio.Future[T] = self._loop.create_future()

        def execute() -> None:
            with self._life.at_work():
                try:
                    result = function(*args, **kwargs)
                except Killed as end:
                    future.set_exception(end)
                except Exception as error:
                    self._life.ended()
                    future.set_exception(error)
                else:
                    self._life.ended()
                    future.set_result(result)

        at = max(self._loop.time(), self._free_at[0]) + self._randomness.random() * self.delay_s_max
        heapq.heapreplace(self._free_at, at)
        # a thread does not see its caller's context variables, so neither may the function here
        self._loop.call_at(at, self._gate.when_open, execute, context=contextvars.Context())
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.done():
                await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # seen: nobody is left to tell
            raise

    def close(self) -> None:
        self._closed = True
