"""Tasks that are given out: who does what, until when, and by which word it may be called done. In memory, no I/O.

A task waits for its node to ask, is then leased with a fencing token, and ends by the node's word or with its lease.
A word with another token than the last one changes nothing. What a restart forgets is planned again; what a node did
meanwhile shows in its inventory.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from holdfast.blob import Digest
from holdfast.clock import Randomness
from holdfast.errors import Conflict, NotFound

OUTSTANDING_MAX = 1000
LEASE_S = 120.0
PENDING_S = 120.0
"""A task that its node has not asked for by then is given up, and planned anew, perhaps for another node."""

RATE_WINDOW_S = 120.0
FAILED_WINDOW_S = 3600.0
BACKOFF_S = 30.0
BACKOFF_S_MAX = 3600.0

Kind: TypeAlias = Literal["copy", "trim", "delete"]


@dataclass(slots=True)
class Job:
    """One task. ``node``: who does it; ``urgency``: the lowest goes first; ``sequence``: of the copy that may go.

    ``token`` 0: not given out yet. ``ends``: monotonic seconds when lease or waiting is over.
    """

    id: str
    kind: Kind
    pack: int
    digest: Digest
    size: int
    vault: int
    node: int
    urgency: tuple[int, int]
    ends: float
    sources: tuple[int, ...] = ()
    sequence: int = 0
    token: int = 0


class Dispatch:
    """Used in the event loop. Times are monotonic seconds."""

    def __init__(self, randomness: Randomness, limit: int = OUTSTANDING_MAX) -> None:
        self._randomness = randomness
        self.limit = limit
        self._jobs: dict[str, Job] = {}
        self._of_node: dict[int, dict[str, Job]] = {}
        self._of_pack: Counter[int] = Counter()
        self._asked: dict[int, asyncio.Event] = {}
        self._rest: dict[int, float] = {}  # node -> until when it wants nothing to go to trash
        self._failures: dict[int, int] = {}  # pack -> failures in a row
        self._resting: dict[int, float] = {}  # pack -> until when it is left alone
        self._failed: deque[float] = deque()
        self._done: deque[tuple[float, int]] = deque()
        self._began: float | None = None
        self.closed = False

    # --- planning ---

    @property
    def room(self) -> int:
        """How many more tasks may be outstanding."""
        return max(self.limit - len(self._jobs), 0)

    def room_at(self, node: int, limit: int) -> int:
        """How many more of at most ``limit`` tasks this node may have."""
        return max(limit - len(self._of_node.get(node, ())), 0)

    def busy(self, pack: int, now: float) -> bool:
        """Is something being done with this pack, or was it tried in vain a moment ago?"""
        return pack in self._of_pack or self._resting.get(pack, 0.0) > now

    def busy_on(self, pack: int, node: int, now: float) -> bool:
        """Is this node doing something with this pack, or was the pack tried in vain a moment ago?"""
        return self._resting.get(pack, 0.0) > now or any(
            job.pack == pack for job in self._of_node.get(node, {}).values()
        )

    def add(
        self,
        kind: Kind,
        *,
        pack: int,
        digest: Digest,
        size: int,
        vault: int,
        node: int,
        urgency: tuple[int, int],
        now: float,
        sources: tuple[int, ...] = (),
        sequence: int = 0,
    ) -> Job:
        """A task for ``node``, who is told if it waits for one."""
        job = Job(
            id=self._randomness.bytes(8).hex(), kind=kind, pack=pack, digest=digest, size=size, vault=vault, node=node,
            urgency=urgency, ends=now + PENDING_S, sources=sources, sequence=sequence,
        )  # fmt: skip
        self._jobs[job.id] = job
        self._of_node.setdefault(node, {})[job.id] = job
        self._of_pack[pack] += 1
        if self._began is None:
            self._began = now
        self._event(node).set()
        return job

    def make_room(self, count: int, urgency: tuple[int, int]) -> None:
        """Takes back tasks that nobody has begun and that are less urgent, until ``count`` more fit."""
        if self.room >= count:
            return
        pending = [job for job in self._jobs.values() if not job.token and job.urgency > urgency]
        for job in sorted(pending, key=lambda job: job.urgency, reverse=True)[: count - self.room]:
            self._drop(job)

    def drop_where(self, chosen: Callable[[Job], bool]) -> None:
        """Takes back the chosen ones of those that nobody has begun."""
        for job in list(self._jobs.values()):
            if not job.token and chosen(job):
                self._drop(job)

    # --- giving out ---

    def lease(self, node: int, limit: int, now: float) -> list[Job]:
        """Up to ``limit`` tasks for ``node``, the most urgent first, each with a new token."""
        resting = self._rest.get(node, 0.0) > now
        waiting = [
            job for job in self._of_node.get(node, {}).values() if not job.token and (job.kind == "copy" or not resting)
        ]
        waiting.sort(key=lambda job: job.urgency)
        for job in waiting[:limit]:
            job.token = 1 + self._randomness.below(1 << 53)
            job.ends = now + LEASE_S
        if not waiting[limit:]:
            self._event(node).clear()
        return waiting[:limit]

    async def wait(self, node: int, seconds: float) -> None:
        """Returns when there may be something for ``node``, or after ``seconds``."""
        if self.closed:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._event(node).wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        """Nobody waits any more."""
        self.closed = True
        for event in self._asked.values():
            event.set()

    # --- what nodes say ---

    def held(self, id_: str, node: int, token: int) -> Job:
        """The task, if ``node`` holds it by ``token``; NotFound or Conflict if not (any more)."""
        job = self._jobs.get(id_)
        if job is None or job.node != node:
            raise NotFound("this task is not known (any more): its lease has ended, or the coordinator was restarted")
        if not job.token or job.token != token:
            raise Conflict("this task was given out again since; what was done shows in the inventory")
        return job

    def renew(self, job: Job, now: float) -> None:
        job.ends = now + LEASE_S

    def complete(self, job: Job, now: float) -> None:
        self._drop(job)
        self._failures.pop(job.pack, None)
        self._resting.pop(job.pack, None)
        if job.kind == "copy":
            self._done.append((now, job.size))

    def fail(self, job: Job, now: float, *, retry_after: float = 0.0) -> None:
        """Given back; the pack is left alone for a while, longer each time."""
        self._drop(job)
        self._failed.append(now)
        if retry_after and job.kind != "copy":
            self._rest[job.node] = now + retry_after
            return
        count = self._failures[job.pack] = self._failures.get(job.pack, 0) + 1
        self._resting[job.pack] = now + min(BACKOFF_S * 2.0 ** (count - 1), BACKOFF_S_MAX)

    def expire(self, now: float) -> list[Job]:
        """Takes back what was not asked for or not done in time."""
        over = [job for job in self._jobs.values() if job.ends <= now]
        for job in over:
            if job.token:
                self.fail(job, now)
            else:
                self._drop(job)
        self._resting = {pack: until for pack, until in self._resting.items() if until > now}
        return over

    # --- figures ---

    def counts(self, now: float) -> tuple[int, int, int]:
        """(pending, running, failed within the last hour)."""
        while self._failed and self._failed[0] < now - FAILED_WINDOW_S:
            self._failed.popleft()
        running = sum(1 for job in self._jobs.values() if job.token)
        return len(self._jobs) - running, running, len(self._failed)

    def copying(self) -> tuple[int, int]:
        """(copies, bytes) that are outstanding."""
        jobs = [job for job in self._jobs.values() if job.kind == "copy"]
        return len(jobs), sum(job.size for job in jobs)

    def rate(self, now: float) -> float | None:
        """Bytes per second that were copied lately, None if nothing was."""
        while self._done and self._done[0][0] < now - RATE_WINDOW_S:
            self._done.popleft()
        if not self._done:
            return None
        return sum(size for _, size in self._done) / max(now - max(self._done[0][0] - 5.0, now - RATE_WINDOW_S), 1.0)

    def jobs(self) -> Iterable[Job]:
        return self._jobs.values()

    def _event(self, node: int) -> asyncio.Event:
        found = self._asked.get(node)
        if found is None:
            found = self._asked[node] = asyncio.Event()
        return found

    def _drop(self, job: Job) -> None:
        """May be called twice: a lease may end while its completion is being written."""
        if self._jobs.pop(job.id, None) is None:
            return
        del self._of_node[job.node][job.id]
        self._of_pack[job.pack] -= 1
        if not self._of_pack[job.pack]:
            del self._of_pack[job.pack]
