"""Hosts of a memory network and the directed links between them: how slow, how wide, cut or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.testing.loop import VirtualLoop
from holdfast.testing.virtual import Gate

if TYPE_CHECKING:
    from holdfast.testing.memory_transport import MemoryTransport, Pipe

LATENCY_S = 0.0005
LOOPBACK_LATENCY_S = 0.00002
BANDWIDTH = 125e6  # bytes per second: 1 Gbit/s
JITTER = 0.5
RETRY_S_MAX = 1.0  # after a cut is healed, the sender's next retransmission comes within this


@dataclass(eq=False)
class Host:
    """One machine. ``up`` is False after its power was cut and until somebody starts it again."""

    name: str
    address: str

    def __post_init__(self) -> None:
        self.gate = Gate()
        self.up = True
        self.bandwidth: float | None = None
        """Bytes per second that all its links to others carry together, each way; None: as their own say."""
        self.free_at = [0.0, 0.0]  # when what was sent, and what came, is through
        self.connections: dict[MemoryTransport, None] = {}  # in the order of their making
        self.sends: Callable[[], object] = lambda: None
        """Called before anything is written to a connection."""


class Link:
    """What lies between two hosts in one direction. All connections share its bandwidth.

    While it is cut or an end is without power, what was sent waits to be sent again, as TCP does it: a connection
    outlives a short partition and ends with a timeout in a long one.
    """

    def __init__(self, loop: VirtualLoop, source: Host, target: Host) -> None:
        self.source = source
        self.target = target
        self.latency_s = LOOPBACK_LATENCY_S if source is target else LATENCY_S
        self.bandwidth: float | None = None if source is target else BANDWIDTH
        self.jitter = JITTER
        self.refuses = False
        self.is_cut = False
        self.answers_to_drop = 0
        self.randomness = loop.randomness(f"link {source.name} {target.name}")
        self.pipes: dict[Pipe, None] = {}
        self._loop = loop
        self._free_at = 0.0
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def name(self) -> str:
        return f"{self.source.name}>{self.target.name}"

    @property
    def blocked(self) -> bool:
        """Does nothing come through now?"""
        return self.is_cut or not self.source.up or not self.target.up

    def set(
        self, *, latency_s: float | None = None, bandwidth: float | None = None, jitter: float | None = None
    ) -> None:
        """Changes what is given; also for bytes under way, if they come earlier by it.

        ``latency_s`` one way; ``bandwidth`` in bytes per second; each segment takes up to ``jitter`` (a fraction) of
        the latency longer.
        """
        if latency_s is not None:
            self.latency_s = latency_s
        if bandwidth is not None:
            self.bandwidth = bandwidth
        if jitter is not None:
            self.jitter = jitter
        self._loop.trace.record("link", self.name, self.latency_s, self.bandwidth, self.jitter)
        self._free_at = self._loop.time()
        for pipe in list(self.pipes):
            pipe.retime(hasten=True)

    def slow(self, factor: float) -> None:
        """``factor`` times the present latency and the present bandwidth divided by it; below 1 it gets faster."""
        self.set(
            latency_s=self.latency_s * factor,
            bandwidth=None if self.bandwidth is None else self.bandwidth / factor,
        )

    def cut(self) -> None:
        """Nothing comes through from now on, and nobody is told."""
        self.is_cut = True
        self._loop.trace.record("cut", self.name)
        self.changed()

    def heal(self) -> None:
        """Not cut and not refusing any more."""
        self.is_cut = False
        self.refuses = False
        self._loop.trace.record("heal", self.name)
        self.changed()

    def refuse(self, yes: bool = True) -> None:
        """New connections in this direction are refused, as if nobody listened."""
        self.refuses = yes
        self._loop.trace.record("refuse", self.name, yes)

    def drop_answers(self, count: int = 1) -> None:
        """The next ``count`` answers to requests sent in this direction are lost.

        The server has read the request, done its work and written the answer; then the connection is reset.
        """
        self.answers_to_drop += count
        self._loop.trace.record("drop-answers", self.name, count)

    def changed(self) -> None:
        """Called when ``blocked`` may have changed."""
        if not self.blocked:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)
        for pipe in list(self.pipes):
            pipe.retime(hasten=False)

    def departure(self, size: int) -> float:
        """When the last of ``size`` bytes that are sent now arrive; takes their share of the bandwidth."""
        start = max(self._loop.time(), self._free_at)
        self._free_at = start + (size / self.bandwidth if self.bandwidth else 0.0)
        through = self._free_at
        for host, way in ((self.source, 0), (self.target, 1)):
            if host.bandwidth is not None and self.source is not self.target:
                through = max(through, max(self._loop.time(), host.free_at[way]) + size / host.bandwidth)
                host.free_at[way] = through
        return through + self.delay()

    def delay(self) -> float:
        """Seconds that one small segment is under way."""
        return self.latency_s * (1.0 + self.jitter * self.randomness.random())

    def retry_delay(self) -> float:
        """Seconds until the next retransmission."""
        return self.randomness.random() * RETRY_S_MAX

    async def cross(self) -> None:
        """Returns when one small segment, sent now and again after every loss, has arrived."""
        while True:
            if self.blocked:
                future: asyncio.Future[None] = self._loop.create_future()
                self._waiting.append(future)
                await future
                await asyncio.sleep(self.retry_delay())
            else:
                await asyncio.sleep(self.delay())
                if not self.blocked:
                    return
