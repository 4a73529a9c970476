"""Time and entropy: the only file that may read either, so that a simulation can own both.

Order never comes from wall clocks. Grace periods run on the slow clock, which a suspended or stepped machine cannot
push forward by more than a day per restart (docs/design.md, Time).
"""

from __future__ import annotations

import asyncio
import random
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

T = TypeVar("T")

SLOW_CLOCK_GAIN_S_MAX = 24 * 3600.0


class Clock(Protocol):
    """Where time comes from. All methods may be called at once from any thread, except ``sleep``."""

    def now(self) -> float:
        """Wall-clock seconds since 1970 (UTC); may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after ``seconds`` >= 0 of monotonic time."""
        ...


class Randomness(Protocol):
    """Where entropy comes from; safe to share between threads."""

    def bytes(self, count: int) -> bytes:
        """``count`` random bytes, fit for keys."""
        ...

    def random(self) -> float:
        """A float in [0, 1)."""
        ...

    def below(self, bound: int) -> int:
        """An integer in [0, bound)."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SystemRandomness:
    """The operating system's entropy."""

    def bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)

    def random(self) -> float:
        return secrets.randbits(53) / (1 << 53)

    def below(self, bound: int) -> int:
        return secrets.randbelow(bound)


class SeededRandomness:
    """Entropy that repeats: for simulations and vectors only."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose

    def bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def random(self) -> float:
        return self._random.random()

    def below(self, bound: int) -> int:
        return self._random.randrange(bound)


def shuffled(items: Sequence[T], randomness: Randomness) -> list[T]:
    """A new list of ``items`` in random order (Fisher-Yates)."""
    result = list(items)
    for last in range(len(result) - 1, 0, -1):
        other = randomness.below(last + 1)
        result[last], result[other] = result[other], result[last]
    return result


@dataclass
class SlowClock:
    """Seconds that passed while somebody was there to see them; the owner persists ``elapsed`` and ``wall``.

    Within a run it follows the monotonic clock. Over a restart it gains what the wall clock says, at least nothing
    and at most a day, so that neither a stepped clock nor a machine found in a cupboard expires a grace period.
    ``read`` may be called from any thread.
    """

    elapsed: float  # seconds, as persisted
    wall: float  # wall-clock seconds at the moment of persisting
    _anchor: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def start(self, clock: Clock) -> None:
        """Call once after loading, before ``read``."""
        gained = clock.now() - self.wall if self.wall else 0.0
        self.elapsed += min(max(gained, 0.0), SLOW_CLOCK_GAIN_S_MAX)
        self._anchor = clock.monotonic()
        self.wall = clock.now()

    def read(self, clock: Clock) -> float:
        """Slow seconds now; also brings ``elapsed`` and ``wall`` up to date for persisting."""
        with self._lock:
            assert self._anchor is not None, "start() first"
            moment = clock.monotonic()
            self.elapsed += max(moment - self._anchor, 0.0)
            self._anchor = moment
            self.wall = clock.now()
            return self.elapsed
