"""How many bytes a disk store holds, and whether one more blob fits: exact from the first scan on, without asking."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from holdfast.errors import NoSpace

_LOOK_BYTES = 4 << 20


@dataclass(frozen=True)
class StoreSpace:
    """Bytes of one store. Capacity bounds used, trash, quarantine and incoming together."""

    capacity: int | None  # None: as much as the disk gives
    used: int  # blobs that can be read
    trash: int  # deleted, can be restored
    quarantine: int  # bad copies set aside
    incoming: int  # reserved for puts under way
    free: int  # of the file system, as last seen
    reserve: int  # of the file system, left to others

    @property
    def available(self) -> int:
        """How large a put may be now."""
        left = self.free - self.reserve - self.incoming
        if self.capacity is not None:
            left = min(left, self.capacity - self.used - self.trash - self.quarantine - self.incoming)
        return max(left, 0)


class SpaceBook:
    """The running account; every method may be called from any thread."""

    def __init__(self, *, capacity: int | None, reserve: int, free: int) -> None:
        self.capacity = capacity
        self.reserve = reserve
        self._lock = threading.Lock()
        self._free = free
        self._since = 0  # bytes kept since the last look at the file system
        self._used = self._trash = self._quarantine = self._incoming = 0

    def read(self) -> StoreSpace:
        with self._lock:
            return StoreSpace(
                capacity=self.capacity,
                used=self._used,
                trash=self._trash,
                quarantine=self._quarantine,
                incoming=self._incoming,
                free=self._free,
                reserve=self.reserve,
            )

    def seen(self, free: int) -> None:
        """The file system has ``free`` bytes now."""
        with self._lock:
            self._free = free
            self._since = 0

    def stale(self) -> bool:
        """Was so much written since the last look that it is worth another?"""
        return self._since >= _LOOK_BYTES

    def move(self, *, used: int = 0, trash: int = 0, quarantine: int = 0) -> None:
        """Adds to the accounts; negative numbers take away."""
        with self._lock:
            self._used += used
            self._trash += trash
            self._quarantine += quarantine

    def kept(self, size: int, *, counted: bool = True) -> None:
        """A new blob was written; until the next look it is taken off the last answer of the file system.

        ``counted`` False: it belongs to what is still to be counted.
        """
        with self._lock:
            self._used += size if counted else 0
            self._free -= size
            self._since += size

    def fits(self, size: int) -> bool:
        return size <= self.read().available

    @contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """``size`` bytes are kept for a put under way, or NoSpace.

        What the put has written so far is counted twice, as taken from the file system and as reserved, until it
        ends: the error is on the safe side.
        """
        with self._lock:
            free = self._free - self.reserve - self._incoming
            held = self._used + self._trash + self._quarantine + self._incoming
            if self.capacity is not None and size > self.capacity - held:
                raise NoSpace(f"{size} bytes do not fit: {held} of the store's {self.capacity} bytes are taken")
            if size > free:
                raise NoSpace(f"{size} bytes do not fit: {max(free, 0)} are free beyond the reserve of {self.reserve}")
            self._incoming += size
        try:
            yield
        finally:
            with self._lock:
                self._incoming -= size
