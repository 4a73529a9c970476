"""What grows with how much there is, and what does not: the same work at ten and a hundred times as many packs.

A real coordinator on SQLite with nodes that only answer (``tests/coordinator/hall.py``), a real node on its own disk,
a client's index. Time is processor time of the whole process, which asks and answers; ``steps`` are those of SQLite's
virtual machine, which no other load on the machine changes: they are what is judged.
"""

from __future__ import annotations

import asyncio
import functools
import math
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event
from tests.coordinator.hall import FakeNode, Hall
from tests.coordinator.hall import tag_of as hall_tag

from bench import growth_fill
from bench.growth_client import clients
from bench.growth_fill import COPIES, FREED, LOST, MANY, Filled, fill
from bench.growth_node import nodes
from bench.growth_work import GROWTH, STEPS, Taken, Work, Works, figures, table
from bench.measure import MIB, Scale
from bench.peak_memory import peak_bytes
from bench.raw_pipeline import environment
from bench.report import Figure
from holdfast.coordinator import collect
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.metadata import queries_repair
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.serve import Call

NODES = 10
_NEVER = 1e7


class Meter:
    """Counts what SQLite does in the thread of the coordinator's database, from the next connection on."""

    def __init__(self) -> None:
        self.now = Taken()
        self._transaction = 0
        for name, seen in (
            ("connect", self._connected),
            ("begin", self._begun),
            ("before_cursor_execute", self._asked),
        ):
            event.listen(Engine, name, seen)

    def close(self) -> None:
        for name, seen in (
            ("connect", self._connected),
            ("begin", self._begun),
            ("before_cursor_execute", self._asked),
        ):
            event.remove(Engine, name, seen)

    def _connected(self, driver: Any, _: object) -> None:
        if hasattr(driver, "set_progress_handler"):
            driver.set_progress_handler(self._tick, STEPS)

    def _begun(self, _: object) -> None:
        self._transaction = 0

    def _asked(self, *_: object) -> None:
        self.now.statements += 1

    def _tick(self) -> int:
        self.now.steps += STEPS
        self._transaction += STEPS
        self.now.longest = max(self.now.longest, self._transaction)
        return 0

    @contextmanager
    def measure(self, into: list[Taken]) -> Any:
        self.now = Taken()
        began = time.process_time()
        yield
        self.now.seconds = time.process_time() - began
        into.append(self.now)


def run(scale: Scale, directory: Path) -> list[Figure]:
    """At a tenth of ``scale.packs``, at as many, and at ten times as many."""
    sizes = [scale.packs // GROWTH, scale.packs, scale.packs * GROWTH]
    works = [*coordinators(directory, sizes, memory=True), *nodes(directory, sizes), *clients(directory, sizes)]
    print(table(works, sizes))
    return [figure for work in works for figure in figures(work, sizes)]


def coordinators(directory: Path, sizes: Sequence[int], rounds: int = 20, *, memory: bool = False) -> list[Work]:
    """What a coordinator does, at each of ``sizes``, small work ``rounds`` times. ``memory``: says its memory, too."""
    works = Works()
    for size in sizes:
        below = directory / f"{size}"
        below.mkdir()
        began = time.perf_counter()
        one = Coordinators(below, size, works, rounds)
        asyncio.run(one.measure())
        print(f"growth: {size:,} in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if memory:
            peak = process_memory(below / "coordinator")
            print(f"growth: {size:,} packs, a coordinator's process: {peak / MIB:.0f} MiB", file=sys.stderr, flush=True)
    return list(works.values())


def process_memory(data: Path) -> int:
    """Peak bytes of a coordinator's process that has started on ``data`` and looked at every pack once."""
    command = [sys.executable, "-m", "holdfast", "coordinator", "run", "--data", str(data), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        peak, still = 0, 0
        while still < 6 and process.poll() is None:
            time.sleep(0.5)
            now = peak_bytes(process.pid)
            still = still + 1 if now == peak else 0
            peak = now
        return peak
    finally:
        process.terminate()
        process.wait()


class Coordinators:
    """One coordinator with so many packs."""

    def __init__(self, directory: Path, packs: int, works: Works, rounds: int) -> None:
        settings = CoordinatorSettings(
            heartbeat_interval=_NEVER, alarm_interval=_NEVER, repair_interval=_NEVER, sweep_interval=_NEVER,
            save_interval=_NEVER, reflog_interval=_NEVER,
        )  # fmt: skip
        self.hall = Hall(directory / "coordinator", settings)
        self.packs = packs
        self.works = works
        self.rounds = rounds
        self.meter = Meter()
        self.filled = Filled()
        self.news: list[m.InventoryEntry] = []
        self._next = 0

    async def measure(self) -> None:
        hall = self.hall
        hall.directory.mkdir()
        await hall.make(survive=COPIES - 1, nodes=NODES + 1)
        template = hall.owner.write("", parent="")
        self.filled.counts = {}
        slow = hall.coordinator.state.slow_now()
        for number, node in enumerate(hall.nodes, 1):
            node.service.add(routes.INVENTORY, functools.partial(self._inventory, number, node))
        await hall.stop()
        numbers = list(range(1, NODES + 2))
        self.filled = fill(
            hall.directory / "coordinator.db", self.packs, numbers[:-1], numbers[-1], 1, template.record, slow
        )
        assert hall_tag("") == growth_fill._TAG
        for node in hall.nodes:
            node.sequence = self.packs
        with self._take("coordinator: start and the first heartbeats, after a crash", grows=True):
            await hall.start()
            await self._all_agree()
        await hall.restart()
        await self._all_agree()
        await hall.stop()
        with self._take("coordinator: start and the first heartbeats, after a clean stop", grows=True):
            await hall.start()
            await self._all_agree()
        while hall.coordinator.repair.looked is None:  # noqa: ASYNC110 - a worker of its own sets it
            await asyncio.sleep(0.01)
        await self._reads()
        await self._writes()
        await self._hall_beats()
        await self._collection()
        await self._loss()
        await self._whole()
        await hall.close()
        self.meter.close()

    @contextmanager
    def _take(self, name: str, *, grows: bool = False) -> Any:
        with self.meter.measure(self.works.named(name, grows=grows).taken):
            yield

    async def _often(self, name: str, what: Callable[[], Awaitable[object]]) -> None:
        """The average of a few rounds, after one."""
        times = self.rounds
        await what()
        taken: list[Taken] = []
        with self.meter.measure(taken):
            for _ in range(times):
                await what()
        self.works.named(name).taken.append(taken[0].over(times))

    # --- what people ask ---

    async def _reads(self) -> None:
        owner = self.hall.owner

        async def page(parent: bytes | None, after: bytes | None = None, *, trash: bool = False) -> m.RefPage:
            query = m.RefQuery(
                parent=parent.hex() if parent else None, after=after.hex() if after else None, trash=trash, limit=100
            )
            found = await owner.ask(routes.REFS, query, owner.path())
            assert found.records
            return found

        large, middle = growth_fill.directory_tag(0), b"\x80" + bytes(31)
        plain = growth_fill.directory_tag(1 + (self.packs - 1) // growth_fill.ENTRIES)
        await self._often("coordinator: ls of 100 names", lambda: page(plain))
        await self._often("coordinator: a page in the middle of 400 names", lambda: page(large, middle))
        await self._often("coordinator: a page in the middle of the vault", lambda: page(None, middle))
        await self._often("coordinator: ls --trash of 100 names", lambda: page(plain, trash=True))
        await self._often("coordinator: get, the ref of a file", self._get)

    async def _get(self) -> None:
        owner = self.hall.owner
        self._next += 1
        tag = growth_fill.tag_of(MANY + (self._next * 7919) % (self.packs - MANY) // 100 * 100 + 1)
        found = await owner.ask(routes.REF, None, {**owner.path(), "tag": tag.hex()})
        assert found.packs

    # --- what devices write ---

    async def _writes(self) -> None:
        await self._often("coordinator: put, plan and commit of one file", self._put)

    async def _put(self, files: int = 1) -> None:
        owner = self.hall.owner
        await owner.ask(routes.PLAN, m.PlanRequest(vault=owner.vault.id, items=[m.PlanItem(size=4096)] * files))
        packs, written = [], []
        for _ in range(files):
            self._next += 1
            packs.append(self.hall.pack(f"new {self._next}"))
            written.append(owner.write(f"new {self._next}", [packs[-1].digest]))
            for number in range(1, COPIES + 1):
                self.filled.place(number, packs[-1].digest)
            self.news.append(
                m.InventoryEntry(
                    digest=packs[-1].digest, size=1000, sequence=self.hall.nodes[0].sequence, vault=owner.vault.id,
                    here=True,
                )
            )  # fmt: skip
        assert await owner.states(written, packs=packs) == [["committed"] * files]

    # --- what nodes say ---

    async def _beat(self, node: FakeNode, **changes: Any) -> None:
        number = self.hall.nodes.index(node) + 1
        count, root = self.filled.counts.get(number, 0), self.filled.root(number)
        await node.beat(count=count, root=root, **changes)

    async def _inventory(self, number: int, node: FakeNode, call: Call, query: m.InventoryQuery) -> m.InventoryPage:
        entries = [entry for entry in self.news if entry.sequence > query.after] if number <= COPIES else []
        return m.InventoryPage(
            entries=entries, sequence=node.sequence, count=self.filled.counts.get(number, 0),
            root=self.filled.root(number),
        )  # fmt: skip

    async def _all_agree(self) -> None:
        for node in self.hall.nodes:
            await self._beat(node)
        inventory = self.hall.coordinator.inventory
        while inventory._reading:
            await asyncio.wait(list(inventory._reading.values()))
        registry = self.hall.coordinator.state.registry
        assert all(map(registry.is_live, registry.all()))

    async def _hall_beats(self) -> None:
        await self._all_agree()
        self.news.clear()
        await self._often("coordinator: heartbeat, idle", lambda: self._beat(self.hall.nodes[0]))
        await self._put(100)
        with self._take("coordinator: heartbeat with 100 changes"):
            await self._all_agree()

    # --- what the coordinator does by itself ---

    async def _collection(self) -> None:
        def cycle(connection: Connection) -> int:
            collect.release(connection, state.slow_now())
            trashed = collect.trash(connection)
            return len(trashed) + len(queries_repair.trashed_places(connection, live, 1000))

        state = self.hall.coordinator.state
        live = sorted(state.registry.live())
        with self._take("coordinator: collection that frees 100 packs"):
            assert await self.hall.run(cycle) == FREED * (1 + COPIES)

    async def _loss(self) -> None:
        coordinator = self.hall.coordinator
        await coordinator.repair.unit()
        with self._take("coordinator: a node of 500 packs is lost, found and planned"):
            await self._beat(self.hall.nodes[-1], leaving=True)
            coordinator.repair.now()
            await coordinator.repair.unit()
        assert coordinator.repair.debt.due_packs == LOST, coordinator.repair.debt
        assert coordinator.dispatch.copying()[0] > 0

    async def _whole(self) -> None:
        """What looks at everything, and says so."""
        coordinator = self.hall.coordinator
        with self._take("coordinator: status, the packs counted by their copies", grows=True):
            await coordinator.counts.by_copies()
        with self._take("coordinator: the list of nodes, their packs counted", grows=True):
            await coordinator.counts.by_node()
        coordinator.repair.looked, coordinator.repair._swept = None, -math.inf
        with self._take("coordinator: the hourly look for packs with too few copies", grows=True):
            await coordinator.repair.unit()
        with self._take("coordinator: the look for packs with too many copies", grows=True):
            await coordinator.tidy._look()
