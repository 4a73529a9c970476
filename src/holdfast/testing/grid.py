"""A whole network in one process on virtual time: the real coordinator, nodes and vaults over in-memory connections.

Every process gets its own clock, entropy, threads and network view from the seed, and the wiring of ``assemble``; only
the disk is real, below a directory of the caller's. What a kill loses is what a process has in memory: its tasks end
without a goodbye, its connections are reset, its files stay as they are, its open transactions are undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast import assemble
from holdfast.assemble import Machine, NetworkView, OpenVault, Running
from holdfast.blob import Buffer
from holdfast.config import Config
from holdfast.files import AnyPath, OsFiles, Space
from holdfast.testing.life import Killed, Life, databases_watched
from holdfast.testing.loop import VirtualLoop, owned_tasks
from holdfast.testing.memory_network import MemoryNetwork
from holdfast.testing.virtual import SeededPool, VirtualClock

COORDINATOR_PORT = 7430
NODE_PORT = 7420
BOOT_S_MAX = 1_000_000
DISK_BYTES = 1 << 40


class Disk:
    """What the disk of a machine is like, over all lives of its process."""

    def __init__(self) -> None:
        self.full = False


class UnsyncedFiles(OsFiles):
    """Files whose syncs cost nothing: a killed process loses no page cache. While the disk is full, nothing new fits.

    SQLite writes past it: what is full is the place for blobs and small files.
    """

    def __init__(self, disk: Disk | None = None, life: Life | None = None) -> None:
        """``life``: of the process that uses them; once it is over nothing is changed."""
        self._disk = disk or Disk()
        self._life = life or Life()

    def create(self, path: AnyPath) -> int:
        self._life.step()
        self._fits(path)
        return super().create(path)

    def write(self, descriptor: int, data: Buffer) -> None:
        self._life.step()
        self._fits(Path("?"))
        super().write(descriptor, data)

    def link(self, source: AnyPath, target: AnyPath) -> bool:
        self._life.step()
        return super().link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        self._life.step()
        super().rename(source, target)

    def unlink(self, path: AnyPath) -> bool:
        self._life.step()
        return super().unlink(path)

    def make_directory(self, path: Path, *, durable: bool = True) -> bool:
        self._life.step()
        return super().make_directory(path, durable=durable)

    def remove_directory(self, path: Path) -> None:
        self._life.step()
        super().remove_directory(path)

    def space(self, path: Path) -> Space:
        """The same on every machine and at any time: placement goes by free space, and nodes tell of it."""
        return Space(DISK_BYTES, 0 if self._disk.full else DISK_BYTES // 2)

    def _fits(self, path: AnyPath) -> None:
        if self._disk.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def sync(self, descriptor: int) -> None:
        pass

    def sync_directory(self, path: AnyPath) -> None:
        pass


@dataclass
class Process:
    """One server of the grid, running or dead."""

    name: str
    data: Path
    role: str
    running: Running | None = None
    clock: VirtualClock | None = None
    disk: Disk = field(default_factory=Disk)
    life: Life = field(default_factory=Life)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def alive(self) -> bool:
        return self.running is not None


class Grid:
    """Use as ``async with Grid(loop, directory) as grid``: everything runs, and is ended at the end."""

    def __init__(
        self,
        loop: VirtualLoop,
        directory: Path,
        *,
        nodes: int = 6,
        survive: int = 4,
        settings: Mapping[str, Any] | None = None,
        database: str = "",
    ) -> None:
        """``settings``: values by setting name for every process, already typed. ``database``: the URL of an empty
        PostgreSQL database for the coordinator, which is really asked, inline in the pool at its seeded moment."""
        self.loop = loop
        self.network = MemoryNetwork(loop)
        self.directory = directory
        self.coordinator = Process("coordinator", directory / "coordinator", "coordinator")
        self.nodes = [Process(f"node-{number}", directory / f"node-{number}", "node") for number in range(1, nodes + 1)]
        self._survive = survive
        self._settings = dict(settings or {})
        self.database = database
        self._chance = loop.randomness("grid")
        self._vaults: list[OpenVault] = []
        self._machines = 0
        self._operator_home = directory / "operator"
        self._words: list[str] = []
        self.watch: Callable[[], object] = lambda: None
        """Called before each step of any process but messages; see ``Life``."""
        self._disks: dict[str, Disk] = {one.name: one.disk for one in [self.coordinator, *self.nodes]}
        self._watching = databases_watched()

    async def __aenter__(self) -> Grid:
        self._watching.__enter__()
        try:
            return await self._begin()
        except BaseException:
            self._watching.__exit__(None, None, None)
            raise

    async def _begin(self) -> Grid:
        machine = self.machine("coordinator")
        made = await assemble.init_coordinator(
            self.coordinator.data,
            advertise=f"http://coordinator:{COORDINATOR_PORT}",
            survive=self._survive,
            name="coordinator",
            node_uses=len(self.nodes) + 16,
            database=self.database,
            machine=machine,
        )
        self._node_invite = made.invites["node"]
        await self.start(self.coordinator)
        for node in self.nodes:
            await self.join(node)
        operator = self.machine("laptop")
        home = await assemble.init_home(self._operator_home, join=made.invites["operator"], machine=operator)
        self._words = home.words
        await self.until_up(len(self.nodes))
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for vault in self._vaults:
                await vault.close()
            for process in [*self.nodes, self.coordinator]:
                if process.running is not None:
                    running, process.running = process.running, None
                    await running.stop()
        finally:
            self._watching.__exit__(None, None, None)

    def machine(self, name: str, clock: VirtualClock | None = None, life: Life | None = None) -> Machine:
        """The seams of one process on the host ``name``."""
        host = self.network.host(name)
        self._machines += 1  # the same entropy twice would be the same keys and nonces twice
        randomness = self.loop.randomness(f"entropy of {name} {self._machines}")
        delays = self.loop.randomness(f"threads of {name} {self._machines}")
        life = life or Life(self._watch)

        def pool(workers: int | None, label: str) -> SeededPool:
            return SeededPool(self.loop, delays, workers=workers or 4, gate=host.gate, life=life)

        clock = clock or VirtualClock(self.loop, boot_s=self._chance.below(BOOT_S_MAX), gate=host.gate)
        return Machine(UnsyncedFiles(self._disks.setdefault(name, Disk()), life), clock, randomness, host, pool)

    def _watch(self) -> None:
        self.watch()

    async def add_node(self) -> Process:
        """One more node, joined and running."""
        number = len(self.nodes) + 1
        node = Process(f"node-{number}", self.directory / f"node-{number}", "node")
        self.nodes.append(node)
        self._disks[node.name] = node.disk
        await self.join(node)
        return node

    async def join(self, node: Process) -> None:
        """Makes the node and starts it."""
        machine = self.machine(node.name)
        await assemble.init_node(node.data, join=self._node_invite, name=node.name, domain=node.name, machine=machine)
        await self.start(node)

    async def start(self, process: Process) -> None:
        """Starts a process that is dead, on the data it left."""
        assert process.running is None, f"{process.name} runs already"
        host = self.network.host(process.name)
        process.clock = VirtualClock(self.loop, boot_s=self._chance.below(BOOT_S_MAX), gate=host.gate)
        process.life = Life(self._watch)
        host.machine.sends = process.life.sends
        machine = self.machine(process.name, process.clock, process.life)
        port = COORDINATOR_PORT if process.role == "coordinator" else NODE_PORT
        listen = ("0.0.0.0", port)  # noqa: S104 - of an in-memory host
        flags = {**self._settings, "advertise": f"http://{process.name}:{port}"}
        if self.database and process is self.coordinator:
            flags["database"] = self.database
        config = Config.load(process.data, flags=flags, environment={})
        make = assemble.make_coordinator if process.role == "coordinator" else assemble.make_node
        with owned_tasks(process.tasks):
            process.running = await make(process.data, config, listen=listen, machine=machine)
            try:
                await process.running.start()
            except BaseException:
                if process.alive:
                    await self.kill(process)
                raise

    async def stop(self, process: Process) -> None:
        """SIGTERM: it finishes what is under way and says goodbye."""
        assert process.running is not None, f"{process.name} is dead already"
        running, process.running = process.running, None
        await running.stop()
        self.network.crash(process.name)

    async def kill(self, process: Process, *, silent: bool = False) -> None:
        """kill -9, also of a paused process; ``silent``: the plug, so that nobody's connection is reset."""
        await self._bury(process, self._die(process, silent=silent))

    def _die(self, process: Process, *, silent: bool = False) -> Running:
        """From now on nothing that it does is seen."""
        assert process.running is not None, f"{process.name} is dead already"
        running, process.running = process.running, None
        process.life.over = True
        self.network.crash(process.name, silent=silent)
        if self.network.is_paused(process.name):
            self.network.resume(process.name)  # what its threads have begun comes to an end, and changes nothing
        return running

    async def _bury(self, process: Process, running: Running) -> None:
        """Takes away what is left of it in memory."""
        tasks = [task for task in process.tasks if not task.done()]
        process.tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(Killed):
            await running.abandon()

    def kill_after(self, process: Process, steps: int) -> asyncio.Future[None]:
        """kill -9 instead of the process's ``steps``-th step from now (see ``Life``).

        Ends when the process is dead; cancel it to call the kill off.
        """
        end: asyncio.Future[None] = self.loop.create_future()
        life = process.life

        def die() -> None:
            burial = self._bury(process, self._die(process))
            task = contextvars.Context().run(self.loop.create_task, burial)  # not one of its own tasks
            task.add_done_callback(lambda _: None if end.done() else end.set_result(None))

        life.end_in(steps, die)
        end.add_done_callback(lambda _: life.call_off(die))
        return end

    async def add_device(self, host: str) -> Path:
        """Another device of the operator's vault, on a host of its own; its home, for ``vault``."""
        home = self.directory / host
        async with await self.view() as view:
            invite = await view.invite("user")
        await assemble.init_home(home, join=invite, words=" ".join(self._words), machine=self.machine(host))
        return home

    async def vault(self, host: str = "laptop", home: Path | None = None, *, outbox: bool = False) -> OpenVault:
        """The operator's vault as a program on ``host`` opens it, from the operator's home or a device's; closed with
        the grid. ``outbox``: what the network does not take is queued in the home, instead of an error."""
        home = home or self._operator_home
        machine = self.machine(host)
        config = Config.load(home, flags=self._settings, environment={})
        vault = await assemble.open_vault(home, kind=OpenVault, config=config, outbox=outbox, machine=machine)
        self._vaults.append(vault)
        return vault

    async def view(self, host: str = "laptop") -> NetworkView:
        """The operator's questions to the network."""
        return await assemble.open_network(self._operator_home, machine=self.machine(host))

    async def states(self) -> dict[str, str]:
        """The coordinator's word on each node, by name."""
        async with await self.view() as view:
            return {node.name: node.state for node in await view.nodes()}

    async def until_up(self, count: int, limit_s: float = 600.0) -> None:
        """Returns when ``count`` nodes are up; TimeoutError after ``limit_s`` virtual seconds."""
        async with asyncio.timeout(limit_s):
            while list((await self.states()).values()).count("up") < count:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(1)
