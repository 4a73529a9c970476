"""At its start a coordinator asks its nodes what they have heard, before it commits anything.

One that came back from an old copy of its database so learns at once that the network has gone on without it
(docs/design.md, Epochs). Nodes that do not answer in time say it with their next heartbeat.
"""

from __future__ import annotations

import asyncio

from holdfast import logs
from holdfast.coordinator.registry import Node
from holdfast.coordinator.state import State
from holdfast.errors import HoldfastError
from holdfast.wire import routes
from holdfast.wire.http import Target

PATIENCE_S = 3.0
ASKED_AT_ONCE = 32

_log = logs.get_logger(__name__)


class RollCall:
    """``start`` begins it; ``State.heard_all`` is set when it is over."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._task: asyncio.Task[None] | None = None
        self._room = asyncio.Semaphore(ASKED_AT_ONCE)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="roll call")

    async def stop(self) -> None:
        """May be called twice, and before ``start``."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        state = self._state
        nodes = [node for node in state.registry.all() if node.reached_url]
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*(self._ask(node) for node in nodes))
        except TimeoutError:
            _log.info("roll_call_cut_short", nodes=len(nodes))
        finally:
            state.heard_all.set()
        if state.position.stale:
            _log.error("coordinator_is_old", at=state.position.current, heard=state.position.heard)
            await state.save_heard()

    async def _ask(self, node: Node) -> None:
        async with self._room:
            try:
                said = await self._state.http.call(
                    Target(node.id, node.reached_url), routes.INFO, first_byte_s=PATIENCE_S, tries=1
                )
            except HoldfastError as error:
                _log.info("not_heard", node=node.name, reason=error.detail)
                return
        self._state.position.hear(node.name, (said.epoch, said.commit), said.position)
