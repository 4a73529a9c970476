"""Sending one pack to as many nodes as it needs: side by side, failures replaced, a straggler hedged.

Never fewer receipts than the plan asks for: that is promise 1 of docs/design.md. Where the plan says that fewer will do
(a delete, ``--allow-degraded``), they do only when no more can be had soon. What happens to the pack afterwards
(register, commit) is the uploader's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import Buffer, Digest
from holdfast.client.device.reasons import reason_of, reasons_text
from holdfast.client.reading.latency import Latency
from holdfast.client.writing.plans import Plans, Slot
from holdfast.clock import Clock
from holdfast.errors import BadRequest, HoldfastError, NoSpace, Unavailable
from holdfast.wire.http import HttpClient, Target
from holdfast.wire.messages import PlanNode

HEDGE_S_MIN = 2.0
HEDGE_TIMES = 4.0
PLANS_MAX = 3
"""How often a pack is planned anew when its candidates fail."""

_log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sent:
    """A pack that is durable on the nodes that signed ``receipts``."""

    digest: Digest
    size: int
    receipts: tuple[bytes, ...]
    nodes: tuple[PlanNode, ...]


class ShardSender:
    """Sends packs. Any number at once; each holds its bytes until ``send`` returns."""

    def __init__(self, http: HttpClient, latency: Latency, clock: Clock) -> None:
        self._http = http
        self._latency = latency
        self._clock = clock

    async def send(self, digest: Digest, data: Buffer, plans: Plans) -> Sent:
        """Returns with the receipts that the plan wants, or with its least when more cannot be had soon.

        Unavailable names the nodes that failed when not even those are to be had, NoSpace if that is why.
        """
        slot = await plans.take(len(data))
        sending = _Sending(self, digest, data, slot, plans)
        try:
            return await sending.run()
        finally:
            await sending.stop()

    async def _put(self, node: PlanNode, digest: Digest, data: Buffer) -> bytes:
        began = self._clock.monotonic()
        self._latency.began(node.id)
        try:
            receipt = await self._http.put_blob(Target(node.id, node.url), digest, len(data), data, grant=node.grant)
            if receipt.find(node.id) < 0 or receipt.find(digest) < 0:  # the coordinator checks all of it
                raise BadRequest(f"{node.name} gave a receipt for something else")
        except HoldfastError as error:
            if not _is_old(error):
                self._latency.failed(node.id, self._clock.monotonic())
            _log.info("shard_failed", node=node.name, pack=str(digest), reason=error.detail)
            raise
        finally:
            self._latency.ended(node.id)
        if len(data) <= 64 << 10:
            self._latency.first_byte(node.id, self._clock.monotonic() - began)
        return receipt


def _is_old(error: HoldfastError) -> bool:
    """Is it only that the grant is of an epoch that is over? Another coordinator has taken over since the plan."""
    return error.extra.get("reason") == "stale-epoch"


class _Sending:
    """One pack on its way."""

    def __init__(self, sender: ShardSender, digest: Digest, data: Buffer, slot: Slot, plans: Plans) -> None:
        self._sender = sender
        self._digest = digest
        self._data = data
        self._plans = plans
        self._wanted = slot.wanted
        self._least = slot.least
        self._tasks: dict[asyncio.Task[bytes], PlanNode] = {}
        self._receipts: dict[Id, tuple[bytes, PlanNode]] = {}
        self._tried: set[Id] = set()
        self._reasons: dict[str, str] = {}
        self._errors: list[HoldfastError] = []
        self._planned = 1
        self._left: deque[PlanNode] = deque()
        self._resting: set[Id] = set()
        self._queue(slot)

    async def run(self) -> Sent:
        clock = self._sender._clock
        began = last = clock.monotonic()
        typical = 0.0
        while (missing := self._wanted - len(self._receipts)) > 0:
            while len(self._tasks) < missing and (self._worth_a_try() or await self._more()):
                self._begin()
            if not self._tasks:
                if self._may_ask_again():
                    continue
                break
            patience = max(HEDGE_S_MIN, HEDGE_TIMES * typical)
            wait: float | None = None
            hedge = self._worth_a_try() and len(self._tasks) == missing and len(self._receipts) * 2 >= self._wanted
            if hedge:
                wait = max(began + patience - clock.monotonic(), 0.0)
            elif len(self._receipts) >= self._least:
                wait = max(last + patience - clock.monotonic(), 0.0)
            done, _ = await asyncio.wait(self._tasks, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                slow = [node.name for node in self._tasks.values()]
                if not hedge:
                    _log.info("shard_settled", pack=str(self._digest), copies=len(self._receipts), slow=slow)
                    break
                _log.info("shard_hedged", pack=str(self._digest), slow=slow)
                self._begin()
                last = clock.monotonic()
            for task in done:
                node = self._tasks.pop(task)
                error = task.exception()
                if error is None:
                    self._receipts[node.id] = (task.result(), node)
                    last = clock.monotonic()
                    typical = last - began
                elif isinstance(error, HoldfastError):
                    self._reasons[node.name] = reason_of(error.detail, node.url)
                    self._errors.append(error)
                    if _is_old(error):  # and so are all of this plan; the node itself is as good as before
                        self._tried.discard(node.id)
                        self._left.clear()
                else:
                    raise error
        if len(self._receipts) < self._least:
            raise self._failure()
        kept = list(self._receipts.values())
        return Sent(
            self._digest, len(self._data), tuple(receipt for receipt, _ in kept), tuple(node for _, node in kept)
        )

    async def stop(self) -> None:
        """Ends what is still under way: the buffer is free afterwards."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self) -> None:
        node = self._left.popleft()
        self._tried.add(node.id)
        self._tasks[asyncio.create_task(self._sender._put(node, self._digest, self._data))] = node

    def _queue(self, slot: Slot) -> None:
        latency = self._sender._latency
        waiting = {node.id: node for node in (*slot.candidates, *self._left) if node.id not in self._tried}
        self._resting = set(latency.resting(waiting, self._sender._clock.monotonic()))
        self._left = deque(sorted(waiting.values(), key=lambda node: node.id in self._resting))

    def _enough(self) -> bool:
        """Would the least be reached if all that is under way ends well, and do fewer than wanted do?"""
        return self._least < self._wanted and len(self._tasks) + len(self._receipts) >= self._least

    def _worth_a_try(self) -> bool:
        """Is there another candidate? Where fewer do, one that has failed a moment ago is none."""
        return bool(self._left) and not (self._enough() and self._left[0].id in self._resting)

    def _may_ask_again(self) -> bool:
        """For another plan. Where fewer do, one more is asked, and only for those that failed."""
        if self._enough():
            return bool(self._reasons) and self._planned == 1
        return self._planned < PLANS_MAX

    async def _more(self) -> bool:
        """Other candidates; False when there are none."""
        if not self._may_ask_again():
            return False
        self._planned += 1
        self._plans.forget()
        failed = [node for node in self._tried if node not in self._receipts]
        try:
            slot = await self._plans.instead(len(self._data), failed)
        except HoldfastError as error:
            if not self._tasks:
                self._errors.append(error)
            self._planned = PLANS_MAX
            return False
        self._queue(slot)
        return self._worth_a_try()

    def _failure(self) -> HoldfastError:
        reasons = reasons_text(self._reasons) or "no node to ask"
        text = f"only {len(self._receipts)} of {self._least} copies could be stored ({reasons})"
        if self._errors and all(isinstance(error, NoSpace) for error in self._errors):
            return NoSpace(text)
        return Unavailable(text)
