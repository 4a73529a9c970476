"""Tasks over the wire: nodes ask for them, renew them, and say what came of them.

Grants are made when a task is given out, so they are never older than its lease. What a node reports is checked like
anything else: a copy counts by its receipt, a source that is said to be bad is asked to read its copy again.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection

from holdfast import logs
from holdfast.auth.documents import sign
from holdfast.auth.grants import Grant
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.coordinator.inventory.sync import InventorySync
from holdfast.coordinator.receipts import check_receipts
from holdfast.coordinator.registry import Node
from holdfast.coordinator.repair.dispatch import LEASE_S, Dispatch, Job
from holdfast.coordinator.repair.loop import Repair
from holdfast.coordinator.state import State
from holdfast.coordinator.transaction import Moves
from holdfast.errors import BadRequest, HoldfastError, NotFound, Unauthorized
from holdfast.metadata import queries_packs, queries_repair
from holdfast.metadata.tables import PackState
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import Target
from holdfast.wire.serve import Call

GRANT_LIFE_S = 600
"""Longer than a lease, so that one that is renewed a few times can still be finished."""

SUSPECTS_MAX = 64

_log = logs.get_logger(__name__)


class Tasks:
    """Handlers."""

    def __init__(self, state: State, dispatch: Dispatch, repair: Repair, inventory: InventorySync) -> None:
        self._state = state
        self._dispatch = dispatch
        self._repair = repair
        self._inventory = inventory
        self._suspects: dict[tuple[int, Digest], asyncio.Task[None]] = {}

    async def page(self, call: Call, request: m.TaskQuery) -> m.TaskPage:
        """Up to ``limit`` tasks for the node that asks; waits for the first up to ``wait`` seconds."""
        state = self._state
        node = self._node(call.caller)
        state.position.check()
        jobs = self._dispatch.lease(node.number, request.limit, state.clock.monotonic())
        if not jobs and request.wait:
            await self._dispatch.wait(node.number, request.wait)
            state.position.check()
            jobs = self._dispatch.lease(node.number, request.limit, state.clock.monotonic())
        sources = dict.fromkeys(number for job in jobs for number in job.sources)
        nodes = [state.registry.number(number) for number in sources]
        live = state.registry.live()
        vaults = {row.number: row.id for row in state.access.all_vaults()}
        return m.TaskPage(
            tasks=[self._task(job, node, vaults[job.vault]) for job in jobs],
            nodes=[m.NodeAddress(id=one.id, name=one.name, url=one.url, up=one.number in live) for one in nodes],
        )

    def _task(self, job: Job, node: Node, vault: Id) -> m.Task:
        sources: list[m.TaskSource] = []
        grant = None
        if job.kind == "copy":
            for number in job.sources:
                source = self._state.registry.number(number)
                sources.append(m.TaskSource(node=source.id, grant=self._grant("get", source, node, vault, job)))
        else:
            grant = self._grant(job.kind, node, node, vault, job)
        return m.Task(
            id=job.id, token=job.token, kind=job.kind, digest=job.digest, size=job.size, vault=vault, lease=LEASE_S,
            sources=sources, grant=grant,
        )  # fmt: skip

    def _grant(self, kind: str, on: Node, subject: Node, vault: Id, job: Job) -> bytes:
        state = self._state
        document = Grant(
            kind=kind,  # type: ignore[arg-type]  # get, or the task's kind, which are all kinds of grants
            node=on.id,
            store=on.store,
            vault=vault,
            subject=subject.id,
            digests=(job.digest,),
            sequence=job.sequence,
            epoch=state.position.epoch,
            commit=state.position.commit,
            expires=int(state.clock.now()) + GRANT_LIFE_S,
        )
        return sign(document, state.identity)

    async def renew(self, call: Call, request: m.TaskRenewal) -> m.Empty:
        """The lease begins anew. NotFound or Conflict when it has ended."""
        job = self._held(call, request.token)
        self._dispatch.renew(job, self._state.clock.monotonic())
        return m.Empty()

    async def complete(self, call: Call, request: m.TaskDone) -> m.Empty:
        """What the node did is on record once this answers."""
        state = self._state
        state.position.check()
        job = self._held(call, request.token)
        node = self._node(call.caller)
        if job.kind == "copy":
            if request.receipt is None:
                raise BadRequest("a copy is complete with the receipt for it")
            oldest = state.clock.now() - state.settings.lease
            found = check_receipts(job.digest, job.size, [request.receipt], state.registry.get, oldest)
            if node.number not in found:
                raise BadRequest("this receipt does not count: it is not of this node and its store, or too old")
            moves = await state.database.run(_place, job.pack, node.number, found[node.number])
        else:
            moves = await state.database.run(_unplace, job.pack, node.number, job.sequence)
        state.beliefs.take(moves)
        self._dispatch.complete(job, state.clock.monotonic())
        self._repair.ended(job)
        self._suspect(request.bad, job)
        return m.Empty()

    async def fail(self, call: Call, request: m.TaskFailure) -> m.Empty:
        """Given back; it is planned anew, perhaps otherwise."""
        job = self._held(call, request.token)
        _log.info("task_failed", kind=job.kind, digest=str(job.digest), reason=request.reason)
        self._dispatch.fail(job, self._state.clock.monotonic(), retry_after=request.retry_after)
        self._repair.ended(job)
        self._suspect(request.bad, job)
        return m.Empty()

    async def stop(self) -> None:
        """Ends what is being asked."""
        tasks = list(self._suspects.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- sources that are said to be bad ---

    def _suspect(self, ids: list[Id], job: Job) -> None:
        for id_ in ids:
            node = self._state.registry.get(id_)
            if node is not None and node.number in job.sources:
                self.suspect(node, job.digest)

    def suspect(self, node: Node, digest: Digest) -> None:
        """Asks ``node`` to read its copy again, in the background: one word against it is not believed."""
        key = (node.number, digest)
        if key in self._suspects or len(self._suspects) >= SUSPECTS_MAX:
            return
        task = asyncio.get_running_loop().create_task(self._verify(node, digest))
        self._suspects[key] = task
        task.add_done_callback(lambda _: self._suspects.pop(key, None))

    async def _verify(self, node: Node, digest: Digest) -> None:
        target = Target(node.id, node.reached_url)
        try:
            found = await self._state.http.call(target, routes.BLOB_VERIFY, path={"digest": str(digest)})
            state = found.state
        except NotFound:
            state = "missing"
        except HoldfastError as error:
            _log.info("suspect_not_verified", node=node.name, digest=str(digest), reason=error.detail)
            return
        if state != "ok":
            _log.warning("copy_is_bad", node=node.name, digest=str(digest), state=state)
            await asyncio.wait([self._inventory.read(node)])

    # --- who says it ---

    def _node(self, caller: Id | None) -> Node:
        node = self._state.registry.get(caller) if caller is not None else None
        if node is None:
            raise Unauthorized("this node is not a member: join with an invite (holdfast node init --join)")
        return node

    def _held(self, call: Call, token: int) -> Job:
        return self._dispatch.held(call.path["task"], self._node(call.caller).number, token)


def _place(connection: Connection, pack: int, node: int, sequence: int) -> Moves:
    """The node holds the pack, with that sequence or a newer one."""
    moves = Moves(short={pack})
    row = queries_packs.packs_by_number(connection, [pack])[0]
    old = queries_repair.sequences(connection, node, [pack]).get(pack)
    if old is None or old < sequence:
        queries_packs.place(connection, [{"pack": pack, "node": node, "sequence": sequence}])
        moves.placed.append((node, Digest(row.digest), sequence, old is None))
    if row.state == PackState.GONE:
        queries_repair.trash_again(connection, [pack])
    return moves


def _unplace(connection: Connection, pack: int, node: int, sequence: int) -> Moves:
    """The node has moved the copy with that sequence, or an older one, to trash."""
    moves = Moves(short={pack})
    old = queries_repair.sequences(connection, node, [pack]).get(pack)
    if old is not None and old <= sequence:
        row = queries_packs.packs_by_number(connection, [pack])[0]
        queries_packs.unplace(connection, [(pack, node)])
        moves.gone.append((node, Digest(row.digest)))
    return moves
