"""Tasks of the coordinator: copy a pack here from a node that has it, or give one up by a grant.

One worker asks (long poll), a few copies run side by side. A copy is checked while it comes in and durable before it is
called done; a source that is wrong is reported and the next one is asked. Foreground requests go first: while this node
answers any, copying slows down. Nothing is remembered here: a lease that ends is given out again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from holdfast import logs
from holdfast.auth.documents import sign
from holdfast.auth.grants import Receipt
from holdfast.auth.identity import Id, Identity
from holdfast.blob import Buffer, Digest
from holdfast.clock import Clock
from holdfast.errors import (
    BadRequest,
    Conflict,
    Corrupt,
    DigestMismatch,
    HoldfastError,
    NoSpace,
    NotFound,
    StorePoisoned,
    TooManyRequests,
    Unavailable,
)
from holdfast.node.agent import first_answer
from holdfast.node.keeper import Keeper
from holdfast.node.membership import Membership
from holdfast.node.permits import Permits
from holdfast.node.quota import TrashPace
from holdfast.node.settings import NodeSettings
from holdfast.node.tasks_pace import CopyPace
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target
from holdfast.wire.routes import Route
from holdfast.worker import Progress

WAIT_S = 30.0
COPIES_AT_ONCE = 4
RENEWALS_PER_LEASE = 3
REASON_CHARS_MAX = 500

_log = logs.get_logger(__name__)

Q = TypeVar("Q")


class TaskRunner:
    """``unit`` is a worker's unit: one question, and all that came of it."""

    def __init__(
        self,
        *,
        identity: Identity,
        store_id: bytes,
        keeper: Keeper,
        permits: Permits,
        membership: Membership,
        http: HttpClient,
        settings: NodeSettings,
        clock: Clock,
        trash_pace: TrashPace,
        copy_pace: CopyPace,
    ) -> None:
        self.reason = ""
        """Why the coordinator gave no tasks last time, empty if it answered."""
        self.copied = 0
        self.failed = 0
        self._identity = identity
        self._store_id = store_id
        self._keeper = keeper
        self._permits = permits
        self._membership = membership
        self._http = http
        self._settings = settings
        self._clock = clock
        self._trash_pace = trash_pace
        self._copy_pace = copy_pace
        self._slots = asyncio.Semaphore(COPIES_AT_ONCE)

    async def unit(self) -> Progress:
        """Asks, does, reports. Trouble with the coordinator is remembered in ``reason`` and tried again soon."""
        try:
            page, target = await first_answer(
                self._membership.targets,
                lambda target: self._http.call(
                    target, routes.TASKS, m.TaskQuery(wait=WAIT_S), first_byte_s=WAIT_S + 10.0, tries=1
                ),
            )
        except HoldfastError as error:
            if error.detail != self.reason:
                _log.info("tasks_unasked", reason=error.detail)
            self.reason = error.detail
            return Progress.THROTTLED
        self.reason = ""
        addresses = {node.id: Target(node.id, node.url) for node in page.nodes}
        async with asyncio.TaskGroup() as group:
            for task in page.tasks:
                group.create_task(self._run(task, addresses, target))
        return Progress.BUSY

    async def _run(self, task: m.Task, addresses: dict[Id, Target], coordinator: Target) -> None:
        """One task to its end; never raises but when cancelled."""
        renewing = asyncio.get_running_loop().create_task(self._renew(task, coordinator))
        bad: list[Id] = []
        try:
            async with self._slots:
                receipt = await self._do(task, addresses, bad)
        except HoldfastError as error:
            self.failed += 1
            _log.warning("task_failed", kind=task.kind, digest=str(task.digest), reason=error.detail)
            retry_after = float(error.extra.get("retry_after", 60)) if isinstance(error, TooManyRequests) else 0.0
            failure = m.TaskFailure(
                token=task.token, reason=error.detail[:REASON_CHARS_MAX], bad=bad, retry_after=retry_after
            )
            await self._tell(coordinator, routes.TASK_FAIL, task, failure)
        else:
            self.copied += task.kind == "copy"
            done = m.TaskDone(token=task.token, receipt=receipt, bad=bad)
            await self._tell(coordinator, routes.TASK_COMPLETE, task, done)
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def _renew(self, task: m.Task, coordinator: Target) -> None:
        """Keeps the lease while the task waits and runs."""
        while True:
            await self._clock.sleep(task.lease / RENEWALS_PER_LEASE)
            await self._tell(coordinator, routes.TASK_RENEW, task, m.TaskRenewal(token=task.token))

    async def _tell(self, coordinator: Target, route: Route[Q, m.Empty], task: m.Task, message: Q) -> None:
        """A word that is lost costs a lease, no more."""
        try:
            await self._http.call(coordinator, route, message, path={"task": task.id})
        except HoldfastError as error:
            _log.info("task_word_lost", kind=task.kind, digest=str(task.digest), reason=error.detail)

    async def _do(self, task: m.Task, addresses: dict[Id, Target], bad: list[Id]) -> bytes | None:
        if task.kind == "copy":
            return await self._copy(task, addresses, bad)
        await self._give_up(task)
        return None

    # --- copy ---

    async def _copy(self, task: m.Task, addresses: dict[Id, Target], bad: list[Id]) -> bytes:
        """The receipt for the copy that is durable here now. Sources that had not the right bytes are added to bad."""
        if self._settings.read_only:
            raise StorePoisoned("this node is read-only, as its operator wishes")
        if task.size > self._settings.blob_bytes_max:
            raise BadRequest(f"this node takes blobs of at most {self._settings.blob_bytes_max} bytes")
        entry = await self._keeper.find(task.digest)
        if entry is not None and entry.vault == task.vault and await self._keeper.verify(task.digest) == "ok":
            return self._receipt(task, entry.sequence)
        trouble: HoldfastError = Unavailable("no source of this task is known")
        for source in task.sources:
            target = addresses.get(source.node)
            if target is None:
                continue
            try:
                return self._receipt(task, await self._fetch(task, target, source.grant))
            except (NoSpace, StorePoisoned):
                raise
            except (DigestMismatch, BadRequest, Corrupt, NotFound) as error:
                bad.append(source.node)
                trouble = error
            except HoldfastError as error:
                trouble = error
            _log.info("source_failed", digest=str(task.digest), source=source.node.short, reason=trouble.detail)
        raise trouble

    async def _fetch(self, task: m.Task, source: Target, grant: bytes) -> int:
        """The write sequence of the copy that came from ``source``; the store compares length and digest."""
        async with self._http.get_blob(source, task.digest, grant=grant) as body:
            if body.size != task.size:
                raise DigestMismatch(f"{source.url} sends {body.size} bytes for {task.digest}, which has {task.size}")

            async def pieces() -> AsyncIterator[Buffer]:
                async for piece in body:
                    view = memoryview(piece)
                    for start in range(0, len(view), self._copy_pace.slice_bytes):
                        part = view[start : start + self._copy_pace.slice_bytes]
                        await self._copy_pace.passed(len(part))
                        yield part

            sequence, _ = await self._keeper.put(task.digest, task.size, task.vault, pieces())
            return sequence

    def _receipt(self, task: m.Task, sequence: int) -> bytes:
        return self.receipt(task.digest, task.size, sequence)

    def receipt(self, digest: Digest, size: int, sequence: int) -> bytes:
        """This node's word that it holds the blob durably."""
        document = Receipt(
            node=self._identity.id,
            store=self._store_id,
            digest=digest,
            size=size,
            sequence=sequence,
            time=int(self._http.time()),
        )
        return sign(document, self._identity)

    # --- trim and delete ---

    async def _give_up(self, task: m.Task) -> None:
        """To trash, by the grant that came with the task; fine if it is not here."""
        grant = self._permits.delete(task.grant, self._identity.id, task.digest)
        if grant.kind != task.kind:
            raise BadRequest("the task's grant is of another kind")

        def pace(size: int) -> None:
            self._trash_pace.take(size, self._keeper.ledger.held_bytes, self._clock.monotonic())

        try:
            await self._keeper.delete(task.digest, grant.vault, grant.sequence, pace)
        except Conflict:
            _log.info("kept_after_all", digest=str(task.digest), kind=task.kind)
            raise
