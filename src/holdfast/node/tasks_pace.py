"""How fast copies for repair may pass: a limit in bytes per second, and courtesy towards foreground requests."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.blob import PIECE_BYTES_MAX
from holdfast.clock import Clock

COURTESY_S = 0.02
"""A copy steps aside for so long after each piece while somebody is being served: about half of a slow disk's time."""

SLICE_BYTES_MIN = 1 << 10
SLICES_PER_S = 8


class CopyPace:
    """Shared by all copies of one node in one direction. ``busy``: requests under way for others."""

    def __init__(self, clock: Clock, busy: Callable[[], int], bytes_per_s: int | None = None) -> None:
        self._clock = clock
        self._busy = busy
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        limited = PIECE_BYTES_MAX if not bytes_per_s else bytes_per_s // SLICES_PER_S
        self.slice_bytes = max(min(limited, PIECE_BYTES_MAX), SLICE_BYTES_MIN)
        """What to take at a time, so that a slow flow is an even one."""

    @property
    def matters(self) -> bool:
        """Would ``passed`` wait now?"""
        return bool(self._bytes_per_s or self._busy())

    async def passed(self, size: int) -> None:
        """Returns when ``size`` more bytes may be taken."""
        if self._bytes_per_s:
            now = self._clock.monotonic()
            self._free_at = max(self._free_at, now) + size / self._bytes_per_s
            if self._free_at > now:
                await self._clock.sleep(self._free_at - now)
        if self._busy():
            await self._clock.sleep(COURTESY_S)
