"""Coordinators: made, opened."""

from __future__ import annotations

import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from holdfast.assemble.machine import THIS_MACHINE, Machine
from holdfast.assemble.servers import Running, host_name
from holdfast.config import Config
from holdfast.coordinator import setup
from holdfast.coordinator.app import Coordinator
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.coordinator.setup import CoordinatorMade
from holdfast.metadata import queries_members
from holdfast.metadata.database import Database
from holdfast.wire.http import HttpClient


async def init_coordinator(
    data: Path,
    *,
    advertise: str,
    survive: int | None = None,
    name: str | None = None,
    node_uses: int | None = None,
    again: bool = False,
    machine: Machine = THIS_MACHINE,
) -> CoordinatorMade:
    """Makes a coordinator in ``data``, and the invites to begin with. BadConfig if there is one, unless ``again``."""
    pool = machine.pool(1, "database")
    try:
        return await setup.init_coordinator(
            data,
            name=host_name(name),
            advertise=[advertise],
            files=machine.files,
            clock=machine.clock,
            randomness=machine.randomness,
            pool=pool,
            survive=setup.SURVIVE_DEFAULT if survive is None else survive,
            node_uses=setup.NODE_USES if node_uses is None else node_uses,
            again=again,
        )
    finally:
        pool.close()


async def make_coordinator(
    data: Path,
    config: Config,
    *,
    listen: tuple[str, int],
    tls: ssl.SSLContext | None = None,
    survive: int | None = None,
    machine: Machine = THIS_MACHINE,
) -> Running:
    """Opens the coordinator in ``data``; it serves once started. BadConfig when there is none, or it is in use.

    ``survive`` changes the policy first.
    """
    settings = config.section(CoordinatorSettings)
    identity = setup.load_identity(data, machine.files)
    async with AsyncExitStack() as opened:
        opened.enter_context(setup.lock(data, machine.files))
        pool, database_pool = machine.pool(None, "coordinator"), machine.pool(1, "database")
        opened.callback(pool.close)
        opened.callback(database_pool.close)
        database = await Database.open(setup.database_path(data), database_pool)
        opened.push_async_callback(database.close)
        if survive is not None:
            await database.run(_set_survive, survive)
        http = HttpClient(identity=identity, network=machine.network, clock=machine.clock)
        opened.push_async_callback(http.close)
        coordinator = await Coordinator.open(
            identity=identity,
            database=database,
            http=http,
            network=machine.network,
            settings=settings,
            clock=machine.clock,
            randomness=machine.randomness,
            pool=pool,
        )
        kept = opened.pop_all()
    return Running(coordinator, coordinator.service.metrics, listen, tls, kept, machine)


def _set_survive(connection: Any, survive: int) -> None:
    facts = queries_members.network_facts(connection)
    if facts is not None and facts.survive != survive:
        queries_members.change_network(connection, survive=survive, policy_version=facts.policy_version + 1)
