"""A node leaves its network: said with the node's own key, from its own machine."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from holdfast.assemble.machine import THIS_MACHINE, Machine
from holdfast.auth.identity import Id
from holdfast.client.device.coordinators import Coordinators
from holdfast.client.device.network import NetworkCalls
from holdfast.errors import BadConfig, Conflict, NotFound, Unavailable
from holdfast.node import layout
from holdfast.node.membership import Membership
from holdfast.wire.http import HttpClient

ASK_S = 5.0
"""How often the coordinator is asked whether the node may go."""


async def leave(
    data: Path,
    *,
    now: bool = False,
    told: Callable[[int | None], None] = lambda _: None,
    machine: Machine = THIS_MACHINE,
) -> str:
    """Has the packs of the node in ``data`` copied elsewhere, then the node forgotten; its name.

    The node itself should run meanwhile: its copies may be the nearest. ``told`` hears how many packs still have too
    few copies without it, None while the coordinator does not answer. ``now``: without waiting; Conflict if something
    would be lost by it. Stopped in the middle, the node goes on being emptied, and a second call goes on. NotFound or
    Unauthorized if the node is no member any more, BadConfig if there is none in ``data``. Its data stay there.
    """
    async with _as_node(data, machine) as (calls, me, name):
        if not now:
            await calls.drain_node(me)
        while True:
            try:
                await calls.remove_node(me, now=now)
            except Conflict as error:
                if now:
                    raise
                left = error.extra.get("packs")
                told(left if isinstance(left, int) else 0)
            except NotFound:
                if now:
                    raise
                return name  # an answer was lost: it is gone
            except Unavailable:
                if now:
                    raise
                told(None)
            else:
                return name
            await machine.clock.sleep(ASK_S)


async def stay(data: Path, *, machine: Machine = THIS_MACHINE) -> str:
    """Takes back that the node leaves; its name."""
    async with _as_node(data, machine) as (calls, me, name):
        await calls.drain_node(me, drain=False)
        return name


@contextlib.asynccontextmanager
async def _as_node(data: Path, machine: Machine) -> AsyncIterator[tuple[NetworkCalls, Id, str]]:
    directory = layout.open_node(data, files=machine.files)
    if machine.files.size(data / "network.json") is None:
        raise BadConfig(f"the node in {data} belongs to no network, so it can leave none")
    member = Membership.load(data, files=machine.files)
    http = HttpClient(identity=directory.identity, network=machine.network, clock=machine.clock)
    try:
        coordinators = Coordinators(http, member.coordinator, member.urls)
        yield NetworkCalls(coordinators, machine.randomness), directory.identity.id, directory.record.name
    finally:
        await http.close()
