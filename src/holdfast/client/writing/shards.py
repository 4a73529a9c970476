"""Sending one pack to as many nodes as it needs: side by side, failures replaced, a straggler hedged.

Never fewer receipts than the plan asks for: that is promise 1 of docs/design.md. Where the plan says that fewer will do
(a delete, ``--allow-degraded``), they do only when no more can be had soon. What happens to the pack afterwards
(register, commit) is the uploader's.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import Buffer, Digest
from holdfast.client.device.reasons import reason_of, reasons_text
from holdfast.client.reading.latency import Latency
from holdfast.client.writing.plans import Plans, Slot
from holdfast.clock import Clock
from holdfast.errors import BadRequest, HoldfastError, NoSpace, Unavailable
from holdfast.wire.bodies import WHOLE_BODY_BYTES_MAX
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


def _is_old(error: HoldfastError) -> bool:
    """Is it only that the grant is of an epoch that is over? Another coordinator has taken over since the plan."""
    return error.extra.get("reason") == "stale-epoch"


class _Sending:
    """One pack on its way."""

    def __init__(self, sender: ShardSender, digest: Digest, data: Buffer, slot: Slot, plans: Plans) -> None:
        self._sender = sender
        self._http = sender._http
        self._latency = sender._latency
        self._now = sender._clock.monotonic
        self._digest = digest
        self._data = data
        self._small = bytes(data) if len(data) <= WHOLE_BODY_BYTES_MAX else None
        self._plans = plans
        self._wanted = slot.wanted
        self._least = slot.least
        self._under_way: dict[Id, tuple[PlanNode, Callable[[], object]]] = {}
        """Nodes that are being sent to, each with what ends it."""
        self._tasks: set[asyncio.Task[bytes]] = set()
        self._receipts: dict[Id, tuple[bytes, PlanNode]] = {}
        self._tried: set[Id] = set()
        self._reasons: dict[str, str] = {}
        self._errors: list[HoldfastError] = []
        self._broken: Exception | None = None
        self._planned = 1
        self._left: deque[PlanNode] = deque()
        self._resting: set[Id] = set()
        self._began = self._last = self._now()
        self._typical = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._due = math.inf
        self._queue(slot)

    async def run(self) -> Sent:
        while (missing := self._wanted - len(self._receipts)) > 0:
            if self._broken is not None:
                raise self._broken
            while len(self._under_way) < missing and (self._worth_a_try() or await self._more()):
                self._begin()
            if not self._under_way:
                if self._may_ask_again():
                    continue
                break
            due, hedge = self._patience(missing)
            if due > self._now():
                await self._wait(due)
                continue
            slow = [node.name for node, _ in self._under_way.values()]
            if not hedge:
                _log.info("shard_settled", pack=str(self._digest), copies=len(self._receipts), slow=slow)
                break
            _log.info("shard_hedged", pack=str(self._digest), slow=slow)
            self._begin()
            self._last = self._now()
        if len(self._receipts) < self._least:
            raise self._failure()
        kept = list(self._receipts.values())
        return Sent(
            self._digest, len(self._data), tuple([receipt for receipt, _ in kept]), tuple([node for _, node in kept])
        )

    async def stop(self) -> None:
        """Ends what is still under way: the buffer is free afterwards."""
        for node, end in self._under_way.values():
            self._latency.ended(node.id)
            end()
        self._under_way.clear()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self) -> None:
        node = self._left.popleft()
        self._tried.add(node.id)
        self._latency.began(node.id)
        heard = partial(self._heard, node, self._now())
        target = Target(node.id, node.url)
        end: Callable[[], object]
        if self._small is not None:
            end = self._http.put_small(target, self._digest, self._small, heard, grant=node.grant).end
        else:
            task = asyncio.create_task(
                self._http.put_blob(target, self._digest, len(self._data), self._data, grant=node.grant)
            )
            self._tasks.add(task)
            task.add_done_callback(partial(self._task_ended, heard))
            end = task.cancel
        self._under_way[node.id] = node, end

    def _task_ended(self, heard: Callable[[bytes | Exception], None], task: asyncio.Task[bytes]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            error = task.exception()
            assert error is None or isinstance(error, Exception)
            heard(task.result() if error is None else error)

    def _heard(self, node: PlanNode, began: float, answer: bytes | Exception) -> None:
        """A node has answered. Wakes ``run`` only if there is something to decide: once or twice for a pack."""
        if self._under_way.pop(node.id, None) is None:
            return
        now = self._now()
        self._latency.ended(node.id)
        if isinstance(answer, bytes) and (answer.find(node.id) < 0 or answer.find(self._digest) < 0):
            answer = BadRequest(f"{node.name} gave a receipt for something else")  # the coordinator checks all of it
        if isinstance(answer, bytes):
            if self._small is not None:
                self._latency.first_byte(node.id, now - began)
            self._receipts[node.id] = answer, node
            self._last, self._typical = now, now - self._began
            missing = self._wanted - len(self._receipts)
            if 0 < missing <= len(self._under_way) and self._patience(missing)[0] >= self._due:
                return
        elif isinstance(answer, HoldfastError):
            self._reasons[node.name] = reason_of(answer.detail, node.url)
            self._errors.append(answer)
            _log.info("shard_failed", node=node.name, pack=str(self._digest), reason=answer.detail)
            if _is_old(answer):  # and so are all of this plan; the node itself is as good as before
                self._tried.discard(node.id)
                self._left.clear()
            else:
                self._latency.failed(node.id, now)
        else:
            self._broken = answer
        self._wake()

    def _patience(self, missing: int) -> tuple[float, bool]:
        """(when it is time for something else, whether that is another candidate beside those under way)."""
        patience = max(HEDGE_S_MIN, HEDGE_TIMES * self._typical)
        if self._worth_a_try() and len(self._under_way) == missing and len(self._receipts) * 2 >= self._wanted:
            return self._began + patience, True
        return (self._last + patience if len(self._receipts) >= self._least else math.inf), False

    async def _wait(self, due: float) -> None:
        """Until there is something to decide, or it is ``due``."""
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None if due == math.inf else loop.call_later(due - self._now(), self._wake)
        self._due = due
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _queue(self, slot: Slot) -> None:
        waiting = {node.id: node for node in (*slot.candidates, *self._left) if node.id not in self._tried}
        self._resting = set(self._latency.resting(waiting, self._now()))
        self._left = deque(sorted(waiting.values(), key=lambda node: node.id in self._resting))

    def _enough(self) -> bool:
        """Would the least be reached if all that is under way ends well, and do fewer than wanted do?"""
        return self._least < self._wanted and len(self._under_way) + len(self._receipts) >= self._least

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
            if not self._under_way:
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
