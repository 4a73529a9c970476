"""A limit on bytes per second, shared by all transfers of one client in one direction (``--bwlimit``)."""

from __future__ import annotations

from holdfast.clock import Clock

SLICE_BYTES_MAX = 256 << 10


class Throttle:
    """A token bucket that holds one second. Any number of transfers may take from it; they are served in turn."""

    def __init__(self, clock: Clock, bytes_per_s: int) -> None:
        """``bytes_per_s``: at least 1."""
        assert bytes_per_s >= 1
        self._clock = clock
        self._rate = bytes_per_s
        self.slice_bytes = max(min(bytes_per_s // 8, SLICE_BYTES_MAX), 1 << 10)
        """What to take at a time, so that the flow is even."""
        self._free_at = clock.monotonic()

    async def take(self, count: int) -> None:
        """Returns when ``count`` more bytes may pass."""
        now = self._clock.monotonic()
        self._free_at = max(self._free_at, now - 1.0) + count / self._rate
        if self._free_at > now:
            await self._clock.sleep(self._free_at - now)
