"""SIGKILL between any two steps of repair, trim and collection: never fewer copies than there were, and it converges.

A step is one piece of blocking work of a process: a file, the ledger, the database. One grid lives through all of a
sweep's kills, each one step later than the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from tests.heal.test_heal_grid import MINUTE, check, coordinator, fill, node_of, story

from holdfast.blob import Digest
from holdfast.errors import HoldfastError
from holdfast.testing.grid import Grid, Process
from holdfast.testing.simulate_faults import Disks
from holdfast.wire import routes
from holdfast.wire.http import Target

COPIES = 3
NODES = 4
BRISK = {
    "heartbeat_interval": 10.0, "out_after": 60.0, "surplus_after": 20.0, "sweep_interval": 10.0,
    "repair_interval": 5.0, "history": 30.0, "lease": 60.0, "trash": 60.0, "peer_check": 600.0,
}  # fmt: skip


async def dead(end: asyncio.Future[None], victim: Process) -> bool:
    """Calls the kill off, unless it has begun: then it is waited for."""
    if victim.alive:
        end.cancel()
        return False
    await end
    return True


async def killed_or_done(grid: Grid, victim: Process, steps: int, done: Callable[[], Awaitable[bool]]) -> bool:
    """Kills ``victim`` after ``steps``, starts it again, and waits for ``done``; False if it was done before."""
    end = grid.kill_after(victim, steps)
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


def rounds(grid: Grid, steps: range) -> Iterator[tuple[int, Process]]:
    """Each step with each process when it is gone through one by one, else with the coordinator and a node by turns."""
    everybody = [grid.coordinator, *grid.nodes]
    for at, step in enumerate(steps):
        victims = everybody if steps.step == 1 else [grid.coordinator, grid.nodes[at % len(grid.nodes)]]
        yield from ((step, victim) for victim in victims)


QUICKLY, ALL = range(1, 30, 5), range(1, 120)
SOON = range(1, 10, 2)  # one small copy is soon replaced
DEPTHS = [pytest.param(QUICKLY, id="some"), pytest.param(ALL, id="all", marks=pytest.mark.slow)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("steps", [pytest.param(SOON, id="some"), DEPTHS[1]])
def test_killed_while_a_rotten_copy_is_replaced(steps: range, tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid, files=1)
        disks, chance, hits = Disks(grid), grid.loop.randomness("rot"), 0

        async def whole() -> bool:
            disks.check()
            return not disks.short(grid.nodes)

        for step, victim in rounds(grid, steps):
            name, digest = disks.flip(chance).split()
            node = next(one for one in grid.nodes if one.name == name)
            target = Target(node_of(grid, node).id, node_of(grid, node).url)
            call = coordinator(grid).state.http.call(target, routes.BLOB_VERIFY, path={"digest": digest})
            asking = asyncio.create_task(call)
            hits += await killed_or_done(grid, victim, step, whole)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        assert hits >= len(steps) // 2, "most kills came too late"
        await check(grid, contents)

    story(tmp_path, tell, nodes=NODES, survive=COPIES - 1, settings={**BRISK, "scrub_period": 60.0})


@pytest.mark.timeout(900)
@pytest.mark.parametrize("steps", DEPTHS)
def test_killed_while_a_node_is_emptied(steps: range, tmp_path: Path) -> None:
    """Its packs are copied elsewhere, then its own copies are trimmed."""

    async def tell(grid: Grid) -> None:
        contents = await fill(grid, files=2)
        disks, hits, at = Disks(grid), 0, 0
        async with await grid.view() as view:
            for step, victim in rounds(grid, steps):
                leaving = grid.nodes[at % len(grid.nodes)]
                at += 1
                id_ = node_of(grid, leaving).id
                staying = [one for one in grid.nodes if one is not leaving]

                async def emptied(leaving: Process = leaving, staying: list[Process] = staying) -> bool:
                    disks.check()
                    there = any(disks.is_good(leaving, pack.digest) for pack in disks.kept())
                    return not there and not disks.short(staying)

                await view.drain_node(id_)
                hits += await killed_or_done(grid, victim, step, emptied)
                await insist(lambda id_=id_: view.drain_node(id_, drain=False))  # type: ignore[misc]
        assert hits >= len(steps) // 2, "most kills came too late"
        await check(grid, contents)

    story(tmp_path, tell, nodes=NODES, survive=COPIES - 1, settings=BRISK)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("steps", DEPTHS)
def test_killed_while_what_nothing_holds_is_collected(steps: range, tmp_path: Path) -> None:
    """And the same bytes are put again right then: they are kept or sent again, never half gone."""

    async def tell(grid: Grid) -> None:
        contents = await fill(grid, files=2)
        disks, hits, again = Disks(grid), 0, b"comes and goes" * 100
        vault = await grid.vault()
        for step, victim in rounds(grid, steps):
            await insist(lambda: vault.put(again, "again"))
            kept = {pack.digest for pack in disks.kept()}
            await vault.delete("again")
            await asyncio.sleep(80)  # history and lease are about to end: then it is collected

            async def collected(kept: set[Digest] = kept) -> bool:
                disks.check()
                now = {pack.digest for pack in disks.kept()}
                gone = [digest for digest in kept if digest not in now]
                return bool(gone) and not any(disks.copies(digest) for digest in gone)

            if step % 2:
                hits += await killed_or_done(grid, victim, step, collected)
            else:
                end = grid.kill_after(victim, step)
                await insist(lambda: vault.put(again, "again"))
                await asyncio.sleep(30)
                if await dead(end, victim):
                    hits += 1
                    await grid.start(victim)
                await insist(lambda: vault.put(again, "again"))
                assert await vault.read("again", fresh=True) == again
            disks.check()
        assert hits >= len(steps) // 2, "most kills came too late"
        await check(grid, contents)

    story(tmp_path, tell, nodes=NODES, survive=COPIES - 1, settings=BRISK)
