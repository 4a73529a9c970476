"""SIGKILL before any step of a put, repair, trim and collection: never fewer copies than there were, and it converges.

A step is a file that is changed, a statement of a transaction, its commit, a message that goes out, the end of a piece
of blocking work (``testing/life.py``). One grid lives through all of a sweep's kills, each one step later than the one
before; at every step of every process the disks are looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.heal.test_heal_grid import MINUTE, check, coordinator, fill, node_of, story

from holdfast.blob import Digest
from holdfast.errors import HoldfastError, NotFound
from holdfast.testing.grid import Grid, Process
from holdfast.testing.simulation.faults import Disks
from holdfast.testing.simulation.model import Broken
from holdfast.wire import routes
from holdfast.wire.http import Target

COPIES = 3
NODES = 4
BRISK = {
    "heartbeat_interval": 10.0, "out_after": 60.0, "surplus_after": 20.0, "sweep_interval": 10.0,
    "repair_interval": 5.0, "history": 30.0, "lease": 60.0, "trash": 60.0, "peer_check": 600.0,
}  # fmt: skip
POSTGRESQL_LOOKS = 20
"""To ask a PostgreSQL what is kept takes longer than a step: one step in so many is looked at there."""
TOO_LATE = 12
"""So many kills in a row that came too late end a sweep of every step."""

Once = Callable[[int, Process], Awaitable[bool]]
Steps = range | str
"""Some steps, or the name of the process that is killed at each of its own."""


class Watch:
    """Looks at the disks before each step of each process, also of those that are not killed."""

    def __init__(self, grid: Grid, *, whole: bool = False) -> None:
        """``whole``: a pack that is live has all its copies on the disks, from the moment of its commit."""
        self.disks = Disks(grid)
        self._grid = grid
        self._whole = whole
        self._broken: Broken | None = None
        self._steps = 0
        grid.watch = self

    def __call__(self) -> None:
        self._steps += 1
        if self._grid.database and self._steps % POSTGRESQL_LOOKS:
            return
        self._look()

    def _look(self) -> None:
        try:
            self.disks.check()
            if self._whole and (short := self.disks.short(self._grid.nodes)):
                raise Broken(f"live with too few copies: {short[0]}")
        except Broken as error:  # whose step it is must not hear of it
            self._broken = self._broken or error

    def check(self) -> None:
        self._look()
        if self._broken is not None:
            raise self._broken


async def dead(end: asyncio.Future[None], victim: Process) -> bool:
    """Calls the kill off, unless it has begun: then it is waited for."""
    if victim.alive:
        end.cancel()
        return False
    await end
    return True


async def killed_or_done(grid: Grid, victim: Process, step: int, done: Callable[[], Awaitable[bool]]) -> bool:
    """Kills ``victim`` before that step, starts it again, and waits for ``done``; False if it was done before."""
    end = grid.kill_after(victim, step)
    async with asyncio.timeout(30 * MINUTE):
        while not end.done() and not await done():  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(1)
        hit = await dead(end, victim)
        if hit:
            await asyncio.sleep(5)
            await grid.start(victim)
        while not await done():  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(2)
    return hit


async def insist(ask: Callable[[], Awaitable[object]]) -> None:
    """A coordinator that has just started answers in a moment."""
    for _ in range(30):
        try:
            await ask()
        except HoldfastError:
            await asyncio.sleep(2)
        else:
            return
    await ask()


async def sweep(grid: Grid, steps: Steps, once: Once) -> None:
    """``once`` at ``steps`` with the coordinator and a node by turns, or at every step of one process."""
    if isinstance(steps, range):
        chosen = enumerate(steps)
        hits = [await once(step, one) for at, step in chosen for one in (grid.coordinator, grid.nodes[at % NODES])]
        assert sum(hits) >= len(steps) // 2, "most kills came too late"
        return
    victim = next(one for one in [grid.coordinator, *grid.nodes] if one.name == steps)
    late = kills = 0
    for step in itertools.count(1):
        hit = await once(step, victim)
        kills, late = kills + hit, 0 if hit else late + 1
        if late == TOO_LATE:
            break
    print(f"{victim.name}: {kills} kills, the last before step {step - TOO_LATE}")


def depths(some: range) -> list[object]:
    every = ["coordinator", *(f"node-{number}" for number in range(1, NODES + 1))]
    return [pytest.param(some, id="some"), *(pytest.param(one, id=one, marks=pytest.mark.slow) for one in every)]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("steps", depths(range(2, 30, 5)))
def test_killed_while_files_are_put(steps: Steps, tmp_path: Path) -> None:
    """What was acknowledged is there with all its copies; what was not is there whole or not at all, and can be put."""

    async def tell(grid: Grid) -> None:
        contents, watch, vault = await fill(grid, files=1), Watch(grid, whole=True), await grid.vault()
        number = 0

        async def once(step: int, victim: Process) -> bool:
            nonlocal number
            number += 1
            name, data = f"put-{number}", b"%d " % number * 700
            end, acknowledged = grid.kill_after(victim, step), True
            try:
                await vault.put(data, name)
            except HoldfastError:
                acknowledged = False
            watch.check()
            hit = await dead(end, victim)
            assert hit or acknowledged, "only a dead process is a reason to fail"
            if hit:
                await grid.start(victim)
                await grid.until_up(NODES)
            try:
                assert await vault.read(name, fresh=True) == data
            except NotFound:
                assert not acknowledged
            await vault.put(data, name)
            watch.check()
            contents[name] = data
            return hit

        await sweep(grid, steps, once)
        await check(grid, contents)

    story(tmp_path, tell, nodes=NODES, survive=COPIES - 1, settings=BRISK)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("steps", depths(range(1, 30, 7)))
def test_killed_while_a_rotten_copy_is_replaced(steps: Steps, tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents, watch = await fill(grid, files=1), Watch(grid)
        disks, chance = watch.disks, grid.loop.randomness("rot")

        async def whole() -> bool:
            watch.check()
            return not disks.short(grid.nodes)

        async def once(step: int, victim: Process) -> bool:
            name, digest = disks.flip(chance).split()
            node = next(one for one in grid.nodes if one.name == name)
            target = Target(node_of(grid, node).id, node_of(grid, node).url)
            call = coordinator(grid).state.http.call(target, routes.BLOB_VERIFY, path={"digest": digest})
            asking = asyncio.create_task(call)
            hit = await killed_or_done(grid, victim, step, whole)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            return hit

        await sweep(grid, steps, once)
        await check(grid, contents)

    story(tmp_path, tell, nodes=NODES, survive=COPIES - 1, settings={**BRISK, "scrub_period": 60.0})


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("steps", depths(range(3, 80, 20)))
def test_killed_while_a_node_is_emptied(steps: Steps, tmp_path: Path) -> None:
    """Its packs are copied elsewhere, then its own copies are trimmed."""

    async def tell(grid: Grid) -> None:
        contents, watch = await fill(grid, files=1), Watch(grid)
        disks, at = watch.disks, 0
        async with await grid.view() as view:

            async def once(step: int, victim: Process) -> bool:
                nonlocal at
                leaving = grid.nodes[at % NODES]
                at += 1
                id_ = node_of(grid, leaving).id
                staying = [one for one in grid.nodes if one is not leaving]

                async def emptied() -> bool:
                    watch.check()
                    there = any(disks.is_good(leaving, pack.digest) for pack in disks.kept())
                    return not there and not disks.short(staying)

                await insist(lambda: view.drain_node(id_))
                hit = await killed_or_done(grid, victim, step, emptied)
                await insist(lambda: view.drain_node(id_, drain=False))
                return hit

            await sweep(grid, steps, once)
        await check(grid, contents)

    story(tmp_path, tell, nodes=NODES, survive=COPIES - 1, settings=BRISK)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("steps", depths(range(5, 90, 29)))
@pytest.mark.parametrize("put_again", [False, True], ids=["alone", "put-again"])
def test_killed_while_what_nothing_holds_is_collected(steps: Steps, put_again: bool, tmp_path: Path) -> None:
    """Bytes that are put again right then are kept or sent again, never half gone."""

    async def tell(grid: Grid) -> None:
        contents, watch = await fill(grid, files=1), Watch(grid)
        disks, again = watch.disks, b"comes and goes" * 100
        vault = await grid.vault()

        async def once(step: int, victim: Process) -> bool:
            await insist(lambda: vault.put(again, "again"))
            kept = {pack.digest for pack in disks.kept()}
            await vault.delete("again")
            await asyncio.sleep(BRISK["history"] - 2.0)  # then it is collected

            async def collected() -> bool:
                watch.check()
                now = {pack.digest for pack in disks.kept()}
                gone: list[Digest] = [digest for digest in kept if digest not in now]
                return bool(gone) and not any(disks.copies(digest) for digest in gone)

            if not put_again:
                return await killed_or_done(grid, victim, step, collected)
            end = grid.kill_after(victim, step)
            await asyncio.sleep(4.0 * (step % 4))
            with contextlib.suppress(HoldfastError):
                await vault.put(again, "again")
            await asyncio.sleep(20)
            hit = await dead(end, victim)
            if hit:
                await grid.start(victim)
            await insist(lambda: vault.put(again, "again"))
            assert await vault.read("again", fresh=True) == again
            watch.check()
            return hit

        await sweep(grid, steps, once)
        await check(grid, contents)

    story(tmp_path, tell, nodes=NODES, survive=COPIES - 1, settings=BRISK)
