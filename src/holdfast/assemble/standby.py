"""Coordinators side by side on one PostgreSQL: one works, the others wait for its place (docs/design.md, 6)."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

from holdfast import logs
from holdfast.assemble.coordinators import make_coordinator
from holdfast.assemble.machine import THIS_MACHINE, Machine
from holdfast.assemble.servers import Running, host_name, serve_metrics
from holdfast.auth.identity import Id, Identity
from holdfast.config import Config
from holdfast.coordinator import setup
from holdfast.coordinator.app import Coordinator
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.errors import BadConfig, HoldfastError, Standby, Unavailable
from holdfast.metadata import queries_members
from holdfast.metadata.database import Database
from holdfast.metadata.postgresql import Occupied, look
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target, checked_url
from holdfast.wire.network import Listener
from holdfast.wire.routes import Route
from holdfast.wire.serve import Call, Service

PAUSE_S = 1.0
OVERTAKEN_DRAIN_S = 1.0
_WAITS = "this coordinator is a standby and waits while another one works: ask at its address"

_log = logs.get_logger(__name__)


async def _refused() -> Standby:
    return Standby(_WAITS)


class Succession:
    """A coordinator on a PostgreSQL, from start to stop: it waits while another works, takes its place when it has
    gone, and waits again when it was itself overtaken. Made by ``make_succession``."""

    def __init__(
        self,
        data: Path,
        config: Config,
        identity: Identity,
        *,
        listen: tuple[str, int],
        tls: ssl.SSLContext | None,
        survive: int | None,
        machine: Machine,
    ) -> None:
        self.id: Id = identity.id
        self.name = host_name(None)
        self.secure = tls is not None
        self._identity = identity
        self._data, self._config, self._survive = data, config, survive
        self._listen, self._tls, self._machine = listen, tls, machine
        self._running: Running | None = None
        self._door: Service | None = None
        self._task: asyncio.Task[None] | None = None
        self._opened = AsyncExitStack()

    @property
    def url(self) -> str:
        """Where others reach the one that works."""
        return self._running.url if self._running is not None else ""

    async def start(self) -> Listener:
        """Serves, or says to everybody that it waits. BadConfig, Unavailable as of ``make_coordinator``."""
        try:
            self._running = await self._make(succeeds=False)
            self.name = self._running.name
            listener = await self._running.start()
        except Occupied:
            listener = await self._wait_at_the_door()
        self._listen = (self._listen[0], listener.port)
        self._task = asyncio.get_running_loop().create_task(self._live(), name="succession")
        return listener

    async def start_metrics(self, port: int) -> Listener:
        """Serves /metrics on loopback: of the one that works, or that waits."""
        return await serve_metrics(self, port, self._machine, self._opened)

    def text(self) -> bytes:
        """The metrics at this moment."""
        if self._running is not None:
            return self._running.metrics.text()
        return self._door.metrics.text() if self._door is not None else b""

    async def stop(self) -> None:
        """Finishes what is under way, says goodbye, closes everything. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._door is not None:
            await self._door.stop(0)
        if self._running is not None:
            await self._running.stop()
        await self._opened.aclose()

    async def _make(self, *, succeeds: bool) -> Running:
        return await make_coordinator(
            self._data, self._config, listen=self._listen, tls=self._tls, survive=self._survive, succeeds=succeeds,
            machine=self._machine,
        )  # fmt: skip

    async def _live(self) -> None:
        said = ""
        while True:
            try:
                if self._running is None:
                    await self._take_over()
                await self._be_overtaken()
            except Occupied:
                continue  # it was waited for in the database, and is waited for again
            except HoldfastError as error:
                if error.detail != said:
                    _log.warning("standby_waits", reason=error.detail)
                said = error.detail
                await self._machine.clock.sleep(PAUSE_S)

    async def _take_over(self) -> None:
        running = await self._make(succeeds=True)
        try:
            if self._door is not None:
                await self._door.stop(0)
                self._door = None
            await running.start()
        except BaseException:
            await running.stop()
            raise
        self._running, self.name = running, running.name
        assert isinstance(running.app, Coordinator)
        _log.warning("standby_took_over", name=running.name, epoch=running.app.state.position.epoch)

    async def _be_overtaken(self) -> None:
        running = self._running
        assert running is not None
        assert isinstance(running.app, Coordinator)
        await running.app.hold.lost.wait()
        await running.app.stop(OVERTAKEN_DRAIN_S)
        self._running = None
        await running.stop()
        await self._wait_at_the_door()

    async def _wait_at_the_door(self) -> Listener:
        """Answers that this one waits: whoever asks then asks the next address."""
        self._door = Service(
            identity=self._identity,
            role="coordinator",
            name=host_name(None),
            clock=self._machine.clock,
            network=self._machine.network,
            health=lambda: _WAITS,
            refuses=_refused,
        )
        for route in routes.COORDINATOR_ROUTES:
            if route is not routes.HEALTH:
                self._door.add(cast("Route[Any, Any]", route), _nobody)
        listener = await self._door.start(*self._listen, tls=self._tls)
        _log.warning("coordinator_waits", reason=_WAITS, port=listener.port)
        return listener


async def _nobody(call: Call, message: Any) -> m.Empty:
    raise Standby(_WAITS)


async def make_succession(
    data: Path,
    config: Config,
    *,
    database: str,
    listen: tuple[str, int],
    tls: ssl.SSLContext | None = None,
    survive: int | None = None,
    machine: Machine = THIS_MACHINE,
) -> Succession:
    """The coordinator in ``data`` on the PostgreSQL at ``database``, which others with its key may share.

    BadConfig when there is none, or the database is another coordinator's.
    """
    identity = setup.load_identity(data, machine.files)
    await _same_network(database, identity, machine)
    return Succession(data, config, identity, listen=listen, tls=tls, survive=survive, machine=machine)


async def init_standby(
    data: Path, source: Path, *, advertise: str, database: str, machine: Machine = THIS_MACHINE
) -> list[str]:
    """Makes ``data`` a home of the coordinator whose first home is ``source``, reached at ``advertise``; the addresses
    of all. The one that works hears of it, and tells nodes and devices. May be run again after a failure.

    BadConfig if there is no coordinator in ``source`` or its network is not in the database; Unavailable.
    """
    url = checked_url(advertise)
    pool = machine.pool(1, "database")
    try:
        identity = await pool.run(setup.load_identity, source, machine.files)
        urls = await _same_network(database, identity, machine)
        try:
            opened = await Database.connect(database, pool)
        except Occupied:
            urls = await _tell(identity, urls, url, machine)
        else:
            try:
                urls = list(dict.fromkeys([*urls, url]))
                await opened.run(lambda connection: queries_members.change_network(connection, urls="\n".join(urls)))
            finally:
                await opened.close()
        await pool.run(setup.take_identity, source, data, machine.files)
    except OSError as error:
        if isinstance(error, HoldfastError):
            raise
        raise BadConfig(f"no standby can be made in {data}: {error.strerror or error}") from error
    finally:
        pool.close()
    return urls


async def _same_network(database: str, identity: Identity, machine: Machine) -> list[str]:
    """The addresses of the coordinator in the database; BadConfig unless it is ``identity``."""
    pool = machine.pool(1, "database")
    try:
        found = await pool.run(look, database)
    finally:
        pool.close()
    if found is None:
        raise BadConfig(
            "there is no network in this database: name its own (--database), or: holdfast coordinator init"
        )
    if found.coordinator != identity.id:
        raise BadConfig("the database belongs to another coordinator than identity.key")
    return list(found.urls.split())


async def _tell(identity: Identity, urls: list[str], url: str, machine: Machine) -> list[str]:
    """Tells the coordinator that works of one more address."""
    http = HttpClient(identity=identity, network=machine.network, clock=machine.clock)
    trouble: Unavailable | None = None
    try:
        for known in urls:
            try:
                told = await http.call(
                    Target(identity.id, known), routes.ADDRESSES, m.AddressChange(add=[url]), tries=1
                )
            except Unavailable as error:
                trouble = error
            else:
                return told.urls
    finally:
        await http.close()
    raise Unavailable(
        f"the coordinator that works on this database does not answer at {' or '.join(urls)}, and must hear of this one"
    ) from trouble


async def make_coordinator_server(
    data: Path,
    config: Config,
    *,
    listen: tuple[str, int],
    tls: ssl.SSLContext | None = None,
    survive: int | None = None,
    machine: Machine = THIS_MACHINE,
) -> Running | Succession:
    """The coordinator in ``data``: on its own SQLite, or on a PostgreSQL where others may wait for its place."""
    database = config.section(CoordinatorSettings).database
    if not database:
        return await make_coordinator(data, config, listen=listen, tls=tls, survive=survive, machine=machine)
    return await make_succession(
        data, config, database=database, listen=listen, tls=tls, survive=survive, machine=machine
    )
