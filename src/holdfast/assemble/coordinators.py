"""Coordinators: made, opened."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.assemble.machine import THIS_MACHINE, Machine
from holdfast.assemble.servers import Running, host_name
from holdfast.config import Config
from holdfast.coordinator import setup
from holdfast.coordinator.app import Coordinator
from holdfast.coordinator.loss import backup, rebuild
from holdfast.coordinator.loss.backup import BackupFacts
from holdfast.coordinator.loss.rebuild import Means
from holdfast.coordinator.loss.recovery import Fallback, Recovered
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.coordinator.setup import CoordinatorMade
from holdfast.errors import BadConfig
from holdfast.metadata import queries_members
from holdfast.metadata.copying import TableSum, copy_database, path_of
from holdfast.wire.http import HttpClient, checked_url


async def init_coordinator(
    data: Path,
    *,
    advertise: str,
    survive: int | None = None,
    name: str | None = None,
    node_uses: int | None = None,
    again: bool = False,
    database: str = "",
    machine: Machine = THIS_MACHINE,
) -> CoordinatorMade:
    """Makes a coordinator in ``data``, and the invites to begin with. BadConfig if there is one, unless ``again``.

    ``database``: the URL of a PostgreSQL database that it is to use.
    """
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
            database_url=database,
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
    succeeds: bool = False,
    machine: Machine = THIS_MACHINE,
) -> Running:
    """Opens the coordinator in ``data``; it serves once started. BadConfig when there is none, or it is in use.

    ``survive`` changes the policy first. ``succeeds``: another one has worked on the database until now, so a new
    epoch begins: nodes then hear that one no more.
    """
    settings = config.section(CoordinatorSettings)
    identity = setup.load_identity(data, machine.files)
    async with AsyncExitStack() as opened:
        opened.enter_context(setup.lock(data, machine.files))
        pool, database_pool = machine.pool(None, "coordinator"), machine.pool(1, "database")
        opened.callback(pool.close)
        opened.callback(database_pool.close)
        database = await setup.open_database(data, settings.database, database_pool)
        opened.push_async_callback(database.close)
        if survive is not None:
            await database.run(_set_survive, survive)
        if succeeds:
            await database.run(queries_members.raise_epoch)
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


@dataclass(frozen=True, slots=True)
class CoordinatorRebuilt:
    """``invites``: as after ``init``, because those of the lost database are void."""

    recovered: Recovered
    name: str
    url: str
    invites: dict[str, str]


async def recover_coordinator(
    data: Path,
    config: Config,
    *,
    nodes: Sequence[str] = (),
    force: bool = False,
    machine: Machine = THIS_MACHINE,
) -> Recovered:
    """Brings an old copy of a coordinator up to date with its nodes; no coordinator may run on it meanwhile."""
    async with _means(data, config, machine) as means:
        return await rebuild.recover(means, nodes, force=force)


async def rebuild_coordinator(
    data: Path,
    config: Config,
    *,
    nodes: Sequence[str],
    advertise: str | None = None,
    survive: int | None = None,
    name: str | None = None,
    force: bool = False,
    machine: Machine = THIS_MACHINE,
) -> CoordinatorRebuilt:
    """Makes the lost database of the coordinator in ``data``, whose ``identity.key`` is there, from its nodes."""
    if machine.files.size(data / setup.KEY_FILE) is None:
        raise BadConfig(
            f"{data / setup.KEY_FILE} is missing, and nodes obey no other key: put it back from a backup, or make a "
            "new coordinator (holdfast coordinator init) that nodes and devices then join anew"
        )
    fallback = Fallback(
        host_name(name),
        [checked_url(advertise)] if advertise else [],
        setup.SURVIVE_DEFAULT if survive is None else survive,
    )
    async with _means(data, config, machine) as means:
        recovered = await rebuild.rebuild(means, nodes, fallback=fallback, force=force)
        if survive is not None:
            await means.database.run(_set_survive, survive)
        facts = await means.database.run(queries_members.network_facts)
        assert facts is not None, "it was just made"
        urls = facts.urls.split()
        lines = await setup.first_invites(
            means.database, means.coordinator, urls, setup.NODE_USES, machine.clock, machine.randomness
        )
    return CoordinatorRebuilt(recovered, facts.name, urls[0], lines)


@asynccontextmanager
async def _means(data: Path, config: Config, machine: Machine) -> AsyncIterator[Means]:
    settings = config.section(CoordinatorSettings)
    identity = setup.load_identity(data, machine.files)
    async with AsyncExitStack() as opened:
        opened.enter_context(setup.lock(data, machine.files))
        pool, database_pool = machine.pool(None, "recovery"), machine.pool(1, "database")
        opened.callback(pool.close)
        opened.callback(database_pool.close)
        if not settings.database:
            setup.make_database_file(data, machine.files)
        database = await setup.open_database(data, settings.database, database_pool)
        opened.push_async_callback(database.close)
        http = HttpClient(identity=identity, network=machine.network, clock=machine.clock)
        opened.push_async_callback(http.close)
        yield Means(identity.id, database, http, pool, machine.clock, settings)


async def backup_coordinator(data: Path, target: Path, machine: Machine = THIS_MACHINE) -> BackupFacts:
    """Writes the coordinator in ``data``, running or not, into one private file."""
    pool = machine.pool(1, "backup")
    try:
        return await pool.run(
            lambda: backup.write_backup(data, target.absolute(), files=machine.files, clock=machine.clock)
        )
    finally:
        pool.close()


async def restore_coordinator(source: Path, data: Path, machine: Machine = THIS_MACHINE) -> BackupFacts:
    """Makes the coordinator of a backup again in ``data``."""
    pool = machine.pool(1, "backup")
    try:
        return await pool.run(lambda: backup.restore_backup(source, data, files=machine.files))
    finally:
        pool.close()


async def copy_coordinator(source: str, target: str, machine: Machine = THIS_MACHINE) -> list[TableSum]:
    """Copies a coordinator's database, ``sqlite:PATH`` or a PostgreSQL's URL each; see ``metadata.copying``.

    BadConfig also while a coordinator runs in the directory of a SQLite database.
    """
    pool = machine.pool(1, "copy")
    try:
        with ExitStack() as held:
            paths = [path_of(url).absolute() for url in (source, target) if url.startswith("sqlite:")]
            for directory in dict.fromkeys(path.parent for path in paths):
                if not directory.is_dir():
                    raise BadConfig(f"there is no directory {directory}")
                held.enter_context(machine.files.lock(directory / setup.LOCK_FILE))
            return await pool.run(copy_database, source, target)
    finally:
        pool.close()


def _set_survive(connection: Any, survive: int) -> None:
    facts = queries_members.network_facts(connection)
    if facts is not None and facts.survive != survive:
        queries_members.change_network(connection, survive=survive, policy_version=facts.policy_version + 1)
