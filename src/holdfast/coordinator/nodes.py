"""Nodes: their heartbeats, whether they can be reached, and the list of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from holdfast.coordinator.registry import Node
from holdfast.coordinator.state import State
from holdfast.coordinator.status import Counts
from holdfast.errors import BadConfig, BadRequest, Denied, HoldfastError, Unauthorized
from holdfast.wire import messages as m
from holdfast.wire.http import checked_url
from holdfast.wire.serve import Call


def node_url(text: str) -> str:
    """A node's advertised address in its one form, or nothing; BadRequest if it is none."""
    try:
        return checked_url(text) if text else ""
    except BadConfig as error:
        raise BadRequest(error.detail) from error


class Nodes:
    """Handlers."""

    def __init__(
        self,
        state: State,
        counts: Counts,
        heard: Callable[[Node], None],
        refused: Callable[[], Awaitable[HoldfastError | None]],
    ) -> None:
        """``heard`` is called after each heartbeat and must not wait. ``refused``: why no node may be answered now; it
        is heard nevertheless, so that none is taken for silent because the coordinator's database is away."""
        self._refused = refused
        self._state = state
        self._counts = counts
        self._heard = heard
        self._dialling: dict[int, asyncio.Task[None]] = {}

    async def heartbeat(self, call: Call, request: m.Heartbeat) -> m.HeartbeatAnswer:
        """O(1) and in memory, but for a node's first heartbeat at an address: then it is dialled."""
        state = self._state
        node = state.registry.get(call.caller) if call.caller is not None else None
        if node is None:
            raise Unauthorized("this node is not a member: join with an invite (holdfast node init --join)")
        if request.store != node.store:
            raise Denied("this node reports another store than it joined with: is the right disk mounted?")
        if state.position.hear(node.name, (request.epoch, request.commit), request.position):
            await state.save_heard()
        node.url = node_url(request.url) or node.url
        node.free, node.load, node.read_only = request.free, request.load, request.read_only
        node.sequence, node.blobs, node.root = request.sequence, request.count, request.root
        node.unread, node.overdue = request.unread, request.overdue
        if request.leaving:
            state.registry.leave(node)
        else:
            state.registry.hear(node)
            if node.url and node.reached_url != node.url:
                await self._reach(node)
            self._heard(node)
        refusal = await self._refused()
        if refusal is not None:
            raise refusal
        word, reason = state.registry.state(node)
        access = state.access
        return m.HeartbeatAnswer(
            state=word,
            reason=reason,
            time=state.clock.now(),
            settings=state.wire_settings(),
            epoch=state.position.epoch,
            commit=state.position.commit,
            position=state.position.signed,
            revocations=access.revocations,
            revoked=access.revoked_serials() if request.revocations < access.revocations else None,
            url=node.url,
            urls=self._state.urls,
        )

    async def _reach(self, node: Node) -> None:
        """Dials the node, once at a time, and remembers what came of it."""
        task = self._dialling.get(node.number)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._dial(node))
            self._dialling[node.number] = task
            task.add_done_callback(lambda _: self._dialling.pop(node.number, None))
        await asyncio.shield(task)

    async def _dial(self, node: Node) -> None:
        url = node.url
        try:
            found = await self._state.http.health(url, timeout_s=self._state.settings.dial_timeout)
        except HoldfastError as error:
            node.why_unreachable = f"the coordinator cannot reach it at {url}: {error.detail}"
            return
        if found.id != node.id:
            node.why_unreachable = f"somebody else answers at {url}: {found.name} ({found.id.short})"
            return
        node.reached_url, node.why_unreachable, node.dirty = url, "", True
        await self._state.save()  # at once: without it, a restart would not know that the node's copies can be reached

    async def list(self, call: Call, request: None) -> m.NodeList:
        """All members that were not removed, by name."""
        state = self._state
        state.require_member(call.caller)
        return m.NodeList(nodes=[await self.info(node) for node in state.registry.all()])

    async def info(self, node: Node) -> m.NodeInfo:
        """One of them."""
        registry = self._state.registry
        word, reason = registry.state(node)
        packs, size = (await self._counts.by_node()).get(node.number, (0, 0))
        return m.NodeInfo(
            id=node.id, name=node.name, url=node.url, store=node.store, domain=node.domain, state=word, reason=reason,
            always_on=node.always_on, capacity=node.capacity, free=node.free, packs=packs, stored=size,
            last_seen=None if node.heard is None else registry.look() - node.heard,
            unread=node.unread, overdue=node.overdue,
        )  # fmt: skip

    async def stop(self) -> None:
        """Ends what is being dialled."""
        tasks = list(self._dialling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
