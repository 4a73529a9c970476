"""Reading ranges of packs from whoever holds them: hedged, checked, the next holder asked when one is wrong or silent.

The first right answer wins. A wrong copy is reported to its node in the background, which re-reads and quarantines it;
only when every copy is wrong does the reader hear of it (docs/design.md, Who checks).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Literal, TypeAlias, TypeVar

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.client.device.reasons import reason_of, reasons_text
from holdfast.client.reading.latency import Latency
from holdfast.clock import Clock
from holdfast.errors import Corrupt, HoldfastError, NotFound, Unavailable
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target
from holdfast.wire.messages import NodeAddress

BODY_PATIENCE_S = 1.0
RATE_TIMES = 4.0
REPORTS_MAX = 64
GONE = "does not have it"
BUFFERS_KEPT_BYTES = 32 << 20
HEDGE_SHARE = 0.1
HEDGES_MAX = 16.0
"""One read in ten is hedged, and so many in a row: where everything is slow, asking twice helps nobody."""

T = TypeVar("T")

BadCopy: TypeAlias = Callable[[NodeAddress, Digest, Literal["wrong", "missing", "unreached"], str], None]
bad_copies: ContextVar[BadCopy | None] = ContextVar("bad_copies", default=None)
"""Hears of each copy that a read of this task, or of those it starts, could not use; also if another was right."""

Places = Mapping[Digest, Sequence[NodeAddress]]

_log = logs.get_logger(__name__)


class Buffers:
    """Buffers that are used again: a new one of several MiB costs more than what is done with it."""

    def __init__(self, bytes_max: int = BUFFERS_KEPT_BYTES) -> None:
        self._free: list[bytearray] = []
        self._held = 0
        self._bytes_max = bytes_max

    def take(self, size: int) -> bytearray:
        """At least ``size`` bytes, with whatever is in them."""
        best = None
        for number, buffer in enumerate(self._free):
            if len(buffer) >= size and (best is None or len(buffer) < len(self._free[best])):
                best = number
        if best is None:
            return bytearray(size)
        self._held -= len(self._free[best])
        return self._free.pop(best)

    def give(self, buffer: bytearray) -> None:
        """Back; nobody uses it any more."""
        if buffer and self._held + len(buffer) <= self._bytes_max:
            self._free.append(buffer)
            self._held += len(buffer)


class PackReader:
    """Reads for one device. Any number of reads at once."""

    def __init__(
        self,
        http: HttpClient,
        latency: Latency,
        clock: Clock,
        certificate: bytes,
        places: Callable[[Sequence[Digest]], Awaitable[Places]],
        *,
        hedge_s_min: float,
    ) -> None:
        """``certificate``: the device's, countersigned: it is the grant for reading its vault's packs.

        ``places`` is asked once more who holds a pack, when none of those who are said to hold it gives it.
        """
        self.bytes_read = 0
        """Bytes that came, from whichever node."""
        self._http = http
        self._latency = latency
        self._clock = clock
        self._certificate = certificate
        self._places = places
        self._hedge_s_min = hedge_s_min
        self._rates: dict[Id, float] = {}
        self._reports: set[asyncio.Task[None]] = set()
        self._reported: set[tuple[Id, Digest]] = set()
        self._hedges = HEDGES_MAX
        self.buffers = Buffers()

    async def read(
        self,
        pack: Digest,
        start: int,
        stop: int,
        holders: Sequence[NodeAddress],
        check: Callable[[memoryview], Awaitable[T]],
    ) -> T:
        """``check(bytes start to stop)`` of the first holder whose bytes pass it.

        ``check`` raises Corrupt for wrong bytes and keeps no reference to its argument. Corrupt when all copies that
        answered are wrong, Unavailable when none answered; both name the pack and the nodes.
        """
        order = self._order(holders)
        asked = {node.id for node in holders}
        again = True
        nobody = False  # the coordinator knows the pack, and knows that no node has it
        tasks: dict[asyncio.Task[T], NodeAddress] = {}
        wrong: dict[str, str] = {}
        silent: dict[str, str] = {}
        self._hedges = min(self._hedges + HEDGE_SHARE, HEDGES_MAX)
        try:
            while order or tasks or again:
                if not order and not tasks:  # repair may have moved it
                    again = False
                    found = (await self._places((pack,))).get(pack)
                    nobody = found is not None and not found
                    order = self._order([node for node in found or () if node.id not in asked])
                    continue
                if not tasks:
                    self._begin(tasks, order, pack, start, stop, check)
                newest = next(reversed(tasks))
                hedge = order and self._hedges >= 1.0
                patience = self._patience(tasks[newest].id, stop - start) if hedge else None
                done, _ = await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if not done and hedge:
                    self._hedges -= 1.0
                    self._begin(tasks, order, pack, start, stop, check)
                for task in done:
                    node = tasks.pop(task)
                    error = task.exception()
                    if error is None:
                        return task.result()
                    listener = bad_copies.get() or _unheard
                    if isinstance(error, Corrupt):
                        wrong[node.name] = error.detail
                        self._report(node, pack)
                        listener(node, pack, "wrong", error.detail)
                    elif isinstance(error, HoldfastError):
                        silent[node.name] = GONE if isinstance(error, NotFound) else reason_of(error.detail, node.url)
                        gone = isinstance(error, NotFound)
                        listener(node, pack, "missing" if gone else "unreached", silent[node.name])
                        if isinstance(error, Unavailable):
                            self._latency.failed(node.id, self._clock.monotonic())
                    else:
                        raise error
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.gather(*tasks, return_exceptions=True)
        reasons = {**silent, **wrong}
        names = reasons_text(reasons)
        if (reasons or nobody) and all(reason == GONE for reason in silent.values()):
            said = names or "all were found damaged, or their nodes are gone for good"
            raise Corrupt(f"no right copy of pack {pack} is left ({said})", pack=str(pack), nodes=list(reasons))
        raise Unavailable(f"no copy of pack {pack} could be read ({names or 'no node is known to hold it'})")

    async def close(self) -> None:
        """Ends reports that are under way."""
        for task in list(self._reports):
            task.cancel()
        await asyncio.gather(*self._reports, return_exceptions=True)

    async def reported(self) -> None:
        """Waits until the reports that are under way are delivered."""
        await asyncio.gather(*self._reports, return_exceptions=True)

    def _order(self, holders: Sequence[NodeAddress]) -> list[NodeAddress]:
        by_id = {node.id: node for node in holders}
        up = [node.id for node in holders if node.up]
        down = [node.id for node in holders if not node.up]
        now = self._clock.monotonic()
        order = [by_id[id_] for id_ in (*self._latency.order(up, now), *self._latency.order(down, now))]
        order.reverse()  # taken from the end
        return order

    def _patience(self, node: Id, size: int) -> float:
        """Seconds to wait before another holder is asked beside ``node``: first byte and body as they usually are."""
        rate = self._rates.get(node)
        body = BODY_PATIENCE_S if rate is None else RATE_TIMES * size / rate
        return self._latency.patience(node, self._hedge_s_min) + (body if size > 256 << 10 else 0.0)

    def _begin(
        self,
        tasks: dict[asyncio.Task[T], NodeAddress],
        order: list[NodeAddress],
        pack: Digest,
        start: int,
        stop: int,
        check: Callable[[memoryview], Awaitable[T]],
    ) -> None:
        node = order.pop()
        if tasks:
            _log.debug("read_hedged", pack=str(pack), beside=[other.name for other in tasks.values()], node=node.name)
        tasks[asyncio.create_task(self._ask(node, pack, start, stop, check))] = node

    async def _ask(
        self, node: NodeAddress, pack: Digest, start: int, stop: int, check: Callable[[memoryview], Awaitable[T]]
    ) -> T:
        size = stop - start
        buffer = self.buffers.take(size)
        view = memoryview(buffer)[:size]
        began = self._clock.monotonic()
        self._latency.began(node.id)
        first = 0.0
        try:
            target = Target(node.id, node.url)
            async with self._http.get_blob(target, pack, (start, stop), grant=self._certificate) as body:
                first = self._clock.monotonic()
                self._latency.first_byte(node.id, first - began)
                if body.size != size:
                    raise Corrupt(f"pack {pack} ends after {body.total} bytes")
                await body.read_into(view)
            self.bytes_read += size
            spent = self._clock.monotonic() - first
            if size > 256 << 10 and spent > 0:
                seen = self._rates.get(node.id, size / spent)
                self._rates[node.id] = seen + 0.2 * (size / spent - seen)
            return await check(view)
        finally:
            if not first:  # given up: at least that slow
                self._latency.at_least(node.id, self._clock.monotonic() - began)
            self._latency.ended(node.id)
            self.buffers.give(buffer)

    def _report(self, node: NodeAddress, pack: Digest) -> None:
        """Tells the node to re-read its copy, once."""
        _log.warning("bad_copy", node=node.name, pack=str(pack))
        if (node.id, pack) in self._reported or len(self._reports) >= REPORTS_MAX:
            return
        self._reported.add((node.id, pack))
        task = asyncio.create_task(self._verify(node, pack))
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    async def _verify(self, node: NodeAddress, pack: Digest) -> None:
        try:
            answer = await self._http.call(
                Target(node.id, node.url), routes.BLOB_VERIFY, path={"digest": str(pack)}, grant=self._certificate
            )
            _log.info("bad_copy_reported", node=node.name, pack=str(pack), state=answer.state)
        except HoldfastError as error:
            _log.info("report_failed", node=node.name, pack=str(pack), reason=error.detail)


def _unheard(node: NodeAddress, pack: Digest, kind: str, detail: str) -> None:
    pass
