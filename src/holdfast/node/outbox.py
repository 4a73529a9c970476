"""A node's own outbox: what it was told to send to nodes that are away is delivered by its process.

Whoever asks as the node (``--data``) puts entries in; the node looks every half a minute, as other processes may have
filled it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from holdfast import logs
from holdfast.node.exchange.hints import Hints
from holdfast.outbox.entry import State
from holdfast.outbox.next_step import WAITING_S
from holdfast.outbox.outbox import Outbox
from holdfast.telemetry import Metrics
from holdfast.worker import Progress

INTERVAL_S = WAITING_S

_log = logs.get_logger(__name__)


class Door(Protocol):
    """Where an outbox may be."""

    async def found(self) -> Outbox | None:
        """The outbox, None if there is none."""
        ...

    async def open(self) -> Outbox:
        """The outbox, made if there is none."""
        ...

    async def close(self) -> None:
        """May be called twice."""
        ...


class NodeOutbox:
    """The unit of work of one worker."""

    def __init__(self, door: Door, metrics: Metrics, hints: Hints) -> None:
        self._door = door
        self._hints = hints
        self._depth: Mapping[State, int] = dict.fromkeys(State, 0)
        self._gauge = metrics.gauge("holdfast_outbox_entries", "Entries of the outbox.", ("state",))
        self._show(self._depth)

    @property
    def waiting(self) -> int:
        """Entries still to be delivered, at the last look."""
        return self._depth[State.WAITING] + self._depth[State.DEFERRED]

    @property
    def conflicts(self) -> int:
        """Entries that wait for a person, at the last look."""
        return self._depth[State.CONFLICT]

    async def unit(self) -> Progress:
        """Tries everything that is due, hints that are new among it."""
        await self._hints.queue()
        outbox = await self._door.found()
        if outbox is None:
            return Progress.IDLE
        moving = False
        if await outbox.waiting():
            summary = await outbox.flush()
            moving = bool(summary.delivered and summary.waiting)  # what waited for that may go now: a manifest, say
            if summary.delivered:
                _log.info("outbox_delivered", entries=summary.delivered, waiting=summary.waiting)
            await self._hints.forget(outbox)
        depth = dict.fromkeys(State, 0)
        for total in await outbox.totals():
            if total.state is not None:
                depth[total.state] += total.entries
        self._show(depth)
        return Progress.THROTTLED if moving else Progress.IDLE

    async def close(self) -> None:
        """What is under way is given back; may be called twice."""
        await self._door.close()

    def _show(self, depth: Mapping[State, int]) -> None:
        self._depth = depth
        for state, entries in depth.items():
            self._gauge.labels(state.label).set(entries)
