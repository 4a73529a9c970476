"""One seed, one run of a whole network: operations of all kinds while all kinds of things go wrong, then quiet.

Every acknowledgement and every answer is checked against a model, the disks are looked at behind everybody's back, and
what is logged must be foreseen. When the faults have stopped the network must be whole within 30 virtual minutes, and
every acknowledged byte readable. The same seed gives the same trace (docs/design.md, 10). The shape is TigerBeetle's:
first nothing wrong may ever be returned, then no excuse is accepted.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast import errors, logs
from holdfast.assemble import OpenVault
from holdfast.coordinator.app import Coordinator
from holdfast.errors import HoldfastError
from holdfast.metadata import queries_status
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run
from holdfast.testing.simulation.faults import Disks, Faults
from holdfast.testing.simulation.judge import Judge
from holdfast.testing.simulation.model import Broken, Model
from holdfast.testing.simulation.operations import Client, Operations
from holdfast.testing.simulation.operator import Operator

MINUTE_S = 60.0
WHOLE_S_MAX = 30 * MINUTE_S
LIMIT_S = 12 * 3600.0
FAULT_S_MAX = 50.0
OPERATIONS = 200
FAULTS = 20

SETTINGS: dict[str, Any] = {
    "out_after": 10 * MINUTE_S,
    "surplus_after": 5 * MINUTE_S,
    "breaker_hold": 20 * MINUTE_S,
    "repair_interval": 15.0,
    "history": 10 * MINUTE_S,
    "lease": 30 * MINUTE_S,
    "trash": 10 * MINUTE_S,
    "scrub_period": 8 * MINUTE_S,
    "adopt_after": 10 * MINUTE_S,
    "adopt_lease": 15 * MINUTE_S,
    "chunk_size": 64 << 10,
    "pack_size": 256 << 10,
    "peer_check": 10 * MINUTE_S,  # nodes that ask each other how they are would be most of what happens
}
"""Days become minutes, so that history ends, trash is emptied and surplus copies go within one run."""

LOGGED = ("name", "node", "worker", "digest", "state", "kind", "packs")


@dataclass(slots=True)
class Outcome:
    """What a seed came to. ``trace``: equal for equal runs. ``broken``: None, or the promise that was."""

    seed: int
    nodes: int
    survive: int
    operations: int = 0
    acknowledged: int = 0
    faults: int = 0
    virtual_s: float = 0.0
    whole_s: float = 0.0
    trace: str = ""
    broken: str | None = None
    said: Counter[str] = field(default_factory=Counter)
    """How operations and faults ended, counted."""
    lines: list[str] = field(default_factory=list)


def simulate(
    seed: int,
    directory: Path,
    *,
    operations: int = OPERATIONS,
    faults: int = FAULTS,
    sink: Callable[[str], object] | None = None,
    database: str = "",
) -> Outcome:
    """Runs one seed in ``directory``, which must be empty; never raises for a promise that was broken.

    ``database``: the URL of an empty PostgreSQL database for the coordinator, instead of SQLite.
    """
    shape = VirtualLoop(seed).randomness("shape")
    survive = 1 + shape.below(4)
    nodes = min(9, max(5, survive + 2 + shape.below(4)))
    outcome = Outcome(seed, nodes, survive)

    async def main(loop: VirtualLoop) -> None:
        loop.trace.sink = sink
        try:
            await _Run(loop, directory, outcome, clients=1 + shape.below(2), database=database).run(operations, faults)
        finally:
            outcome.virtual_s, outcome.trace, outcome.lines = loop.time(), loop.trace.digest(), list(loop.trace.lines)

    try:
        run(main, seed=seed, limit_s=LIMIT_S)
    except Exception as error:
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        outcome.broken = "".join(traceback.format_exception(first))
    return outcome


class _Run:
    def __init__(self, loop: VirtualLoop, directory: Path, outcome: Outcome, clients: int, database: str) -> None:
        self.loop = loop
        self.model = Model()
        self.outcome = outcome
        self._directory = directory
        self._database = database
        self._chance = loop.randomness("simulate")
        self._client_count = clients
        self._unforeseen: list[str] = []

    async def run(self, operations: int, faults: int) -> None:
        shape = self.outcome
        with logs.read_by(self._heard):
            async with Grid(
                self.loop,
                self._directory,
                nodes=shape.nodes,
                survive=shape.survive,
                settings=SETTINGS,
                database=self._database,
            ) as self.grid:
                self.disks = Disks(self.grid)
                hosts = ["laptop", "desk"][: self._client_count]
                self.faults = Faults(self.grid, self.disks, self.loop.randomness("faults"), hosts)
                self.judge = Judge(self.loop, self.faults, shape.said, operations)
                self.operations = Operations(self.loop, self.model, self.judge, self._directory)
                self.operator = Operator(self.grid, self.judge)
                try:
                    await self._trouble(hosts, faults)
                    self.faults.doom(shape.survive, shape.nodes)
                finally:
                    await self.faults.calm()
                await self._quiet()
        if self.loop.unhandled:
            raise Broken(f"an exception that nobody awaited: {self.loop.unhandled[0]}")

    def _heard(self, level: str, fields: Mapping[str, Any]) -> None:
        """An exception that is neither ours nor the system's is a bug wherever it was caught."""
        error = fields.get("exc_info")
        if error is True:
            error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, HoldfastError | OSError):
            self._unforeseen.append(f"{fields.get('event')}: {''.join(traceback.format_exception(error))}")
        said = (f"{key}={fields[key]}" for key in LOGGED if key in fields)  # reasons may name paths of this machine
        self.loop.trace.record("log", level, fields.get("event"), *said)

    # --- trouble ---

    async def _trouble(self, hosts: list[str], faults: int) -> None:
        self._clients = []
        for number, host in enumerate(hosts):
            home = None if number == 0 else await self.grid.add_device(host)
            vault = await self.grid.vault(host, home)
            self._clients.append(Client(host, home, vault, self.loop.randomness(f"client {host}")))
        operations = self.judge.left
        async with asyncio.TaskGroup() as group:
            for client in self._clients:
                for _ in range(2):
                    group.create_task(self.operations.use(client))
            group.create_task(self.operator.operate())
            group.create_task(self._break(faults))
        self.outcome.operations = operations - self.judge.left
        self.outcome.acknowledged = self.judge.acknowledged

    async def _break(self, faults: int) -> None:
        """Faults until there were enough of them, and as long as there are operations."""
        done = 0
        while done < faults or self.judge.left > 0:
            await asyncio.sleep(FAULT_S_MAX * self._chance.random())
            self.faults.begin()
            done += 1
            self._check_all()
        self.outcome.faults = done

    def _check_all(self) -> None:
        self.disks.check()
        if self.faults.broken:
            raise self.faults.broken[0]
        if self._unforeseen:
            raise Broken(f"an exception that nobody foresaw: {self._unforeseen[0]}")

    # --- quiet ---

    async def _quiet(self) -> None:
        """No more faults: whole in time, and everything that was acknowledged is there."""
        began = self.loop.time()
        self.loop.trace.record("quiet")
        self._check_all()
        await self.operator.calm()
        while missing := await self._missing():
            if self.loop.time() - began > WHOLE_S_MAX:
                raise Broken(f"not whole after {WHOLE_S_MAX / MINUTE_S:.0f} virtual minutes: {'; '.join(missing[:5])}")
            await asyncio.sleep(10.0)
        self.outcome.whole_s = self.loop.time() - began
        self._check_all()
        for client in self._clients:
            await self._read_all(client.vault)
            self.operations.check_moves()
            await client.vault.close()
            await self._read_all(await self.grid.vault(client.host, client.home))
        self._check_all()

    async def _missing(self) -> list[str]:
        """What is not whole yet: nodes, what is on record, and what is on the disks."""
        running = self.grid.coordinator.running
        assert running is not None
        app = running.app
        assert isinstance(app, Coordinator)
        registry = app.state.registry
        gone = {node.name for node in self.faults.doomed}
        silent = [node for node in registry.all() if not registry.is_live(node) and node.name not in gone]
        found = [f"{node.name} is {registry.hearing(node)}" for node in silent]
        if not found and app.repair.breaker.state != "closed":
            found.append(f"the breaker is {app.repair.breaker.state}")
        if not found:
            absent = sorted(registry.absent())
            for row in await app.state.database.run(queries_status.packs_by_copies, absent):
                if row.live < row.target:
                    found.append(f"{row.packs} packs have {row.live} copies of {row.target} on record")
        return found or self.disks.short([node for node in self.grid.nodes if node.alive])

    async def _read_all(self, vault: OpenVault) -> None:
        for name in list(self.model.names.values()):
            try:
                content: bytes | None = await vault.read(name.path, fresh=True)
            except errors.NotFound:
                content = None
            except HoldfastError as error:
                raise Broken(f"{name.path} cannot be read when all is quiet: {error.detail}") from error
            name.read(content, fresh=True)
        found = {one.name: one.size async for one in vault.list("", recursive=True, fresh=True) if one.kind == "file"}
        self.model.listed("", self.model.before_listing(""), found)
