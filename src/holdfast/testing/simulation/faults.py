"""What goes wrong in a simulation: faults by the dozen, each with its end.

Faults are placed so that recovery exists (TigerBeetle's storage simulator): whatever is done to disks, one right copy
of every pack stays somewhere.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from holdfast.blob import Digest
from holdfast.clock import Randomness
from holdfast.errors import HoldfastError, NoSpace
from holdfast.metadata.dialects import postgresql_engine
from holdfast.metadata.tables import PackState
from holdfast.testing.grid import Grid, Process
from holdfast.testing.simulation.model import Broken

T = TypeVar("T")

SLOW_FACTOR = 100.0
START_AGAIN_S = 10.0
STEPS_S = (-7200.0, -400.0, -30.0, 30.0, 400.0, 7200.0)


def pick(weighted: Sequence[tuple[int, T]], chance: Randomness) -> T:
    """One of them, by weight."""
    at = chance.below(sum(weight for weight, _ in weighted))
    for weight, value in weighted:
        at -= weight
        if at < 0:
            return value
    raise AssertionError("weights are positive")


def _for_want_of_space(error: BaseException) -> bool:
    """Is this, or what it came from, a full disk's word? By now it may have room again."""
    while error.__cause__ is not None and not isinstance(error, NoSpace):
        error = error.__cause__
    return isinstance(error, NoSpace) or (isinstance(error, OSError) and error.errno == errno.ENOSPC)


def span(chance: Randomness) -> float:
    """Seconds that a fault lasts: mostly short, at times long enough for repair to begin."""
    kind = chance.below(10)
    if kind < 6:
        return 1.0 + 60.0 * chance.random()
    if kind < 9:
        return 60.0 + 240.0 * chance.random()
    return 700.0 + 500.0 * chance.random()


class Kept(NamedTuple):
    """A pack that refs keep."""

    digest: Digest
    target: int


@dataclass
class _Looked:
    """The coordinator's database as it was looked at last; most looks at the disks find it unchanged."""

    inode: int
    connection: sqlite3.Connection
    version: int = -1
    kept: list[Kept] = field(default_factory=list)

    def __del__(self) -> None:
        self.connection.close()


def _as_kept(rows: Iterable[Any]) -> list[Kept]:
    return [Kept(Digest(bytes(digest)), target) for digest, target in rows]


class Disks:
    """The nodes' disks, looked at behind their backs: which copies are right, and that none goes which is needed."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._rotten: dict[tuple[str, Digest], None] = {}
        self._best: dict[Digest, int] = {}
        self._flipped: Counter[Digest] = Counter()
        self._looked: _Looked | None = None

    def kept(self) -> list[Kept]:
        """What the coordinator's database has on record as kept, also while it is down."""
        kept = f"select digest, target from packs where state = {int(PackState.LIVE)} order by digest"  # noqa: S608
        if self._grid.database:
            with postgresql_engine(self._grid.database).connect() as server:
                return _as_kept(server.exec_driver_sql(kept))
        path = self._grid.coordinator.data / "coordinator.db"
        inode = path.stat().st_ino
        if self._looked is None or self._looked.inode != inode:
            self._looked = _Looked(inode, sqlite3.connect(path))
        looked = self._looked
        version = looked.connection.execute("pragma data_version").fetchone()[0]
        if looked.version != version:  # somebody else has committed since
            looked.version, looked.kept = version, _as_kept(looked.connection.execute(kept))
        return looked.kept

    def path(self, node: Process, digest: Digest) -> str:
        text = str(digest)
        return f"{node.data}/objects/{text[:2]}/{text}"

    def is_good(self, node: Process, digest: Digest) -> bool:
        """Does the node's disk hold the right bytes?"""
        path = self.path(node, digest)
        if (node.name, digest) not in self._rotten:
            return os.path.exists(path)
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            del self._rotten[node.name, digest]  # it was noticed and set aside
            return False
        if hashlib.sha256(data).digest() != bytes(digest):
            return False
        del self._rotten[node.name, digest]
        return True

    def copies(self, digest: Digest) -> list[Process]:
        """Who has a right copy on disk, running or not."""
        return [node for node in self._grid.nodes if self.is_good(node, digest)]

    def check(self) -> None:
        """Broken if a copy that is needed has gone otherwise than by our own doing."""
        for pack in self.kept():
            good = len(self.copies(pack.digest))
            base = min(self._best.get(pack.digest, 0), pack.target)
            # rot that nobody has noticed yet may have been counted on when a copy too many went
            rotten = sum((node.name, pack.digest) in self._rotten for node in self._grid.nodes)
            if good + max(self._flipped[pack.digest], rotten) < base or not good:
                raise Broken(
                    f"pack {pack.digest} has {good} right copies on all disks; it had {base} and "
                    f"{self._flipped[pack.digest]} were made rotten"
                )
            if good >= base:
                self._flipped[pack.digest] = 0
            self._best[pack.digest] = max(base, good)

    def flip(self, chance: Randomness) -> str:
        """One bit of a copy that is not the last right one; what was hit."""
        self.check()
        packs = self.kept()
        for _ in range(10):
            if not packs:
                break
            pack = packs[chance.below(len(packs))]
            good = self.copies(pack.digest)
            if len(good) < 2:
                continue
            node = good[chance.below(len(good))]
            path = Path(self.path(node, pack.digest))
            data = bytearray(path.read_bytes())
            data[chance.below(len(data))] ^= 1 << chance.below(8)
            path.write_bytes(bytes(data))
            self._rotten[node.name, pack.digest] = None
            self._flipped[pack.digest] += 1
            return f"{node.name} {pack.digest}"
        return "nothing"

    def lose_files(self, node: Process, chance: Randomness) -> int:
        """A file system check took some files of a dead node, none of them the last right copy; how many."""
        self.check()
        lost = 0
        for pack in self.kept():
            good = self.copies(pack.digest)
            if chance.below(3) == 0 and node in good and len(good) > 1:
                Path(self.path(node, pack.digest)).unlink()
                self._flipped[pack.digest] += 1
                lost += 1
        return lost

    def can_spare(self, nodes: Sequence[Process]) -> bool:
        """Has every pack a right copy elsewhere?"""
        return all(any(one not in nodes for one in self.copies(pack.digest)) for pack in self.kept())

    def lost(self, nodes: Sequence[Process]) -> None:
        """These never come back: it is we who took their copies."""
        for pack in self.kept():
            self._flipped[pack.digest] += sum(self.is_good(node, pack.digest) for node in nodes)
        for node in nodes:
            shutil.rmtree(node.data / "objects")

    def short(self, nodes: list[Process]) -> list[str]:
        """Kept packs with fewer right copies on the disks of ``nodes`` than their target."""
        found = []
        for pack in self.kept():
            good = [node.name for node in nodes if self.is_good(node, pack.digest)]
            if len(good) < pack.target:
                found.append(f"{pack.digest} is on {' '.join(good) or 'none'} of {pack.target}")
        return found


class Faults:
    """Makes faults and ends them. ``calm`` ends all at once."""

    def __init__(self, grid: Grid, disks: Disks, chance: Randomness, clients: list[str]) -> None:
        self.count: Counter[str] = Counter()
        self.flips = 0
        self.steps = 0
        self._grid = grid
        self._disks = disks
        self._chance = chance
        self._clients = clients
        self._calm = asyncio.Event()
        self._under_way: dict[asyncio.Task[None], None] = {}
        self._taken: dict[str, None] = {}
        """Processes that are killed or paused, or about to be."""
        self.broken: list[BaseException] = []
        self.doomed: list[Process] = []
        """Nodes that do not come back."""
        self._kinds: list[tuple[int, tuple[str, Callable[[], Coroutine[Any, Any, None] | None]]]] = [
            (5, ("kill", self._kill)),
            (3, ("restart", self._restart)),
            (3, ("pause", self._pause)),
            (3, ("slow", self._slow)),
            (4, ("partition", self._partition)),
            (5, ("lost answer", self._lose_answers)),
            (3, ("full disk", self._fill)),
            (4, ("bit flip", self._flip)),
            (1, ("lost files", self._lose_files)),
            (3, ("coordinator", self._kill_coordinator)),
            (2, ("clock step", self._step)),
        ]

    def begin(self) -> None:
        """One more fault, of a kind that is possible now."""
        while True:
            name, make = pick(self._kinds, self._chance)
            going = make()
            if going is None:
                continue
            self.count[name] += 1
            task = asyncio.get_running_loop().create_task(going)
            self._under_way[task] = None
            task.add_done_callback(self._ended)
            return

    def doom(self, survive: int, nodes: int) -> None:
        """Some of the dead never come back: as many as the network bears and can make up for."""
        dead = [node for node in self._grid.nodes if not node.alive]
        count = min(self._chance.below(3), survive, nodes - max(survive + 1, 3))
        while len(self.doomed) < count and dead:
            node = dead.pop(self._chance.below(len(dead)))
            if self._disks.can_spare([*self.doomed, node]):
                self._say("doom", node.name)
                self.doomed.append(node)
        self._disks.lost(self.doomed)

    async def calm(self) -> None:
        """Ends every fault: all processes run but the doomed, all links are whole, no disk is full. Rot stays."""
        self._calm.set()
        while self._under_way:
            await asyncio.wait(list(self._under_way))
        self._grid.network.heal()
        for name in self._clients:
            for link in self._grid.network.links(name):
                link.answers_to_drop = 0

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broken.append(error)

    def _say(self, kind: str, *values: object) -> None:
        self._grid.loop.trace.record("fault", kind, *values)

    async def _for(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._calm.wait()
        except TimeoutError:
            pass

    def _free(self) -> list[Process]:
        return [node for node in self._grid.nodes if node.alive and node.name not in self._taken]

    def _a_node(self) -> Process | None:
        free = self._free()
        return free[self._chance.below(len(free))] if free else None

    def _hosts(self) -> list[str]:
        return [*self._clients, "coordinator", *(node.name for node in self._grid.nodes)]

    def _a_host(self) -> str:
        hosts = self._hosts()
        return hosts[self._chance.below(len(hosts))]

    # --- processes ---

    def _kill(self) -> Coroutine[Any, Any, None] | None:
        node = self._a_node()
        return None if node is None else self._down(node, self._grid.kill, span(self._chance))

    def _lose_files(self) -> Coroutine[Any, Any, None] | None:
        node = self._a_node()
        return None if node is None else self._down(node, self._grid.kill, span(self._chance), loses=True)

    def _restart(self) -> Coroutine[Any, Any, None] | None:
        node = self._a_node()
        return None if node is None else self._down(node, self._grid.stop, 10.0 * self._chance.random())

    def _kill_coordinator(self) -> Coroutine[Any, Any, None] | None:
        if "coordinator" in self._taken:
            return None
        end = self._grid.kill if self._chance.below(3) else self._grid.stop
        seconds = span(self._chance) if self._chance.below(6) == 0 else 60.0 * self._chance.random()
        return self._down(self._grid.coordinator, end, seconds)  # while it is down little else can be tried

    async def _down(
        self, process: Process, end: Callable[[Process], Awaitable[None]], seconds: float, *, loses: bool = False
    ) -> None:
        self._taken[process.name] = None
        self._say(end.__name__, process.name, seconds)
        await end(process)
        if loses:
            self.flips += 1
            self._say("lost files", self._disks.lose_files(process, self._chance))
        await self._for(seconds)
        while process not in self.doomed:
            try:
                await self._grid.start(process)
                break
            except HoldfastError as error:
                if not _for_want_of_space(error):
                    raise Broken(f"{process.name} does not start: {error.detail}") from error
            await asyncio.sleep(START_AGAIN_S)
        del self._taken[process.name]

    def _pause(self) -> Coroutine[Any, Any, None] | None:
        processes = self._free()
        if "coordinator" not in self._taken:
            processes.append(self._grid.coordinator)
        if not processes:
            return None
        process, seconds = processes[self._chance.below(len(processes))], span(self._chance)
        return self._stand_still(process.name, min(seconds, 60.0) if process.role == "coordinator" else seconds)

    async def _stand_still(self, name: str, seconds: float) -> None:
        self._taken[name] = None
        self._say("pause", name, seconds)
        self._grid.network.pause(name)
        await self._for(seconds)
        self._grid.network.resume(name)
        del self._taken[name]

    # --- network ---

    def _slow(self) -> Coroutine[Any, Any, None] | None:
        return self._crawl(self._a_host(), span(self._chance))

    async def _crawl(self, name: str, seconds: float) -> None:
        self._say("slow", name, seconds)
        links = self._grid.network.links(name)
        for link in links:
            link.slow(SLOW_FACTOR)
        await self._for(seconds)
        for link in links:
            link.slow(1.0 / SLOW_FACTOR)

    def _partition(self) -> Coroutine[Any, Any, None] | None:
        source, target = self._a_host(), self._a_host()
        return None if source == target else self._cut(source, target, span(self._chance))

    async def _cut(self, source: str, target: str, seconds: float) -> None:
        self._say("cut", source, target, seconds)
        self._grid.network.link(source, target).cut()
        await self._for(seconds)
        self._grid.network.link(source, target).heal()

    def _lose_answers(self) -> Coroutine[Any, Any, None] | None:
        source, target = self._a_host(), self._a_host()
        if self._chance.below(2):
            source, target = self._clients[self._chance.below(len(self._clients))], "coordinator"
        return None if source == target else self._drop(source, target, 1 + self._chance.below(3))

    async def _drop(self, source: str, target: str, count: int) -> None:
        self._say("lost answers", source, target, count)
        self._grid.network.link(source, target).drop_answers(count)

    # --- disks and clocks ---

    def _fill(self) -> Coroutine[Any, Any, None] | None:
        node = self._grid.nodes[self._chance.below(len(self._grid.nodes))]
        return None if node.disk.full else self._full(node, span(self._chance))

    async def _full(self, node: Process, seconds: float) -> None:
        self._say("full", node.name, seconds)
        node.disk.full = True
        await self._for(seconds)
        node.disk.full = False

    def _flip(self) -> Coroutine[Any, Any, None] | None:
        return self._rot()

    async def _rot(self) -> None:
        self.flips += 1
        self._say("flip", self._disks.flip(self._chance))

    def _step(self) -> Coroutine[Any, Any, None] | None:
        return self._jump()

    async def _jump(self) -> None:
        processes = [one for one in [self._grid.coordinator, *self._grid.nodes] if one.clock is not None]
        process = processes[self._chance.below(len(processes))]
        seconds = STEPS_S[self._chance.below(len(STEPS_S))]
        self.steps += 1
        self._say("clock", process.name, seconds)
        assert process.clock is not None
        process.clock.step(seconds)
