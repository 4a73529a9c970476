"""The one shape of background loops: do one unit of work, say how it went, wait to be woken.

One list of workers shows everything a process does by itself (after Garage's background workers).
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from holdfast import logs
from holdfast.clock import Clock, Randomness

_log = logs.get_logger(__name__)


class Progress(enum.Enum):
    """What one unit of work came to."""

    BUSY = "busy"  # there is more; go on at once
    THROTTLED = "throttled"  # there is more; wait first
    IDLE = "idle"  # nothing to do until woken or the interval has passed
    DONE = "done"  # never again


@dataclass
class WorkerState:
    """What a worker shows of itself; times are monotonic seconds."""

    name: str
    progress: Progress = Progress.IDLE
    units: int = 0
    errors: int = 0
    last_error: str = ""


class Worker:
    """Runs ``unit`` until it says DONE or the worker is stopped. An exception is logged and backed off, never lost."""

    def __init__(
        self,
        name: str,
        unit: Callable[[], Awaitable[Progress]],
        *,
        clock: Clock,
        randomness: Randomness,
        interval_s: float,
        throttle_s: float = 1.0,
        backoff_s_max: float = 60.0,
    ) -> None:
        self.state = WorkerState(name)
        self._unit = unit
        self._clock = clock
        self._randomness = randomness
        self.interval_s = interval_s
        self._throttle_s = throttle_s
        self._backoff_s_max = backoff_s_max
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins in the running event loop; call once."""
        assert self._task is None, "a worker starts once"
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self.state.name)

    def wake(self) -> None:
        """Look again now. Never blocks; may be called at any time."""
        self._woken.set()

    async def stop(self) -> None:
        """Cancels the unit under way and waits for it. May be called twice, and before ``start``."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        while True:
            self._woken.clear()
            try:
                self.state.progress = await self._unit()
                self.state.units += 1
                failures = 0
            except Exception as error:
                failures += 1
                self.state.errors += 1
                self.state.last_error = str(error) or type(error).__name__
                self.state.progress = Progress.THROTTLED
                _log.warning("worker_failed", worker=self.state.name, error=self.state.last_error, exc_info=True)
            if self.state.progress is Progress.DONE:
                return
            if failures:
                limit = min(self._throttle_s * 2.0**failures, self._backoff_s_max)
                await self._clock.sleep(limit * (0.5 + self._randomness.random() / 2))
            elif self.state.progress is Progress.THROTTLED:
                await self._clock.sleep(self._throttle_s)
            elif self.state.progress is Progress.IDLE:
                await self._wait(self.interval_s)
            else:
                await asyncio.sleep(0)

    async def _wait(self, seconds: float) -> None:
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        woken = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait({timer, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            woken.cancel()
